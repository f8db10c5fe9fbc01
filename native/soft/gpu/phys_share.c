/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory that other processes can have as well: see phys.h. Its file begins with a tag
 * that says what it is; the bytes begin a granule further on. What was given away stays charged to
 * this process until the last descriptor of it is closed.
 */
#include "soft/gpu/phys_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/context.h"
#include "soft/gpu/space.h"

#define TAG_MAGIC 0x4d454d5052414821ull

struct tag {
    uint64_t magic, machine; /* whose state the row is of */
    uint64_t bytes, object_word;
    int32_t ordinal, object;
    uint64_t growing; /* a pool's, or one piece */
};

/* What was imported, or could be imported back. With the lock, as the number below. */
static struct known {
    struct soft_phys *phys;
    struct known *next;
} *knowns;
static int lingering; /* of the known: given away, and held for nothing else */

static int know(struct soft_phys *phys)
{
    struct known *k = malloc(sizeof *k);

    if (k == NULL)
        return -ENOMEM;
    *k = (struct known){phys, knowns};
    knowns = k;
    return 0;
}

void soft_phys_forget(const struct soft_phys *phys)
{
    for (struct known **at = &knowns; *at != NULL; at = &(*at)->next)
        if ((*at)->phys == phys) {
            struct known *gone = *at;

            *at = gone->next;
            free(gone);
            return;
        }
}

bool soft_phys_shared(void)
{
    bool shared = atomic_load(&soft_phys_ipc) > 0;

    pthread_mutex_lock(&soft_phys_lock);
    for (const struct known *k = knowns; k != NULL; k = k->next)
        shared = shared || k->phys->ordinal != SOFT_PHYS_HOST;
    pthread_mutex_unlock(&soft_phys_lock);
    return shared;
}

int soft_phys_place(struct soft_phys *phys)
{
    struct tag tag = {.magic = TAG_MAGIC,
                      .machine = soft_the_state->map->birth,
                      .bytes = phys->bytes,
                      .object_word = phys->object_word,
                      .ordinal = soft_at(phys->ordinal),
                      .object = phys->object,
                      .growing = phys->growing};
    int err = soft_file_make(&phys->file, SOFT_GRANULE + phys->bytes);

    if (err != 0)
        return err;
    phys->alone = true;
    phys->offset = SOFT_GRANULE;
    if (pwrite(phys->file.fd, &tag, sizeof tag, 0) != (ssize_t)sizeof tag || know(phys) != 0) {
        close(phys->file.fd);
        return -ENOMEM;
    }
    return 0;
}

static struct soft_phys *known_as(const struct tag *tag)
{
    for (struct known *k = knowns; k != NULL; k = k->next)
        if (k->phys->object == tag->object && k->phys->object_word == tag->object_word)
            return k->phys;
    return NULL;
}

static bool tag_fits(const struct tag *tag, int fd)
{
    struct stat st;

    return tag->magic == TAG_MAGIC && soft_file_is_sealed(fd) &&
           tag->machine == soft_the_state->map->birth && tag->bytes % SOFT_GRANULE == 0 &&
           tag->bytes > 0 && fstat(fd, &st) == 0 &&
           (uint64_t)st.st_size == SOFT_GRANULE + tag->bytes &&
           (tag->ordinal == SOFT_PHYS_HOST ||
            (tag->ordinal >= 0 && tag->ordinal < soft_the_state->map->device_count &&
             tag->object >= 0 && tag->object < SOFT_MAX_OBJECTS));
}

static struct soft_phys *import(int fd, int *why, bool growing)
{
    struct soft_phys *phys;
    struct tag tag;
    int copy = -1, err;

    *why = EINVAL;
    if (pread(fd, &tag, sizeof tag, 0) != (ssize_t)sizeof tag || !tag_fits(&tag, fd) ||
        tag.growing != growing)
        return NULL;
    pthread_mutex_lock(&soft_phys_lock);
    phys = tag.ordinal == SOFT_PHYS_HOST ? NULL : known_as(&tag);
    if (phys != NULL) {
        if (atomic_fetch_add(&phys->refs, 1) == 0)
            lingering--;
        goto out;
    }
    phys = calloc(1, sizeof *phys);
    *why = ENOMEM;
    if (phys == NULL)
        goto out;
    *phys = (struct soft_phys){.ordinal = soft_from(tag.ordinal),
                               .bytes = tag.bytes,
                               .id = soft_span_next_id(),
                               .offset = SOFT_GRANULE,
                               .alone = true,
                               .growing = growing,
                               .object = tag.ordinal == SOFT_PHYS_HOST ? -1 : tag.object,
                               .object_word = tag.object_word,
                               .refs = 1};
    copy = soft_file_reopen(fd);
    *why = EMFILE;
    if (copy < 0 || soft_file_of(copy, &phys->file) != 0)
        goto fail;
    err = phys->object < 0 ? 0 : soft_object_join(soft_the_state, phys->object, phys->object_word);
    *why = -err;
    if (err != 0)
        goto fail;
    *why = ENOMEM;
    if (know(phys) == 0)
        goto out;
    soft_phys_discharge(phys);
fail:
    if (copy >= 0)
        close(copy);
    free(phys);
    phys = NULL;
out:
    pthread_mutex_unlock(&soft_phys_lock);
    return phys;
}

struct soft_phys *soft_phys_import(int fd, int *why)
{
    return import(fd, why, false);
}

struct soft_phys *soft_phys_import_growing(int fd, int *why)
{
    return import(fd, why, true);
}

int soft_phys_export(struct soft_phys *phys)
{
    int fd;

    if (!phys->alone || !soft_file_is(&phys->file))
        return -EINVAL;
    fd = soft_file_reopen(phys->file.fd);
    if (fd >= 0 && flock(fd, LOCK_SH) == 0) /* tells as long as it is open: given_away() */
        phys->exported = true;
    return fd;
}

static bool given_away(const struct soft_phys *phys)
{
    if (!phys->exported || !soft_file_is(&phys->file))
        return false;
    if (flock(phys->file.fd, LOCK_EX | LOCK_NB) != 0)
        return true;
    flock(phys->file.fd, LOCK_UN);
    return false;
}

void soft_phys_unref(struct soft_phys *phys)
{
    if (phys == NULL)
        return;
    pthread_mutex_lock(&soft_phys_lock); /* an import may find it until it is forgotten */
    if (atomic_fetch_sub(&phys->refs, 1) > 1) {
        pthread_mutex_unlock(&soft_phys_lock);
        return;
    }
    if (given_away(phys)) {
        lingering++;
        pthread_mutex_unlock(&soft_phys_lock);
        return;
    }
    soft_phys_end(phys);
    pthread_mutex_unlock(&soft_phys_lock);
    soft_phys_discharge(phys);
    free(phys);
}

void soft_phys_sweep(void)
{
    struct soft_phys *gone;

    do {
        gone = NULL;
        pthread_mutex_lock(&soft_phys_lock);
        for (struct known *k = lingering > 0 ? knowns : NULL; k != NULL && gone == NULL;
             k = k->next)
            if (atomic_load(&k->phys->refs) == 0 && !given_away(k->phys))
                gone = k->phys;
        if (gone != NULL) {
            lingering--;
            soft_phys_end(gone);
        }
        pthread_mutex_unlock(&soft_phys_lock);
        if (gone != NULL) {
            soft_phys_discharge(gone);
            free(gone);
        }
    } while (gone != NULL);
}
