/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory: see phys.h. A shareable file begins with a tag that says what it is; its bytes
 * begin a granule further on.
 */
#include "soft/gpu/phys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "soft/gpu/context.h"
#include "soft/gpu/space.h"

#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 1u
#endif
#ifndef FALLOC_FL_PUNCH_HOLE
#define FALLOC_FL_KEEP_SIZE  1
#define FALLOC_FL_PUNCH_HOLE 2
#endif

#define FILE_BYTES (1ull << 62) /* sparse: offsets are never used twice */
#define TAG_MAGIC  0x4d454d5052414821ull
#define GROWN_MOST (1ull << 45) /* of a growing one with a file of its own, which never shrinks */

struct tag {
    uint64_t magic, machine; /* whose state the row is of */
    uint64_t bytes, object_word;
    int32_t ordinal, object;
    uint64_t growing; /* a pool's, or one piece */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the four below */
static struct soft_file common = {.fd = -1};
static uint64_t next_offset;
static struct known { /* what was imported, or could be imported back */
    struct soft_phys *phys;
    struct known *next;
} *knowns;

bool soft_file_is(const struct soft_file *file)
{
    struct stat st;

    return file->fd >= 0 && fstat(file->fd, &st) == 0 && st.st_dev == file->dev &&
           st.st_ino == file->ino;
}

static int file_of(int fd, struct soft_file *file)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    *file = (struct soft_file){fd, st.st_dev, st.st_ino};
    return 0;
}

static int file_make(struct soft_file *file, uint64_t bytes)
{
    struct rlimit limit;
    int fd, err;

    /* growing a file beyond that limit is a signal that ends the program */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        soft_log("device memory needs files of any size; remedy: 'ulimit -f unlimited'");
        return -EFBIG;
    }
    fd = (int)syscall(SYS_memfd_create, "harp-soft-gpu", MFD_CLOEXEC);
    if (fd < 0) {
        err = -errno;
        soft_log("cannot make a file for device memory: %s", strerror(-err));
        return err;
    }
    err = ftruncate(fd, (off_t)bytes) != 0 ? -errno : file_of(fd, file);
    if (err != 0)
        close(fd);
    return err;
}

/* The common file; made anew where the program closed its descriptor (what is mapped stays). With
 * the lock. */
static int common_file(struct soft_file *file)
{
    int err = 0;

    if (!soft_file_is(&common))
        err = file_make(&common, FILE_BYTES);
    if (err == 0)
        *file = common;
    else
        common.fd = -1;
    return err;
}

static int charge(struct soft_phys *phys, enum soft_phys_kind kind)
{
    struct soft_state *state = soft_the_state;

    if (phys->ordinal == SOFT_PHYS_HOST)
        return 0;
    if (kind == SOFT_PHYS_PRIVATE)
        return phys->growing ? 0 : soft_slot_charge(state, phys->ordinal, phys->bytes, 0);
    phys->object =
        soft_object_make(state, phys->ordinal, phys->growing ? 0 : phys->bytes, &phys->object_word);
    if (phys->object == -ENOSPC)
        soft_log("%d pieces of exportable memory are in use on this machine, the most there can be",
                 SOFT_MAX_OBJECTS);
    return phys->object >= 0 ? 0 : -ENOMEM;
}

static void discharge(struct soft_phys *phys)
{
    if (phys->ordinal == SOFT_PHYS_HOST)
        return;
    if (phys->object >= 0)
        soft_object_leave(soft_the_state, phys->object, phys->object_word);
    else
        soft_slot_release(soft_the_state, phys->ordinal,
                          phys->growing ? phys->charged : phys->bytes, 0);
}

static int know(struct soft_phys *phys)
{
    struct known *k = malloc(sizeof *k);

    if (k == NULL)
        return -ENOMEM;
    *k = (struct known){phys, knowns};
    knowns = k;
    return 0;
}

static void forget(const struct soft_phys *phys)
{
    for (struct known **at = &knowns; *at != NULL; at = &(*at)->next)
        if ((*at)->phys == phys) {
            struct known *gone = *at;

            *at = gone->next;
            free(gone);
            return;
        }
}

