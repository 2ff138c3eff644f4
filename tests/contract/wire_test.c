/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The golden table: every frame of lib/net/wire.h byte by byte, header and body. Encoding must give
 * these bytes and decoding the fields back, so a changed layout fails with the name of the frame
 * and field. A new type fails to compile until name_of knows it, and fails here until it has a row.
 * A row changes only with WIRE_PROTOCOL, to which the whole table is bound by its hash.
 */
#include "lib/net/wire.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/net/frame.h"
#include "objstore/layout.h"

#define wire_record store_record /* STORE_RECORD carries a ring's record */

#define ROUTE    0x0a0b0c0du
#define SEQUENCE 0xfffffffeu
#define LEASE    0x1122334455667788u
#define TICKET   0x99aabbccddeeff01u

static struct unique_id id_of(uint8_t first)
{
    struct unique_id id;

    for (size_t i = 0; i < sizeof id.bytes; i++)
        id.bytes[i] = (uint8_t)(first + i);
    return id;
}

/* --- the fields of each struct: N number, S string, I id --- */

/* clang-format off */
#define FIELDS_hello(N, S, I)                                                                      \
    N(protocol, 1)                                                                                 \
    N(kind, 2) N(token, 0x0102030405060708u) N(pid, -2) N(flags, 0x5a5a5a5a) S(build, "ray-c 0.1")
#define FIELDS_welcome(N, S, I)                                                                    \
    N(protocol, 1)                                                                                 \
    N(job, 0x01020304)                                                                             \
    N(process, 7)                                                                                  \
    N(n_cpus, 4) N(wake_ns, 20000) I(cluster, 0x10) I(node, 0x40) I(worker, 0x70)                  \
        S(build, "ray-c 0.1") N(slot, 0x3ff) N(node_number, 0x01020305) N(in_cluster, 1)
#define FIELDS_error(N, S, I) N(code, 2)
#define FIELDS_route(N, S, I) N(route, 0x21222324) N(peer_process, 9) N(lease, LEASE) I(peer, 0x30)
#define FIELDS_lease_request(N, S, I)                                                              \
    N(ticket, TICKET) N(count, 3) N(depth, 0x31323334) N(n_resources, 1) N(node, 0x35363738)
#define FIELDS_resource(N, S, I)     S(name, "CPU") N(units, 15000)
#define FIELDS_lease_cancel(N, S, I) N(ticket, TICKET)
#define FIELDS_lease_return(N, S, I) N(lease, LEASE)
#define FIELDS_lease_grant(N, S, I)                                                                \
    N(ticket, TICKET) N(lease, LEASE) N(pid, 4711) N(process, 5) I(worker, 0x70) N(slot, 6)   \
        N(node, 9)
#define FIELDS_lease_canceled(N, S, I) N(ticket, TICKET) N(count, 2)
#define FIELDS_lease_refused(N, S, I)  N(ticket, TICKET) N(count, 2) N(code, 11) I(node, 0x50)
#define FIELDS_worker_dead(N, S, I)                                                                \
    N(lease, LEASE)                                                                                \
    N(mask_lease, LEASE + 1)                                                                       \
    N(started, 0x8000000000000001u) N(pid, 4711) N(wait_status, 9) I(node, 0x50)
#define FIELDS_lease_begin(N, S, I)                                                                \
    N(lease, LEASE) N(owner_process, 8) N(owner_slot, 0) N(owner_pid, 4712) I(owner, 0x90)         \
        N(node, 9)
#define FIELDS_lease_revoke(N, S, I) N(lease, LEASE) N(grace_ms, 500)
#define FIELDS_channel_end(N, S, I)  I(worker, 0x70)
#define FIELDS_exit(N, S, I) N(may_stay, 1)
#define FIELDS_lease_ended(N, S, I)  N(lease, LEASE)
#define FIELDS_blocked(N, S, I)      N(lease, LEASE)
#define FIELDS_template(N, S, I)     N(template, 0x103) N(n_returns, 2) N(flags, WIRE_TEMPLATE_NO_RETRY)
#define FIELDS_push(N, S, I)                                                                       \
    N(lease, LEASE)                                                                                \
    N(counter, 42) N(template, 0x103) N(slot, 63) N(phase, 1) N(n_args, 1) N(attempt, 2)
#define FIELDS_arg(N, S, I)       N(size, 3) N(meta, WIRE_META_RAW)
#define FIELDS_take_back(N, S, I) N(lease, LEASE) N(count, 5)
#define FIELDS_done(N, S, I)                                                                       \
    N(lease, LEASE) N(slot, 63) N(failed, 1) N(n_returns, 1) N(run_ns, 0x7eadbeef)
#define FIELDS_returned(N, S, I) N(lease, LEASE) N(mask, 0x8000000000000003u) N(asked, 1)
#define FIELDS_bounced(N, S, I)  N(lease, LEASE) N(slot, 17) N(reason, WIRE_BOUNCE_TEMPLATE)
#define FIELDS_failure(N, S, I)  N(code, 3) N(pid, 4711) N(signal, 11) I(node, 0x40)
#define FIELDS_log(N, S, I)      N(pid, 4711) N(stream, 2) S(ip, "10.0.0.2")
#define FIELDS_info_reply(N, S, I)                                                                 \
    N(n_nodes, 1) N(n_workers, 2) N(n_resources, 1) N(start_ms, 1700000000000u)
