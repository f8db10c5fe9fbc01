/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations. Those of the device are made by the worker; where one lies, nothing of this process
 * may: its addresses are reserved here, and if they are not free it is made again elsewhere. Pinned
 * memory is this machine's alone.
 */
#include "src/shim/remote/memory.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/remote/arena.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/room.h"
#include "src/shim/remote/snapshot.h"

#define TRIES 8
#define HOST_FLAGS                                                                                 \
    (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED)
#define REGISTERED 0x80000000u /* the program's own memory */
#define IN_ARENA   0x40000000u /* not an allocation of the driver's, but mapped in an arena */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static struct harp_ranges device, host;
static uint64_t ids;

/* In a child made by fork another thread may have had it, and never gives it back: who comes
 * without having asked whether there is a session, asks here. */
static bool locked(void)
{
    return harp_remote_ready() == CUDA_SUCCESS && pthread_mutex_lock(&lock) == 0;
}

/* --- which memory there is -------------------------------------------------------------------- */

static void add_memory(uint64_t base, uint64_t bytes, uint32_t flags)
{
    const struct harp_lane *lane = harp_lane();
    pthread_mutex_lock(&lock);
    const struct harp_range range = {
        .base = base,
        .bytes = bytes,
        .ctx = lane != NULL ? harp_lane_current(lane) : 0,
        .id = ++ids,
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

bool harp_remote_pinned(const void *data, uint64_t bytes)
{
    if (!locked())
        return false;
    bool there = harp_ranges_hold(&host, (uintptr_t)data, bytes);
    pthread_mutex_unlock(&lock);
    return there;
}

bool harp_remote_range(uint64_t address, bool *on_device, struct harp_range *out)
{
    if (!locked())
        return false;
    const struct harp_range *r = harp_ranges_find(&device, address);
    *on_device = r != NULL;
    if (r == NULL)
        r = harp_ranges_find(&host, address);
    if (r != NULL)
        *out = *r;
    pthread_mutex_unlock(&lock);
    return r != NULL;
}

static CUresult no_mapping(unsigned symbol)
{
    return harp_remote_refused(symbol, CUDA_ERROR_NOT_SUPPORTED,
                               "no kernel elsewhere reaches memory of this machine");
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
    CUresult r = sent_alloc(dptr, bytes, pitch, rows, e);
    while (r == CUDA_SUCCESS) {
        size = pitch == NULL ? bytes : *pitch * rows;
        err = harp_remote_reserve(*dptr, size);
        if (err == 0)
            add_memory(*dptr, size, 0);
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
    return dptr == NULL ? harp_sent_cuMemAlloc_v2(dptr, bytesize)
                        : alloc(dptr, bytesize, NULL, 0, 0);
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
    return dropped(&was, harp_sent_cuMemFree_v2(dptr));
}

/* From pools: addresses that are not free here cannot be had again elsewhere, only given back. */
static CUresult pooled(CUdeviceptr *dptr, size_t bytes, CUstream stream, CUresult r)
{
    if (r != CUDA_SUCCESS)
        return r;
    if (harp_remote_capturing(0))
        harp_remote_graph_memory(true);
    if (harp_remote_reserve(*dptr, bytes) != 0) {
        harp_remote_taken(*dptr, bytes);
        harp_sent_cuMemFreeAsync(*dptr, stream);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    add_memory(*dptr, bytes, 0);
    return r;
}

CUresult harp_remote_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    return pooled(dptr, bytesize, hStream, harp_sent_cuMemAllocAsync(dptr, bytesize, hStream));
}

CUresult harp_remote_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                             CUstream hStream)
{
    CUresult r = harp_sent_cuMemAllocFromPoolAsync(dptr, bytesize, pool, hStream);
    return pooled(dptr, bytesize, hStream, r);
}

/* Pools of the host's memory, and of managed memory, would be read here without a copy. */
CUresult harp_remote_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    if (poolProps != NULL && (poolProps->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED ||
                              poolProps->location.type > CU_MEM_LOCATION_TYPE_DEVICE))
        return no_mapping(HARP_SYM_cuMemPoolCreate);
    return harp_sent_cuMemPoolCreate(pool, poolProps);
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

/* --- pinned memory ---------------------------------------------------------------------------- */

static CUresult with_context(void)
{
    CUresult r = harp_remote_ready();
    const struct harp_lane *lane = r == CUDA_SUCCESS ? harp_lane() : NULL;
    if (r == CUDA_SUCCESS && (lane == NULL || harp_lane_current(lane) == 0))
        r = lane == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_CONTEXT;
    return r;
}

static CUresult add_host(void *at, size_t bytes, unsigned flags)
{
    const struct harp_lane *lane = harp_lane();
    pthread_mutex_lock(&lock);
    const struct harp_range range = {.base = (uintptr_t)at,
                                     .bytes = bytes,
                                     .ctx = lane != NULL ? harp_lane_current(lane) : 0,
                                     .id = ++ids,
                                     .flags = flags};
    bool added = harp_ranges_add(&host, &range);
    pthread_mutex_unlock(&lock);
    return added ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
}

CUresult harp_remote_cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    CUresult r = with_context();
    if (r != CUDA_SUCCESS)
        return r;
    if (pp == NULL || bytesize == 0 || (Flags & ~(unsigned)HOST_FLAGS) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (Flags & CU_MEMHOSTALLOC_DEVICEMAP)
        return no_mapping(HARP_SYM_cuMemHostAlloc);
    int saved = errno;
    void *at = mmap(NULL, bytesize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved;
    if (at == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = add_host(at, bytesize, Flags);
    if (r != CUDA_SUCCESS)
        munmap(at, bytesize);
    else
        *pp = at;
    return r == CUDA_SUCCESS ? r : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult harp_remote_cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    return harp_remote_cuMemHostAlloc(pp, bytesize, 0);
}

CUresult harp_remote_cuMemAllocHost(void **pp, unsigned int bytesize)
{
    return harp_remote_cuMemHostAlloc(pp, bytesize, 0);
}

static CUresult end_host(void *p, bool registered, CUresult none)
{
    CUresult r = with_context();
    bool on_device;
    struct harp_range range;
    if (r != CUDA_SUCCESS)
        return r;
    if (!harp_remote_range((uintptr_t)p, &on_device, &range) || on_device ||
        range.base != (uintptr_t)p || registered != ((range.flags & REGISTERED) != 0))
        return none;
    if (harp_remote_settle(p, range.bytes) != 0)
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    pthread_mutex_lock(&lock);
    bool was = harp_ranges_remove(&host, range.base);
    pthread_mutex_unlock(&lock);
    if (was && !registered)
        munmap(p, range.bytes);
    return was ? CUDA_SUCCESS : none;
}

CUresult harp_remote_cuMemFreeHost(void *p)
{
    return end_host(p, false, CUDA_ERROR_INVALID_VALUE);
}

CUresult harp_remote_cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    CUresult r = with_context();
    if (r != CUDA_SUCCESS)
        return r;
    if (p == NULL || bytesize == 0 || Flags > 0xf)
        return CUDA_ERROR_INVALID_VALUE;
    if (Flags & CU_MEMHOSTREGISTER_DEVICEMAP)
        return no_mapping(HARP_SYM_cuMemHostRegister_v2);
    return add_host(p, bytesize, Flags | REGISTERED);
}

CUresult harp_remote_cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
    return harp_remote_cuMemHostRegister_v2(p, bytesize, Flags);
}

CUresult harp_remote_cuMemHostUnregister(void *p)
{
    return end_host(p, true, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

CUresult harp_remote_cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    bool on_device;
    struct harp_range range;
    CUresult r = with_context();
    if (r != CUDA_SUCCESS)
        return r;
    if (pFlags == NULL || !harp_remote_range((uintptr_t)p, &on_device, &range) || on_device)
        return CUDA_ERROR_INVALID_VALUE;
    *pFlags = range.flags & ~REGISTERED;
    return CUDA_SUCCESS;
}
