/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks that misbehave, and what the program that submitted them sees. */
#include "tests/drivers/driver.h"

#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define WINDOW_TASKS 200
#define DEADLY       50

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

static void still_works(void)
{
    for (int64_t i = 0; i < 10; i++) {
        int64_t x;
        CHECK_CODE(ray_take(ray_remote(add_one, i), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == i + 1);
    }
}

static volatile char sink;
static volatile int *volatile nowhere;
__attribute__((noinline)) static int take_stack(int depth)
{
    volatile char room[4096];

    if (depth < 0)
        return 0;
    room[depth % 4096] = (char)depth;
    sink = room[(depth * 7) % 4096];
    return take_stack(depth + 1) + room[0];
}

_Noreturn static void pause_for_ever(void)
{
    for (;;)
        pause();
}

static void start_daemon(void)
{
    int fds[2];
    char c;

    if (pipe(fds) != 0)
        _exit(98);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        if (fork() != 0)
            _exit(0);
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        char line[32];
        snprintf(line, sizeof line, "%d\n", (int)getpid());
        note("daemon", line);
        if (write(fds[1], "x", 1) != 1)
            _exit(98);
        pause_for_ever();
    }
    waitpid(pid, NULL, 0);
    if (read(fds[0], &c, 1) != 1)
        _exit(98);
    close(fds[0]);
    close(fds[1]);
}

static int misbehave(ray_call *call)
{
    const char *how;
    sigset_t all;

    if (ray_arg(call, 0, &how) != RAY_OK)
        return -1;
    note("attempts", "once\n");
    if (strcmp(how, "exit") == 0)
        exit(17);
    if (strcmp(how, "_exit") == 0)
        _exit(0);
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "segv") == 0)
        *nowhere = 1;
    if (strcmp(how, "kill") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(how, "stack") == 0)
        return take_stack(0);
    if (strcmp(how, "exec") == 0)
        execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    if (strcmp(how, "exec_ends") == 0)
        execl("/bin/true", "true", (char *)NULL);
    if (strcmp(how, "close_all") == 0)
        for (int fd = 0; fd < 4096; fd++)
            close(fd);
    if (strcmp(how, "daemon") == 0)
        start_daemon();
    if (strcmp(how, "daemon_and_die") == 0) {
        start_daemon();
        kill(getpid(), SIGKILL);
    }
    if (strcmp(how, "signals") == 0) {
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
    }
    if (strcmp(how, "flood") == 0)
        for (int i = 0; i < 20000; i++)
            printf("%d %0500d\n", i, i);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(misbehave, .max_retries = RAY_ZERO);

static int64_t number_in(const char *file)
{
    FILE *f = fopen(file, "re");
    long n = -1;

    if (f == NULL || fscanf(f, "%ld", &n) != 1)
        n = -1;
    if (f != NULL)
        fclose(f);
    return n;
}

/* dies HOW SIGNAL: a task that ends its process fails with the signal, once, and nobody else
 * notices. */
static void dies(int argc, char **argv)
{
    int64_t x;
    int sig = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;

    still_works();
    CHECK_CODE(ray_take(ray_remote(misbehave, (const char *)argv[0]), &x, RAY_FOREVER), RAY_ECRASH);
    const ray_failure *e = ray_error();
    printf("signal %d pid %d text %s log %s\n", e->signal, e->pid, e->text, e->log);
    fflush(stdout);
    CHECK(e->signal == sig);
    CHECK(e->pid > 0 && e->text[0] != '\0');
    CHECK(count_lines("attempts") == 1);
    still_works();
}

static void crash_names_its_place(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(misbehave, (const char *)"abort"), &x, RAY_FOREVER), RAY_ECRASH);
    const ray_failure *e = ray_error();
    printf("function %s node %s log %s text %s\n", e->function, e->node, e->log, e->text);
    fflush(stdout);
    CHECK(strcmp(e->function, "misbehave") == 0 && e->node[0] != '\0' && e->log[0] != '\0');
}

