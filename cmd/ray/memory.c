/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/memory.h"

#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "raylet/client.h"

#define TIMEOUT_MS 2000
#define ASKED_MAX  32 /* processes at once: their answers wait in the raylet's memory */
#define LOOKS      8  /* until a disagreement counts as one */
#define FIRST_NAP  20 /* ms before the second look; doubles */
#define LAST_NAP   320

static void usage(FILE *out)
{
    fputs(
        "ray memory: the object refs of a running cluster, who holds them, and why\n"
        "  --group-by=NODE_ADDRESS|STACK_TRACE  (default NODE_ADDRESS; a stack trace is one line)\n"
        "  --sort-by=OBJECT_SIZE|PID|REFERENCE_TYPE  (default OBJECT_SIZE)\n"
        "  --units=B|KB|MB|GB     of sizes (default B)\n"
        "  --num-entries=N, --n=N rows of each group (default: all)\n"
        "  --stats-only           sums, no rows\n"
        "  --no-format            tabs between the columns, for other programs\n"
        "  --format=table|json    (default table)\n"
        "  --check                do arena, index, pins, holds, owners and borrowers agree? "
        "Prints\n"
        "                         what does not; processes move while they are asked, so only "
        "what\n"
        "                         was seen in every one of several looks\n"
        "  --timeout=SECONDS      for an answer (default 2); who does not answer is named\n"
        "  --session-dir=DIR      the cluster's session folder (default: this user's newest)\n"
        "  --temp-dir=DIR         where sessions are (default: RAY_TMPDIR, else /tmp/ray)\n"
        "  --address=auto         the same as the default: it is this machine's node that is "
        "asked\n"
        "  --help\n"
        "exit status: 0; 1 no cluster, or something disagrees; 2 usage; 3 all that was said "
        "agrees,\nand some process did not answer\n",
        out);
}

/* --- asking --- */

struct look {
    struct raylet_client *link;
    struct memory_view *view;
    uint32_t ticket;
    const struct memory_options *options;
};

static int wait_books(struct look *l, struct err *err)
{
    struct wire_books books = {0};
    struct frame f;
    int rc;

    if (raylet_client_send(l->link, WIRE_BOOKS_ASK, NULL, 0, err) != 0)
        return -1;
    while ((rc = raylet_client_next(l->link, l->options->timeout_ms, &f, err)) == 1
           && f.h.type != WIRE_BOOKS)
        if (f.fd >= 0) /* an answer that was late for an earlier look */
            close(f.fd);
    if (rc < 0)
        return -1;
    if (rc == 0)
        return err_set(err,
                       ERR_TIMEOUT,
                       "the raylet did not answer within %d ms",
                       l->options->timeout_ms);
    memcpy(&books, f.body, f.body_size < sizeof books ? f.body_size : sizeof books);
    uint64_t size = books.n_processes * (uint64_t)sizeof(struct wire_books_process)
                    + books.n_entries * (uint64_t)sizeof(struct wire_books_entry)
                    + books.n_uses * (uint64_t)sizeof(struct wire_books_use);
    if (f.fd < 0 || !books.is_whole)
        return err_set(err,
                       ERR_NO_MEMORY,
                       "the raylet has no memory for its books, of %llu bytes",
                       (unsigned long long)size);
    void *rows = size > 0 ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, f.fd, 0) : NULL;
    close(f.fd);
    if (rows == MAP_FAILED)
        return err_sys(err, "map the raylet's books");
    rc = memory_view_set_books(l->view, &books, rows, size);
    if (size > 0)
        munmap(rows, size);
    return rc == 0 ? 0 : err_set(err, ERR_PROTOCOL, "malformed books");
}

/* One process that is being asked. */
struct asked {
    struct memory_process *process;
    uint32_t ticket;
    uint64_t deadline_ns;
};

static int ask(struct look *l, struct asked *a, uint64_t from, struct err *err)
{
    struct wire_refs_ask w = {.ticket = ++l->ticket, .from = from, .process = a->process->number};

    a->ticket = l->ticket;
    a->deadline_ns = clock_now_ns() + (uint64_t)l->options->timeout_ms * 1000000u;
    return raylet_client_send(l->link, WIRE_REFS_ASK, &w, sizeof w, err);
}

/* false: with this process we are done. */
static bool on_refs(struct look *l, struct asked *a, const struct frame *f, struct err *err)
{
    struct wire_refs w;
    uint64_t next = 0;

    memcpy(&w, f->body, sizeof w);
    if (w.status == WIRE_REFS_GONE)
        a->process->answer = MEMORY_GONE;
    if (w.status != WIRE_REFS_OK
        || memory_view_add_page(l->view, a->process, f->body, f->body_size, &next) != 0)
        return false;
    return next != 0 && ask(l, a, next, err) == 0;
}

static int ms_until(uint64_t deadline_ns)
{
    uint64_t now = clock_now_ns();

    return deadline_ns > now ? (int)((deadline_ns - now) / 1000000) + 1 : 0;
}

static void drop(struct asked *asked, size_t *n, size_t i)
{
    asked[i] = asked[--*n];
}

