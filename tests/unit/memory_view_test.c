/* SPDX-License-Identifier: Apache-2.0 */
/* Books and pages that agree, and then each thing that can be wrong with them, one at a time. */
#include "raylet/memory_view.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "objstore/layout.h"

#define DRIVER   1u
#define WORKER   2u
#define STRANGER 9u
#define CAPACITY (1u << 20)
#define SIZE     5000u
#define PLACE    ((3ull << 32) | 7) /* of DRIVER's object */
#define WORD     ((1ull << 32) | 1) /* its record there */
#define INNER    ((1ull << 32) | 2) /* what it contains */
#define HIDDEN   ((1ull << 32) | 3)
#define BORROW   ((5ull << 32) | 1) /* WORKER's record of it */

/* What is said, before it is packed. */
static struct wire_books books;
static struct wire_books_process processes[3];
static struct wire_books_entry entries[3];
static struct wire_books_use uses[4];
struct told {
    struct wire_refs_row row;
    struct wire_refs_item items[4];
    const char *site;
};
static struct told of_driver[4], of_worker[4];
static uint32_t n_of_driver, n_of_worker;

static uint8_t bytes[8192];
static struct memory_view *v;
static struct memory_complaints complaints;

static struct told *add_row(struct told *rows, uint32_t *n, uint32_t owner, uint64_t word)
{
    struct told *t = &rows[(*n)++];

    memset(t, 0, sizeof *t);
    t->row.word = word;
    t->row.owner = owner;
    t->row.counter = 42;
    t->row.index = 1;
    t->row.pin = -1;
    t->row.status = WIRE_ROW_READY;
    t->site = "";
    return t;
}

static void add_item(struct told *t, enum wire_refs_item_kind kind, uint32_t number)
{
    t->items[t->row.n_items++] = (struct wire_refs_item){kind, number};
}

/* A driver with an object in the store, which holds a small one, is an argument of a task, and is
 * borrowed and pinned by a worker. */
static void setup(void)
{
    struct told *t;

    processes[0] = (struct wire_books_process){DRIVER, WIRE_DRIVER, 101, 0, 1};
    processes[1] = (struct wire_books_process){WORKER, WIRE_WORKER, 102, 1, 1};
    entries[0] = (struct wire_books_entry){.place = PLACE,
                                           .offset = 4096,
                                           .size = SIZE,
                                           .counter = 42,
                                           .owner = DRIVER,
                                           .index = 1,
                                           .n_blocks = 2,
                                           .n_holds = 1,
                                           .state = STORE_ENTRY_SEALED,
                                           .is_allocated = 1};
    uses[0] =
        (struct wire_books_use){.process = WORKER, .kind = WIRE_USE_PIN, .place = PLACE, .n = 1};
    uses[1] =
        (struct wire_books_use){.process = WORKER, .kind = WIRE_USE_HOLD, .place = PLACE, .n = 1};
    uses[2] = (struct wire_books_use){.process = WORKER,
                                      .kind = WIRE_USE_LENT,
                                      .offset = 16384,
                                      .size = 8192,
                                      .is_allocated = 1};
    books = (struct wire_books){.capacity = CAPACITY,
                                .used = 8192,
                                .lent = 8192,
                                .free = CAPACITY - 16384,
                                .n_processes = 2,
                                .n_entries = 1,
                                .n_uses = 3,
                                .is_whole = 1};
    n_of_driver = n_of_worker = 0;
    t = add_row(of_driver, &n_of_driver, DRIVER, WORD);
    t->site = "a.c:1";
    t->row.flags = WIRE_ROW_STORED;
    t->row.place = PLACE;
    t->row.offset = 4096;
    t->row.size = SIZE;
    t->row.count = 1;
    t->row.held = 2;
    add_item(t, WIRE_ITEM_INSIDE, 2);
    add_item(t, WIRE_ITEM_BORROWER, WORKER);
    t = add_row(of_driver, &n_of_driver, DRIVER, INNER);
    t->row.counter = 43;
    t->row.held = 1;
    t->row.size = 1;
    t = add_row(of_driver, &n_of_driver, DRIVER, HIDDEN);
    t->row.flags = WIRE_ROW_HIDDEN | WIRE_ROW_TASK;
    t->row.status = WIRE_ROW_PUSHED;
    add_item(t, WIRE_ITEM_ARGUMENT, 1);
    t = add_row(of_worker, &n_of_worker, DRIVER, BORROW);
    t->row.flags = WIRE_ROW_BORROWED | WIRE_ROW_REGISTERED | WIRE_ROW_STORED;
    t->row.owner_word = WORD;
    t->row.place = PLACE;
    t->row.offset = 4096;
    t->row.size = SIZE;
    t->row.count = 1;
    t->row.held = 1;
    t->row.n_views = 1;
    t->row.pin = -2;
    t = add_row(of_worker, &n_of_worker, 0, 0); /* an argument of its body */
    t->row.place = PLACE;
    t->row.pin = 3;
}

