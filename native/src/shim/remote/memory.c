/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations of the device. They are made by the worker; where one lies, nothing of this process
 * may: its addresses are reserved here, and if they are not free it is made again elsewhere.
 */
#include "src/shim/remote/memory.h"

#include <pthread.h>

#include "src/shim/entry/entry.h"
#include "src/shim/remote/arena.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/lease.h"
#include "src/shim/remote/room.h"
#include "src/shim/remote/snapshot.h"

#define TRIES    8
#define IN_ARENA 1u /* flag of a range: no allocation of the driver's, but mapped in an arena */
#define PLAIN    2u /* cuMemAlloc's */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards it */
static struct harp_ranges device;
static uint64_t ids; /* atomic; of pinned memory, too */

/* In a child made by fork another thread may have had it, and never gives it back: who comes
 * without having asked whether there is a session, asks here. */
static bool locked(void)
{
    return harp_remote_ready() == CUDA_SUCCESS && pthread_mutex_lock(&lock) == 0;
}

/* --- which memory there is -------------------------------------------------------------------- */

uint64_t harp_remote_memory_id(void)
{
    return __atomic_add_fetch(&ids, 1, __ATOMIC_RELAXED);
}

static void add_memory(uint64_t base, uint64_t bytes, uint32_t flags)
{
    const struct harp_lane *lane = harp_lane();
    pthread_mutex_lock(&lock);
    const struct harp_range range = {
        .base = base,
        .bytes = bytes,
        .ctx = lane != NULL ? harp_lane_current(lane) : 0,
        .id = harp_remote_memory_id(),
        .flags = flags,
    };
    harp_ranges_remove(&device, base); /* it ended with its context, or its pool */
    harp_ranges_add(&device, &range);
    pthread_mutex_unlock(&lock);
}

/* Before the call, for others may have its addresses as soon as that is made. None of ours (bytes
 * 0): the driver is asked what it is. */
static struct harp_range drop(uint64_t base)
{
    struct harp_range was = {.bytes = 0};
    if (!locked())
        return was;
    const struct harp_range *r = harp_ranges_find(&device, base);
    if (r != NULL && r->base == base) {
        was = *r;
        harp_ranges_remove(&device, base);
    }
    pthread_mutex_unlock(&lock);
    if (was.bytes == 0)
        harp_remote_doubt();
    return was;
}

/* It is still there if it could not be given back. */
static CUresult dropped(const struct harp_range *was, CUresult r)
{
    if (r == CUDA_SUCCESS || was->bytes == 0)
        return r;
    pthread_mutex_lock(&lock);
    harp_ranges_add(&device, was);
    pthread_mutex_unlock(&lock);
    return r;
}

void harp_remote_forget_memory(uint64_t ctx)
{
    pthread_mutex_lock(&lock);
    harp_ranges_remove_of(&device, ctx);
    pthread_mutex_unlock(&lock);
    harp_remote_forget_lease(ctx);
}

void harp_remote_forget_ranges(void)
{
    pthread_mutex_lock(&lock);
    device.count = 0;
    pthread_mutex_unlock(&lock);
    harp_remote_forget_arenas();
    harp_remote_forget_leases();
    harp_remote_forget_room();
    harp_remote_forget_pinned();
}

/* One in an arena that is of that context; bytes 0: none is. */
static struct harp_range in_arena_of(uint64_t ctx)
{
    struct harp_range is = {.bytes = 0};
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < device.count && is.bytes == 0; i++)
        if (device.at[i].ctx == ctx && (device.at[i].flags & IN_ARENA) != 0)
            is = device.at[i];
    if (is.bytes != 0)
        harp_ranges_remove(&device, is.base);
    pthread_mutex_unlock(&lock);
    return is;
}

void harp_remote_leave_arena(uint64_t ctx)
{
    struct harp_range is = in_arena_of(ctx);
    if (is.bytes != 0)
        (void)harp_remote_arena_wait(&is); /* if that fails, nothing runs there any more */
    for (; is.bytes != 0; is = in_arena_of(ctx))
        harp_remote_arena_give(&is);
}

