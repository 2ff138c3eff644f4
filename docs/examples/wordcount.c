/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts the words of a corpus on all CPUs: wordcount [FOLDER...]
 *
 * Each task reads a few files (or a piece of a long one, .gz included) and returns its counts in
 * parts that fit a return; the program adds them up while the rest still runs. The totals are
 * checked against coreutils, and the time against the same work with one worker and in a plain
 * loop.
 */
#include <ctype.h>
#include <errno.h>
#include <ftw.h>
#include <ray/ray.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define PARTS    64         /* returns that hold counts */
#define PIECE    (4u << 20) /* of a plain file, per task */
#define BATCH    (2u << 20) /* bytes on disk of small files, per task */
#define WORD_MAX 40
#define TOP      10
#define PIDS_MAX 256

/* --- a table of words --- */

struct entry {
    uint32_t count;
    uint8_t size;
    char word[WORD_MAX + 3];
};

struct table {
    struct entry *v;
    size_t room, n;
    uint64_t words, bytes;
};

static uint64_t hash(const char *s, size_t n)
{
    uint64_t h = 1469598103934665603u;

    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static void add(struct table *t, const char *word, size_t n, uint32_t count)
{
    if (2 * t->n >= t->room) {
        struct table bigger = {.room = t->room == 0 ? 4096 : 2 * t->room};
        bigger.v = calloc(bigger.room, sizeof *bigger.v);
        if (bigger.v == NULL)
            abort();
        for (size_t i = 0; i < t->room; i++)
            if (t->v[i].count > 0)
                add(&bigger, t->v[i].word, t->v[i].size, t->v[i].count);
        free(t->v);
        t->v = bigger.v;
        t->room = bigger.room;
    }
    for (size_t i = hash(word, n);; i++) {
        struct entry *e = &t->v[i & (t->room - 1)];
        if (e->count == 0) {
            t->n++;
            e->size = (uint8_t)n;
            memcpy(e->word, word, n);
        } else if (e->size != n || memcmp(e->word, word, n) != 0) {
            continue;
        }
        e->count += count;
        return;
    }
}

/* --- counting --- */

struct scan {
    struct table *t;
    char word[WORD_MAX];
    size_t n; /* letters of the word that is open */
};

static void end_word(struct scan *s)
{
    if (s->n > 0) {
        s->t->words++;
        add(s->t, s->word, s->n, 1);
    }
    s->n = 0;
}

static void scan(struct scan *s, const char *p, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned c = (unsigned char)p[i] | 0x20u;
        if (c >= 'a' && c <= 'z') {
            if (s->n < WORD_MAX)
                s->word[s->n++] = (char)c;
        } else if (s->n > 0) {
            end_word(s);
        }
    }
}

static bool is_letter(int c)
{
    return c != EOF && isalpha(c) && c < 128;
}

/* Count a file; of a plain one only [from, from + size): a word belongs to the piece it begins in.
 */
static int count_file(struct table *t, const char *path, long from, long size)
{
    static char buf[1 << 16];
    struct scan s = {.t = t};
    size_t n = strlen(path);

    if (n > 3 && strcmp(path + n - 3, ".gz") == 0) {
        gzFile z = gzopen(path, "rb");
        int got;
        if (z == NULL)
            return -1;
        while ((got = gzread(z, buf, sizeof buf)) > 0) {
            t->bytes += (unsigned)got;
            scan(&s, buf, (size_t)got);
        }
        gzclose(z);
        end_word(&s);
        return got;
    }
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return -1;
    int c = 0;
    if (from > 0 && fseek(f, from - 1, SEEK_SET) == 0 && is_letter(getc(f))) {
        while (size > 0 && is_letter(c = getc(f))) { /* the piece before has this word */
            size--;
            t->bytes++;
        }
        if (size > 0 && c != EOF)
            ungetc(c, f);
    }
    while (size > 0) {
        size_t got = fread(buf, 1, (size_t)size < sizeof buf ? (size_t)size : sizeof buf, f);
        if (got == 0)
            break;
        t->bytes += got;
        size -= (long)got;
        scan(&s, buf, got);
    }
    if (s.n > 0 && size == 0)
        while (is_letter(c = getc(f))) {
            char letter = (char)c;
            scan(&s, &letter, 1);
        }
    end_word(&s);
    fclose(f);
    return 0;
}