static int place_shareable(struct soft_phys *phys)
{
    struct tag tag = {.magic = TAG_MAGIC,
                      .machine = soft_the_state->map->birth,
                      .bytes = phys->bytes,
                      .object_word = phys->object_word,
                      .ordinal = phys->ordinal,
                      .object = phys->object,
                      .growing = phys->growing};
    int err = file_make(&phys->file, SOFT_GRANULE + phys->bytes);

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

static struct soft_phys *make(int ordinal, uint64_t bytes, enum soft_phys_kind kind, bool growing)
{
    struct soft_phys *phys = calloc(1, sizeof *phys);
    int err;

    if (phys == NULL)
        return NULL;
    *phys = (struct soft_phys){.ordinal = ordinal,
                               .bytes = soft_granules(bytes),
                               .id = soft_span_next_id(),
                               .growing = growing,
                               .object = -1,
                               .refs = 1};
    if (phys->bytes < bytes || charge(phys, kind) != 0) {
        free(phys);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    if (kind == SOFT_PHYS_SHAREABLE) {
        err = place_shareable(phys);
    } else {
        err = common_file(&phys->file);
        phys->offset = growing ? 0 : next_offset; /* growing: offsets are the common file's */
        next_offset += growing ? 0 : phys->bytes;
    }
    pthread_mutex_unlock(&lock);
    if (err != 0) {
        discharge(phys);
        free(phys);
        return NULL;
    }
    return phys;
}

struct soft_phys *soft_phys_make(int ordinal, uint64_t bytes, enum soft_phys_kind kind)
{
    return make(ordinal, bytes, kind, false);
}

struct soft_phys *soft_phys_make_growing(int ordinal, enum soft_phys_kind kind)
{
    return make(ordinal, kind == SOFT_PHYS_PRIVATE ? FILE_BYTES : GROWN_MOST, kind, true);
}

int soft_phys_grow(struct soft_phys *phys, uint64_t bytes, uint64_t *offset)
{
    int err = 0;

    if (phys->alone && bytes > phys->bytes - phys->grown)
        return -ENOMEM;
    if (phys->ordinal != SOFT_PHYS_HOST)
        err = phys->object >= 0
                  ? soft_object_charge(soft_the_state, phys->object, phys->ordinal, bytes)
                  : soft_slot_charge(soft_the_state, phys->ordinal, bytes, 0);
    if (err != 0)
        return err;
    if (phys->alone) {
        *offset = phys->grown;
        phys->grown += bytes;
    } else {
        pthread_mutex_lock(&lock);
        *offset = next_offset;
        next_offset += bytes;
        pthread_mutex_unlock(&lock);
    }
    phys->charged += bytes;
    return 0;
}

void soft_phys_shrink(struct soft_phys *phys, uint64_t offset, uint64_t bytes)
{
    if (soft_file_is(&phys->file))
        fallocate(phys->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(phys->offset + offset), (off_t)bytes);
    phys->charged -= bytes;
    if (phys->ordinal == SOFT_PHYS_HOST)
        return;
    if (phys->object >= 0)
        soft_object_release(soft_the_state, phys->object, phys->ordinal, bytes);
    else
        soft_slot_release(soft_the_state, phys->ordinal, bytes, 0);
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

    return tag->magic == TAG_MAGIC && tag->machine == soft_the_state->map->birth &&
           tag->bytes % SOFT_GRANULE == 0 && tag->bytes > 0 && fstat(fd, &st) == 0 &&
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
    pthread_mutex_lock(&lock);
    phys = tag.ordinal == SOFT_PHYS_HOST ? NULL : known_as(&tag);
    if (phys != NULL) {
        soft_phys_ref(phys);
        goto out;
    }
    phys = calloc(1, sizeof *phys);
    *why = ENOMEM;
    if (phys == NULL)
        goto out;
    *phys = (struct soft_phys){.ordinal = tag.ordinal,
                               .bytes = tag.bytes,
                               .id = soft_span_next_id(),
                               .offset = SOFT_GRANULE,
                               .alone = true,
                               .growing = growing,
                               .object = tag.ordinal == SOFT_PHYS_HOST ? -1 : tag.object,
                               .object_word = tag.object_word,
                               .refs = 1};
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    *why = EMFILE;
    if (copy < 0 || file_of(copy, &phys->file) != 0)
        goto fail;
    err = phys->object < 0 ? 0 : soft_object_join(soft_the_state, phys->object, phys->object_word);
    *why = -err;
    if (err != 0)
        goto fail;
    *why = ENOMEM;
    if (know(phys) == 0)
        goto out;
    discharge(phys);
fail:
    if (copy >= 0)
        close(copy);
    free(phys);
    phys = NULL;
out:
    pthread_mutex_unlock(&lock);
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
    fd = fcntl(phys->file.fd, F_DUPFD_CLOEXEC, 0);
    return fd >= 0 ? fd : -errno;
}

void soft_phys_ref(struct soft_phys *phys)
{
    atomic_fetch_add(&phys->refs, 1);
}

void soft_phys_unref(struct soft_phys *phys)
{
    if (phys == NULL)
        return;
    pthread_mutex_lock(&lock); /* an import may find it until it is forgotten */
    if (atomic_fetch_sub(&phys->refs, 1) > 1) {
        pthread_mutex_unlock(&lock);
        return;
    }
    if (phys->alone)
        forget(phys);
    if (soft_file_is(&phys->file)) {
        if (phys->alone) {
            /* a mapping that lingers would hold what is in it */
            if (phys->grown > 0)
                fallocate(phys->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)phys->offset, (off_t)phys->grown);
            close(phys->file.fd);
        } else if (!phys->growing)
            fallocate(phys->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)phys->offset, (off_t)phys->bytes);
    }
    pthread_mutex_unlock(&lock);
    discharge(phys);
    free(phys);
}

int soft_phys_map(struct soft_phys *phys, uint64_t offset, uint64_t bytes, void *at)
{
    if (offset > phys->bytes || bytes > phys->bytes - offset)
        return -EINVAL;
    if (!soft_file_is(&phys->file)) {
        soft_log("the program closed a descriptor of the software GPU's: device memory cannot be "
                 "mapped any more; remedy: close only descriptors that the program opened");
        return -EBADF;
    }
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             phys->file.fd, (off_t)(phys->offset + offset)) == MAP_FAILED)
        return -errno;
    madvise(at, bytes, MADV_DONTFORK); /* a child has no device memory, and forks stay cheap */
    madvise(at, bytes, MADV_DONTDUMP);
    return 0;
}
