/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_AUTH_TOKEN_H
#define LIB_BASE_AUTH_TOKEN_H
/*
 * The cluster's shared secret (DESIGN D12): where it is found, and how two are compared. Sources,
 * the first that is set wins: RAY_AUTH_TOKEN; the file RAY_AUTH_TOKEN_PATH; ~/.ray/auth_token.
 */
#include <stdbool.h>

#include "lib/base/err.h"

#define AUTH_TOKEN_MAX 1024

struct auth_token {
    char text[AUTH_TOKEN_MAX + 1]; /* printable, without blanks */
};

/* ERR_NOT_FOUND: no source has one; a source that is named but unreadable, empty or no token is an
 * error of its own. */
int auth_token_load(struct auth_token *t, struct err *err);
/* The file that auth_token_load reads, cut to size; NULL: the variable has it, or nowhere. */
const char *auth_token_path(char *out, unsigned long size);
/* Where auth_token_load finds it: a variable's name or a path, cut to size; NULL: nowhere. */
const char *auth_token_source(char *out, unsigned long size);
/* From this file alone. */
int auth_token_load_file(struct auth_token *t, const char *path, struct err *err);
/* Random, 64 hex digits. */
int auth_token_make(struct auth_token *t, struct err *err);
/* Into ~/.ray/auth_token, readable by the user only; an existing file is an error. */
int auth_token_save(const struct auth_token *t, struct err *err);
/* Loaded; if no source has one, made and saved, and *is_made says so. */
int auth_token_find(struct auth_token *t, bool *is_made, struct err *err);
/* Whether the n bytes are the token, in a time that tells at most the length of the token. */
bool auth_token_is(const struct auth_token *t, const void *bytes, unsigned long n);

#endif /* LIB_BASE_AUTH_TOKEN_H */
