/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/commands.h"
#include "lib/base/auth_token.h"
#include "lib/base/flags.h"

/* The token and no newline, as Ray. */
int get_auth_token_main(int argc, char **argv)
{
    bool generate = false, is_made;
    const struct flag table[] = {
        {.name = "generate",
         .on = &generate,
         .help = "make one, in ~/.ray/auth_token, if there is none"},
        {.name = NULL},
    };
    const struct flags f = {.command = "ray get-auth-token",
                            .summary = "print the cluster's token: RAY_AUTH_TOKEN, or what is in "
                                       "the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token",
                            .table = table};
    struct auth_token token;
    struct config none;
    struct err err;
    int rc = flags_parse(&f, argc, argv, &none);

    if (rc != FLAGS_GO_ON)
        return rc;
    rc = generate ? auth_token_find(&token, &is_made, &err) : auth_token_load(&token, &err);
    if (rc != 0 && err.code == ERR_NOT_FOUND && !generate)
        fprintf(stderr, "ray get-auth-token: %s; --generate makes one\n", err.text);
    else if (rc != 0)
        fprintf(stderr, "ray get-auth-token: %s\n", err.text);
    if (rc != 0)
        return 1;
    fputs(token.text, stdout);
    return 0;
}