#define FIELDS_job_part(N, S, I) N(part, WIRE_JOB_ENVIRONMENT)
#define FIELDS_info_resource(N, S, I) S(name, "accelerator") N(total, 40000) N(available, -10000)
#define FIELDS_ref(N, S, I)           N(word, LEASE) N(counter, 42) N(owner, 5) N(index, 2)
#define KEY(N)                                                                                     \
    N(key.counter, 42) N(key.owner, 5) N(key.index, 2) N(key.attempt, 3)
#define FIELDS_stored(N, S, I)                                                                     \
    N(place, LEASE) N(offset, 8192) N(size, 1048577) N(n_refs, 3) N(node, 9) KEY(N)                \
        N(copy, LEASE + 1)
#define FIELDS_store_pull(N, S, I)                                                                 \
    N(ticket, TICKET) KEY(N) N(node, 9) N(size, 1048577) N(n_refs, 3) N(priority, WIRE_PULL_ARGUMENT)
#define FIELDS_store_pulled(N, S, I)                                                               \
    N(ticket, TICKET) N(place, LEASE) N(offset, 8192) N(size, 1048577) N(n_refs, 3)
#define FIELDS_store_pull_failed(N, S, I) N(ticket, TICKET) N(code, 11)
#define FIELDS_store_pull_cancel(N, S, I) N(ticket, TICKET)
#define FIELDS_store_free_at(N, S, I)     KEY(N) N(node, 9) N(is_abort, 1)
#define FIELDS_store_seek(N, S, I)        N(ticket, TICKET) KEY(N) N(node, 9)
#define FIELDS_store_found(N, S, I)       N(ticket, TICKET) N(place, LEASE) N(offset, 8192) N(node, 9)
#define FIELDS_store_fd(N, S, I)      N(part, 2)
#define FIELDS_store_lend(N, S, I)    N(ticket, TICKET) N(need, 4096) N(want, 65536) N(n_places, 9)
#define FIELDS_store_lent(N, S, I)    N(ticket, TICKET) N(offset, 8192) N(size, 65536) N(n_places, 1)
#define FIELDS_store_refused(N, S, I) N(ticket, TICKET)
#define FIELDS_record(N, S, I)                                                                     \
    N(kind, STORE_SEAL)                                                                            \
    N(meta, 1) N(attempt, 2) N(owner, 5) N(place, LEASE) N(offset, 8192) N(size, 1048577)          \
        N(counter, 42) N(index, 1) N(n_refs, 3) N(extra, 79)
#define FIELDS_process_dead(N, S, I)  N(process, 4711)
#define FIELDS_borrow(N, S, I)        N(sequence, 7) N(n, 1)
#define FIELDS_borrow_digest(N, S, I)                                                              \
    N(sequence, 7) N(acked, 6) N(n, 3) N(sum, TICKET) N(is_overdue, 1)
#define FIELDS_borrow_compared(N, S, I) N(sequence, 7) N(differs, 1)
#define FIELDS_borrow_list(N, S, I)                                                                \
    N(sequence, 8) N(n, 1) N(low, 0x200000001u) N(high, LEASE) N(is_first, 1)
#define FIELDS_seen(N, S, I)          N(counter, 42)
#define FIELDS_want(N, S, I)          N(word, LEASE) N(node, 9) N(attempt, 3) N(is_lost, 1)
#define FIELDS_object_ack(N, S, I)    N(bytes, 262144)
#define FIELDS_credit(N, S, I)        N(bytes, 32768) N(allotment, 65536)
#define FIELDS_object(N, S, I)        N(word, LEASE)
#define FIELDS_books(N, S, I)                                                                      \
    N(capacity, 1u << 26) N(used, 8192) N(lent, 65536) N(buried, 4096) N(free, 1u << 20)           \
        N(largest_free, 1u << 19) N(peak, 3u << 20) N(n_processes, 3) N(n_entries, 2) N(n_uses, 1) \
            N(n_waiting, 4) N(is_whole, 1)
#define FIELDS_books_process(N, S, I) N(process, 5) N(kind, WIRE_WORKER) N(pid, 4711) N(slot, 6) N(job, 3)
#define FIELDS_books_entry(N, S, I)                                                                \
    N(place, LEASE) N(offset, 8192) N(size, 1048577) N(counter, 42) N(owner, 5) N(index, 2)        \
        N(n_refs, 3) N(n_blocks, 257) N(n_holds, 7) N(attempt, 2) N(state, STORE_ENTRY_SEALED)     \
            N(is_allocated, 1) N(is_copy, 1)
#define FIELDS_books_use(N, S, I)                                                                  \
    N(process, 5) N(kind, WIRE_USE_HOLD) N(place, LEASE) N(offset, 8192) N(size, 65536) N(n, 9)    \
        N(is_allocated, 1)
#define FIELDS_refs_ask(N, S, I) N(ticket, TICKET) N(from, LEASE) N(process, 5)
#define FIELDS_why(N, S, I) N(size, 1048577) N(is_whole, 1)
#define FIELDS_refs(N, S, I)                                                                       \
    N(ticket, TICKET) N(next, LEASE) N(process, 5) N(status, WIRE_REFS_BUSY) N(n, 1)
