/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools as objects: made, destroyed, the default and the current one of each location.
 */
#include "soft/gpu/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/checkpoint.h"
#include "soft/gpu/shared.h"

#define HANDLES_KNOWN                                                                              \
    ((unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | (unsigned)CU_MEM_HANDLE_TYPE_WIN32 |     \
     (unsigned)CU_MEM_HANDLE_TYPE_WIN32_KMT | (unsigned)CU_MEM_HANDLE_TYPE_FABRIC)

static bool is_managed(const CUmemPoolProps *props)
{
    return props->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED;
}

struct soft_pool *soft_pool_of(CUmemoryPool handle)
{
    return soft_handle_is(SOFT_H_POOL, handle) ? (struct soft_pool *)(void *)handle : NULL;
}

CUmemoryPool soft_pool_handle(struct soft_pool *pool)
{
    return pool != NULL && !pool->destroyed ? (CUmemoryPool)(void *)pool : NULL;
}

struct soft_pool *soft_pool_new(const CUmemPoolProps *props, int ordinal, struct soft_phys *phys)
{
    struct soft_pool *pool = calloc(1, sizeof *pool);

    if (pool == NULL || soft_handle_add(SOFT_H_POOL, pool) != 0) {
        free(pool);
        return NULL;
    }
    pool->props = *props;
    pool->ordinal = ordinal;
    pool->phys = phys;
    pool->max_bytes =
        (props->maxSize + SOFT_POOL_UNIT - 1) / SOFT_POOL_UNIT * SOFT_POOL_UNIT; /* as documented */
    pool->follow_events = pool->opportunistic = pool->internal = true;
    for (int i = 0; i < SOFT_MAX_DEVICES && is_managed(props); i++)
        pool->access[i] = SOFT_ACCESS_ALL;
    if (ordinal != SOFT_PHYS_HOST)
        pool->access[ordinal] = SOFT_ACCESS_ALL;
    pool->next = soft_pools;
    pool->link = &soft_pools;
    if (soft_pools != NULL)
        soft_pools->link = &pool->next;
    soft_pools = pool;
    return pool;
}

void soft_pool_delete(struct soft_pool *pool)
{
    soft_handle_remove(SOFT_H_POOL, pool);
    if (pool->destroyed || pool->imported)
        atomic_fetch_sub(&soft_pools_waiting, 1);
    *pool->link = pool->next;
    if (pool->next != NULL)
        pool->next->link = pool->link;
    soft_phys_unref(pool->phys);
    free(pool);
}

/* --------------------------------------------------------------------------------- locations -- */
static bool is_node(int id)
{
    char path[64];

    snprintf(path, sizeof path, "/sys/devices/system/node/node%d", id);
    return id == 0 || (id > 0 && access(path, F_OK) == 0);
}

/* Where it is; `none` for a device that is not there. The id of host memory means nothing. */
static CUresult locate(const CUmemLocation *location, CUresult none, CUmemLocation *at,
                       int *ordinal)
{
    *at = *location;
    *ordinal = SOFT_PHYS_HOST;
    switch ((int)location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *ordinal = soft_visible_ordinal(location->id);
        return *ordinal >= 0 ? CUDA_SUCCESS : none;
    case CU_MEM_LOCATION_TYPE_HOST:
        at->id = 0;
        return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        return is_node(location->id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static bool is_of(const struct soft_pool *pool, CUmemAllocationType type, const CUmemLocation *at)
{
    const CUmemPoolProps *props = &pool->props;

    return props->allocType == type && props->location.type == at->type &&
           props->location.id == at->id;
}

/* Where pools of that type are, if there can be any. A managed pool's memory is the host's. */
static CUresult place(const CUmemLocation *location, CUmemAllocationType type, CUresult none,
                      CUmemLocation *at, int *ordinal)
{
    if (type == CU_MEM_ALLOCATION_TYPE_PINNED)
        return locate(location, none, at, ordinal);
    *ordinal = SOFT_PHYS_HOST;
    return type == CU_MEM_ALLOCATION_TYPE_MANAGED ? soft_pool_managed_locate(location, none, at)
                                                  : CUDA_ERROR_INVALID_VALUE;
}

/* Locked. NULL: no memory. */
static struct soft_pool *default_of(const CUmemLocation *at, CUmemAllocationType type, int ordinal)
{
    CUmemPoolProps props = {.allocType = type, .location = *at};
    struct soft_phys *phys = NULL;
    struct soft_pool *pool;

    for (pool = soft_pools; pool != NULL; pool = pool->next)
        if (pool->builtin && is_of(pool, type, at))
            return pool;
    if (!is_managed(&props))
        phys = soft_phys_make_growing(ordinal, SOFT_PHYS_PRIVATE);
    pool = phys != NULL || is_managed(&props) ? soft_pool_new(&props, ordinal, phys) : NULL;
    if (pool == NULL)
        soft_phys_unref(phys);
    else
        pool->builtin = true;
    return pool;
}

static struct soft_pool *current_of(const CUmemLocation *at, CUmemAllocationType type, int ordinal)
{
    for (struct soft_pool *pool = soft_pools; pool != NULL; pool = pool->next)
        if (pool->current && is_of(pool, type, at))
            return pool;
    return default_of(at, type, ordinal);
}

struct soft_pool *soft_pool_current_of(const CUmemLocation *at)
{
    return current_of(at, CU_MEM_ALLOCATION_TYPE_PINNED,
                      at->type == CU_MEM_LOCATION_TYPE_DEVICE ? soft_visible_ordinal(at->id)
                                                              : SOFT_PHYS_HOST);
}

static CUresult get(CUmemoryPool *out, const CUmemLocation *location, CUmemAllocationType type,
                    CUresult none, bool current)
{
    CUresult r = soft_ready();
    struct soft_pool *pool = NULL;
    CUmemLocation at;
    int ordinal;

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL || location == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = place(location, type, none, &at, &ordinal);
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = current ? current_of(&at, type, ordinal) : default_of(&at, type, ordinal);
    soft_space_unlock();
    if (pool == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = soft_pool_handle(pool);
    return CUDA_SUCCESS;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location,
                                CUmemAllocationType type)
{
    return get(pool_out, location, type, CUDA_ERROR_INVALID_DEVICE, false);
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
    return get(pool, location, type, CUDA_ERROR_INVALID_VALUE, true);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, dev};

    return get(pool_out, &location, CU_MEM_ALLOCATION_TYPE_PINNED, CUDA_ERROR_INVALID_DEVICE,
               false);
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, dev};

    return get(pool, &location, CU_MEM_ALLOCATION_TYPE_PINNED, CUDA_ERROR_INVALID_DEVICE, true);
}

static CUresult set(const CUmemLocation *location, CUmemAllocationType type, CUresult none,
                    CUmemoryPool handle)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;
    CUmemLocation at;
    int ordinal;

    if (r != CUDA_SUCCESS)
        return r;
    if (location == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = place(location, type, none, &at, &ordinal);
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || pool->imported || !is_of(pool, type, &at)) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        for (struct soft_pool *p = soft_pools; p != NULL; p = p->next)
            p->current = p == pool || (p->current && !is_of(p, type, &at));
    }
    soft_space_unlock();
    return r;
}

CUresult cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
    return set(location, type, CUDA_ERROR_INVALID_VALUE, pool);
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, dev};

    return set(&location, CU_MEM_ALLOCATION_TYPE_PINNED, CUDA_ERROR_INVALID_DEVICE, pool);
}

