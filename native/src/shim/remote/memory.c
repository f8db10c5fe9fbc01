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
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/snapshot.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define CHUNK 0x200000ull /* reserved at once: drivers cut allocations out of as much */
#define TRIES 8
#define HOST_FLAGS                                                                                 \
    (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED)
#define REGISTERED 0x80000000u /* the program's own memory */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the four below */
static struct harp_ranges device, host, reserved;
static uint64_t ids;

/* In a child made by fork another thread may have had it, and never gives it back: who comes
 * without having asked whether there is a session, asks here. */
static bool locked(void)
{
    return harp_remote_ready() == CUDA_SUCCESS && pthread_mutex_lock(&lock) == 0;
}

/* --- addresses of the device ------------------------------------------------------------------ */

/* A run of chunks that are not ours yet. Without room for it (ulimit -v) nothing is reserved, and
 * nothing is known to be wrong. */
static int reserve(uint64_t from, uint64_t bytes)
{
    void *want = (void *)(uintptr_t)from;
    void *got = mmap(want, bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED)
        return errno == EEXIST ? -EEXIST : 0;
    if (got != want) { /* a kernel of before 4.17 */
        munmap(got, bytes);
        return -EEXIST;
    }
    const struct harp_range range = {.base = from, .bytes = bytes};
    harp_ranges_add(&reserved, &range);
    return 0;
}

int harp_remote_reserve(uint64_t base, uint64_t bytes)
{
    int saved = errno, err = 0;
    uint64_t at = base & ~(CHUNK - 1), end = base + bytes;
    pthread_mutex_lock(&lock);
    while (err == 0 && at < end) {
        const struct harp_range *ours = harp_ranges_find(&reserved, at);
        if (ours != NULL) {
            at = ours->base + ours->bytes;
            continue;
        }
        uint64_t stop = at;
        while (stop < end && harp_ranges_find(&reserved, stop) == NULL)
            stop += CHUNK;
        err = reserve(at, stop - at);
        at = stop;
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return err;
}

void harp_remote_add_memory(uint64_t base, uint64_t bytes)
{
    const struct harp_lane *lane = harp_lane();
    pthread_mutex_lock(&lock);
    const struct harp_range range = {
        .base = base,
        .bytes = bytes,
        .ctx = lane != NULL ? harp_lane_current(lane) : 0,
        .id = ++ids,
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

void harp_remote_forget_ranges(void)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < reserved.count; i++)
        munmap((void *)(uintptr_t)reserved.at[i].base, reserved.at[i].bytes);
    reserved.count = device.count = 0;
    for (size_t i = 0; i < host.count; i++)
        host.at[i].ctx = 0; /* another session's worker may name one of its own so */
    pthread_mutex_unlock(&lock);
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

/* Those whose addresses are not free here are kept until one is found whose are. */
static CUresult alloc(CUdeviceptr *dptr, size_t bytes, size_t *pitch, size_t rows, unsigned e)
{
    CUdeviceptr taken[TRIES];
    int n = 0, err = 0;
    CUresult r = sent_alloc(dptr, bytes, pitch, rows, e);
    while (r == CUDA_SUCCESS) {
        uint64_t size = pitch == NULL ? bytes : *pitch * rows;
        err = harp_remote_reserve(*dptr, size);
        if (err == 0)
            harp_remote_add_memory(*dptr, size);
        if (err == 0 || n == TRIES)
            break;
        taken[n++] = *dptr;
        r = sent_alloc(dptr, bytes, pitch, rows, e);
    }
    if (r == CUDA_SUCCESS && err != 0) {
        harp_log(
            "remote_address_taken address=%#llx bytes=%zu why=\"this process has memory of its "
            "own there\" remedy=\"start it with fewer libraries, or with setarch -R\"",
            (unsigned long long)*dptr, bytes);
        harp_sent_cuMemFree_v2(*dptr);
        r = CUDA_ERROR_OUT_OF_MEMORY;
    }
    while (n > 0)
        harp_sent_cuMemFree_v2(taken[--n]);
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

CUresult harp_remote_cuMemFree_v2(CUdeviceptr dptr)
{
    struct harp_range was = drop(dptr);
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
        harp_sent_cuMemFreeAsync(*dptr, stream);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    harp_remote_add_memory(*dptr, bytes);
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
