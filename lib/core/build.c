/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which build of libray this is: the version and the start of the build id that the linker has put
 * into the file, as it lies in this process's memory. A program and its workers map the file at
 * different times; it may have been replaced in between.
 */
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "lib/core/core_private.h"

#define VERSION  "ray-c 0.1"
#define ID_BYTES 10u /* of twenty: enough, and it fits */

struct search {
    char *out;
    size_t size;
};

static bool holds(const struct dl_phdr_info *info, uintptr_t address)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + p->p_vaddr;
        if (p->p_type == PT_LOAD && address >= start && address - start < p->p_memsz)
            return true;
    }
    return false;
}

/* Notes are { header; name, padded to 4; description, padded to 4 }. */
static void add_id(const uint8_t *at, const uint8_t *end, const struct search *s)
{
    ElfW(Nhdr) h;

    while ((size_t)(end - at) >= sizeof h) {
        memcpy(&h, at, sizeof h);
        size_t name = (h.n_namesz + 3u) & ~3u, id = (h.n_descsz + 3u) & ~3u;
        at += sizeof h;
        if (name + id > (size_t)(end - at))
            return;
        if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 && memcmp(at, "GNU", 4) == 0) {
            size_t n = strlen(s->out);
            if (n + 1 < s->size)
                s->out[n++] = ' ';
            for (unsigned i = 0; i < ID_BYTES && i < h.n_descsz && n + 2 < s->size; i++, n += 2)
                snprintf(s->out + n, s->size - n, "%02x", at[name + i]);
            return;
        }
        at += name + id;
    }
}

static int look(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    if (!holds(info, (uintptr_t)look))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        const uint8_t *notes = (const uint8_t *)(info->dlpi_addr + p->p_vaddr);
        if (p->p_type == PT_NOTE)
            add_id(notes, notes + p->p_memsz, arg);
    }
    return 1;
}

void core_build(char *out, size_t size)
{
    struct search s = {.out = out, .size = size};

    snprintf(out, size, "%s", VERSION);
    dl_iterate_phdr(look, &s);
}
