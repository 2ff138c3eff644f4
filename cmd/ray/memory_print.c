/* SPDX-License-Identifier: Apache-2.0 */
/* What `ray memory` prints: Ray's columns and words, or JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd/ray/memory.h"
#include "lib/base/alloc.h"
#include "objstore/layout.h"

#define ADDRESS "127.0.0.1" /* of the only node there is: its cluster has no other */
#define CELL    256

static const char *const kind_names[MEMORY_N_KINDS] = {
    [MEMORY_PINNED] = "PINNED_IN_MEMORY",
    [MEMORY_USED] = "USED_BY_PENDING_TASK",
    [MEMORY_LOCAL] = "LOCAL_REFERENCE",
    [MEMORY_CAPTURED] = "CAPTURED_IN_OBJECT",
    [MEMORY_BORROWED] = "BORROWED",
    [MEMORY_UNKNOWN] = "UNKNOWN_STATUS",
};

static const char *type_of(const struct memory_process *p)
{
    return p->is_driver ? "Driver" : "Worker";
}

static const char *site_of(const struct memory_ref *r)
{
    return r->site[0] != '\0' ? r->site : "-";
}

static const char *format_bytes(const struct memory_options *o, uint64_t bytes, char *out)
{
    static const char *const units[] = {"B", "KB", "MB", "GB"};

    if (bytes == UINT64_MAX)
        snprintf(out, CELL, "?");
    else if (o->unit == 0)
        snprintf(out, CELL, "%llu B", (unsigned long long)bytes);
    else
        snprintf(out,
                 CELL,
                 "%.3f %s",
                 (double)bytes / (double)(1ull << 10 * o->unit),
                 units[o->unit]);
    return out;
}

/* --- order --- */

static const struct memory_options *order; /* of the sort that runs */

static int compare_sizes(const struct memory_ref *x, const struct memory_ref *y)
{
    uint64_t a = x->size == UINT64_MAX ? 0 : x->size, b = y->size == UINT64_MAX ? 0 : y->size;

    return a > b ? -1 : a < b;
}

static int compare(const void *a, const void *b)
{
    const struct memory_ref *x = *(const struct memory_ref *const *)a,
                            *y = *(const struct memory_ref *const *)b;
    int by_size = compare_sizes(x, y);

    if (order->group == MEMORY_BY_SITE && strcmp(x->site, y->site) != 0)
        return strcmp(x->site, y->site);
    switch (order->sort) {
    case MEMORY_SORT_SIZE:
        break;
    case MEMORY_SORT_PID:
        if (x->process->pid != y->process->pid)
            return x->process->pid < y->process->pid ? -1 : 1;
        break;
    case MEMORY_SORT_KIND:
        if (x->kind != y->kind)
            return x->kind < y->kind ? -1 : 1;
        break;
    }
    if (by_size != 0)
        return by_size;
    if (x->process->number != y->process->number)
        return x->process->number < y->process->number ? -1 : 1;
    return memcmp(x->id.bytes, y->id.bytes, sizeof x->id.bytes);
}

static const struct memory_ref **sorted(const struct memory_options *o, const struct memory_view *v)
{
    size_t n = memory_view_n_refs(v);
    const struct memory_ref **refs = xcalloc(n + 1, sizeof(struct memory_ref *));

    for (size_t i = 0; i < n; i++)
        refs[i] = memory_view_ref(v, i);
    order = o;
    qsort(refs, n, sizeof(struct memory_ref *), compare);
    return refs;
}

/* --- tables --- */

enum column {
    COLUMN_ADDRESS,
    COLUMN_PID,
    COLUMN_TYPE,
    COLUMN_SITE,
    COLUMN_STATUS,
    COLUMN_SIZE,
    COLUMN_KIND,
    COLUMN_OWNER,
    COLUMN_PINS,
    COLUMN_ID,
    N_COLUMNS,
};
static const char *const titles[N_COLUMNS] = {"IP Address",
                                              "PID",
                                              "Type",
                                              "Call Site",
                                              "Status",
                                              "Size",
                                              "Reference Type",
                                              "Owner",
                                              "Pins",
                                              "Object Ref"};

