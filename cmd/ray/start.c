/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/ray/commands.h"
#include "cmd/ray/find_program.h"
#include "cmd/ray/supervise.h"
#include "lib/base/flags.h"

/* On the pipe: 's' and a step; 'w' and what is waited for; 'r' or 'f' and the sentences of the end.
 * Each up to a zero byte. */

static void send(int fd, char kind, const char *text)
{
    size_t n = strlen(text) + 1;

    if (write(fd, &kind, 1) != 1)
        return; /* nobody listens: that is seen elsewhere */
    while (n > 0) {
        ssize_t written = write(fd, text, n);
        if (written <= 0)
            return;
        text += written;
        n -= (size_t)written;
    }
}

static void tell(char kind, const char *text)
{
    bool is_bad = kind == 'f' || kind == 'w';

    fprintf(is_bad ? stderr : stdout, "%s%s\n", is_bad ? "ray start: " : "", text);
    fflush(stdout);
}

void report_step(struct report *r, const char *fmt, ...)
{
    char text[300];
    va_list ap;

    if (!r->is_verbose)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (r->is_direct)
        tell('s', text);
    else if (r->fd >= 0)
        send(r->fd, 's', text);
}

void report_wait(struct report *r, const char *text)
{
    if (r->is_direct)
        tell('w', text);
    else if (r->fd >= 0)
        send(r->fd, 'w', text);
}

void report_end(struct report *r, bool is_ready, const char *text)
{
    char copy[4096];
    size_t n = (size_t)snprintf(copy, sizeof copy, "%s", text);

    n = n < sizeof copy ? n : sizeof copy - 1;
    while (n > 0 && copy[n - 1] == '\n')
        copy[--n] = '\0';
    if (r->is_direct) {
        tell(is_ready ? 'r' : 'f', copy);
    } else if (r->fd >= 0) {
        send(r->fd, is_ready ? 'r' : 'f', copy);
        close(r->fd);
        r->fd = -1;
    }
}

/* What the supervisor reports, until its end; the exit status. */
static int listen_to(int fd)
{
    FILE *f = fdopen(fd, "r");
    char *text = NULL;
    size_t room = 0;
    int kind, status = -1;

    while (status < 0 && f != NULL && (kind = fgetc(f)) != EOF
           && getdelim(&text, &room, '\0', f) > 0) {
        tell((char)kind, text);
        if (kind == 'r' || kind == 'f')
            status = kind == 'r' ? 0 : 1;
    }
    if (status < 0)
        fputs("ray start: the supervisor ended without a word; its log is in the newest session "
              "folder below --temp-dir\n",
              stderr);
    free(text);
    if (f != NULL)
        fclose(f);
    return status < 0 ? 1 : status;
}

/* A background process keeps neither the terminal nor what it inherited open. */
static void detach(int report_fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    if (chdir("/") != 0)
        fputs("ray start: the folder here stays in use\n", stderr);
    prctl(PR_SET_NAME, "ray::supervisor");
    for (int fd = 0; fd < 3 && null >= 0; fd++)
        if (fd != null)
            dup2(null, fd);
    if (report_fd > 3)
        syscall(SYS_close_range, 3u, (unsigned)report_fd - 1, 0u);
    syscall(SYS_close_range, (unsigned)report_fd + 1, ~0u, 0u);
}

static int run_in_background(const struct start_options *o)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "ray start: make a pipe: %s\n", strerror(errno));
        return 1;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct report r = {.fd = fcntl(ends[1], F_DUPFD_CLOEXEC, 4), .is_verbose = o->verbose};
        detach(r.fd);
        exit(supervise(o, &r)); /* nothing of stdio is pending: the leak checker may look */
    }
    close(ends[1]);
    if (pid < 0) {
        fprintf(stderr, "ray start: start a supervisor: %s\n", strerror(errno));
        close(ends[0]);
        return 1;
    }
    int status = listen_to(ends[0]);
    if (status != 0) /* it ends what it started */
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    return status;
}

static int run_in_foreground(const struct start_options *o)
{
    struct report r = {.fd = -1, .is_direct = true, .is_verbose = o->verbose};

    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    return supervise(o, &r);
}

/* --- what is needed --- */

static int find_own(char *path, size_t size, const char *name)
{
    if (find_beside(name, path, size))
        return 0;
    fprintf(stderr,
            "ray start: there is no %s beside `ray`, at %s: install the whole of Ray "
            "(make install)\n",
            name,
            path);
    return 1;
}

static int find_redis(char *path, size_t size)
{
    if (find_in_path("redis-server", path, size))
        return 0;
    fputs("ray start: there is no redis-server in PATH, where a head keeps its tables: install it "
          "(apt install redis-server), or name a running one by --redis-address\n",
          stderr);
    return 1;
}

/* A head without a token makes one; who joins must have it. */
static int find_token(struct start_options *o)
{
    const char *text = getenv("RAY_AUTH_TOKEN"), *named = getenv("RAY_AUTH_TOKEN_PATH");
    const char *home = getenv("HOME");
    struct err err;
    int rc = o->is_head ? auth_token_find(&o->token, &o->made_token, &err)
                        : auth_token_load(&o->token, &err);

    if (rc != 0 && err.code == ERR_NOT_FOUND) {
        fprintf(stderr,
                "ray start: %s; `ray get-auth-token` prints it on the head's machine\n",
                err.text);
        return 1;
    }
    if (rc != 0) {
        fprintf(stderr, "ray start: %s\n", err.text);
        return 1;
    }
    if (text != NULL && text[0] != '\0')
        return 0;
    if (named != NULL && named[0] != '\0')
        snprintf(o->token_path, sizeof o->token_path, "%s", named);
    else
        snprintf(o->token_path, sizeof o->token_path, "%s/.ray/auth_token", home);
    return 0;
}

/* A relative folder is below this one; children work elsewhere. */
static int set_temp_dir(struct start_options *o)
{
    static char path[4200];
    const char *temp = config_text(&o->config, CONFIG_TEMP_DIR);
    char here[4096];

    if (temp[0] == '/')
        return 0;
    if (getcwd(here, sizeof here) == NULL) {
        fprintf(stderr,
                "ray start: --temp-dir=%.100s: no folder here: say an absolute path\n",
                temp);
        return 1;
    }
    snprintf(path, sizeof path, "%s/%.100s", here, temp);
    o->config.v[CONFIG_TEMP_DIR].text = path;
    return 0;
}

int start_main(int argc, char **argv)
{
    static struct start_options o; /* it keeps the secrets of the command line */
    int rc = start_options_parse(&o, argc, argv);
    bool wants_redis = o.is_head && o.redis_address[0] == '\0';

    if (rc != FLAGS_GO_ON)
        return rc;
    rc = set_temp_dir(&o);
    if (rc == 0)
        rc = find_own(o.raylet, sizeof o.raylet, "raylet");
    if (rc == 0 && o.is_head)
        rc = find_own(o.gcs_server, sizeof o.gcs_server, "gcs_server");
    if (rc == 0 && wants_redis)
        rc = find_redis(o.redis_server, sizeof o.redis_server);
    if (rc == 0)
        rc = find_token(&o);
    if (rc == 0)
        rc = o.block ? run_in_foreground(&o) : run_in_background(&o);
    return rc;
}