static void teardown(void)
{
    memory_complaints_fini(&complaints);
    memory_view_destroy(v);
    v = NULL;
}

static size_t pack_page(const struct told *rows, uint32_t n, uint64_t next)
{
    struct wire_refs w = {.n = n, .next = next};
    uint8_t *at = bytes;

    memcpy(at, &w, sizeof w);
    at += sizeof w;
    for (uint32_t i = 0; i < n; i++) {
        struct wire_refs_row row = rows[i].row;
        row.site_size = (uint16_t)strlen(rows[i].site);
        row.text_size = 4;
        memcpy(at, &row, sizeof row);
        at += sizeof row;
        memcpy(at, rows[i].items, row.n_items * sizeof rows[i].items[0]);
        at += row.n_items * sizeof rows[i].items[0];
        memcpy(at, rows[i].site, row.site_size);
        at += row.site_size;
        memcpy(at, "text", row.text_size);
        at += row.text_size;
    }
    return (size_t)(at - bytes);
}

static size_t pack_books(void)
{
    uint8_t *at = bytes;

    memcpy(at, processes, books.n_processes * sizeof processes[0]);
    at += books.n_processes * sizeof processes[0];
    memcpy(at, entries, books.n_entries * sizeof entries[0]);
    at += books.n_entries * sizeof entries[0];
    memcpy(at, uses, books.n_uses * sizeof uses[0]);
    at += books.n_uses * sizeof uses[0];
    return (size_t)(at - bytes);
}

static struct memory_process *process(uint32_t number)
{
    for (size_t i = 0; i < memory_view_n_processes(v); i++)
        if (memory_view_process(v, i)->number == number)
            return memory_view_process(v, i);
    ck_abort_msg("no process %u", number);
}

static void add_page(uint32_t number, const struct told *rows, uint32_t n, uint64_t next)
{
    uint64_t said = 99;

    ck_assert_int_eq(
        memory_view_add_page(v, process(number), bytes, pack_page(rows, n, next), &said),
        0);
    ck_assert_uint_eq(said, next);
}

static void begin(void)
{
    v = memory_view_create();
    ck_assert_int_eq(memory_view_set_books(v, &books, bytes, pack_books()), 0);
}

static void look(void)
{
    begin();
    add_page(DRIVER, of_driver, n_of_driver, 0);
    add_page(WORKER, of_worker, n_of_worker, 0);
    memory_view_join(v);
    memory_check(v, &complaints);
}

/* Exactly one disagreement, and its sentence says so. */
static void finds(const char *says)
{
    look();
    ck_assert_msg(complaints.n == 1,
                  "%zu disagreements, the first: %s",
                  complaints.n,
                  complaints.n > 0 ? complaints.v[0].text : "");
    ck_assert_msg(strstr(complaints.v[0].text, says) != NULL,
                  "not \"%s\": %s",
                  says,
                  complaints.v[0].text);
}

START_TEST(what_agrees_is_joined)
{
    size_t at = 0;

    look();
    ck_assert_msg(complaints.n == 0, "%s", complaints.n > 0 ? complaints.v[0].text : "");
    ck_assert_uint_eq(memory_view_n_refs(v), 3);
    const struct memory_ref *r = memory_view_ref(v, 0), *inner = memory_view_ref(v, 1),
                            *borrowed = memory_view_ref(v, 2);
    ck_assert_int_eq(r->kind, MEMORY_USED);
    ck_assert_uint_eq(r->n_tasks, 1);
    ck_assert_uint_eq(r->n_borrowers, 1);
    ck_assert_uint_eq(memory_view_next_borrower(v, r, &at), WORKER);
    ck_assert_uint_eq(memory_view_next_borrower(v, r, &at), 0);
    ck_assert_str_eq(r->site, "a.c:1");
    ck_assert_uint_eq(r->entry->n_pins, 1);
    ck_assert_uint_eq(r->entry->n_holds, 1);
    ck_assert_uint_eq(r->n_pins, 0);
    ck_assert_int_eq(inner->kind, MEMORY_CAPTURED);
    ck_assert_uint_eq(inner->n_captured, 1);
    ck_assert_int_eq(borrowed->kind, MEMORY_PINNED);
    ck_assert_uint_eq(borrowed->owner->number, DRIVER);
    ck_assert_uint_eq(borrowed->n_pins, 1);
    ck_assert_uint_eq(borrowed->n_holds, 1);
    ck_assert_str_eq(borrowed->site, "a.c:1"); /* where the owner made it */
    ck_assert_mem_eq(&borrowed->id, &r->id, sizeof r->id);
}
END_TEST

