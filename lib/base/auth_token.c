/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/auth_token.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/id.h"

/* Blanks around it are not part of it; source names it in the error. */
static int take(struct auth_token *t, const char *text, const char *source, struct err *err)
{
    size_t n;

    text += strspn(text, " \t\r\n");
    n = strlen(text);
    while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL)
        n--;
    if (n == 0)
        return err_set(err, ERR_INVALID, "the token in %.200s is empty", source);
    if (n > AUTH_TOKEN_MAX)
        return err_set(err,
                       ERR_INVALID,
                       "the token in %.200s is longer than %d bytes",
                       source,
                       AUTH_TOKEN_MAX);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return err_set(err,
                           ERR_INVALID,
                           "the token in %.200s has a character that cannot be sent",
                           source);
    memcpy(t->text, text, n);
    t->text[n] = '\0';
    return 0;
}

int auth_token_load_file(struct auth_token *t, const char *path, struct err *err)
{
    char text[AUTH_TOKEN_MAX + 64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_sys(err, "read the token in %.200s", path);
    ssize_t n = read(fd, text, sizeof text - 1);
    if (n < 0)
        err_sys(err, "read the token in %.200s", path);
    close(fd);
    if (n < 0)
        return -1;
    text[n] = '\0';
    return take(t, text, path, err);
}

static int home_path(char *out, size_t size, const char *file, struct err *err)
{
    const char *home = getenv("HOME");

    if (home == NULL || home[0] == '\0')
        return err_set(err, ERR_NOT_FOUND, "HOME is not set: set RAY_AUTH_TOKEN");
    if ((size_t)snprintf(out, size, "%s/.ray%s", home, file) >= size)
        return err_set(err, ERR_INVALID, "HOME is too long a path: set RAY_AUTH_TOKEN_PATH");
    return 0;
}

int auth_token_load(struct auth_token *t, struct err *err)
{
    const char *text = getenv("RAY_AUTH_TOKEN"), *named = getenv("RAY_AUTH_TOKEN_PATH");
    char path[512];

    if (text != NULL && text[0] != '\0')
        return take(t, text, "RAY_AUTH_TOKEN", err);
    if (named != NULL && named[0] != '\0') {
        if (auth_token_load_file(t, named, err) == 0)
            return 0;
        if (err != NULL && err->code == ERR_NOT_FOUND)
            err->code = ERR_INVALID; /* it was named */
        return -1;
    }
    if (home_path(path, sizeof path, "/auth_token", err) != 0)
        return -1;
    if (access(path, F_OK) != 0)
        return err_set(err,
                       ERR_NOT_FOUND,
                       "there is no token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or write it "
                       "to %.200s",
                       path);
    return auth_token_load_file(t, path, err);
}

const char *auth_token_path(char *out, unsigned long size)
{
    const char *text = getenv("RAY_AUTH_TOKEN"), *named = getenv("RAY_AUTH_TOKEN_PATH");

    if (text != NULL && text[0] != '\0')
        return NULL;
    if (named != NULL && named[0] != '\0')
        snprintf(out, size, "%s", named);
    else if (home_path(out, size, "/auth_token", NULL) != 0)
        return NULL;
    return out;
}

const char *auth_token_source(char *out, unsigned long size)
{
    const char *text = getenv("RAY_AUTH_TOKEN"), *named = getenv("RAY_AUTH_TOKEN_PATH");
    char path[512];

    if (text != NULL && text[0] != '\0')
        snprintf(out, size, "RAY_AUTH_TOKEN");
    else if (auth_token_path(path, sizeof path) == NULL)
        return NULL;
    else
        snprintf(out,
                 size,
                 "%s%s",
                 path,
                 named != NULL && named[0] != '\0' ? " (RAY_AUTH_TOKEN_PATH)" : "");
    return out;
}

int auth_token_make(struct auth_token *t, struct err *err)
{
    unsigned char bytes[32];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return err_sys(err, "get random bytes for a token");
    id_hex(bytes, sizeof bytes, t->text);
    return 0;
}

/* Whole or not at all, for who reads it meanwhile; of two that come at once one wins. */
int auth_token_save(const struct auth_token *t, struct err *err)
{
    char path[512], fresh[540];
    size_t n = strlen(t->text);

    if (home_path(path, sizeof path, "", err) != 0)
        return -1;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_sys(err, "make %.200s", path);
    home_path(path, sizeof path, "/auth_token", err);
    snprintf(fresh, sizeof fresh, "%s.%d", path, (int)getpid());
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, "write the token to %.200s", path);
    int rc = write(fd, t->text, n) == (ssize_t)n ? 0 : -1;
    if (rc != 0 || (rc = link(fresh, path)) != 0)
        err_sys(err, "write the token to %.200s", path);
    close(fd);
    unlink(fresh);
    return rc;
}

int auth_token_find(struct auth_token *t, bool *is_made, struct err *err)
{
    struct err why = {.code = ERR_NONE};

    *is_made = false;
    if (auth_token_load(t, &why) == 0)
        return 0;
    if (why.code == ERR_NOT_FOUND) {
        if (auth_token_make(t, &why) == 0 && auth_token_save(t, &why) == 0) {
            *is_made = true;
            return 0;
        }
        if (auth_token_load(t, NULL) == 0) /* another made one meanwhile */
            return 0;
    }
    return err_set(err, why.code, "%s", why.text);
}

bool auth_token_is(const struct auth_token *t, const void *bytes, unsigned long n)
{
    const unsigned char *given = bytes;
    size_t length = strlen(t->text);
    volatile unsigned char differ = (unsigned char)(length == 0 || n != length);

    for (size_t i = 0; i < length; i++)
        differ |= (unsigned char)((unsigned char)t->text[i] ^ (n > 0 ? given[i % n] : 1));
    return differ == 0;
}