#define FIELDS_refs_row(N, S, I)                                                                   \
    N(word, LEASE) N(counter, 42) N(size, 1048577) N(place, LEASE + 1) N(offset, 8192)             \
        N(owner_word, LEASE + 2) N(owner, 5) N(index, 2) N(count, 3) N(held, 4) N(n_views, 1)      \
            N(n_refs, 6) N(first_item, 7) N(n_items, 1) N(pin, -2)                                 \
                N(flags, WIRE_ROW_BORROWED | WIRE_ROW_REGISTERED) N(site_size, 8)                  \
                    N(status, WIRE_ROW_FAILED) N(worker, 77) N(text_size, 0)               \
                        N(waits_ms, 3100) N(window_slot, 63)
#define FIELDS_refs_item(N, S, I)     N(kind, WIRE_ITEM_BORROWER) N(number, 4711)
#define FIELDS_spawn(N, S, I)         N(token, TICKET) N(part, 3) N(slot, 12)
#define FIELDS_spawned(N, S, I)       N(token, TICKET) N(pid, -1) N(error, 11)
#define FIELDS_exited(N, S, I)        N(pid, 4711) N(status, 0x8b)
/* clang-format on */

#define PUT_N(f, v) w.f = (v);
#define PUT_S(f, v) memcpy(w.f, v, sizeof v);
#define PUT_I(f, v) w.f = id_of(v);
#define GET_N(f, v)                                                                                \
    if (w.f != (v))                                                                                \
        return #f;
#define GET_S(f, v)                                                                                \
    if (strncmp(w.f, v, sizeof w.f) != 0)                                                          \
        return #f;
#define GET_I(f, v)                                                                                \
    if (memcmp(w.f.bytes, id_of(v).bytes, sizeof w.f.bytes) != 0)                                  \
        return #f;

/* put: the struct with its fields; get: the first field that differs, or NULL. */
#define PART(tag)                                                                                  \
    static void put_##tag(uint8_t *out)                                                            \
    {                                                                                              \
        struct wire_##tag w;                                                                       \
        memset(&w, 0, sizeof w);                                                                   \
        FIELDS_##tag(PUT_N, PUT_S, PUT_I) memcpy(out, &w, sizeof w);                               \
    }                                                                                              \
    static const char *get_##tag(const uint8_t *in)                                                \
    {                                                                                              \
        struct wire_##tag w;                                                                       \
        memcpy(&w, in, sizeof w);                                                                  \
        FIELDS_##tag(GET_N, GET_S, GET_I) return NULL;                                             \
    }