START_TEST(kinds_in_order)
{
    static const enum memory_kind kinds[] = {MEMORY_USED,
                                             MEMORY_LOCAL,
                                             MEMORY_CAPTURED,
                                             MEMORY_BORROWED,
                                             MEMORY_UNKNOWN};
    struct told *t = &of_driver[0], *task = &of_driver[2];

    t->row.held = 9;
    add_item(task, WIRE_ITEM_REPLY, 1);
    t->items[0] = (struct wire_refs_item){WIRE_ITEM_REPLY, 1};
    for (int i = 0; i < 5; i++) {
        if (i == 1)
            task->row.n_items = 0;
        if (i == 2)
            t->row.count = 0;
        if (i == 3)
            t->items[0].number = 5; /* nobody */
        if (i == 4)
            t->row.n_items = 1;
        begin();
        add_page(DRIVER, of_driver, n_of_driver, 0);
        add_page(WORKER, of_worker, n_of_worker, 0);
        memory_view_join(v);
        ck_assert_int_eq(memory_view_ref(v, 0)->kind, kinds[i]);
        teardown();
    }
}
END_TEST

START_TEST(a_row_in_pieces_is_one)
{
    struct told piece = of_driver[0];

    piece.row.n_items = 1;
    begin();
    add_page(DRIVER, &piece, 1, (1ull << 32) | 1);
    ck_assert_int_eq(process(DRIVER)->answer, MEMORY_SILENT); /* not all is told */
    piece.row.first_item = 1;
    piece.items[0] = of_driver[0].items[1];
    piece.site = "";
    add_page(DRIVER, &piece, 1, 2ull << 32);
    add_page(DRIVER, &of_driver[1], n_of_driver - 1, 0);
    ck_assert_int_eq(process(DRIVER)->answer, MEMORY_ANSWERED);
    add_page(WORKER, of_worker, n_of_worker, 0);
    memory_view_join(v);
    memory_check(v, &complaints);
    ck_assert_uint_eq(complaints.n, 0);
    ck_assert_uint_eq(memory_view_n_refs(v), 3);
    ck_assert_uint_eq(memory_view_ref(v, 0)->n_borrowers, 1);
    ck_assert_str_eq(memory_view_ref(v, 0)->site, "a.c:1");
    ck_assert(!process(DRIVER)->is_whole && process(WORKER)->is_whole);
}
END_TEST

START_TEST(a_silent_owner_is_seen_through_the_store)
{
    begin();
    add_page(WORKER, of_worker, n_of_worker, 0);
    memory_view_join(v);
    memory_check(v, &complaints);
    ck_assert_uint_eq(complaints.n, 0); /* of it nothing is said */
    ck_assert_uint_eq(memory_view_n_refs(v), 2);
    const struct memory_ref *r = memory_view_ref(v, 1);
    ck_assert_uint_eq(r->process->number, DRIVER);
    ck_assert_uint_eq(r->size, SIZE);
    ck_assert_int_eq(r->kind, MEMORY_UNKNOWN);
}
END_TEST

START_TEST(malformed_pages)
{
    uint64_t next;

    begin();
    size_t n = pack_page(of_driver, n_of_driver, 0);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *copy = malloc(cut + 1); /* so that a read too far is seen */
        memcpy(copy, bytes, cut);
        ck_assert_int_eq(memory_view_add_page(v, process(DRIVER), copy, cut, &next), -1);
        free(copy);
    }
    ck_assert_int_eq(process(DRIVER)->answer, MEMORY_SILENT);
    teardown();
    v = memory_view_create();
    n = pack_books();
    ck_assert_int_eq(memory_view_set_books(v, &books, bytes, n - 1), -1);
    ck_assert_int_eq(memory_view_set_books(v, &books, bytes, n + 1), -1);
}
END_TEST

/* --- each disagreement --- */

START_TEST(object_of_nobody)
{
    entries[0].owner = STRANGER;
    n_of_driver = n_of_worker = 0;
    books.n_uses = 0;
    entries[0].n_holds = 0;
    books.lent = 0;
    books.free += 8192;
    finds("for process 9, which does not live");
}
END_TEST

