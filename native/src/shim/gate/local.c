/* SPDX-License-Identifier: Apache-2.0
 *
 * Which functions have frames larger than a stack, and what their launches add: see local.h.
 *
 * A function is asked for its frame when it is launched or given to a graph for the first time: not
 * before, for that would load it earlier than the program does. One that no context's first stack
 * is too small for is known for good. Larger ones are known while the process has one context and
 * that has the room; from the first of them on graphs are read (graph_nodes.c). A launch into a
 * capture adds nothing: the graph's does.
 */
#include "src/shim/gate/local.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"

struct harp_local_fit harp_local_fits[HARP_LOCAL_SETS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* whoever writes `harp_local_fits` */
static uint64_t forgotten;                               /* how often */
static bool larger; /* functions with large frames may be among those: graphs ask of all */

void harp_local_forget(void)
{
    pthread_mutex_lock(&lock);
    __atomic_store_n(&forgotten, forgotten + 1, __ATOMIC_RELAXED);
    for (int i = 0; i < HARP_LOCAL_SETS; i++)
        for (int way = 0; way < 2; way++) {
            __atomic_store_n(&harp_local_fits[i].f[way], 0, __ATOMIC_RELAXED);
            __atomic_store_n(&harp_local_fits[i].row[way], NULL, __ATOMIC_RELAXED);
        }
    pthread_mutex_unlock(&lock);
}

/* `since`: `forgotten` before the driver was asked about it. */
static void remember(CUfunction f, uint64_t since)
{
    struct harp_local_fit *at = &harp_local_fits[harp_local_set(f)];
    struct harp_profile_row *row = harp_profile_of(f);
    pthread_mutex_lock(&lock);
    if (since == forgotten && !harp_local_open(f)) {
        if (at->f[0] != 0) {
            __atomic_store_n(&at->row[1], at->row[0], __ATOMIC_RELAXED);
            __atomic_store_n(&at->f[1], at->f[0], __ATOMIC_RELEASE);
        }
        __atomic_store_n(&at->row[0], row, __ATOMIC_RELAXED);
        __atomic_store_n(&at->f[0], (uintptr_t)f, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
}

void harp_local_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    harp_local_forget();
}

/* --- how large it is ------------------------------------------------------------------------- */

static int device_of(CUcontext ctx)
{
    const struct harp_timegate *gate = ctx != NULL ? harp_gate_of(ctx) : NULL;
    CUcontext current;
    int dev;
    if (gate != NULL)
        return (int)(gate - harp_gates);
    if (ctx == NULL || harp_device_current(&dev, &current) != CUDA_SUCCESS || current != ctx)
        return -1;
    return dev;
}

/* Makes `ctx` current, if it is not. */
static bool enter(CUcontext ctx, bool *pushed)
{
    CUcontext current = NULL;
    *pushed = false;
    harp_enter();
    CUresult r = HARP_REAL(cuCtxGetCurrent)(&current);
    if (r == CUDA_SUCCESS && current != ctx) {
        r = HARP_REAL(cuCtxPushCurrent_v2)(ctx);
        *pushed = r == CUDA_SUCCESS;
    }
    if (r != CUDA_SUCCESS)
        harp_leave();
    return r == CUDA_SUCCESS;
}

static void leave(bool pushed)
{
    CUcontext ignored;
    if (pushed)
        HARP_REAL(cuCtxPopCurrent_v2)(&ignored);
    harp_leave();
}

/* Kernels of libraries are launched by handles of their own, in any context. */
static CUresult ask(CUfunction f, int *bytes)
{
    CUfunction_attribute what = CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES;
    CUdevice device;
    CUresult r = HARP_REAL(cuFuncGetAttribute)(bytes, what, f);
    if (r != CUDA_SUCCESS && HARP_HAS(cuKernelGetAttribute) &&
        HARP_REAL(cuCtxGetDevice)(&device) == CUDA_SUCCESS)
        r = HARP_REAL(cuKernelGetAttribute)(bytes, what, (CUkernel)(void *)f, device);
    return r;
}

enum size { UNKNOWN, SMALL, LARGE };

static enum size size_in(CUcontext ctx, int dev, CUfunction f, size_t *frame)
{
    bool pushed;
    int bytes = 0;
    size_t usual = 0;
    if (!HARP_HAS(cuFuncGetAttribute))
        return SMALL;
    if (dev < 0 || !enter(ctx, &pushed))
        return UNKNOWN;
    bool told = ask(f, &bytes) == CUDA_SUCCESS && bytes >= 0 && harp_limit_usual(ctx, dev, &usual);
    leave(pushed);
    *frame = told ? (size_t)bytes : 0;
    return !told ? UNKNOWN : *frame > usual ? LARGE : SMALL;
}

static void large_known(void)
{
    __atomic_store_n(&larger, true, __ATOMIC_RELEASE);
    harp_graphs_matter();
}

/* --- launches -------------------------------------------------------------------------------- */

CUresult harp_local_grow_by(struct harp_local *local, CUcontext ctx, size_t frame)
{
    bool grows = false;
    int dev = device_of(ctx);
    CUresult r = dev >= 0 ? harp_limit_grow(ctx, dev, frame, &grows) : CUDA_SUCCESS;
    *local = (struct harp_local){.ctx = grows && r == CUDA_SUCCESS ? ctx : NULL, dev, frame};
    return r;
}

void harp_local_grown(const struct harp_local *local, bool launched)
{
    int saved = errno;
    harp_limit_grown(local->ctx, local->dev, local->frame, launched);
    errno = saved;
}

CUresult harp_local_grow(struct harp_local *local, CUfunction f, CUstream on)
{
    uint64_t since = __atomic_load_n(&forgotten, __ATOMIC_RELAXED);
    CUresult r = CUDA_SUCCESS;
    size_t frame = 0;
    local->ctx = NULL;
    if (harp_inside() || __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED))
        return r;
    int saved = errno;
    if (f == NULL) { /* the driver refuses it, or asks for none: nothing is taken */
        remember(f, since);
        errno = saved;
        return r;
    }
    CUcontext ctx = harp_stream_context(on);
    enum size size = size_in(ctx, device_of(ctx), f, &frame);
    bool fits = size == SMALL;
    if (size == LARGE) {
        large_known();
        if (!harp_capturing(on)) {
            r = harp_local_grow_by(local, ctx, frame);
            fits = r == CUDA_SUCCESS && local->ctx == NULL && harp_gate_contexts() <= 1 &&
                   harp_context_count(-1) <= 1;
        }
    }
    if (fits)
        remember(f, since);
    errno = saved;
    return r;
}

bool harp_local_large(CUfunction f, CUcontext *ctx, size_t *frame)
{
    uint64_t since = __atomic_load_n(&forgotten, __ATOMIC_RELAXED);
    if (f == NULL || (harp_local_open(f) && !__atomic_load_n(&larger, __ATOMIC_ACQUIRE)))
        return false;
    int saved = errno;
    if (*ctx == NULL)
        *ctx = harp_stream_context(NULL);
    enum size size = size_in(*ctx, device_of(*ctx), f, frame);
    if (size == SMALL)
        remember(f, since);
    else
        large_known();
    errno = saved;
    return size == LARGE;
}