/* survives HOW: it is allowed, and its process or another goes on. */
static void survives(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    CHECK_CODE(ray_take(ray_remote(misbehave, (const char *)argv[0]), &x, RAY_FOREVER), RAY_OK);
    still_works();
}

/* The result or a crash: either is fair to a task that closed what its process lives by. */
static void closes_all(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    int code = ray_take(ray_remote(misbehave, (const char *)"close_all"), &x, 20000);
    printf("code %d\n", code);
    CHECK(code == RAY_ECRASH || code == RAY_OK);
    still_works();
}

static void daemon_dies(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(misbehave, (const char *)"daemon_and_die"), &x, RAY_FOREVER),
               RAY_ECRASH);
    /* the error is told after the dead worker's descendants are killed */
    pid_t pid = (pid_t)number_in("daemon");
    CHECK(pid > 0);
    CHECK(kill(pid, 0) != 0 && errno == ESRCH);
    still_works();
}

/* --- retries --- */

/* Dies at each attempt before the given one. */
static int dies_until(ray_call *call)
{
    int64_t until;
    ray_context context;

    if (ray_arg(call, 0, &until) != RAY_OK || ray_get_context(call, &context) != RAY_OK)
        return -1;
    note("attempts", "once\n");
    if ((int64_t)context.attempt < until)
        kill(getpid(), SIGKILL);
    return ray_return(call, 0, (int64_t)context.attempt);
}
RAY_REMOTE(dies_until);

static void retries(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(dies_until, 2), &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 2 && count_lines("attempts") == 3);
    unlink("attempts");
    CHECK_CODE(ray_take(ray_remote(dies_until, 100), &x, RAY_FOREVER), RAY_ECRASH);
    CHECK(ray_error()->signal == SIGKILL);
    CHECK(count_lines("attempts") == 4); /* max_retries is 3 */
    unlink("attempts");
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.max_retries = 1), dies_until, 100), &x, RAY_FOREVER),
        RAY_ECRASH);
    CHECK(count_lines("attempts") == 2);
    unlink("attempts");
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.max_retries = -1), dies_until, 6), &x, RAY_FOREVER),
        RAY_OK);
    CHECK(x == 6 && count_lines("attempts") == 7);
    still_works();
}

/* --- identities --- */

static int note_identity(ray_call *call)
{
    ray_context context;
    char line[64];

    if (ray_get_context(call, &context) != RAY_OK)
        return -1;
    snprintf(line, sizeof line, "%s\n", context.task);
    note("children", line);
    return ray_return(call, 0, 0);
}
RAY_REMOTE(note_identity);

/* Calls a child, then dies at each attempt but the last. */
static int tries_with_a_child(ray_call *call)
{
    int64_t x;
    char line[64];
    ray_context context;

    if (ray_get_context(call, &context) != RAY_OK)
        return -1;
    snprintf(line, sizeof line, "%s\n", context.task);
    note("attempts", line);
    if (ray_take(ray_remote(note_identity), &x, RAY_FOREVER) != RAY_OK)
        return -1;
    if (context.attempt < 3)
        kill(getpid(), SIGKILL);
    return ray_return(call, 0, (int64_t)context.attempt);
}
RAY_REMOTE(tries_with_a_child);

/* How often each of its lines of 48 digits is there; all equally often, else 0. */
static int times_each_line(const char *name)
{
    char lines[16][64];
    int n = 0, times = 0;
    FILE *f = fopen(name, "r");

    while (f != NULL && n < 16 && fgets(lines[n], sizeof lines[n], f) != NULL)
        n++;
    if (f != NULL)
        fclose(f);
    for (int i = 0; i < n; i++) {
        int same = 0;
        for (int k = 0; k < n; k++)
            same += strcmp(lines[i], lines[k]) == 0;
        if (strlen(lines[i]) != 49 || (i > 0 && same != times))
            return 0;
        times = same;
    }
    return times;
}

