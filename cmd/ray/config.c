/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "cmd/ray/commands.h"
#include "lib/base/flags.h"

static void to_lower(const char *word, size_t n, char *out, size_t size)
{
    size_t i = 0;

    for (; i < n && i < size - 1; i++)
        out[i] = (char)tolower((unsigned char)word[i]);
    out[i] = '\0';
}

/* Variables that look like a setting's, and are none: they would do nothing, and nobody says so. */
static void name_mistyped(void)
{
    static const char *const others[] = {"RAY_AUTH_TOKEN",
                                         "RAY_AUTH_TOKEN_PATH",
                                         "RAY_RAYLET",
                                         "RAY_TASK_MAX_RETRIES",
                                         NULL};
    char lower[CONFIG_N_SETTINGS][64], word[64];
    const char *names[CONFIG_N_SETTINGS + 1] = {NULL};

    for (int s = 0; s < CONFIG_N_SETTINGS; s++) {
        const char *name = config_variable(s);
        to_lower(name, strlen(name), lower[s], sizeof lower[s]);
        names[s] = lower[s];
    }
    for (char **e = environ; *e != NULL; e++) {
        size_t n = strcspn(*e, "=");
        bool is_known = strncmp(*e, "RAY_", 4) != 0;
        for (int s = 0; s < CONFIG_N_SETTINGS && !is_known; s++)
            is_known = strlen(config_variable(s)) == n && strncmp(*e, config_variable(s), n) == 0;
        for (size_t i = 0; others[i] != NULL && !is_known; i++)
            is_known = strlen(others[i]) == n && strncmp(*e, others[i], n) == 0;
        to_lower(*e, n, word, sizeof word);
        const char *near = is_known ? NULL : flags_nearest(word, names);
        for (int s = 0; s < CONFIG_N_SETTINGS && near != NULL; s++)
            if (near == names[s])
                fprintf(stderr,
                        "ray config: %.*s is no setting; did you mean %s?\n",
                        (int)n,
                        *e,
                        config_variable(s));
    }
}

int config_main(int argc, char **argv)
{
    bool markdown = false;
    const struct flag table[] = {
        {.name = "markdown", .on = &markdown, .help = "all settings, as a page"},
        {.name = NULL},
    };
    const struct flags f = {.command = "ray config",
                            .summary = "settings of `ray start`: the value of each that is not "
                                       "given by a flag, and where it comes from",
                            .table = table};
    struct config c;
    struct err err;
    int rc = flags_parse(&f, argc, argv, &c);

    if (rc != FLAGS_GO_ON)
        return rc;
    if (markdown) {
        config_markdown(stdout);
        return 0;
    }
    if (config_load(&c, &err) != 0) {
        fprintf(stderr, "ray config: %s\n", err.text);
        return 1;
    }
    config_dump(&c, stdout);
    name_mistyped();
    return 0;
}