START_TEST(object_without_record)
{
    of_driver[0].row.flags = 0; /* inline, it says */
    finds("driver 1 (pid 101), which has no record of it");
}
END_TEST

START_TEST(object_that_its_owner_expects)
{
    of_driver[0].row.flags = WIRE_ROW_TASK;
    of_driver[0].row.status = WIRE_ROW_PUSHED;
    n_of_worker = 0;
    books.n_uses = 0;
    entries[0].n_holds = 0;
    books.lent = 0;
    books.free += 8192;
    of_driver[0].row.n_items = 1;
    look();
    ck_assert_msg(complaints.n == 0, "%s", complaints.n > 0 ? complaints.v[0].text : "");
    teardown();
    entries[0].index = 2;
    finds("driver 1 (pid 101), which has no record of it");
}
END_TEST

START_TEST(object_of_another_size)
{
    of_driver[0].row.size = SIZE + 1;
    finds("the store has 5000 bytes and 0 refs at 4096, driver 1 (pid 101) says 5001 bytes");
}
END_TEST

START_TEST(record_without_object)
{
    entries[0].state = STORE_ENTRY_FREEING;
    finds("where the store's object is being freed");
}
END_TEST

START_TEST(two_records_of_one_place)
{
    struct told *t = add_row(of_driver, &n_of_driver, DRIVER, (1ull << 32) | 4);

    *t = of_driver[0];
    t->row.word = (1ull << 32) | 4;
    t->row.n_items = 0;
    finds("two records of driver 1 (pid 101)");
}
END_TEST

START_TEST(object_beyond_its_blocks)
{
    entries[0].size = of_driver[0].row.size = 2 * STORE_BLOCK + 1;
    finds("8193 bytes in 2 blocks");
}
END_TEST

START_TEST(freed_and_read_by_nobody)
{
    entries[0].state = STORE_ENTRY_FREEING;
    entries[0].n_holds = 0;
    n_of_driver = n_of_worker = 0;
    uses[0] = uses[2];
    books.n_uses = 1;
    finds("nobody reads it");
}
END_TEST

START_TEST(holds_that_do_not_add_up)
{
    entries[0].n_holds = 2;
    finds("the store counts 2 holds in all and 1 by process");
}
END_TEST

START_TEST(pin_of_nobody)
{
    uses[0].process = STRANGER;
    n_of_worker = 1;
    finds("1 pins and 0 holds of process 9");
}
END_TEST

START_TEST(pin_of_nothing)
{
    uses[0].place = PLACE + (1ull << 32);
    n_of_worker = 1;
    finds("entry 7 of the store, generation 4, which is not there");
}
END_TEST

START_TEST(pin_that_its_process_does_not_know)
{
    n_of_worker = 1;
    finds("the store sees 1 pins and 1 holds of worker 2 (pid 102), which knows of 0 and 1");
}
END_TEST

START_TEST(hold_that_the_store_does_not_have)
{
    uses[1].n = 0;
    entries[0].n_holds = 0;
    finds("the store sees 1 pins and 0 holds of worker 2 (pid 102), which knows of 1 and 1");
}
END_TEST

START_TEST(borrower_that_is_dead)
{
    of_driver[0].items[1].number = STRANGER;
    of_worker[0].row.flags &= (uint16_t)~WIRE_ROW_REGISTERED;
    finds("driver 1 (pid 101) keeps it for process 9, which does not live, without an end");
}
END_TEST

START_TEST(borrower_in_its_grace)
{
    of_driver[0].items[1] = (struct wire_refs_item){WIRE_ITEM_LEAVING, STRANGER};
    of_worker[0].row.flags &= (uint16_t)~WIRE_ROW_REGISTERED;
    look();
    ck_assert_uint_eq(complaints.n, 0);
}
END_TEST

START_TEST(borrower_without_the_object)
{
    of_worker[0].row.owner_word = INNER;
    of_worker[0].row.flags &= (uint16_t)~WIRE_ROW_REGISTERED;
    finds("keeps it for worker 2 (pid 102), which does not have it");
}
END_TEST

START_TEST(borrower_that_never_asked)
{
    of_worker[0].row.flags &= (uint16_t)~WIRE_ROW_REGISTERED;
    finds("keeps it for worker 2 (pid 102), which has not asked for that");
}
END_TEST

START_TEST(owner_that_does_not_name_a_borrower)
{
    of_driver[0].row.n_items = 1;
    finds("worker 2 (pid 102) borrows it of driver 1 (pid 101), which does not keep it for that");
}
END_TEST