static void identities(int argc, char **argv)
{
    int64_t x;
    ray_ref ref = ray_remote(tries_with_a_child);

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_get(ref, &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 3);
    CHECK(count_lines("attempts") == 4 && times_each_line("attempts") == 4);
    CHECK(count_lines("children") == 4 && times_each_line("children") == 1);
    ray_release(ref);
}

/* --- a kill in mid-window --- */

static int in_window(ray_call *call)
{
    int64_t i;
    char line[64];
    ray_context context;

    if (ray_arg(call, 0, &i) != RAY_OK || ray_get_context(call, &context) != RAY_OK)
        return -1;
    snprintf(line, sizeof line, "%d %u\n", (int)i, context.attempt);
    note("started", line);
    if (i == DEADLY && context.attempt == 0) {
        snprintf(line, sizeof line, "%d\n", (int)getpid());
        note("victim", line);
        send_event("victim_ready");
        pause_for_ever();
    }
    return ray_return(call, 0, i);
}
RAY_REMOTE(in_window);

/* One worker, a deep window, kill -9 from outside while one body runs. With no retries the result
 * of each task is written before the next begins, so exactly one task fails; with some, whoever
 * started may start again. */
static void mid_window(int argc, char **argv)
{
    static ray_ref refs[WINDOW_TASKS];
    static int starts[WINDOW_TASKS], most[WINDOW_TASKS];
    int n_retries = argc > 0 ? (int)strtol(argv[0], NULL, 10) : 0, i;
    unsigned attempt;
    ray_function *f = ray_bind(&ray_fn_in_window,
                               RAY_OPTIONS(.max_retries = n_retries > 0 ? n_retries : RAY_ZERO));

    for (i = 0; i < WINDOW_TASKS; i++)
        refs[i] = ray_submit(f, NULL, (const ray_value[]){ray_v(i)}, 1);
    await_events("victim_ready", 1);
    CHECK(kill((pid_t)number_in("victim"), SIGKILL) == 0);
    for (i = 0; i < WINDOW_TASKS; i++) {
        int64_t x = -1;
        if (i == DEADLY && n_retries == 0) {
            CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_ECRASH);
            CHECK(ray_error()->signal == SIGKILL);
            continue;
        }
        CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
        CHECK(x == i);
    }
    FILE *file = fopen("started", "re");
    while (fscanf(file, "%d %u\n", &i, &attempt) == 2) {
        starts[i]++;
        most[i] = (int)attempt > most[i] ? (int)attempt : most[i];
    }
    fclose(file);
    for (i = 0; i < WINDOW_TASKS; i++) {
        if (starts[i] != 1)
            printf("task %d started %d times, last attempt %d\n", i, starts[i], most[i]);
        /* an attempt was spent by those that started before, and by no others */
        CHECK(most[i] == starts[i] - 1);
        CHECK(i > DEADLY ? starts[i] == 1 : starts[i] >= 1 && starts[i] <= 2);
        CHECK(n_retries > 0 || starts[i] == 1);
    }
    CHECK(starts[DEADLY] == (n_retries > 0 ? 2 : 1));
    still_works();
}

/* --- forks --- */

static int inert(void)
{
    int64_t x;
    bool ready;
    ray_ref r = ray_remote(add_one, 1);
    int code = ray_get(r, &x, RAY_FOREVER);

    if (code != RAY_EFORKED || ray_error()->code != RAY_EFORKED || ray_error()->text[0] == '\0')
        return 1;
    if (ray_wait(&r, 1, 1, RAY_FOREVER, &ready) != RAY_EFORKED)
        return 2;
    if (ray_init(NULL) != RAY_EFORKED)
        return 3;
    if (ray_take(ray_put(1), &x, RAY_FOREVER) != RAY_EFORKED)
        return 4;
    if (ray_shutdown() != RAY_EFORKED)
        return 5;
    return 0;
}