/* Whose answer this is; *n: nobody waits for it. */
static size_t find_asked(const struct asked *asked, size_t n, const struct frame *f)
{
    struct wire_refs w;
    size_t i = 0;

    if (f->h.type != WIRE_REFS || f->body_size < sizeof w)
        return n;
    memcpy(&w, f->body, sizeof w);
    while (i < n
           && (asked[i].process->number != w.process
               || (asked[i].ticket != (uint32_t)w.ticket && w.status != WIRE_REFS_GONE)))
        i++;
    return i;
}

/* All processes, several at once, each as long as it answers in time. skip: numbers of those that
 * were silent before. -1: the raylet has gone. */
static int ask_all(struct look *l, const uint32_t *skip, size_t n_skip, struct err *err)
{
    struct asked asked[ASKED_MAX];
    size_t n = 0, next = 0, n_all = memory_view_n_processes(l->view);
    struct frame f;

    for (;;) {
        for (; n < ASKED_MAX && next < n_all; next++) {
            struct memory_process *p = memory_view_process(l->view, next);
            bool is_silent = false;
            for (size_t i = 0; i < n_skip; i++)
                is_silent = is_silent || skip[i] == p->number;
            if (is_silent)
                continue;
            asked[n].process = p;
            if (ask(l, &asked[n], 0, err) != 0)
                return -1;
            n++;
        }
        if (n == 0)
            return 0;
        uint64_t first_ns = UINT64_MAX;
        for (size_t i = 0; i < n; i++)
            first_ns = asked[i].deadline_ns < first_ns ? asked[i].deadline_ns : first_ns;
        int rc = raylet_client_next(l->link, ms_until(first_ns), &f, err);
        if (rc < 0)
            return -1;
        if (rc == 0) {
            uint64_t now = clock_now_ns();
            for (size_t i = n; i-- > 0;)
                if (asked[i].deadline_ns <= now)
                    drop(asked, &n, i);
            continue;
        }
        if (f.fd >= 0)
            close(f.fd);
        size_t i = find_asked(asked, n, &f);
        if (i < n && !on_refs(l, &asked[i], &f, err))
            drop(asked, &n, i);
    }
}

static int look_at(struct look *l, const uint32_t *skip, size_t n_skip, struct err *err)
{
    l->view = memory_view_create();
    if (wait_books(l, err) != 0 || ask_all(l, skip, n_skip, err) != 0)
        return -1;
    memory_view_join(l->view);
    return 0;
}

/* Their numbers in out (or NULL: counted only), which has room for all processes. */
static size_t find_silent(const struct memory_view *v, uint32_t *out)
{
    size_t n = 0;

    for (size_t i = 0; i < memory_view_n_processes(v); i++) {
        if (memory_view_process(v, i)->answer != MEMORY_SILENT)
            continue;
        if (out != NULL)
            out[n] = memory_view_process(v, i)->number;
        n++;
    }
    return n;
}

/* What disagrees in every look. l->view is the first one. */
static int check(struct look *l, struct memory_complaints *out, struct err *err)
{
    struct look again = *l;
    uint32_t *silent = xcalloc(memory_view_n_processes(l->view) + 1, sizeof *silent);
    size_t n_silent = find_silent(l->view, silent);
    int rc = 0;

    memory_check(l->view, out);
    for (int i = 1, nap_ms = FIRST_NAP; i < LOOKS && out->n > 0 && rc == 0; i++) {
        struct memory_complaints now = {0};
        struct timespec t = {.tv_nsec = nap_ms * 1000000L};
        nanosleep(&t, NULL);
        nap_ms = nap_ms < LAST_NAP ? 2 * nap_ms : LAST_NAP;
        again.ticket = l->ticket + (uint32_t)i * 1000000u;
        rc = look_at(&again, silent, n_silent, err);
        if (rc == 0) {
            memory_check(again.view, &now);
            memory_complaints_keep(out, &now);
        }
        memory_complaints_fini(&now);
        memory_view_destroy(again.view);
    }
    free(silent);
    return rc;
}

/* The exit status; -1: err says why there is nothing to print. */
static int run(const struct memory_options *o, const char *dir, struct err *err)
{
    struct look l = {.options = o};
    struct memory_complaints complaints = {0};
    char node[ID_HEX_MAX];
    int rc = -1;

    l.link = raylet_client_open(dir, o->timeout_ms, err);
    if (l.link == NULL || look_at(&l, NULL, 0, err) != 0
        || (o->check && check(&l, &complaints, err) != 0))
        goto out;
    const struct unique_id *id = &raylet_client_welcome(l.link)->node;
    id_hex(id->bytes, sizeof id->bytes, node);
    rc = 0;
    if (o->check) {
        memory_print_check(o, l.view, dir, &complaints);
        rc = complaints.n > 0 ? 1 : find_silent(l.view, NULL) > 0 ? 3 : 0;
    } else {
        memory_print(o, l.view, dir, node);
    }
out:
    memory_complaints_fini(&complaints);
    memory_view_destroy(l.view);
    raylet_client_close(l.link);
    return rc;
}