START_TEST(owner_without_the_object)
{
    of_driver[0].row.n_items = 1;
    of_worker[0].row.owner_word = WORD + (1ull << 32);
    finds("borrows it of driver 1 (pid 101), which does not have it");
}
END_TEST

START_TEST(borrowed_and_lost_is_an_error)
{
    of_driver[0].row.n_items = 1;
    of_worker[0].row.status = WIRE_ROW_FAILED;
    look();
    ck_assert_uint_eq(complaints.n, 0);
}
END_TEST

START_TEST(memory_lent_to_nobody)
{
    uses[2].process = STRANGER;
    finds("8192 bytes at 16384 lent to process 9, which does not live, will never come back");
}
END_TEST

START_TEST(entry_lent_to_nobody)
{
    entries[1] = (struct wire_books_entry){.place = 8,
                                           .owner = STRANGER,
                                           .state = STORE_ENTRY_LENT,
                                           .is_allocated = 1};
    books.n_entries = 2;
    finds("entry 8 is lent to process 9");
}
END_TEST

START_TEST(memory_that_overlaps)
{
    uses[2].offset = 8192;
    finds("8192 bytes at 8192 lent to worker 2 (pid 102) overlap 8192 bytes at 4096 of entry 7");
}
END_TEST

START_TEST(memory_that_the_arena_thinks_free)
{
    entries[0].is_allocated = 0;
    finds("8192 bytes at 4096 of entry 7 are free in the arena's books");
}
END_TEST

START_TEST(memory_beyond_the_arena)
{
    uses[2].offset = CAPACITY - 4096;
    finds("are beyond the arena's end");
}
END_TEST

START_TEST(sums_that_do_not_add_up)
{
    books.free -= 4096;
    finds("its objects have 8192, what is lent is 8192");
}
END_TEST

START_TEST(more_holds_named_than_counted)
{
    of_driver[0].row.held = 1;
    finds("driver 1 (pid 101) counts 1 holds and names 2");
}
END_TEST

START_TEST(only_what_is_seen_again_counts)
{
    struct memory_complaints first = {0};

    uses[2].process = STRANGER;
    books.free -= 4096;
    look();
    ck_assert_uint_eq(complaints.n, 2);
    first = complaints;
    complaints = (struct memory_complaints){0};
    memory_view_destroy(v);
    books.free += 4096;
    of_driver[0].row.held = 1; /* and another one */
    look();
    ck_assert_uint_eq(complaints.n, 2);
    memory_complaints_keep(&first, &complaints);
    ck_assert_uint_eq(first.n, 1);
    ck_assert_ptr_nonnull(strstr(first.v[0].text, "never come back"));
    memory_complaints_fini(&first);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("memory_view");
    TCase *t = tcase_create("memory_view");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_agrees_is_joined);
    tcase_add_test(t, kinds_in_order);
    tcase_add_test(t, a_row_in_pieces_is_one);
    tcase_add_test(t, a_silent_owner_is_seen_through_the_store);
    tcase_add_test(t, malformed_pages);
    tcase_add_test(t, object_of_nobody);
    tcase_add_test(t, object_without_record);
    tcase_add_test(t, object_that_its_owner_expects);
    tcase_add_test(t, object_of_another_size);
    tcase_add_test(t, record_without_object);
    tcase_add_test(t, two_records_of_one_place);
    tcase_add_test(t, object_beyond_its_blocks);
    tcase_add_test(t, freed_and_read_by_nobody);
    tcase_add_test(t, holds_that_do_not_add_up);
    tcase_add_test(t, pin_of_nobody);
    tcase_add_test(t, pin_of_nothing);
    tcase_add_test(t, pin_that_its_process_does_not_know);
    tcase_add_test(t, hold_that_the_store_does_not_have);
    tcase_add_test(t, borrower_that_is_dead);
    tcase_add_test(t, borrower_in_its_grace);
    tcase_add_test(t, borrower_without_the_object);
    tcase_add_test(t, borrower_that_never_asked);
    tcase_add_test(t, owner_that_does_not_name_a_borrower);
    tcase_add_test(t, owner_without_the_object);
    tcase_add_test(t, borrowed_and_lost_is_an_error);
    tcase_add_test(t, memory_lent_to_nobody);
    tcase_add_test(t, entry_lent_to_nobody);
    tcase_add_test(t, memory_that_overlaps);
    tcase_add_test(t, memory_that_the_arena_thinks_free);
    tcase_add_test(t, memory_beyond_the_arena);
    tcase_add_test(t, sums_that_do_not_add_up);
    tcase_add_test(t, more_holds_named_than_counted);
    tcase_add_test(t, only_what_is_seen_again_counts);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
