/* SPDX-License-Identifier: Apache-2.0
 *
 * Local memory: a kernel whose frame is larger than the stack of its context has the driver add the
 * difference, for every thread that can be resident, at its first launch; it stays until the stack
 * is set again (limit.c) or the context goes. It is leased before that launch.
 *
 * Fast path (generated/shim_time.c): `harp_local_fits` holds functions that take nothing when they
 * are launched, whatever the context: a load and a compare; and beside each where its launches are
 * counted.
 */
#ifndef HARP_SHIM_LOCAL_H
#define HARP_SHIM_LOCAL_H

#include "src/shim/gate/memory.h"
#include "src/shim/gate/profile.h"

#define HARP_LOCAL_SETS 2048

/* Functions, by harp_local_set(); a free place has no row. A row of another function is met only
 * while the two change places: rows are never gone. */
extern struct harp_local_fit {
    uintptr_t f[2];
    struct harp_profile_row *row[2];
} harp_local_fits[HARP_LOCAL_SETS];

struct harp_local { /* between begin and end of a launch; on the caller's stack */
    CUcontext ctx;  /* NULL: it takes nothing */
    int dev;
    size_t frame;
};

static inline unsigned harp_local_set(CUfunction f)
{
    return (unsigned)(((uint64_t)(uintptr_t)f * 0x9e3779b97f4a7c15ull) >> 32) % HARP_LOCAL_SETS;
}

/* Where launches of a function that takes nothing are counted; NULL: it may take something. No
 * function (0) is as good as any: its launch is refused. */
static inline struct harp_profile_row *harp_local_row(CUfunction f)
{
    const struct harp_local_fit *at = &harp_local_fits[harp_local_set(f)];
    if (__atomic_load_n(&at->f[0], __ATOMIC_ACQUIRE) == (uintptr_t)f)
        return __atomic_load_n(&at->row[0], __ATOMIC_RELAXED);
    if (__atomic_load_n(&at->f[1], __ATOMIC_ACQUIRE) == (uintptr_t)f)
        return __atomic_load_n(&at->row[1], __ATOMIC_RELAXED);
    return NULL;
}

static inline bool harp_local_open(CUfunction f)
{
    return harp_local_row(f) != NULL;
}

/* Leases what a launch adds. Before the time gate, for it may wait. */
CUresult harp_local_grow(struct harp_local *local, CUfunction f, CUstream on);
/* Of a frame in a context: a graph's. */
CUresult harp_local_grow_by(struct harp_local *local, CUcontext ctx, size_t frame);
void harp_local_grown(const struct harp_local *local, bool launched);

static inline CUresult harp_local_begin(struct harp_local *local, CUfunction f, CUstream on)
{
    local->ctx = NULL;
    return harp_local_open(f) ? CUDA_SUCCESS : harp_local_grow(local, f, on);
}

static inline CUresult harp_local_end(const struct harp_local *local, CUresult r)
{
    if (local->ctx != NULL)
        harp_local_grown(local, r == CUDA_SUCCESS);
    return r;
}

/* A graph is given a kernel, in `ctx` (NULL: the current one). True: its frame is a large one, and
 * *ctx and *frame say where and how large. */
bool harp_local_large(CUfunction f, CUcontext *ctx, size_t *frame);

/* What is known of functions is forgotten: handles may be reused, or stacks have changed. Before a
 * module, library or context goes, after a context was made or a stack was set. */
void harp_local_forget(void);

/* limit.c: the stack that the current context, `ctx`, began with. False: the driver does not say.*/
bool harp_limit_usual(CUcontext ctx, int dev, size_t *stack);
/* Leases what a stack of `frame` bytes needs more than there is; *grows: harp_limit_grown() must
 * tell whether it was launched. */
CUresult harp_limit_grow(CUcontext ctx, int dev, size_t frame, bool *grows);
void harp_limit_grown(CUcontext ctx, int dev, size_t frame, bool launched);

#endif