/* --- the task: lines of "FROM SIZE PATH" -> pid, files, words, bytes; then counts in PARTS --- */

/* By hash, so that parts are about equally long: a return holds 100 KiB, so 64 of them hold the
 * counts of about half a million different words. */
static unsigned part_of(const struct entry *e)
{
    return (unsigned)(hash(e->word, e->size) >> 40) % PARTS;
}

static int count(ray_call *call)
{
    const char *list;
    struct table t = {0};
    int files = 0, rc = 0;

    if (ray_arg(call, 0, &list) != RAY_OK)
        return RAY_ETYPE;
    for (const char *line = list; *line != '\0'; line = strchr(line, '\n') + 1) {
        long from, size;
        int at;
        char path[4096];
        if (sscanf(line, "%ld %ld %n", &from, &size, &at) < 2)
            rc = ray_fail(call, "not a list of files: %.80s", line);
        else
            snprintf(path, sizeof path, "%.*s", (int)strcspn(line + at, "\n"), line + at);
        if (rc == 0 && count_file(&t, path, from, size) != 0)
            rc = ray_fail(call, "cannot read %s: %s", path, strerror(errno));
        if (rc != 0) {
            free(t.v);
            return rc;
        }
        files++;
    }
    char *part[PARTS];
    size_t size[PARTS] = {0}, used[PARTS] = {0};
    for (size_t i = 0; i < t.room; i++)
        if (t.v[i].count > 0)
            size[part_of(&t.v[i])] += 5u + t.v[i].size;
    for (int i = 0; i < PARTS; i++)
        if ((part[i] = malloc(size[i] + 1)) == NULL)
            abort();
    for (size_t i = 0; i < t.room; i++) {
        const struct entry *e = &t.v[i];
        if (e->count == 0)
            continue;
        unsigned k = part_of(e);
        char *at = part[k] + used[k];
        memcpy(at, &e->count, 4);
        at[4] = (char)e->size;
        memcpy(at + 5, e->word, e->size);
        used[k] += 5u + e->size;
    }
    ray_context where;
    if (ray_get_context(call, &where) != RAY_OK)
        return -1;
    ray_return(call, 0, ray_list((long)getpid(), where.node, files, t.words, t.bytes));
    for (unsigned i = 0; i < PARTS; i++) {
        if (rc == 0)
            rc = ray_return(call, i + 1, ray_bytes(part[i], used[i]));
        free(part[i]);
    }
    free(t.v);
    return rc;
}
RAY_REMOTE(count, .num_returns = PARTS + 1);

/* --- the program --- */

static struct {
    char *text; /* what one task gets */
    size_t size, bytes;
} * jobs;
static size_t n_jobs, n_files;
static FILE *names; /* every file, for the check */

static void add_line(const char *path, long from, long size, bool own)
{
    char line[4200];
    int n = snprintf(line, sizeof line, "%ld %ld %s\n", from, size, path);

    if (n_jobs == 0 || own || jobs[n_jobs - 1].bytes + (size_t)size > BATCH
        || jobs[n_jobs - 1].size + (size_t)n > 60000) {
        jobs = realloc(jobs, (n_jobs + 1) * sizeof *jobs);
        if (jobs == NULL)
            abort();
        memset(&jobs[n_jobs++], 0, sizeof *jobs);
    }
    char **text = &jobs[n_jobs - 1].text;
    size_t *used = &jobs[n_jobs - 1].size;
    *text = realloc(*text, *used + (size_t)n + 1);
    if (*text == NULL)
        abort();
    memcpy(*text + *used, line, (size_t)n + 1);
    *used += (size_t)n;
    jobs[n_jobs - 1].bytes += (size_t)size;
}

