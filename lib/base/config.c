/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *flag, *variable;
    enum config_kind kind;
    const char *otherwise;
    int64_t least, most;
    const char *unit, *help;
} settings[] = {
#define CONFIG_ROW(id, flag, variable, kind, otherwise, least, most, unit, help)                   \
    {flag, variable, CONFIG_##kind, otherwise, least, most, unit, help},
    CONFIG_SETTINGS(CONFIG_ROW)
#undef CONFIG_ROW
};

static bool to_number(const char *text, int64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static int check(enum config_setting s, const char *name, const char *text, struct err *err)
{
    int64_t n;

    if (settings[s].kind != CONFIG_NUMBER)
        return 0;
    if (to_number(text, &n) && n >= settings[s].least && n <= settings[s].most)
        return 0;
    return err_set(err,
                   ERR_INVALID,
                   "%s must be a whole number from %" PRId64 " to %" PRId64 "%s%s, not %.80s%s",
                   name,
                   settings[s].least,
                   settings[s].most,
                   settings[s].unit[0] != '\0' ? " " : "",
                   settings[s].unit,
                   text[0] != '\0' ? text : "nothing",
                   strlen(text) > 80 ? "..." : "");
}

int config_load_one(struct config *c, enum config_setting s, struct err *err)
{
    const char *text = getenv(settings[s].variable);

    c->v[s].text = settings[s].otherwise;
    c->v[s].source = CONFIG_DEFAULT;
    if (text == NULL || text[0] == '\0')
        return 0;
    if (check(s, settings[s].variable, text, err) != 0)
        return -1;
    c->v[s].text = text;
    c->v[s].source = CONFIG_ENVIRONMENT;
    return 0;
}

int config_load(struct config *c, struct err *err)
{
    for (int s = 0; s < CONFIG_N_SETTINGS; s++)
        if (config_load_one(c, s, err) != 0)
            return -1;
    return 0;
}

int config_set(struct config *c, enum config_setting s, const char *text, struct err *err)
{
    char name[64];

    snprintf(name, sizeof name, "--%s", settings[s].flag);
    if (check(s, name, text, err) != 0)
        return -1;
    c->v[s].text = text;
    c->v[s].source = CONFIG_FLAG;
    return 0;
}

bool config_is_set(const struct config *c, enum config_setting s)
{
    return c->v[s].source != CONFIG_DEFAULT;
}

const char *config_text(const struct config *c, enum config_setting s)
{
    return c->v[s].text;
}

int64_t config_number(const struct config *c, enum config_setting s, int64_t otherwise)
{
    int64_t n;

    return to_number(c->v[s].text, &n) ? n : otherwise;
}

const char *config_flag(enum config_setting s)
{
    return settings[s].flag;
}

const char *config_variable(enum config_setting s)
{
    return settings[s].variable;
}

const char *config_help(enum config_setting s)
{
    return settings[s].help;
}

const char *config_unit(enum config_setting s)
{
    return settings[s].unit;
}

const char *config_default(enum config_setting s)
{
    return settings[s].otherwise;
}

enum config_kind config_kind(enum config_setting s)
{
    return settings[s].kind;
}

void config_dump(const struct config *c, FILE *out)
{
    static const char *const sources[] = {"default", "environment", "flag"};

    for (int s = 0; s < CONFIG_N_SETTINGS; s++) {
        const char *text = c->v[s].text;
        if (settings[s].kind == CONFIG_SECRET)
            text = text[0] != '\0' ? "(secret)" : "";
        fprintf(out,
                "%-34s %-12s %s\n",
                settings[s].variable,
                sources[c->v[s].source],
                text[0] != '\0' ? text : "-");
    }
}

void config_markdown(FILE *out)
{
    fputs("# Settings\n\n"
          "A flag wins over its variable, and that over the default; an empty variable is not set. "
          "`ray config` prints\nthe value of each and where it came from. This page is made of "
          "lib/base/config.h by `ray config --markdown`.\n\n"
          "| variable | flag | default | from, to | meaning |\n|---|---|---|---|---|\n",
          out);
    for (int s = 0; s < CONFIG_N_SETTINGS; s++) {
        const char *flag = settings[s].flag, *otherwise = settings[s].otherwise;
        fprintf(out, "| `%s` | ", settings[s].variable);
        if (flag[0] != '\0')
            fprintf(out, "`--%s` ", flag);
        fputs("| ", out);
        if (otherwise[0] != '\0')
            fprintf(out, "%s ", otherwise);
        fputs("| ", out);
        if (settings[s].kind == CONFIG_NUMBER)
            fprintf(out, "%" PRId64 ", %" PRId64 " ", settings[s].least, settings[s].most);
        if (settings[s].unit[0] != '\0')
            fprintf(out, "%s ", settings[s].unit);
        fprintf(out, "| %s |\n", settings[s].help);
    }
}
