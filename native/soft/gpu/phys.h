/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory: whole granules of one device, charged to it from phys_make to the last unref.
 *
 * The bytes lie in memfds, so that another process can map them: what only this process uses in
 * one sparse file for all (each piece has an offset of its own, never used again), what may be
 * exported in a file of its own, since whoever has its descriptor has all of it. No file has a
 * name: a killed process leaves nothing behind.
 */
#ifndef HARP_SOFT_PHYS_H
#define HARP_SOFT_PHYS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SOFT_PHYS_HOST (-1) /* ordinal of memory that no device is charged for */

struct soft_file {
    int fd;
    dev_t dev; /* with ino: is it still ours? A program may close descriptors that it */
    ino_t ino; /* does not know, and open other files under their numbers. */
};

struct soft_phys {
    int ordinal;    /* device in the state file, or SOFT_PHYS_HOST */
    uint64_t bytes; /* whole granules */
    uint64_t id;
    struct soft_file file;
    uint64_t offset;  /* in the file */
    bool alone;       /* the file, or the descriptor, is its own */
    bool borrowed;    /* another process's, which is charged for it */
    bool marked;      /* legacy IPC handles name parts of it */
    bool exported;    /* descriptors of it were given away */
    void *parked;     /* phys_keep.c: a mapping of all of it that waits for the next; or NULL */
    bool growing;     /* charged in steps; `bytes` is what there may be of it */
    uint64_t grown;   /* growing, with a file of its own: given out up to here */
    uint64_t charged; /* growing: what it is charged for; 0 where imported */
    int object;       /* shared with other processes: its row in the state file; else -1 */
    uint64_t object_word;
    _Atomic int refs; /* handles and mappings */
};

enum soft_phys_kind { SOFT_PHYS_PRIVATE, SOFT_PHYS_SHAREABLE };

/* Charges the device and makes it, all zero, with one reference. NULL: the device is full, or the
 * machine (the log says which). `bytes` is rounded up to granules. */
struct soft_phys *soft_phys_make(int ordinal, uint64_t bytes, enum soft_phys_kind kind);
/* Another process's: from a descriptor of a SHAREABLE one (the caller keeps `fd`), or NULL with
 * *why = EINVAL (not one of these), ENOENT (all who held it are gone), EMFILE. The same piece
 * twice in one process is one struct, with a reference more. */
struct soft_phys *soft_phys_import(int fd, int *why);
/* A pool's: nothing at first, then pieces, each charged as it comes and given back by itself (all
 * of them before the last unref, if PRIVATE). An offset is never used twice. Growing and shrinking
 * is the maker's, one thread at a time. */
struct soft_phys *soft_phys_make_growing(int ordinal, enum soft_phys_kind kind);
int soft_phys_grow(struct soft_phys *phys, uint64_t bytes, uint64_t *offset); /* 0 or -ENOMEM */
void soft_phys_shrink(struct soft_phys *phys, uint64_t offset, uint64_t bytes);
/* soft_phys_import of a growing one, and of no other. */
struct soft_phys *soft_phys_import_growing(int fd, int *why);
/* A new descriptor to give away; -errno. Only of a SHAREABLE one. As long as it, or what was made
 * of it by dup, fork or a message, is open anywhere, the memory stays, and this process holds it.
 */
int soft_phys_export(struct soft_phys *phys);
/* Lets go of what was given away and is closed by now. */
void soft_phys_sweep(void);
/* Legacy IPC: says in the file that `id` lies at `offset`, until it is freed (id 0) or this process
 * ends; what another process's file says; and its memory, which it is charged for. Takes `fd`. */
int soft_phys_mark(struct soft_phys *phys, uint64_t offset, uint64_t id);
uint64_t soft_phys_marked(int fd, uint64_t offset);
struct soft_phys *soft_phys_borrow(int fd, int ordinal, uint64_t offset, uint64_t bytes);
void soft_phys_ref(struct soft_phys *phys);
void soft_phys_unref(struct soft_phys *phys);
/* Maps [offset, offset + bytes) of it at `at`, shared, readable and writable. 0 or -errno. */
int soft_phys_map(struct soft_phys *phys, uint64_t offset, uint64_t bytes, void *at);

/* phys_keep.c. It is mapped at `at`, all of it, and is to be unmapped there: what it takes to map
 * it again is put aside (the addresses stay, mapped, for the caller to use). With the piece's
 * owner's lock, as soft_phys_map, which uses it. */
void soft_keep_park(struct soft_phys *phys, void *at, uint64_t bytes);
bool soft_keep_unpark(struct soft_phys *phys, void *at, uint64_t bytes);

/* phys_file.c. A new file of zeroes that nobody can make smaller; 0 or -errno. */
int soft_file_make(struct soft_file *file, uint64_t bytes);
bool soft_file_is_sealed(int fd); /* can nobody make it smaller? */
int soft_file_of(int fd, struct soft_file *file);
/* A new descriptor of the same file, which shares no locks with `fd`; -errno. */
int soft_file_reopen(int fd);
/* A file of our own: is its descriptor still what it was? */
bool soft_file_is(const struct soft_file *file);

#endif
