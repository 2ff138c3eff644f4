/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_LIST_H
#define LIB_BASE_LIST_H
/*
 * Intrusive doubly linked ring. A node that is on no list points to itself, so removing twice is
 * harmless and membership can be asked.
 */
#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

#define list_entry(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
#define list_for_each(p, head)      for (struct list *p = (head)->next; p != (head); p = p->next)
/* The current node may be removed. */
#define list_for_each_safe(p, head)                                                                \
    for (struct list *p = (head)->next, *p##_next = p->next; p != (head);                          \
         p = p##_next, p##_next = p->next)

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_insert_after(struct list *at, struct list *node)
{
    node->next = at->next;
    node->prev = at;
    at->next->prev = node;
    at->next = node;
}

static inline void list_push(struct list *head, struct list *node)
{
    list_insert_after(head, node);
}

static inline void list_append(struct list *head, struct list *node)
{
    list_insert_after(head->prev, node);
}

static inline void list_remove(struct list *node)
{
    node->next->prev = node->prev;
    node->prev->next = node->next;
    list_init(node);
}

#endif /* LIB_BASE_LIST_H */