static const char *format_cell(const struct memory_options *o,
                               const struct memory_ref *r,
                               enum column column,
                               char out[CELL])
{
    switch (column) {
    case COLUMN_ADDRESS:
        return ADDRESS;
    case COLUMN_PID:
        snprintf(out, CELL, "%d", r->process->pid);
        return out;
    case COLUMN_TYPE:
        return type_of(r->process);
    case COLUMN_SITE:
        return site_of(r);
    case COLUMN_STATUS:
        return r->status;
    case COLUMN_SIZE:
        return format_bytes(o, r->size, out);
    case COLUMN_KIND:
        return kind_names[r->kind];
    case COLUMN_OWNER:
        if (r->owner == NULL)
            snprintf(out, CELL, "%u: dead", r->owner_number);
        else
            snprintf(out, CELL, "%u: %d", r->owner_number, r->owner->pid);
        return out;
    case COLUMN_PINS:
        snprintf(out, CELL, "%u", r->entry != NULL ? r->entry->n_pins + r->entry->n_holds : 0);
        return out;
    case COLUMN_ID:
        return id_hex(r->id.bytes, sizeof r->id.bytes, out);
    case N_COLUMNS:
        break;
    }
    return "";
}

static void print_cell(const struct memory_options *o, const char *text, int width, bool is_last)
{
    if (o->no_format)
        printf("%s%c", text, is_last ? '\n' : '\t');
    else if (is_last)
        printf("%s\n", text);
    else
        printf("%-*s  ", width, text);
}

static void print_rows(const struct memory_options *o, const struct memory_ref **refs, size_t n)
{
    int widths[N_COLUMNS];
    char cell[CELL];

    for (int c = 0; c < N_COLUMNS; c++)
        widths[c] = (int)strlen(titles[c]);
    for (size_t i = 0; i < n && !o->no_format; i++)
        for (int c = 0; c < N_COLUMNS; c++) {
            int len = (int)strlen(format_cell(o, refs[i], (enum column)c, cell));
            widths[c] = len > widths[c] ? len : widths[c];
        }
    for (int c = 0; c < N_COLUMNS; c++)
        print_cell(o, titles[c], widths[c], c == N_COLUMNS - 1);
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < N_COLUMNS; c++)
            print_cell(o,
                       format_cell(o, refs[i], (enum column)c, cell),
                       widths[c],
                       c == N_COLUMNS - 1);
}

struct sums {
    size_t n;
    uint64_t bytes;
};

static void print_summary(const struct memory_options *o, const struct memory_ref **refs, size_t n)
{
    static const char *const columns[] = {"Pinned",
                                          "Used by task",
                                          "Local References",
                                          "Captured in Objects",
                                          "Borrowed",
                                          "Unknown"};
    struct sums sums[MEMORY_N_KINDS] = {{0}};
    char cell[CELL], bytes[CELL];
    uint64_t used = 0;

    for (size_t i = 0; i < n; i++) {
        const struct memory_ref *r = refs[i];
        uint64_t size = r->size == UINT64_MAX ? 0 : r->size;
        sums[r->kind].n++;
        sums[r->kind].bytes += size;
        if ((r->row.flags & WIRE_ROW_BORROWED) == 0)
            used += size; /* each object once: with its owner */
    }
    print_cell(o, "Mem Used by Objects", 20, false);
    for (int k = 0; k < MEMORY_N_KINDS; k++)
        print_cell(o, columns[k], 22, k == MEMORY_N_KINDS - 1);
    print_cell(o, format_bytes(o, used, bytes), 20, false);
    for (int k = 0; k < MEMORY_N_KINDS; k++) {
        snprintf(cell,
                 sizeof cell,
                 "%zu, (%.40s)",
                 sums[k].n,
                 format_bytes(o, sums[k].bytes, bytes));
        print_cell(o, cell, 22, k == MEMORY_N_KINDS - 1);
    }
}

static void print_group(const struct memory_options *o,
                        const char *name,
                        const struct memory_ref **refs,
                        size_t n)
{
    const char *what = o->group == MEMORY_BY_NODE ? "node address" : "stack trace";

    printf("--- Summary for %s: %s ---\n", what, name);
    print_summary(o, refs, n);
    putchar('\n');
    if (o->stats_only)
        return;
    printf("--- Object references for %s: %s ---\n", what, name);
    print_rows(o, refs, n < o->n_entries ? n : o->n_entries);
    if (n > o->n_entries)
        printf("(%zu more)\n", n - o->n_entries);
    putchar('\n');
}

struct uses {
    size_t n_sealed, n_lent, n_freeing;
    uint64_t n_pins, n_holds, bytes;
};

static struct uses count_uses(const struct memory_view *v)
{
    struct uses u = {0};
    const struct memory_entry *e;

