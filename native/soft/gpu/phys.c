/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory: see phys.h. In the common file, far behind all pieces, 8 bytes for each 512 say
 * which allocation can be opened there by a legacy IPC handle.
 */
#include "soft/gpu/phys_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "soft/gpu/context.h"
#include "soft/gpu/space.h"

#ifndef FALLOC_FL_PUNCH_HOLE
#define FALLOC_FL_KEEP_SIZE  1
#define FALLOC_FL_PUNCH_HOLE 2
#endif

#define FILE_BYTES (1ull << 62) /* sparse: offsets are never used twice */
#define MARKS_AT   (1ull << 61)
#define MARK_UNIT  512u
#define GROWN_MOST (1ull << 45) /* of a growing one with a file of its own, which never shrinks */

pthread_mutex_t soft_phys_lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by it */
static struct soft_file common = {.fd = -1};
static uint64_t next_offset;
_Atomic int soft_phys_ipc; /* pieces opened by legacy IPC handles: another process's */

/* The common file; made anew where the program closed its descriptor (what is mapped stays). With
 * the lock. */
static int common_file(struct soft_file *file)
{
    int err = 0;

    if (!soft_file_is(&common)) {
        soft_keep_forget();
        err = soft_file_make(&common, FILE_BYTES);
    }
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
        return phys->growing ? 0 : soft_slot_charge(state, soft_at(phys->ordinal), phys->bytes, 0);
    phys->object = soft_object_make(state, soft_at(phys->ordinal), phys->growing ? 0 : phys->bytes,
                                    &phys->object_word);
    if (phys->object == -ENOSPC)
        soft_log("%d pieces of exportable memory are in use on this machine, the most there can be",
                 SOFT_MAX_OBJECTS);
    return phys->object >= 0 ? 0 : -ENOMEM;
}

void soft_phys_discharge(struct soft_phys *phys)
{
    if (phys->ordinal == SOFT_PHYS_HOST || phys->borrowed)
        return;
    if (phys->object >= 0)
        soft_object_leave(soft_the_state, phys->object, phys->object_word);
    else
        soft_slot_release(soft_the_state, soft_at(phys->ordinal),
                          phys->growing ? phys->charged : phys->bytes, 0);
}

static struct soft_phys *make(int ordinal, uint64_t bytes, enum soft_phys_kind kind, bool growing)
{
    struct soft_phys *phys;
    int err;

    soft_phys_sweep();
    phys = calloc(1, sizeof *phys);
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
    pthread_mutex_lock(&soft_phys_lock);
    if (kind == SOFT_PHYS_SHAREABLE) {
        err = soft_phys_place(phys);
    } else {
        err = common_file(&phys->file);
        if (err == 0 && !growing && !soft_keep_take(phys)) { /* growing: the file's offsets */
            phys->offset = next_offset;
            next_offset += phys->bytes;
        }
    }
    pthread_mutex_unlock(&soft_phys_lock);
    if (err != 0) {
        soft_phys_discharge(phys);
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

    soft_phys_sweep();
    if (phys->alone && bytes > phys->bytes - phys->grown)
        return -ENOMEM;
    if (phys->ordinal != SOFT_PHYS_HOST)
        err = phys->object >= 0
                  ? soft_object_charge(soft_the_state, phys->object, soft_at(phys->ordinal), bytes)
                  : soft_slot_charge(soft_the_state, soft_at(phys->ordinal), bytes, 0);
    if (err != 0)
        return err;
    if (phys->alone) {
        *offset = phys->grown;
        phys->grown += bytes;
    } else {
        pthread_mutex_lock(&soft_phys_lock);
        *offset = next_offset;
        next_offset += bytes;
        pthread_mutex_unlock(&soft_phys_lock);
    }
    phys->charged += bytes;
    return 0;
}

static void punch(const struct soft_phys *phys, uint64_t offset, uint64_t bytes)
{
    fallocate(phys->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
              (off_t)bytes);
}

void soft_phys_punch(uint64_t offset, uint64_t bytes)
{
    const struct soft_phys in_it = {.file = common};

    if (soft_file_is(&common))
        punch(&in_it, offset, bytes);
}

void soft_phys_shrink(struct soft_phys *phys, uint64_t offset, uint64_t bytes)
{
    if (soft_file_is(&phys->file))
        punch(phys, phys->offset + offset, bytes);
    phys->charged -= bytes;
    if (phys->ordinal == SOFT_PHYS_HOST)
        return;
    if (phys->object >= 0)
        soft_object_release(soft_the_state, phys->object, soft_at(phys->ordinal), bytes);
    else
        soft_slot_release(soft_the_state, soft_at(phys->ordinal), bytes, 0);
}

static off_t mark_at(uint64_t offset)
{
    return (off_t)(MARKS_AT + offset / MARK_UNIT * sizeof(uint64_t));
}

int soft_phys_mark(struct soft_phys *phys, uint64_t offset, uint64_t id)
{
    if (id == 0 && !phys->marked)
        return 0;
    if (!soft_file_is(&phys->file))
        return -EBADF;
    phys->marked = true;
    return pwrite(phys->file.fd, &id, sizeof id, mark_at(phys->offset + offset)) == sizeof id
               ? 0
               : -ENOMEM;
}

uint64_t soft_phys_marked(int fd, uint64_t offset)
{
    uint64_t id;

    return pread(fd, &id, sizeof id, mark_at(offset)) == sizeof id ? id : 0;
}

struct soft_phys *soft_phys_borrow(int fd, int ordinal, uint64_t offset, uint64_t bytes)
{
    struct soft_phys *phys = calloc(1, sizeof *phys);

    if (phys == NULL || soft_file_of(fd, &phys->file) != 0) {
        free(phys);
        close(fd);
        return NULL;
    }
    phys->ordinal = ordinal;
    phys->bytes = soft_granules(bytes);
    phys->id = soft_span_next_id();
    phys->offset = offset;
    phys->alone = phys->borrowed = true;
    atomic_fetch_add(&soft_phys_ipc, 1);
    phys->object = -1;
    phys->refs = 1;
    return phys;
}

void soft_phys_ref(struct soft_phys *phys)
{
    atomic_fetch_add(&phys->refs, 1);
}

/* With the lock; the caller discharges and frees it without. */
void soft_phys_end(struct soft_phys *phys)
{
    if (phys->alone)
        soft_phys_forget(phys);
    if (phys->borrowed)
        atomic_fetch_sub(&soft_phys_ipc, 1);
    if (!soft_file_is(&phys->file)) {
        soft_keep_drop(phys);
        return;
    }
    if (phys->alone) {
        if (phys->grown > 0) /* a mapping that lingers would hold what is in it */
            punch(phys, phys->offset, phys->grown);
        close(phys->file.fd);
        return;
    }
    if (phys->growing) /* its pieces went one by one */
        return;
    if (phys->marked) /* first, so that nobody opens what is being emptied */
        punch(phys, (uint64_t)mark_at(phys->offset), phys->bytes / MARK_UNIT * sizeof(uint64_t));
    if (soft_keep_put(phys))
        return;
    soft_keep_drop(phys);
    punch(phys, phys->offset, phys->bytes);
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
    if (offset == 0 && soft_keep_unpark(phys, at, bytes))
        return 0;
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             phys->file.fd, (off_t)(phys->offset + offset)) == MAP_FAILED)
        return -errno;
    madvise(at, bytes, MADV_DONTFORK); /* a child has no device memory, and forks stay cheap */
    madvise(at, bytes, MADV_DONTDUMP);
    return 0;
}