bool harp_remote_on_device(uint64_t address, uint64_t bytes)
{
    if (!locked())
        return false;
    bool there = harp_ranges_hold(&device, address, bytes);
    pthread_mutex_unlock(&lock);
    return there;
}

bool harp_remote_range(uint64_t address, bool *on_device, struct harp_range *out)
{
    if (!locked())
        return false;
    const struct harp_range *r = harp_ranges_find(&device, address);
    *on_device = r != NULL;
    if (r != NULL)
        *out = *r;
    pthread_mutex_unlock(&lock);
    return *on_device || harp_remote_pinned_range(address, out);
}

/* --- allocation ------------------------------------------------------------------------------- */

static CUresult sent_alloc(CUdeviceptr *dptr, size_t bytes, size_t *pitch, size_t rows, unsigned e)
{
    return pitch == NULL ? harp_sent_cuMemAlloc_v2(dptr, bytes)
                         : harp_sent_cuMemAllocPitch_v2(dptr, pitch, bytes, rows, e);
}

/* Those whose addresses are not free here are kept until one is found whose are; then there is the
 * arena. */
static CUresult alloc(CUdeviceptr *dptr, size_t bytes, size_t *pitch, size_t rows, unsigned e)
{
    CUdeviceptr taken[TRIES];
    int n = 0, err = 0, tries = harp_remote_has_arena() ? 0 : TRIES;
    uint64_t size = bytes;
    if (pitch != NULL)
        harp_remote_lease_back();
    CUresult r = pitch == NULL && tries != 0 ? harp_remote_lease_ask(dptr, bytes)
                                             : sent_alloc(dptr, bytes, pitch, rows, e);
    while (r == CUDA_SUCCESS) {
        size = pitch == NULL ? bytes : *pitch * rows;
        err = harp_remote_reserve(*dptr, size);
        if (err == 0)
            add_memory(*dptr, size, pitch == NULL ? PLAIN : 0);
        if (err == 0 || n == tries)
            break;
        taken[n++] = *dptr;
        r = sent_alloc(dptr, bytes, pitch, rows, e);
    }
    uint64_t last = err == 0 ? 0 : r == CUDA_SUCCESS ? *dptr : taken[n - 1];
    if (r == CUDA_SUCCESS && err != 0)
        harp_sent_cuMemFree_v2(*dptr);
    while (n > 0)
        harp_sent_cuMemFree_v2(taken[--n]);
    /* Also where there was memory for some of the tries, and not for all. */
    if (err == 0 || (r != CUDA_SUCCESS && r != CUDA_ERROR_OUT_OF_MEMORY))
        return r;
    r = harp_remote_arena_alloc(dptr, size, last);
    if (r == CUDA_SUCCESS)
        add_memory(*dptr, size, IN_ARENA);
    else
        harp_remote_taken(last, size);
    return r;
}

CUresult harp_remote_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    if (dptr == NULL)
        return harp_sent_cuMemAlloc_v2(dptr, bytesize);
    if (!harp_remote_lease_take(dptr, bytesize))
        return alloc(dptr, bytesize, NULL, 0, 0);
    add_memory(*dptr, bytesize, PLAIN);
    return CUDA_SUCCESS;
}

CUresult harp_remote_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                                        size_t Height, unsigned int ElementSizeBytes)
{
    if (dptr == NULL || pPitch == NULL)
        return harp_sent_cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
    return alloc(dptr, WidthInBytes, pPitch, Height, ElementSizeBytes);
}

/* `late`: what waiting for it has said. While something captures, nothing was waited for. */
static CUresult free_in_arena(const struct harp_range *was, CUresult late)
{
    if (late != CUDA_SUCCESS && harp_remote_capturing(0))
        return dropped(was, late);
    CUresult r = harp_remote_arena_give(was);
    return r != CUDA_SUCCESS ? dropped(was, r) : late;
}

CUresult harp_remote_cuMemFree_v2(CUdeviceptr dptr)
{
    struct harp_range was = drop(dptr);
    if (was.flags & IN_ARENA)
        return free_in_arena(&was, harp_remote_arena_wait(&was));
    CUresult r;
    if ((was.flags & PLAIN) == 0 || !harp_remote_lease_keep(&was, &r))
        r = harp_sent_cuMemFree_v2(dptr);
    return dropped(&was, r);
}