    for (size_t i = 0; (e = memory_view_entry(v, i)) != NULL; i++) {
        u.n_sealed += e->row.state == STORE_ENTRY_SEALED;
        u.n_lent += e->row.state == STORE_ENTRY_LENT;
        u.n_freeing += e->row.state == STORE_ENTRY_FREEING;
        u.n_pins += e->n_pins;
        u.n_holds += e->n_holds;
        u.bytes += e->row.state == STORE_ENTRY_SEALED ? e->row.size : 0;
    }
    return u;
}

static void print_store(const struct memory_options *o, const struct memory_view *v)
{
    const struct wire_books *b = memory_view_books(v);
    struct uses u = count_uses(v);
    char cells[6][CELL];

    printf("--- Object store of this node ---\n");
    printf("%zu objects of %s in %s of %s, %.1f %% full; %s at most since the start\n",
           u.n_sealed,
           format_bytes(o, u.bytes, cells[0]),
           format_bytes(o, b->used, cells[1]),
           format_bytes(o, b->capacity, cells[2]),
           100.0 * (double)b->used / (double)b->capacity,
           format_bytes(o, b->peak, cells[3]));
    printf("%s lent to processes that write, %s free, %s the longest free piece\n",
           format_bytes(o, b->lent, cells[0]),
           format_bytes(o, b->free, cells[1]),
           format_bytes(o, b->largest_free, cells[2]));
    printf("%llu pins, %llu holds, %zu objects that wait for them to be freed, %u requests that "
           "wait for memory\n",
           (unsigned long long)u.n_pins,
           (unsigned long long)u.n_holds,
           u.n_freeing,
           b->n_waiting);
}

static void print_silent(FILE *f, const struct memory_view *v)
{
    for (size_t i = 0; i < memory_view_n_processes(v); i++) {
        const struct memory_process *p = memory_view_process(v, i);
        if (p->answer == MEMORY_SILENT)
            fprintf(f,
                    "ray memory: %s %u (pid %d) did not answer: of its refs only what the object "
                    "store knows is here\n",
                    p->is_driver ? "driver" : "worker",
                    p->number,
                    p->pid);
    }
}

static void print_tables(const struct memory_options *o,
                         const struct memory_view *v,
                         const char *session_dir,
                         const char *node)
{
    static const char *const sorts[] = {"object size", "pid", "reference type"};
    const struct memory_ref **refs = sorted(o, v);
    size_t n = memory_view_n_refs(v);
    time_t now = time(NULL);
    char stamp[32] = "";
    struct tm tm;

    if (localtime_r(&now, &tm) != NULL)
        strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &tm);
    printf("======== Object references at %s ========\n", stamp);
    printf("Session %s, node %s\n", session_dir, node);
    printf("Grouped by %s, sorted by %s\n\n",
           o->group == MEMORY_BY_NODE ? "node address" : "stack trace",
           sorts[o->sort]);
    if (o->group == MEMORY_BY_NODE)
        print_group(o, ADDRESS, refs, n);
    for (size_t i = 0, k; o->group == MEMORY_BY_SITE && i < n; i = k) {
        for (k = i + 1; k < n && strcmp(refs[k]->site, refs[i]->site) == 0;)
            k++;
        print_group(o, site_of(refs[i]), refs + i, k - i);
    }
    print_store(o, v);
    free(refs);
}

/* --- JSON --- */

static void print_string(const char *s)
{
    putchar('"');
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < ' ' || c == 127)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_process_json(const struct memory_process *p)
{
    static const char *const answers[] = {"silent", "answered", "gone"};

    printf("{\"process\": %u, \"pid\": %d, \"type\": \"%s\", \"answer\": \"%s\"}",
           p->number,
           p->pid,
           type_of(p),
           answers[p->answer]);
}