static int visit(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    char head[512];
    size_t n = strlen(path);
    bool gz = n > 3 && strcmp(path + n - 3, ".gz") == 0;

    (void)ftw;
    if (flag != FTW_F || !S_ISREG(st->st_mode) || st->st_size == 0 || strchr(path, '\n') != NULL
        || n > 4000)
        return 0;
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return 0;
    size_t got = fread(head, 1, sizeof head, f);
    fclose(f);
    if (!gz && memchr(head, '\0', got) != NULL)
        return 0; /* not text */
    fprintf(names, "%s\n", path);
    n_files++;
    if (gz || st->st_size <= (off_t)PIECE)
        add_line(path, 0, (long)st->st_size, st->st_size > (off_t)BATCH);
    else
        for (long at = 0; at < (long)st->st_size; at += PIECE)
            add_line(path,
                     at,
                     (long)st->st_size - at < (long)PIECE ? (long)st->st_size - at : (long)PIECE,
                     true);
    return 0;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void progress(size_t done, bool show)
{
    if (!show)
        return;
    int filled = (int)(40 * done / n_jobs);
    fprintf(stderr,
            "\r[%.*s%*s] %zu/%zu tasks",
            filled,
            "########################################",
            40 - filled,
            "",
            done,
            n_jobs);
    if (done == n_jobs)
        fputc('\n', stderr);
}

static struct {
    long pid, tasks;
    char *node;
} workers[PIDS_MAX];

/* Takes node. */
static void note_worker(long pid, char *node)
{
    int i = 0;

    while (i < PIDS_MAX - 1 && workers[i].node != NULL
           && (workers[i].pid != pid || strcmp(workers[i].node, node) != 0))
        i++;
    if (workers[i].node == NULL)
        workers[i].node = node;
    else
        ray_free(node);
    workers[i].pid = pid;
    workers[i].tasks++;
}

/* Workers of one node stand together. */
static void print_workers(void)
{
    int n_nodes = 0;

    for (int i = 0; i < PIDS_MAX && workers[i].node != NULL; i++) {
        long tasks = 0;
        bool is_first = true;
        for (int k = 0; k < i; k++)
            is_first = is_first && strcmp(workers[k].node, workers[i].node) != 0;
        if (!is_first)
            continue;
        for (int k = i; k < PIDS_MAX && workers[k].node != NULL; k++)
            tasks += strcmp(workers[k].node, workers[i].node) == 0 ? workers[k].tasks : 0;
        printf("node %.8s: %ld tasks:", workers[i].node, tasks);
        for (int k = i; k < PIDS_MAX && workers[k].node != NULL; k++)
            if (strcmp(workers[k].node, workers[i].node) == 0)
                printf(" %ld (pid %ld)", workers[k].tasks, workers[k].pid);
        printf("\n");
        n_nodes++;
    }
    printf("%d node%s", n_nodes, n_nodes == 1 ? "" : "s");
}

static void merge(struct table *t, const char *p, size_t size)
{
    for (const char *end = p + size; p < end; p += 5 + (uint8_t)p[4]) {
        uint32_t n;
        memcpy(&n, p, 4);
        add(t, p + 5, (uint8_t)p[4], n);
    }
}

/* The whole corpus through Ray; seconds, or -1. */
static double run(struct table *total, bool show)
{
    ray_ref(*refs)[PARTS + 1] = calloc(n_jobs, sizeof *refs);
    double start = now();

    if (refs == NULL)
        abort();
    for (size_t i = 0; i < n_jobs; i++)
        ray_remote_n(refs[i], PARTS + 1, count, jobs[i].text);
    for (size_t i = 0; i < n_jobs; i++) {
        ray_box facts;
        long pid, files;
        char *node;
        unsigned long words, bytes;
        if (ray_take(refs[i][0], &facts, RAY_FOREVER) != RAY_OK)
            return -1;
        if (ray_next(&facts, &pid) || ray_next(&facts, &node) || ray_next(&facts, &files)
            || ray_next(&facts, &words) || ray_next(&facts, &bytes))
            return -1;
        ray_box_drop(&facts);
        total->words += words;
        total->bytes += bytes;
        note_worker(pid, node);
        for (int k = 1; k <= PARTS; k++) {
            ray_view v;
            if (ray_take(refs[i][k], &v, RAY_FOREVER) != RAY_OK)
                return -1;
            merge(total, v.data, v.size);
            ray_drop(&v);
        }
        progress(i + 1, show);
    }
    free(refs);
    return now() - start;
}

static double plain_loop(void)
{
    struct table t = {0};
    double start = now();

    for (size_t i = 0; i < n_jobs; i++)
        for (const char *line = jobs[i].text; *line != '\0'; line = strchr(line, '\n') + 1) {
            long from, size;
            int at;
            char path[4096];
            sscanf(line, "%ld %ld %n", &from, &size, &at);
            snprintf(path, sizeof path, "%.*s", (int)strcspn(line + at, "\n"), line + at);
            count_file(&t, path, from, size);
        }
    free(t.v);
    return now() - start;
}

/* A run with so many CPUs (0: all) of this machine, in a cluster of its own. */
static double timed(int num_cpus)
{
    struct table t = {0};

    if (ray_init(RAY_CONFIG(.num_cpus = num_cpus, .address = "local")) != RAY_OK)
        return -1;
    double s = run(&t, false);
    free(t.v);
    ray_shutdown();
    return s;
}

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : memcmp(x->word, y->word, WORD_MAX);
}