/* --- in the order of streams ------------------------------------------------------------------ */

struct pooled {
    size_t bytes;
    CUmemoryPool pool; /* NULL: the current one of the stream's device */
    CUstream stream;
};

static CUresult sent_pooled(CUdeviceptr *dptr, const struct pooled *p)
{
    return p->pool == NULL ? harp_sent_cuMemAllocAsync(dptr, p->bytes, p->stream)
                           : harp_sent_cuMemAllocFromPoolAsync(dptr, p->bytes, p->pool, p->stream);
}

/* Whether the memory is of the current context's device, as far as is known. */
static bool here(const struct pooled *p)
{
    const struct harp_lane *lane = harp_lane();
    const uintptr_t stream = (uintptr_t)p->stream;
    if (p->pool != NULL || lane == NULL)
        return false;
    if (stream <= 2) /* the context's own */
        return true;
    const struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUstream, stream);
    return thing != NULL && thing->owner == harp_lane_current(lane);
}

/* The same of pools; but what a graph is to allocate is captured once. */
static CUresult pooled(CUdeviceptr *dptr, const struct pooled *p)
{
    CUdeviceptr taken[TRIES + 1];
    const bool captures = harp_remote_capturing(0), placed = !captures && here(p);
    int n = 0, tries = captures || (placed && harp_remote_has_arena()) ? 0 : TRIES;
    bool found = false;
    CUresult r;
    do {
        r = sent_pooled(dptr, p);
        found = r == CUDA_SUCCESS && harp_remote_reserve(*dptr, p->bytes) == 0;
        if (r == CUDA_SUCCESS && !found)
            taken[n++] = *dptr;
    } while (r == CUDA_SUCCESS && !found && n <= tries);
    if (captures && r == CUDA_SUCCESS)
        harp_remote_graph_memory(true);
    const uint64_t last = n == 0 ? 0 : taken[n - 1];
    while (n > 0)
        harp_sent_cuMemFreeAsync(taken[--n], p->stream);
    if (found)
        add_memory(*dptr, p->bytes, 0);
    if (found || last == 0 || (r != CUDA_SUCCESS && r != CUDA_ERROR_OUT_OF_MEMORY))
        return r;
    r = placed ? harp_remote_arena_alloc(dptr, p->bytes, last) : CUDA_ERROR_OUT_OF_MEMORY;
    if (r == CUDA_SUCCESS)
        add_memory(*dptr, p->bytes, IN_ARENA);
    else
        harp_remote_taken(last, p->bytes);
    return r;
}

CUresult harp_remote_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    const struct pooled p = {.bytes = bytesize, .stream = hStream};
    return dptr == NULL ? harp_sent_cuMemAllocAsync(dptr, bytesize, hStream) : pooled(dptr, &p);
}

CUresult harp_remote_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                             CUstream hStream)
{
    const struct pooled p = {.bytes = bytesize, .pool = pool, .stream = hStream};
    return dptr == NULL || pool == NULL
               ? harp_sent_cuMemAllocFromPoolAsync(dptr, bytesize, pool, hStream)
               : pooled(dptr, &p);
}

CUresult harp_remote_cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    bool known;
    struct harp_range range;
    if (harp_remote_ready() == CUDA_SUCCESS && harp_remote_range(dptr, &known, &range) && known) {
        if (pbase != NULL)
            *pbase = range.base;
        if (psize != NULL)
            *psize = range.bytes;
        return CUDA_SUCCESS;
    }
    CUresult r = harp_sent_cuMemGetAddressRange_v2(pbase, psize, dptr);
    return r == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_NOT_FOUND : r; /* not the session's */
}

CUresult harp_remote_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    struct harp_range was = drop(dptr);
    if (was.flags & IN_ARENA)
        return free_in_arena(&was, harp_sent_cuStreamSynchronize(hStream));
    return dropped(&was, harp_sent_cuMemFreeAsync(dptr, hStream));
}