static void print_ref_json(const struct memory_view *v,
                           const struct memory_ref *r,
                           const char *node)
{
    char id[ID_HEX_MAX];
    size_t at = 0;
    uint32_t b;

    printf("{\"object_id\": \"%s\", ", id_hex(r->id.bytes, sizeof r->id.bytes, id));
    printf("\"object_size\": %lld, ", r->size == UINT64_MAX ? -1LL : (long long)r->size);
    printf("\"task_status\": \"%s\", \"reference_type\": \"%s\", \"call_site\": ",
           r->status,
           kind_names[r->kind]);
    print_string(r->site);
    printf(
        ", \"type\": \"%s\", \"pid\": %d, \"process\": %u, \"ip\": \"%s\", \"node_id\": \"%s\", ",
        type_of(r->process),
        r->process->pid,
        r->process->number,
        ADDRESS,
        node);
    printf("\"owner_process\": %u, \"owner_pid\": %d, \"is_owner\": %s, \"in_store\": %s, ",
           r->owner_number,
           r->owner != NULL ? r->owner->pid : -1,
           (r->row.flags & WIRE_ROW_BORROWED) != 0 ? "false" : "true",
           r->entry != NULL ? "true" : "false");
    printf(
        "\"local_references\": %u, \"used_by_tasks\": %u, \"captured_in_objects\": %u, "
        "\"captured_in_results\": %u, \"used_by_body\": %u, \"views\": %u, \"holds_in_all\": %u, ",
        r->row.count,
        r->n_tasks,
        r->n_captured,
        r->n_replies,
        r->n_body,
        r->row.n_views,
        r->row.held);
    printf(
        "\"pins\": %u, \"holds\": %u, \"pins_of_all\": %u, \"holds_of_all\": %u, \"borrowers\": [",
        r->n_pins,
        r->n_holds,
        r->entry != NULL ? r->entry->n_pins : 0,
        r->entry != NULL ? r->entry->n_holds : 0);
    for (const char *sep = ""; (b = memory_view_next_borrower(v, r, &at)) != 0; sep = ", ")
        printf("%s%u", sep, b);
    printf("]}");
}

static void print_head_json(const struct memory_view *v, const char *session_dir)
{
    printf("{\"session_dir\": ");
    print_string(session_dir);
    printf(",\n \"processes\": [");
    for (size_t i = 0; i < memory_view_n_processes(v); i++) {
        printf("%s\n  ", i > 0 ? "," : "");
        print_process_json(memory_view_process(v, i));
    }
    printf("]");
}

static void print_json(const struct memory_options *o,
                       const struct memory_view *v,
                       const char *session_dir,
                       const char *node)
{
    const struct wire_books *b = memory_view_books(v);
    const struct memory_ref **refs = sorted(o, v);
    struct uses u = count_uses(v);
    size_t n = o->stats_only ? 0 : memory_view_n_refs(v);

    print_head_json(v, session_dir);
    printf(",\n \"store\": {\"capacity\": %llu, \"used\": %llu, \"lent\": %llu, \"free\": %llu, "
           "\"peak\": %llu, \"objects\": %zu, \"object_bytes\": %llu, \"pins\": %llu, \"holds\": "
           "%llu, \"freeing\": %zu, \"waiting\": %u},\n \"objects\": [",
           (unsigned long long)b->capacity,
           (unsigned long long)b->used,
           (unsigned long long)b->lent,
           (unsigned long long)b->free,
           (unsigned long long)b->peak,
           u.n_sealed,
           (unsigned long long)u.bytes,
           (unsigned long long)u.n_pins,
           (unsigned long long)u.n_holds,
           u.n_freeing,
           b->n_waiting);
    for (size_t i = 0; i < n && i < o->n_entries; i++) {
        printf("%s\n  ", i > 0 ? "," : "");
        print_ref_json(v, refs[i], node);
    }
    printf("]}\n");
    free(refs);
}

/* --- public --- */

void memory_print(const struct memory_options *o,
                  const struct memory_view *v,
                  const char *session_dir,
                  const char *node)
{
    if (o->json)
        print_json(o, v, session_dir, node);
    else
        print_tables(o, v, session_dir, node);
    print_silent(stderr, v);
}

void memory_print_check(const struct memory_options *o,
                        const struct memory_view *v,
                        const char *session_dir,
                        const struct memory_complaints *complaints)
{
    struct uses u = count_uses(v);
    size_t n_answered = 0;

    for (size_t i = 0; i < memory_view_n_processes(v); i++)
        n_answered += memory_view_process(v, i)->answer == MEMORY_ANSWERED;
    if (o->json) {
        print_head_json(v, session_dir);
        printf(",\n \"disagreements\": [");
        for (size_t i = 0; i < complaints->n; i++) {
            printf("%s\n  ", i > 0 ? "," : "");
            print_string(complaints->v[i].text);
        }
        printf("]}\n");
    } else {
        for (size_t i = 0; i < complaints->n; i++)
            printf("disagreement: %s\n", complaints->v[i].text);
        printf("%zu refs of %zu processes, %zu objects in the store, %llu pins, %llu holds: ",
               memory_view_n_refs(v),
               n_answered,
               u.n_sealed,
               (unsigned long long)u.n_pins,
               (unsigned long long)u.n_holds);
        if (complaints->n == 0)
            printf("all agree\n");
        else
            printf("%zu disagreement%s\n", complaints->n, complaints->n == 1 ? "" : "s");
    }
    print_silent(stderr, v);
}
