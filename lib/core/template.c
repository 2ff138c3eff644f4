/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/core/core_private.h"

#define TEMPLATES_MAX 65535

/* Classes by their request's bytes; few, so a list is searched. */
static struct class_frame {
    uint8_t *frame;
    size_t size;
} * classes;
static unsigned n_classes;

static bool fits(const char *s, size_t room)
{
    return strnlen(s, room) < room;
}

static bool has_control(const char *s)
{
    for (; *s != '\0'; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return true;
    return false;
}

uint8_t *core_class_frame(uint32_t class, size_t *size)
{
    *size = classes[class].size;
    return classes[class].frame;
}

static int class_number(const struct core_template_spec *spec)
{
    uint8_t buf[sizeof(struct wire_lease_request)
                + (CORE_N_RESOURCES + 1) * sizeof(struct wire_resource) + 64];
    struct wire_lease_request w = {.depth = core.worker ? 1 : 0};
    uint8_t *at = buf + sizeof w;
    size_t n = strlen(spec->function);

    memset(buf, 0, sizeof buf);
    if (spec->cpu_units > 0) {
        struct wire_resource r = {.name = "CPU", .units = spec->cpu_units};
        memcpy(at, &r, sizeof r);
        at += sizeof r;
        w.n_resources++;
    }
    for (unsigned i = 0; i < spec->n_resources; i++) {
        struct wire_resource r = {.units = spec->resources[i].units};
        memcpy(r.name, spec->resources[i].name, sizeof r.name);
        memcpy(at, &r, sizeof r);
        at += sizeof r;
        w.n_resources++;
    }
    memcpy(at, spec->function, n);
    at += n;
    memcpy(buf, &w, sizeof w);
    size_t size = (size_t)(at - buf);
    for (unsigned i = 0; i < n_classes; i++)
        if (classes[i].size == size && memcmp(classes[i].frame + 12, buf + 12, size - 12) == 0)
            return (int)i;
    classes = xrealloc(classes, (n_classes + 1) * sizeof *classes);
    classes[n_classes].frame = xmalloc(size);
    memcpy(classes[n_classes].frame, buf, size);
    classes[n_classes++].size = size;
    return (int)submit_add_class(core.submit);
}

int core_template(const struct core_template_spec *spec, struct err *err)
{
    const char *name = spec->name != NULL ? spec->name : spec->function;

    if (spec->n_returns > CORE_RETURNS_MAX)
        return err_set(err,
                       ERR_INVALID,
                       "num_returns is %u, at most %d",
                       spec->n_returns,
                       CORE_RETURNS_MAX);
    if (spec->max_retries < -1)
        return err_set(err,
                       ERR_INVALID,
                       "max_retries is %d: use -1 (for ever), 0 or more",
                       spec->max_retries);
    if (!fits(spec->function, 48) || !fits(name, 48))
        return err_set(err, ERR_INVALID, "the name %.20s... is longer than 47 bytes", name);
    if (has_control(name))
        return err_set(err,
                       ERR_INVALID,
                       "the name of %s holds a control character, and is printed before each line",
                       spec->function);
    if (spec->cpu_units < 0 || spec->n_resources > CORE_N_RESOURCES)
        return err_set(err,
                       ERR_INVALID,
                       "resources of %s: amounts are 0 or more, at most %d kinds",
                       name,
                       CORE_N_RESOURCES);
    for (unsigned i = 0; i < spec->n_resources; i++)
        if (spec->resources[i].units <= 0 || !fits(spec->resources[i].name, 48)
            || spec->resources[i].name[0] == '\0')
            return err_set(err,
                           ERR_INVALID,
                           "resource %u of %s needs a name of 1 to 47 bytes and an amount above 0",
                           i,
                           name);
    if (core_is_forked())
        return err_set(err, ERR_INVALID, "this process was forked from one that uses Ray");
    core_lock();
    if (!core.connected) {
        core_unlock();
        return err_set(err, ERR_INVALID, "call ray_init first");
    }
    int class = class_number(spec);
    for (unsigned i = 0; i < core.n_templates; i++) {
        const struct template *t = core.templates[i];
        if (t->class == class && t->n_returns == spec->n_returns
            && t->max_retries == spec->max_retries && strcmp(t->function, spec->function) == 0
            && strcmp(t->name, name) == 0) {
            core_unlock();
            return (int)i;
        }
    }
    if (core.n_templates == TEMPLATES_MAX) {
        core_unlock();
        return err_set(err,
                       ERR_FULL,
                       "more than %d different option sets: bind options once with ray_bind",
                       TEMPLATES_MAX);
    }
    struct template *t = xcalloc(1, sizeof *t);
    snprintf(t->function, sizeof t->function, "%s", spec->function);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_returns = (uint16_t)spec->n_returns;
    t->max_retries = spec->max_retries;
    t->class = class;
    core.templates = xrealloc(core.templates, (core.n_templates + 1) * sizeof(struct template *));
    core.templates[core.n_templates] = t;
    int number = (int)core.n_templates++;
    core_unlock();
    return number;
}

void template_forget_all(void)
{
    for (unsigned i = 0; i < core.n_templates; i++)
        free(core.templates[i]);
    free(core.templates);
    core.templates = NULL;
    core.n_templates = 0;
    for (unsigned i = 0; i < n_classes; i++)
        free(classes[i].frame);
    free(classes);
    classes = NULL;
    n_classes = 0;
}
