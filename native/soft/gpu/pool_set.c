/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools as objects: made, destroyed, the default and the current one of each location.
 */
#include "soft/gpu/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/shared.h"

#define HANDLES_KNOWN                                                                              \
    ((unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | (unsigned)CU_MEM_HANDLE_TYPE_WIN32 |     \
     (unsigned)CU_MEM_HANDLE_TYPE_WIN32_KMT | (unsigned)CU_MEM_HANDLE_TYPE_FABRIC)

CUresult soft_pool_managed(const CUmemPoolProps *props, struct soft_pool **pool)
{
    soft_log("pool_refused why=\"pools of managed memory are not there yet\"");
    return CUDA_ERROR_NOT_SUPPORTED;
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

static bool same(const CUmemLocation *a, const CUmemLocation *b)
{
    return a->type == b->type && a->id == b->id;
}

/* Locked. NULL: no memory. */
static struct soft_pool *default_of(const CUmemLocation *at, int ordinal)
{
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = *at};
    struct soft_phys *phys;
    struct soft_pool *pool;

    for (pool = soft_pools; pool != NULL; pool = pool->next)
        if (pool->builtin && same(&pool->props.location, at))
            return pool;
    phys = soft_phys_make_growing(ordinal, SOFT_PHYS_PRIVATE);
    pool = phys != NULL ? soft_pool_new(&props, ordinal, phys) : NULL;
    if (pool == NULL)
        soft_phys_unref(phys);
    else
        pool->builtin = true;
    return pool;
}

struct soft_pool *soft_pool_current_of(const CUmemLocation *at)
{
    for (struct soft_pool *pool = soft_pools; pool != NULL; pool = pool->next)
        if (pool->current && same(&pool->props.location, at))
            return pool;
    return default_of(at, at->type == CU_MEM_LOCATION_TYPE_DEVICE ? soft_visible_ordinal(at->id)
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
    if (type == CU_MEM_ALLOCATION_TYPE_MANAGED) {
        CUmemPoolProps props = {.allocType = type, .location = *location};

        r = soft_pool_managed(&props, &pool);
        if (r == CUDA_SUCCESS)
            *out = soft_pool_handle(pool);
        return r;
    }
    if (type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    r = locate(location, none, &at, &ordinal);
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = current ? soft_pool_current_of(&at) : default_of(&at, ordinal);
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
    r = locate(location, none, &at, &ordinal);
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || pool->imported || pool->props.allocType != type ||
        !same(&pool->props.location, &at)) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        for (struct soft_pool *p = soft_pools; p != NULL; p = p->next)
            p->current = p == pool || (p->current && !same(&p->props.location, &at));
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
    if (handles != 0 && handles != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED; /* Windows' own, and fabrics between machines */
    return props->usage != 0 ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS; /* no such engine */
}

CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *poolProps)
{
    CUresult r = soft_ready();
    struct soft_pool *pool = NULL;
    struct soft_phys *phys;
    CUmemPoolProps props;
    int ordinal;

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL || poolProps == NULL || poolProps->maxSize > SIZE_MAX - SOFT_POOL_UNIT)
        return CUDA_ERROR_INVALID_VALUE;
    props = *poolProps;
    if (props.allocType == CU_MEM_ALLOCATION_TYPE_MANAGED) {
        r = soft_pool_managed(&props, &pool);
        if (r == CUDA_SUCCESS)
            *out = soft_pool_handle(pool);
        return r;
    }
    if (props.allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    r = locate(&poolProps->location, CUDA_ERROR_INVALID_VALUE, &props.location, &ordinal);
    if (r == CUDA_SUCCESS)
        r = check(&props);
    if (r != CUDA_SUCCESS)
        return r;
    /* what others may hold is charged to a row that only a process with a slot can make */
    if (props.handleTypes != CU_MEM_HANDLE_TYPE_NONE && soft_slot_take(soft_the_state) < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    phys = soft_phys_make_growing(ordinal, props.handleTypes != CU_MEM_HANDLE_TYPE_NONE
                                               ? SOFT_PHYS_SHAREABLE
                                               : SOFT_PHYS_PRIVATE);
    if (phys == NULL)
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