static int fork_and_ask(void)
{
    int status;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0)
        _exit(inert());
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int forks(ray_call *call)
{
    return ray_return(call, 0, fork_and_ask());
}
RAY_REMOTE(forks);

/* The child comes back out of the body as if it were the worker. */
static int child_returns(ray_call *call)
{
    pid_t pid = fork();

    if (pid == 0)
        return ray_return(call, 0, 666);
    waitpid(pid, NULL, 0);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(child_returns);

/* With a value that needs memory of the raylet, whose link is the parent's. */
static int child_returns_much(ray_call *call)
{
    static uint8_t much[1u << 20];
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(ray_return(call, 0, ray_bytes(much, sizeof much)));
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return ray_return(call, 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}
RAY_REMOTE(child_returns_much);

static void fork_in_task(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(forks), &x, RAY_FOREVER), RAY_OK);
    printf("the child said %d\n", (int)x);
    CHECK(x == 0);
    for (int i = 0; i < 20; i++) {
        CHECK_CODE(ray_take(ray_remote(child_returns), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 1);
        CHECK_CODE(ray_take(ray_remote(child_returns_much), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == RAY_EFORKED);
    }
    still_works();
}

static void fork_in_driver(int argc, char **argv)
{
    int64_t x;
    ray_ref before = ray_remote(add_one, 41);

    (void)argc;
    (void)argv;
    int said = fork_and_ask();
    printf("the child said %d\n", said);
    CHECK(said == 0);
    CHECK_CODE(ray_take(before, &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 42);
    still_works();
    /* a child that goes through exit runs the library's exit code too */
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        exit(0);
    waitpid(pid, NULL, 0);
    still_works();
}

static int n_bytes(ray_call *call)
{
    ray_view view;

    if (ray_arg(call, 0, &view) != RAY_OK)
        return -1;
    return ray_return(call, 0, (int64_t)view.size);
}
RAY_REMOTE(n_bytes);

/* No more address space than now and budget bytes; RLIM_INFINITY: as before. */
static void allow(rlim_t budget)
{
    struct rlimit limit;
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    CHECK(f != NULL && fscanf(f, "%lu", &pages) == 1 && fclose(f) == 0);
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = budget == RLIM_INFINITY ? limit.rlim_max : pages * 4096 + budget;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* BUDGET [warm]: memory ends at another place with each budget. What waits for a frame that had no
 * room must not wait for ever. */
static void memory_ends(int argc, char **argv)
{
    static char bytes[60000];
    ray_ref refs[16];
    int64_t x = 0;
    int n_good = 0;

    CHECK(argc > 0);
    if (argc > 1)
        CHECK_CODE(ray_take(ray_remote(add_one, 1), &x, RAY_FOREVER), RAY_OK);
    allow(strtoul(argv[0], NULL, 10));
    for (int i = 0; i < 16; i++)
        refs[i] = ray_remote(n_bytes, ray_bytes(bytes, sizeof bytes));
    for (int i = 0; i < 16; i++) {
        int code = ray_get(refs[i], &x, 20000);
        CHECK(code != RAY_ETIMEOUT);
        CHECK(code != RAY_OK || x == sizeof bytes);
        n_good += code == RAY_OK;
    }
    allow(RLIM_INFINITY);
    printf("%d results\n", n_good);
}

static const struct scenario scenarios[] = {
    {"dies", 2, NULL, dies},
    {"crash_names_its_place", 2, NULL, crash_names_its_place},
    {"survives", 2, NULL, survives},
    {"closes_all", 2, NULL, closes_all},
    {"daemon_dies", 2, NULL, daemon_dies},
    {"retries", 2, NULL, retries},
    {"identities", 2, NULL, identities},
    {"mid_window", 1, NULL, mid_window},
    {"fork_in_task", 2, NULL, fork_in_task},
    {"fork_in_driver", 2, NULL, fork_in_driver},
    {"memory_ends", 2, NULL, memory_ends},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
