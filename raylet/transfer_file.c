/* SPDX-License-Identifier: Apache-2.0 */
/* Files by the hash of their content: those that are offered to others, and what is hashed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "raylet/transfer_private.h"

struct file *transfer_find_file(struct transfer *t, const uint8_t *hash)
{
    list_for_each(n, &t->files)
    {
        struct file *f = list_entry(n, struct file, node);
        if (f->n_offers > 0 && memcmp(f->hash.bytes, hash, sizeof f->hash.bytes) == 0)
            return f;
    }
    return NULL;
}

static void free_file(struct file *f)
{
    list_remove(&f->node);
    if (f->bytes != NULL)
        munmap(f->bytes, f->size);
    free(f);
}

void transfer_file_unuse(struct file *f)
{
    if (f->n_offers + f->n_sending == 0)
        free_file(f);
}

void transfer_file_end(struct transfer *t)
{
    while (!list_empty(&t->files))
        free_file(list_entry(t->files.next, struct file, node));
}

static int size_of(int fd, uint64_t *size, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return err_sys(err, "look at the file");
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "it is no regular file");
    if ((uint64_t)st.st_size > TRANSFER_FILE_MAX)
        return err_set(err,
                       ERR_FULL,
                       "the file has %llu bytes, at most %llu can go to other machines",
                       (unsigned long long)st.st_size,
                       (unsigned long long)TRANSFER_FILE_MAX);
    *size = (uint64_t)st.st_size;
    return 0;
}

int transfer_offer_file(struct transfer *t,
                        const struct transfer_hash *hash,
                        int fd,
                        struct err *err)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct file *f = transfer_find_file(t, hash->bytes);
    uint64_t size;
    void *map = NULL;

    if (f != NULL) {
        f->n_offers++;
        return 0;
    }
    if (size_of(fd, &size, err) != 0)
        return -1;
    /* only system calls read it: if it is cut, they fail */
    if (size > 0 && (map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        return err_sys(err, "map the file");
    f = xcalloc(1, sizeof *f);
    f->hash = *hash;
    f->n_offers = 1;
    f->bytes = map;
    f->size = size;
    list_append(&t->files, &f->node);
    return 0;
}

void transfer_withdraw_file(struct transfer *t, const struct transfer_hash *hash)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct file *f = transfer_find_file(t, hash->bytes);

    if (f == NULL)
        return;
    f->n_offers--;
    transfer_file_unuse(f);
}

uint64_t transfer_hash_file(struct transfer *t, int fd, transfer_hashed_f done, void *arg)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct asker *a = transfer_add_asker(t, NULL, arg);
    uint64_t ticket = a->ticket, size;
    struct err err;
    int copy;

    a->hashed = done;
    if (size_of(fd, &size, &err) != 0 || transfer_need_mover(t, &err) != 0) {
        transfer_answer(t, a, &err, NULL, -1);
        return ticket;
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        err_sys(&err, "read the file");
        transfer_answer(t, a, &err, NULL, -1);
        return ticket;
    }
    struct request *r = transfer_add_request(t, REQUEST_HASH, NULL);
    r->asker = a;
    mover_hash(t->mover, r->id, copy, TRANSFER_FILE_MAX);
    return ticket;
}
