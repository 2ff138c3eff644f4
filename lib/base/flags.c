/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/flags.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

#define WORD_MAX   40 /* longer ones are like nothing */
#define FLAGS_MAX  128
#define TEXT_SHOWN 100

static const char *name_of(const struct flag *f)
{
    return f->is_setting ? config_flag(f->setting) : f->name;
}

static bool takes_value(const struct flag *f)
{
    return f->is_setting || f->text != NULL || f->words != NULL;
}

/* --- nearest --- */

/* How many letters must be changed, added, left out or swapped. */
static unsigned distance(const char *a, const char *b)
{
    unsigned d[3][WORD_MAX + 1];
    size_t n = strlen(a), m = strlen(b);

    if (n > WORD_MAX || m > WORD_MAX)
        return WORD_MAX;
    for (unsigned j = 0; j <= m; j++)
        d[0][j] = j;
    for (unsigned i = 1; i <= n; i++) {
        unsigned *now = d[i % 3], *before = d[(i + 2) % 3], *first = d[(i + 1) % 3];
        now[0] = i;
        for (unsigned j = 1; j <= m; j++) {
            unsigned least = before[j - 1] + (a[i - 1] != b[j - 1]);
            least = before[j] + 1 < least ? before[j] + 1 : least;
            least = now[j - 1] + 1 < least ? now[j - 1] + 1 : least;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                least = first[j - 2] + 1 < least ? first[j - 2] + 1 : least;
            now[j] = least;
        }
    }
    return d[n % 3][m];
}

const char *flags_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    unsigned least = (unsigned)strnlen(word, WORD_MAX) / 3 + 2;

    for (; *names != NULL; names++) {
        unsigned d = distance(word, *names);
        if (d < least) {
            least = d;
            best = *names;
        }
    }
    return best;
}

/* --- sentences --- */

int flags_refuse(const struct flags *f, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", f->command);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "; see %s --help\n", f->command);
    return 2;
}

static int refuse_unknown(const struct flags *f, const char *name)
{
    const char *names[FLAGS_MAX], *near;
    size_t n = 0;

    for (const struct flag *g = f->table; g->name != NULL && n < FLAGS_MAX - 1; g++)
        if (g->refusal == NULL)
            names[n++] = name_of(g);
    names[n] = NULL;
    near = flags_nearest(name, names);
    if (near != NULL)
        return flags_refuse(f, "there is no --%.*s; did you mean --%s?", TEXT_SHOWN, name, near);
    return flags_refuse(f, "there is no --%.*s", TEXT_SHOWN, name);
}

static void help(const struct flags *f)
{
    char left[64];

    printf("%s: %s\n", f->command, f->summary);
    for (const struct flag *g = f->table; g->name != NULL; g++) {
        const char *unit = g->is_setting ? config_unit(g->setting) : g->unit;
        if (g->refusal != NULL)
            continue;
        snprintf(left,
                 sizeof left,
                 "--%s%s%s",
                 name_of(g),
                 takes_value(g) ? "=" : "",
                 !takes_value(g)                   ? ""
                 : unit != NULL && unit[0] != '\0' ? unit
                                                   : "N");
        if (g->letter != 0)
            snprintf(left + strlen(left), sizeof left - strlen(left), ", -%c", g->letter);
        printf("  %-28s %s", left, g->is_setting ? config_help(g->setting) : g->help);
        if (g->is_setting && config_default(g->setting)[0] != '\0')
            printf(" (%s)", config_default(g->setting));
        putchar('\n');
    }
    printf("  %-28s this\n", "--help");
    if (f->notes != NULL)
        puts(f->notes);
}

/* --- parsing --- */

static const struct flag *find(const struct flags *f, const char *name, size_t n)
{
    for (const struct flag *g = f->table; g->name != NULL; g++)
        if (strlen(name_of(g)) == n && memcmp(name_of(g), name, n) == 0)
            return g;
    return NULL;
}

static const struct flag *find_letter(const struct flags *f, char letter)
{
    for (const struct flag *g = f->table; g->name != NULL; g++)
        if (g->letter != 0 && g->letter == letter)
            return g;
    return NULL;
}

static int set_value(const struct flags *f, const struct flag *g, char *value, struct config *c)
{
    struct err err;

    if (g->text != NULL) {
        *g->text = value;
        return FLAGS_GO_ON;
    }
    if (g->words != NULL && g->words->n == FLAG_WORDS_MAX)
        return flags_refuse(f, "--%s may be given %d times", g->name, FLAG_WORDS_MAX);
    if (g->words != NULL) {
        g->words->v[g->words->n++] = value;
        return FLAGS_GO_ON;
    }
    if (config_kind(g->setting) == CONFIG_SECRET) {
        char *copy = xstrdup(value);
        memset(value, 'x', strlen(value));
        value = copy;
    }
    return config_set(c, g->setting, value, &err) == 0 ? FLAGS_GO_ON
                                                       : flags_refuse(f, "%s", err.text);
}

/* argv[*i] begins with a dash. */
static int take(const struct flags *f, int argc, char **argv, int *i, struct config *c)
{
    char *word = argv[*i];
    bool is_long = word[1] == '-';
    char *value = is_long ? strchr(word, '=') : NULL;
    size_t n = value != NULL ? (size_t)(value - word) - 2 : strlen(word) - 1 - is_long;
    const struct flag *g = is_long ? find(f, word + 2, n) : n == 1 ? find_letter(f, word[1]) : NULL;

    if (is_long && n == 4 && memcmp(word + 2, "help", 4) == 0) {
        help(f);
        return 0;
    }
    if (g == NULL && !is_long)
        return flags_refuse(f, "there is no %.*s", TEXT_SHOWN, word);
    if (g == NULL) {
        char name[TEXT_SHOWN + 1];
        snprintf(name, sizeof name, "%.*s", n < TEXT_SHOWN ? (int)n : TEXT_SHOWN, word + 2);
        return refuse_unknown(f, name);
    }
    if (g->refusal != NULL)
        return flags_refuse(f, "--%s: %s", g->name, g->refusal);
    if (!takes_value(g) && value != NULL)
        return flags_refuse(f, "--%s takes no value", g->name);
    if (!takes_value(g)) {
        *g->on = true;
        return FLAGS_GO_ON;
    }
    if (value != NULL)
        return set_value(f, g, value + 1, c);
    if (*i + 1 >= argc)
        return flags_refuse(f, "--%s needs a value", name_of(g));
    return set_value(f, g, argv[++*i], c);
}

int flags_parse(const struct flags *f, int argc, char **argv, struct config *c)
{
    int rc = FLAGS_GO_ON;

    for (int i = 1; i < argc && rc == FLAGS_GO_ON; i++)
        rc = argv[i][0] == '-' && argv[i][1] != '\0'
                 ? take(f, argc, argv, &i, c)
                 : flags_refuse(f, "unexpected argument %.*s", TEXT_SHOWN, argv[i]);
    return rc;
}
