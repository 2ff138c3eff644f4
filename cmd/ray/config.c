/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/commands.h"
#include "lib/base/flags.h"

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
    return 0;
}