/* Words and bytes as coreutils count them, each file followed by a newline. */
static bool check(const struct table *t, const char *list)
{
    char command[8192];
    unsigned long long words = 0, bytes = 0;

    snprintf(command,
             sizeof command,
             "LC_ALL=C; export LC_ALL; while IFS= read -r f; do case $f in *.gz) gzip -dc -- "
             "\"$f\";; *) cat -- \"$f\";; esac; "
             "echo; done < '%s' | tr -c 'A-Za-z' ' ' | wc -w -c",
             list);
    FILE *p = popen(command, "r");
    int n = p != NULL ? fscanf(p, "%llu %llu", &words, &bytes) : 0;
    if (p != NULL)
        pclose(p);
    bytes -= n_files;
    bool same = n == 2 && words == t->words && bytes == t->bytes;
    printf("coreutils: %llu words, %llu bytes: %s\n",
           words,
           bytes,
           same ? "the same" : "DIFFERENT");
    return same;
}

int main(int argc, char **argv)
{
    static const char *const defaults[] = {"/usr/share/common-licenses", "/usr/share/doc"};
    const char *const *folders = argc > 1 ? (const char *const *)argv + 1 : defaults;
    int n_folders = argc > 1 ? argc - 1 : 2;
    struct table total = {0};
    char list[] = "/tmp/wordcount-XXXXXX";
    int fd = mkstemp(list);

    names = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (names == NULL) {
        perror("wordcount: make a list of files in /tmp");
        return 1;
    }
    for (int i = 0; i < n_folders; i++)
        if (nftw(folders[i], visit, 32, FTW_PHYS) != 0)
            fprintf(stderr, "wordcount: %s: %s\n", folders[i], strerror(errno));
    fclose(names);
    if (n_jobs == 0) {
        fprintf(stderr, "wordcount: no text files found; usage: wordcount [FOLDER...]\n");
        unlink(list);
        return 1;
    }
    if (ray_init(NULL) != RAY_OK)
        return unlink(list), ray_report(stderr);
    double all = run(&total, isatty(STDERR_FILENO));
    if (all < 0)
        return unlink(list), ray_report(stderr);
    ray_shutdown();

    printf("%zu files, %llu words, %llu bytes, %zu different words\n",
           n_files,
           (unsigned long long)total.words,
           (unsigned long long)total.bytes,
           total.n);
    bool same = check(&total, list);
    unlink(list);
    qsort(total.v, total.room, sizeof *total.v, compare);
    for (size_t i = 0; i < TOP && i < total.n; i++)
        printf("%10u %.*s\n", total.v[i].count, total.v[i].size, total.v[i].word);
    print_workers();
    printf(", %.1f MB/s\n", (double)total.bytes / all / 1e6);

    /* The files are in memory now: the same work three ways. */
    double plain = plain_loop(), one = timed(1), many = timed(0);
    if (one < 0 || many < 0)
        return ray_report(stderr);
    printf("again: all workers %.3f s; one worker %.3f s (speed-up %.2f); plain loop %.3f s "
           "(speed-up %.2f)\n",
           many,
           one,
           one / many,
           plain,
           plain / many);
    for (size_t i = 0; i < n_jobs; i++)
        free(jobs[i].text);
    free(jobs);
    free(total.v);
    return same ? 0 : 1;
}