/* --- options --- */

static bool choose(const char *what, const char *value, const char *const *names, int *out)
{
    for (int i = 0; names[i] != NULL; i++)
        if (strcmp(value, names[i]) == 0) {
            *out = i;
            return true;
        }
    fprintf(stderr, "ray memory: %s cannot be %.100s; see ray memory --help\n", what, value);
    return false;
}

static bool set_number(const char *what, const char *value, double max, double *out)
{
    char *end;
    double x = strtod(value, &end);

    if (*value >= '0' && *value <= '9' && *end == '\0' && x > 0 && x <= max) {
        *out = x;
        return true;
    }
    fprintf(stderr,
            "ray memory: %s must be a number above 0 and at most %.0f, not %.100s\n",
            what,
            max,
            value);
    return false;
}

static bool set_option(struct memory_options *o, int option, const char *value)
{
    static const char *const groups[] = {"NODE_ADDRESS", "STACK_TRACE", NULL};
    static const char *const sorts[] = {"OBJECT_SIZE", "PID", "REFERENCE_TYPE", NULL};
    static const char *const units[] = {"B", "KB", "MB", "GB", NULL};
    static const char *const formats[] = {"table", "json", NULL};
    double x = 0;
    int i = 0;
    bool ok = true;

    switch (option) {
    case 'g':
        ok = choose("--group-by", value, groups, &i);
        o->group = (enum memory_group)i;
        break;
    case 's':
        ok = choose("--sort-by", value, sorts, &i);
        o->sort = (enum memory_sort)i;
        break;
    case 'u':
        ok = choose("--units", value, units, &i);
        o->unit = (unsigned)i;
        break;
    case 'f':
        ok = choose("--format", value, formats, &i);
        o->json = i == 1;
        break;
    case 'n':
        ok = set_number("--num-entries", value, 1e12, &x);
        o->n_entries = (size_t)x;
        break;
    case 't':
        ok = set_number("--timeout", value, 3600, &x);
        o->timeout_ms = (int)(x * 1000) + (x < 0.001);
        break;
    case 'a':
        ok = strcmp(value, "auto") == 0;
        if (!ok)
            fprintf(stderr,
                    "ray memory: it is this machine's node that is asked, not %s: name its session "
                    "folder by --session-dir, or run this on the machine that is meant\n",
                    value);
        break;
    case 'd':
        o->session_dir = value;
        break;
    case 'T':
        o->temp_dir = value;
        break;
    case 'S':
        o->stats_only = true;
        break;
    case 'N':
        o->no_format = true;
        break;
    case 'c':
        o->check = true;
        break;
    default:
        break;
    }
    return ok;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct memory_options *o)
{
    static const struct option options[] = {{"group-by", 1, NULL, 'g'},
                                            {"sort-by", 1, NULL, 's'},
                                            {"units", 1, NULL, 'u'},
                                            {"num-entries", 1, NULL, 'n'},
                                            {"n", 1, NULL, 'n'},
                                            {"stats-only", 0, NULL, 'S'},
                                            {"no-format", 0, NULL, 'N'},
                                            {"format", 1, NULL, 'f'},
                                            {"check", 0, NULL, 'c'},
                                            {"timeout", 1, NULL, 't'},
                                            {"session-dir", 1, NULL, 'd'},
                                            {"temp-dir", 1, NULL, 'T'},
                                            {"address", 1, NULL, 'a'},
                                            {"help", 0, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "n:", options, NULL)) != -1) {
        if (option == 'h') {
            usage(stdout);
            return 0;
        }
        if (option == '?') {
            fputs("see ray memory --help\n", stderr);
            return 2;
        }
        if (!set_option(o, option, optarg))
            return 2;
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "ray memory: unexpected argument %s; see ray memory --help\n", argv[optind]);
    return 2;
}

int memory_main(int argc, char **argv)
{
    struct memory_options o = {.n_entries = SIZE_MAX,
                               .timeout_ms = TIMEOUT_MS,
                               .temp_dir = getenv("RAY_TMPDIR")};
    char dir[RAYLET_CLIENT_PATH];
    struct err err = {.code = ERR_NONE};
    unsigned n_live = 1;
    int rc = parse(argc, argv, &o);

    if (rc >= 0)
        return rc;
    if (o.temp_dir == NULL || o.temp_dir[0] == '\0')
        o.temp_dir = "/tmp/ray";
    if (o.session_dir != NULL)
        rc = snprintf(dir, sizeof dir, "%s", o.session_dir) < (int)sizeof dir
                 ? 0
                 : err_set(&err, ERR_INVALID, "the path of --session-dir is too long");
    else
        rc = raylet_client_find(o.temp_dir, dir, &n_live, &err);
    if (rc == 0)
        rc = run(&o, dir, &err);
    if (rc < 0)
        fprintf(stderr, "ray memory: %s\n", err.text);
    else if (n_live > 1)
        fprintf(stderr,
                "ray memory: %u clusters of yours run, this is the newest; name another by "
                "--session-dir\n",
                n_live);
    return rc < 0 ? 1 : rc;
}
