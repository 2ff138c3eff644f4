/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_FLAGS_H
#define LIB_BASE_FLAGS_H
/*
 * The command line of a subcommand: flags of a table, as --name=VALUE or --name VALUE; help and
 * defaults are made of it. What is no flag is refused with the nearest one.
 */
#include <stdbool.h>
#include <stddef.h>

#include "lib/base/config.h"

#define FLAG_WORDS_MAX 16

/* The values of a flag that may be given again; borrowed from argv. */
struct flag_words {
    const char *v[FLAG_WORDS_MAX];
    size_t n;
};

struct flag {
    const char *name; /* without dashes; NULL: the end of the table */
    char letter;      /* -f; 0: none */
    /* One of the five. */
    bool is_setting;
    bool *on;                 /* set by the flag alone */
    const char **text;        /* its value; borrowed from argv */
    struct flag_words *words; /* each value */
    const char *refusal;      /* Ray has such a flag, and this is what to do here */
    enum config_setting setting;
    const char *unit, *help; /* of those that are no setting */
};

struct flags {
    const char *command; /* "ray start" */
    const char *summary; /* what --help says first */
    const char *notes;   /* what it says last; NULL: nothing */
    const struct flag *table;
};

/* What to write for a setting. */
#define FLAG_SETTING(id)                                                                           \
    {                                                                                              \
        .name = "", .is_setting = true, .setting = CONFIG_##id                                     \
    }

#define FLAGS_GO_ON (-1)

/* FLAGS_GO_ON, or the exit status: 0 help was asked for, 2 a sentence is on stderr. Secrets are
 * wiped from argv; *c owns copies of them until the process ends. */
int flags_parse(const struct flags *f, int argc, char **argv, struct config *c);
/* Exit status 2, with "COMMAND: sentence; see COMMAND --help" on stderr. */
int flags_refuse(const struct flags *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The one of names (the last NULL) that is most like word; NULL: none is. */
const char *flags_nearest(const char *word, const char *const *names);

#endif /* LIB_BASE_FLAGS_H */