/* ---------------------------------------------------------------------- created, destroyed --- */
static CUresult check(const CUmemPoolProps *props)
{
    unsigned handles = (unsigned)props->handleTypes;

    for (size_t i = 0; i < sizeof props->reserved; i++)
        if (props->reserved[i] != 0)
            return CUDA_ERROR_INVALID_VALUE;
    if ((props->usage & ~CU_MEM_POOL_CREATE_USAGE_HW_DECOMPRESS) != 0 ||
        (handles & ~HANDLES_KNOWN) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (props->location.type == CU_MEM_LOCATION_TYPE_HOST && handles != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (is_managed(props)) /* documented: nobody else's, of no size of its own */
        return handles != 0 || props->maxSize != 0 || props->usage != 0 ? CUDA_ERROR_INVALID_VALUE
                                                                        : CUDA_SUCCESS;
    if (handles != 0 && handles != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED; /* Windows' own, and fabrics between machines */
    return props->usage != 0 ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS; /* no such engine */
}

CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *poolProps)
{
    CUresult r = soft_ready();
    struct soft_pool *pool = NULL;
    struct soft_phys *phys = NULL;
    CUmemPoolProps props;
    int ordinal;

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL || poolProps == NULL || poolProps->maxSize > SIZE_MAX - SOFT_POOL_UNIT)
        return CUDA_ERROR_INVALID_VALUE;
    props = *poolProps;
    r = place(&poolProps->location, props.allocType, CUDA_ERROR_INVALID_VALUE, &props.location,
              &ordinal);
    if (r == CUDA_SUCCESS)
        r = check(&props);
    if (r != CUDA_SUCCESS)
        return r;
    /* what others may hold is charged to a row that only a process with a slot can make */
    if (props.handleTypes != CU_MEM_HANDLE_TYPE_NONE && soft_present(soft_the_state) < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!is_managed(&props))
        phys = soft_phys_make_growing(ordinal, props.handleTypes != CU_MEM_HANDLE_TYPE_NONE
                                                   ? SOFT_PHYS_SHAREABLE
                                                   : SOFT_PHYS_PRIVATE);
    if (phys == NULL && !is_managed(&props))
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_space_lock();
    pool = soft_pool_new(&props, ordinal, phys);
    soft_space_unlock();
    if (pool == NULL) {
        soft_phys_unref(phys);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = soft_pool_handle(pool);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool handle)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || pool->builtin) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        soft_handle_remove(SOFT_H_POOL, pool);
        if (!pool->imported)
            atomic_fetch_add(&soft_pools_waiting, 1);
        pool->destroyed = true;
        pool->current = false;
        soft_pools_reap();
    }
    soft_space_unlock();
    return r;
}