/* clang-format off */
PART(hello) PART(welcome) PART(error) PART(route) PART(lease_request) PART(resource)
PART(lease_cancel) PART(lease_return) PART(lease_grant) PART(lease_canceled) PART(lease_refused)
PART(worker_dead) PART(lease_begin) PART(lease_revoke) PART(exit) PART(lease_ended)
PART(channel_end) PART(blocked)
PART(template) PART(push) PART(arg) PART(take_back) PART(done) PART(returned) PART(bounced)
PART(failure) PART(log) PART(info_reply) PART(info_resource) PART(job_part)
PART(spawn) PART(spawned) PART(exited)
PART(ref) PART(stored) PART(store_fd) PART(store_lend) PART(store_lent) PART(store_refused)
PART(record) PART(process_dead) PART(borrow) PART(borrow_digest)
PART(borrow_compared) PART(borrow_list) PART(seen) PART(want) PART(object) PART(object_ack) PART(credit)
PART(books) PART(books_process) PART(books_entry) PART(books_use) PART(refs_ask) PART(refs)
PART(refs_row) PART(refs_item) PART(why)
PART(store_pull) PART(store_pulled) PART(store_pull_failed) PART(store_pull_cancel)
PART(store_free_at) PART(store_seek) PART(store_found)
    /* clang-format on */

    struct part {
    size_t size;
    void (*put)(uint8_t *out);
    const char *(*get)(const uint8_t *in);
    const char *text; /* instead of put and get */
};
#define P(tag)                                                                                     \
    {                                                                                              \
        .size = sizeof(struct wire_##tag), .put = put_##tag, .get = get_##tag                      \
    }
#define TEXT(s)                                                                                    \
    {                                                                                              \
        .size = sizeof(s) - 1, .text = s                                                           \
    }

#define PARTS_MAX 4
struct row {
    const char *name;
    uint8_t type, flags;
    struct part parts[PARTS_MAX];
    const char *hex;
};

/* --- the table --- */

/* clang-format off */
static const struct row rows[] = {
    {"HELLO", WIRE_HELLO, 0, {P(hello)},
     "48000000010000000d0c0b0afeffffff"
     "01000000020000000807060504030201feffffff5a5a5a5a7261792d6320302e3100000000000000"
     "00000000000000000000000000000000"},
    {"WELCOME", WIRE_WELCOME, FRAME_HAS_FD, {P(welcome), TEXT("/tmp/session\0head\0/tmp/worker\0")},
     "c3000000020100000d0c0b0afeffffff"
     "01000000040302010700000004000000204e000000000000101112131415161718191a1b1c1d1e1f"
     "202122232425262728292a2b404142434445464748494a4b4c4d4e4f505152535455565758595a5b"
     "707172737475767778797a7b7c7d7e7f808182838485868788898a8b7261792d6320302e31000000"
     "0000000000000000000000000000000000000000ff03000005030201012f746d702f73657373696f"
     "6e0068656164002f746d702f776f726b657200"},
    {"ERROR", WIRE_ERROR, 0, {P(error), TEXT("malformed HELLO")},
     "23000000030000000d0c0b0afeffffff"
     "020000006d616c666f726d65642048454c4c4f"},
    {"GOODBYE", WIRE_GOODBYE, 0, {{0}},
     "10000000040000000d0c0b0afeffffff"},
    {"ROUTE", WIRE_ROUTE, 0, {P(route)},
     "3c000000050000000d0c0b0afeffffff"
     "24232221090000008877665544332211303132333435363738393a3b3c3d3e3f4041424344454647"
     "48494a4b"},
    {"LEASE_REQUEST", WIRE_LEASE_REQUEST, 0, {P(lease_request), P(resource), TEXT("square")},
     "66000000100000000d0c0b0afeffffff"
     "01ffeeddccbbaa990300000034333231010000003837363543505500000000000000000000000000"
     "0000000000000000000000000000000000000000000000000000000000000000983a000000000000"
     "737175617265"},
    {"LEASE_CANCEL", WIRE_LEASE_CANCEL, 0, {P(lease_cancel)},
     "18000000110000000d0c0b0afeffffff"
     "01ffeeddccbbaa99"},
    {"LEASE_RETURN", WIRE_LEASE_RETURN, 0, {P(lease_return)},
     "18000000120000000d0c0b0afeffffff"
     "8877665544332211"},
    {"LEASE_GRANT", WIRE_LEASE_GRANT, FRAME_HAS_FD, {P(lease_grant)},
     "4c000000130100000d0c0b0afeffffff"
     "01ffeeddccbbaa9988776655443322116712000005000000707172737475767778797a7b7c7d7e7f"
     "808182838485868788898a8b0600000009000000"},
    {"LEASE_CANCELED", WIRE_LEASE_CANCELED, 0, {P(lease_canceled)},
     "1c000000140000000d0c0b0afeffffff"
     "01ffeeddccbbaa9902000000"},
    {"LEASE_REFUSED", WIRE_LEASE_REFUSED, 0, {P(lease_refused), TEXT("no worker")},
     "45000000150000000d0c0b0afeffffff"
     "01ffeeddccbbaa99020000000b000000505152535455565758595a5b5c5d5e5f6061626364656667"
     "68696a6b6e6f20776f726b6572"},
    {"WORKER_DEAD", WIRE_WORKER_DEAD, 0, {P(worker_dead), TEXT("killed by signal 9\0/tmp/w.err")},
     "69000000160000000d0c0b0afeffffff"
     "88776655443322118977665544332211010000000000008067120000090000005051525354555657"
     "58595a5b5c5d5e5f606162636465666768696a6b6b696c6c6564206279207369676e616c2039002f"
     "746d702f772e657272"},
    {"LEASE_BEGIN", WIRE_LEASE_BEGIN, FRAME_HAS_FD, {P(lease_begin)},
     "44000000170100000d0c0b0afeffffff"
     "8877665544332211080000000000000068120000909192939495969798999a9b9c9d9e9fa0a1a2a3"
     "a4a5a6a7a8a9aaab09000000"},
    {"LEASE_REVOKE", WIRE_LEASE_REVOKE, 0, {P(lease_revoke)},
     "1c000000180000000d0c0b0afeffffff"
     "8877665544332211f4010000"},
    {"LEASE_ENDED", WIRE_LEASE_ENDED, 0, {P(lease_ended)},
     "18000000190000000d0c0b0afeffffff"
     "8877665544332211"},
    {"BLOCKED", WIRE_BLOCKED, 0, {P(blocked)},
     "180000001a0000000d0c0b0afeffffff"
     "8877665544332211"},
    {"UNBLOCKED", WIRE_UNBLOCKED, 0, {P(blocked)},
     "180000001b0000000d0c0b0afeffffff"
     "8877665544332211"},
    {"EXIT", WIRE_EXIT, 0, {P(exit)},
     "110000001c0000000d0c0b0afeffffff"
     "01"},
    {"CHANNEL_END", WIRE_CHANNEL_END, 0, {P(channel_end)},
     "2c0000001d0000000d0c0b0afeffffff"
     "707172737475767778797a7b7c7d7e7f808182838485868788898a8b"},
    {"STAYS", WIRE_STAYS, 0, {{0}},
     "100000001e0000000d0c0b0afeffffff"},
    {"TEMPLATE", WIRE_TEMPLATE, 0, {P(template), TEXT("square\0my square\0")},
     "29000000280000000d0c0b0afeffffff"
     "0301020001000000737175617265006d792073717561726500"},
    {"PUSH", WIRE_PUSH, 0, {P(push), P(arg), TEXT("abc")},
     "30000000290000000d0c0b0afeffffff"
     "88776655443322112a0000000000000003013f01010002000300000001616263"},
    {"TAKE_BACK", WIRE_TAKE_BACK, 0, {P(take_back)},
     "1c0000002a0000000d0c0b0afeffffff"
     "887766554433221105000000"},
    {"DONE", WIRE_DONE, FRAME_MORE, {P(done), P(arg), P(failure), TEXT("text\0f\0a.c:1\0log\0")},
     "5e0000002b0200000d0c0b0afeffffff"
     "88776655443322113f010100efbead7e030000000103000000671200000b00000040414243444546"
     "4748494a4b4c4d4e4f505152535455565758595a5b74657874006600612e633a31006c6f6700"},
    {"RETURNED", WIRE_RETURNED, 0, {P(returned)},
     "240000002c0000000d0c0b0afeffffff"
     "8877665544332211030000000000008001000000"},
    {"BOUNCED", WIRE_BOUNCED, 0, {P(bounced)},
     "1a0000002d0000000d0c0b0afeffffff"
     "88776655443322111102"},
    {"OWNER_LEASE_ENDED", WIRE_OWNER_LEASE_ENDED, 0, {P(lease_ended)},
     "180000002e0000000d0c0b0afeffffff"
     "8877665544332211"},
    {"LOG", WIRE_LOG, 0, {P(log), TEXT("square\0a line\n")},
     "540000003c0000000d0c0b0afeffffff"
     "671200000200000031302e302e302e32000000000000000000000000000000000000000000000000"
     "0000000000000000000000000000"
     "7371756172650061206c696e650a"},
    {"LEAVE", WIRE_LEAVE, 0, {{0}},
     "100000003d0000000d0c0b0afeffffff"},
    {"INFO", WIRE_INFO, 0, {{0}},
     "100000003e0000000d0c0b0afeffffff"},
    {"INFO_REPLY", WIRE_INFO_REPLY, 0, {P(info_reply), P(info_resource)},
     "640000003f0000000d0c0b0afeffffff"
     "0100000002000000010000000068e5cf8b010000616363656c657261746f72000000000000000000"
     "00000000000000000000000000000000000000000000000000000000409c000000000000f0d8ffff"
     "ffffffff"},
    {"JOB_PART", WIRE_JOB_PART, FRAME_HAS_FD, {P(job_part)},
     "14000000400100000d0c0b0afeffffff"
     "01000000"},
    {"SPAWN", WIRE_SPAWN, FRAME_HAS_FD, {P(spawn)},
     "20000000500100000d0c0b0afeffffff"
     "01ffeeddccbbaa99030000000c000000"},
    {"SPAWNED", WIRE_SPAWNED, FRAME_HAS_FD, {P(spawned)},
     "20000000510100000d0c0b0afeffffff"
     "01ffeeddccbbaa99ffffffff0b000000"},
    {"EXITED", WIRE_EXITED, 0, {P(exited)},
     "18000000520000000d0c0b0afeffffff"
     "671200008b000000"},
    {"STORE_FD", WIRE_STORE_FD, FRAME_HAS_FD, {P(store_fd)},
     "14000000600100000d0c0b0afeffffff"
     "02000000"},
    {"STORE_LEND", WIRE_STORE_LEND, 0, {P(store_lend)},
     "2c000000610000000d0c0b0afeffffff"
     "01ffeeddccbbaa990010000000000000000001000000000009000000"},
    {"STORE_LENT", WIRE_STORE_LENT, 0, {P(store_lent), TEXT("\1\0\0\0\2\0\0\0")},
     "34000000620000000d0c0b0afeffffff"
     "01ffeeddccbbaa9900200000000000000000010000000000010000000100000002000000"},
    {"STORE_REFUSED", WIRE_STORE_REFUSED, 0, {P(store_refused), TEXT("full")},
     "1c000000630000000d0c0b0afeffffff"
     "01ffeeddccbbaa9966756c6c"},
    {"STORE_RECALL", WIRE_STORE_RECALL, 0, {{0}},
     "10000000640000000d0c0b0afeffffff"},
    {"STORE_RECORD", WIRE_STORE_RECORD, 0, {P(record)},
     "50000000650000000d0c0b0afeffffff"
     "01010200050000008877665544332211002000000000000001001000000000002a00000000000000"
     "01000000030000004f000000000000000000000000000000"},
    {"STORE_DOORBELL", WIRE_STORE_DOORBELL, 0, {{0}},
     "10000000660000000d0c0b0afeffffff"},
    {"PROCESS_DEAD", WIRE_PROCESS_DEAD, 0, {P(process_dead)},
     "14000000670000000d0c0b0afeffffff"
     "67120000"},
    {"BOOKS_ASK", WIRE_BOOKS_ASK, 0, {{0}},
     "10000000680000000d0c0b0afeffffff"},
    {"BOOKS", WIRE_BOOKS, FRAME_HAS_FD, {P(books), P(books_process), P(books_entry), P(books_use)},
     "d1000000690100000d0c0b0afeffffff"
     "00000004000000000020000000000000000001000000000000100000000000000000100000000000"
     "00000800000000000000300000000000030000000200000001000000040000000100000005000000"
     "02000000671200000600000003000000887766554433221100200000000000000100100000000000"
     "2a00000000000000050000000200000003000000010100000700000002000201010500000002000000"
     "8877665544332211002000000000000000000100000000000900000001000000"},
    {"WHY_ASK", WIRE_WHY_ASK, 0, {{0}},
     "100000006c0000000d0c0b0afeffffff"},
    {"WHY", WIRE_WHY, FRAME_HAS_FD, {P(why)},
     "1c0000006d0100000d0c0b0afeffffff"
     "010010000000000001000000"},
    {"REFS_ASK", WIRE_REFS_ASK, 0, {P(refs_ask)},
     "240000006a0000000d0c0b0afeffffff"
     "01ffeeddccbbaa99887766554433221105000000"},
    {"REFS", WIRE_REFS, 0, {P(refs), P(refs_row), P(refs_item), TEXT("a.c:12\0\0")},
     "a60000006b0000000d0c0b0afeffffff"
     "01ffeeddccbbaa99887766554433221105000000020000000100000088776655443322112a000000"
     "000000000100100000000000897766554433221100200000000000008a7766554433221105000000"
     "02000000030000000400000001000000060000000700000001000000feffffff0900080005000000"
     "4d00000000001c0c00003f0000000500000067120000612e633a31320000"},
    {"BORROW", WIRE_BORROW, 0, {P(borrow), TEXT("\1\0\0\0\2\0\0\0")},
     "200000006e0000000d0c0b0afeffffff"
     "07000000010000000100000002000000"},
    {"BORROW_ACK", WIRE_BORROW_ACK, 0, {P(borrow)},
     "180000006f0000000d0c0b0afeffffff"
     "0700000001000000"},
    {"SEEN", WIRE_SEEN, 0, {P(seen)},
     "18000000700000000d0c0b0afeffffff"
     "2a00000000000000"},
    {"WANT", WIRE_WANT, 0, {P(want)},
     "1f000000710000000d0c0b0afeffffff"
     "887766554433221109000000030001"},
    {"OBJECT_ACK", WIRE_OBJECT_ACK, 0, {P(object_ack)},
     "18000000730000000d0c0b0afeffffff"
     "0000040000000000"},
    {"CREDIT", WIRE_CREDIT, 0, {P(credit)},
     "180000007c0000000d0c0b0afeffffff"
     "0080000000000100"},
    {"OBJECT", WIRE_OBJECT, 0, {P(object), P(arg), P(stored), P(ref)},
     "6f000000720000000d0c0b0afeffffff"
     "88776655443322110300000001887766554433221100200000000000000100100000000000030000"
     "00090000002a0000000000000005000000020000000300897766554433221188776655443322112a"
     "000000000000000500000002000000"},
    {"BORROW_DIGEST", WIRE_BORROW_DIGEST, 0, {P(borrow_digest)},
     "29000000740000000d0c0b0afeffffff"
     "0700000006000000030000000000000001ffeeddccbbaa9901"},
    {"BORROW_COMPARED", WIRE_BORROW_COMPARED, 0, {P(borrow_compared)},
     "15000000750000000d0c0b0afeffffff"
     "0700000001"},
    {"BORROW_LIST", WIRE_BORROW_LIST, 0, {P(borrow_list), TEXT("\1\0\0\0\2\0\0\0")},
     "31000000760000000d0c0b0afeffffff"
     "08000000010000000100000002000000887766554433221101"
     "0100000002000000"},
    {"STORE_PULL", WIRE_STORE_PULL, 0, {P(store_pull)},
     "3b000000770000000d0c0b0afeffffff"
     "01ffeeddccbbaa992a00000000000000050000000200000003000900000001001000000000000300"
     "000002"},
    {"STORE_PULLED", WIRE_STORE_PULLED, 0, {P(store_pulled)},
     "34000000780000000d0c0b0afeffffff"
     "01ffeeddccbbaa9988776655443322110020000000000000010010000000000003000000"},
    {"STORE_PULL_FAILED", WIRE_STORE_PULL_FAILED, 0, {P(store_pull_failed), TEXT("node 9 is dead")},
     "2a000000790000000d0c0b0afeffffff"
     "01ffeeddccbbaa990b0000006e6f646520392069732064656164"},
    {"STORE_PULL_CANCEL", WIRE_STORE_PULL_CANCEL, 0, {P(store_pull_cancel)},
     "180000007a0000000d0c0b0afeffffff"
     "01ffeeddccbbaa99"},
    {"STORE_FREE_AT", WIRE_STORE_FREE_AT, 0, {P(store_free_at)},
     "270000007b0000000d0c0b0afeffffff"
     "2a00000000000000050000000200000003000900000001"},
    {"STORE_SEEK", WIRE_STORE_SEEK, 0, {P(store_seek)},
     "2e0000007d0000000d0c0b0afeffffff"
     "01ffeeddccbbaa992a000000000000000500000002000000030009000000"},
    {"STORE_FOUND", WIRE_STORE_FOUND, 0, {P(store_found)},
     "2c0000007e0000000d0c0b0afeffffff"
     "01ffeeddccbbaa998877665544332211002000000000000009000000"},
};
/* clang-format on */
#define N_ROWS (sizeof rows / sizeof rows[0])

/* NULL: no such type. No default: the compiler names a type that is missing here. */
static const char *name_of(enum wire_type type)
{
#define NAME(x)                                                                                    \
    case WIRE_##x:                                                                                 \
        return #x;
    switch (type) {
        NAME(HELLO)
        NAME(WELCOME)
        NAME(ERROR)
        NAME(GOODBYE)
        NAME(ROUTE)
        NAME(LEASE_REQUEST)
        NAME(LEASE_CANCEL)
        NAME(LEASE_RETURN)
        NAME(LEASE_GRANT)
        NAME(LEASE_CANCELED)
        NAME(LEASE_REFUSED)
        NAME(WORKER_DEAD)
        NAME(LEASE_BEGIN)
        NAME(LEASE_REVOKE)
        NAME(LEASE_ENDED)
        NAME(BLOCKED)
        NAME(UNBLOCKED)
        NAME(EXIT)
        NAME(CHANNEL_END)
        NAME(STAYS)
        NAME(TEMPLATE)
        NAME(PUSH)
        NAME(TAKE_BACK)
        NAME(DONE)
        NAME(RETURNED)
        NAME(BOUNCED)
        NAME(OWNER_LEASE_ENDED)
        NAME(LOG)
        NAME(LEAVE)
        NAME(INFO)
        NAME(INFO_REPLY)
        NAME(JOB_PART)
        NAME(SPAWN)
        NAME(SPAWNED)
        NAME(EXITED)
        NAME(STORE_FD)
        NAME(STORE_LEND)
        NAME(STORE_LENT)
        NAME(STORE_REFUSED)
        NAME(STORE_RECALL)
        NAME(STORE_RECORD)
        NAME(STORE_DOORBELL)
        NAME(PROCESS_DEAD)
        NAME(BOOKS_ASK)
        NAME(BOOKS)
        NAME(WHY_ASK)
        NAME(WHY)
        NAME(REFS_ASK)
        NAME(REFS)
        NAME(BORROW)
        NAME(BORROW_ACK)
        NAME(SEEN)
        NAME(WANT)
        NAME(OBJECT)
        NAME(OBJECT_ACK)
        NAME(CREDIT)
        NAME(BORROW_DIGEST)
        NAME(BORROW_COMPARED)
        NAME(BORROW_LIST)
        NAME(STORE_PULL)
        NAME(STORE_PULLED)
        NAME(STORE_PULL_FAILED)
        NAME(STORE_PULL_CANCEL)
        NAME(STORE_FREE_AT)
        NAME(STORE_SEEK)
        NAME(STORE_FOUND)
    }
    return NULL;
}

static size_t encode(const struct row *r, uint8_t *out)
{
    size_t n = FRAME_HEADER_SIZE;

    for (int i = 0; i < PARTS_MAX; n += r->parts[i++].size)
        if (r->parts[i].put != NULL)
            r->parts[i].put(out + n);
        else if (r->parts[i].size > 0)
            memcpy(out + n, r->parts[i].text, r->parts[i].size);
    frame_write_header(out, r->type, r->flags, ROUTE, SEQUENCE, n - FRAME_HEADER_SIZE);
    return n;
}

static size_t from_hex(const char *hex, uint8_t *out)
{
    char two[3] = "";
    size_t n = 0;

    for (; hex[0] != '\0'; hex += 2) {
        char *end;
        memcpy(two, hex, 2);
        out[n++] = (uint8_t)strtoul(two, &end, 16);
        ck_assert_ptr_eq(end, two + 2);
    }
    return n;
}

START_TEST(encoding_gives_the_golden_bytes)
{
    const struct row *r = &rows[_i];
    uint8_t bytes[512];
    char hex[2 * sizeof bytes + 1] = "";
    size_t n = encode(r, bytes);

    for (size_t i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    ck_assert_msg(strcmp(hex, r->hex) == 0,
                  "%s is written as\n%s, by the table\n%s",
                  r->name,
                  hex,
                  r->hex);
}
END_TEST

START_TEST(decoding_gives_the_fields)
{
    const struct row *r = &rows[_i];
    uint8_t bytes[512];
    struct frame f;
    size_t need, n = from_hex(r->hex, bytes), at = 0;

    ck_assert_int_eq(frame_parse(bytes, n, &f, &need, NULL), 1);
    ck_assert_msg(f.h.length == n && f.h.type == r->type && f.h.flags == r->flags
                      && f.h.route == ROUTE && f.h.sequence == SEQUENCE,
                  "the header of %s",
                  r->name);
    for (int i = 0; i < PARTS_MAX; at += r->parts[i++].size) {
        const struct part *p = &r->parts[i];
        ck_assert_msg(at + p->size <= f.body_size, "the size of %s", r->name);
        if (p->get != NULL)
            ck_assert_msg(p->get(f.body + at) == NULL,
                          "%s, part %d: field %s",
                          r->name,
                          i,
                          p->get(f.body + at));
        else if (p->size > 0)
            ck_assert_msg(memcmp(f.body + at, p->text, p->size) == 0, "the text of %s", r->name);
    }
    ck_assert_msg(at == f.body_size, "the size of %s", r->name);
}
END_TEST

START_TEST(each_type_has_one_row)
{
    for (int type = 0; type <= UINT8_MAX; type++) {
        const char *name = name_of((enum wire_type)type);
        size_t n = 0;
        for (size_t i = 0; i < N_ROWS; i++)
            if (rows[i].type == type) {
                n++;
                ck_assert_str_eq(rows[i].name, name);
            }
        ck_assert_msg(n == (name != NULL), "type %d, %s, has %zu rows", type, name, n);
    }
}
END_TEST

/* What travels inside bodies, and the version itself. */
static const int numbers[][2] = {
    {WIRE_PROTOCOL, 8},
    {WIRE_VALUE_BY_REF, 0xc0},
    {(int)WIRE_ROUTE_PROCESS, INT32_MIN},
    {WIRE_ROUTE_OWNER, 0x40000000},
    {WIRE_ROUTE_WORKER, 0x20000000},
    {WIRE_ROUTE_NUMBER, 0x0fffffff},
    {(int)WIRE_SLOT_NONE, -1},
    {(int)WIRE_MASK_UNKNOWN, -1},
    {WIRE_META_MASK, 0x1f},
    {WIRE_VALUE_INNER, 0x20},
    {WIRE_PUSH_ELSEWHERE, 2},
    {WIRE_PULL_GET, 0},
    {WIRE_PULL_WAIT, 1},
    {WIRE_PULL_ARGUMENT, 2},
    {WIRE_VALUE_REFS, 0x40},
    {WIRE_VALUE_STORED, 0x80},
    {WIRE_DRIVER, 1},
    {WIRE_WORKER, 2},
    {WIRE_ZYGOTE, 3},
    {WIRE_COMMAND, 4},
    {WIRE_META_XLANG, 0},
    {WIRE_META_RAW, 1},
    {WIRE_META_ERROR, 2},
    {WIRE_TEMPLATE_NO_RETRY, 1},
    {WIRE_HELLO_NO_LOG, 1},
    {WIRE_BOUNCE_OLD_LEASE, 1},
    {WIRE_BOUNCE_TEMPLATE, 2},
    {WIRE_DONE_FAILED, 1},
    {WIRE_DONE_LOST, 2},
    {offsetof(struct wire_lost, attempt), 2},
    {offsetof(struct wire_lost, node), 4},
    {sizeof(struct wire_lost), 8},
    {STORE_KEEP, 7},
    {FRAME_HAS_FD, 1},
    {FRAME_MORE, 2},
    {FRAME_HEADER_SIZE, 16},
    {FRAME_SIZE_MAX, 65536},
};
#define N_NUMBERS (sizeof numbers / sizeof numbers[0])

/* What rows of BOOKS and REFS say. */
static const int row_numbers[][2] = {
    {WIRE_USE_PIN, 1},        {WIRE_USE_HOLD, 2},       {WIRE_USE_LENT, 3},
    {WIRE_REFS_OK, 0},        {WIRE_REFS_GONE, 1},      {WIRE_REFS_BUSY, 2},
    {WIRE_ROW_BORROWED, 1},   {WIRE_ROW_STORED, 2},     {WIRE_ROW_HIDDEN, 4},
    {WIRE_ROW_REGISTERED, 8}, {WIRE_ROW_ARGUMENT, 16},  {WIRE_ROW_TASK, 32},
    {WIRE_ROW_PENDING, 0},    {WIRE_ROW_ARGS, 1},       {WIRE_ROW_QUEUED, 2},
    {WIRE_ROW_PUSHED, 3},     {WIRE_ROW_READY, 4},      {WIRE_ROW_FAILED, 5},
    {WIRE_ROW_FREED, 6},      {WIRE_ITEM_INSIDE, 1},    {WIRE_ITEM_ARGUMENT, 2},
    {WIRE_ITEM_REPLY, 3},     {WIRE_ITEM_BODY, 4},      {WIRE_ITEM_BORROWER, 5},
    {WIRE_ITEM_LEAVING, 6},   {WIRE_ROW_ELSEWHERE, 64},
};
#define N_ROW_NUMBERS (sizeof row_numbers / sizeof row_numbers[0])

START_TEST(other_numbers_are_pinned)
{
    for (size_t i = 0; i < N_NUMBERS; i++)
        ck_assert_msg(numbers[i][0] == numbers[i][1], "number %zu is %d", i, numbers[i][0]);
    for (size_t i = 0; i < N_ROW_NUMBERS; i++)
        ck_assert_msg(row_numbers[i][0] == row_numbers[i][1], "row number %zu is wrong", i);
}
END_TEST

static uint64_t hash(uint64_t h, const void *bytes, size_t size)
{
    for (const uint8_t *p = bytes; size > 0; p++, size--)
        h = (h ^ *p) * 0x100000001b3u;
    return h;
}

/* What each number stands for. Lines are added, never changed: who changes a row or a number above
 * adds one, and to WIRE_PROTOCOL. */
START_TEST(a_changed_table_has_a_new_protocol)
{
    static const struct {
        int protocol;
        uint64_t hash;
    } tables[] = {
        {2, 0xd702d7b0189813b1u},
        {3, 0x616d9392cb1ce16fu},
        {4, 0x4a2f4340ec41f3b8u},
        {5, 0x8a86b14f768b6109u},
        {6, 0x46d1f4e36c61f0a0u},
        {7, 0xe1f9f5cf46d8229eu},
        {8, 0xc3b83f5dd7db13c7u},
    };
    size_t last = sizeof tables / sizeof tables[0] - 1;
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < N_ROWS; i++) {
        h = hash(h, rows[i].name, strlen(rows[i].name) + 1);
        h = hash(h, rows[i].hex, strlen(rows[i].hex) + 1);
    }
    h = hash(h, numbers, sizeof numbers);
    h = hash(h, row_numbers, sizeof row_numbers);
    for (size_t i = 1; i <= last; i++)
        ck_assert_int_eq(tables[i].protocol, tables[i - 1].protocol + 1);
    ck_assert_int_eq(tables[last].protocol, WIRE_PROTOCOL);
    ck_assert_msg(h == tables[last].hash,
                  "the table has changed to 0x%llx and WIRE_PROTOCOL has not",
                  (unsigned long long)h);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wire");
    TCase *t = tcase_create("wire");

    tcase_add_loop_test(t, encoding_gives_the_golden_bytes, 0, N_ROWS);
    tcase_add_loop_test(t, decoding_gives_the_fields, 0, N_ROWS);
    tcase_add_test(t, each_type_has_one_row);
    tcase_add_test(t, other_numbers_are_pinned);
    tcase_add_test(t, a_changed_table_has_a_new_protocol);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
