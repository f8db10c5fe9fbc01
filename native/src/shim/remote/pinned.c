/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned memory: this machine's alone, which no kernel elsewhere reaches.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/memory.h"

#define HOST_FLAGS                                                                                 \
    (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED)
#define REGISTERED 0x80000000u /* the program's own memory */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards it */
static struct harp_ranges host;

static CUresult no_mapping(unsigned symbol)
{
    return harp_remote_refused(symbol, CUDA_ERROR_NOT_SUPPORTED,
                               "no kernel elsewhere reaches memory of this machine");
}

/* A child made by fork has no session, and may find the lock taken for good. */
static bool locked(void)
{
    return harp_remote_ready() == CUDA_SUCCESS && pthread_mutex_lock(&lock) == 0;
}

bool harp_remote_pinned(const void *data, uint64_t bytes)
{
    if (!locked())
        return false;
    bool there = harp_ranges_hold(&host, (uintptr_t)data, bytes);
    pthread_mutex_unlock(&lock);
    return there;
}

bool harp_remote_pinned_range(uint64_t address, struct harp_range *out)
{
    if (!locked())
        return false;
    const struct harp_range *r = harp_ranges_find(&host, address);
    if (r != NULL)
        *out = *r;
    pthread_mutex_unlock(&lock);
    return r != NULL;
}

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
                                     .id = harp_remote_memory_id(),
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

/* Pools of the host's memory, and of managed memory, would be read here without a copy. */
CUresult harp_remote_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    if (poolProps != NULL && (poolProps->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED ||
                              poolProps->location.type > CU_MEM_LOCATION_TYPE_DEVICE))
        return no_mapping(HARP_SYM_cuMemPoolCreate);
    return harp_sent_cuMemPoolCreate(pool, poolProps);
}

/* The memory is the program's, and stays. */
void harp_remote_forget_pinned(void)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < host.count; i++)
        host.at[i].ctx = 0; /* another session's worker may name one of its own so */
    pthread_mutex_unlock(&lock);
}
