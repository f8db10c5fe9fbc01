/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pool says of itself, what can be set, who may reach it; trimming.
 */
#include "soft/gpu/pool.h"

static bool *policy_of(struct soft_pool *pool, CUmemPool_attribute attr)
{
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        return &pool->follow_events;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        return &pool->opportunistic;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        return &pool->internal;
    default:
        return NULL;
    }
}

static uint64_t *number_of(struct soft_pool *pool, CUmemPool_attribute attr)
{
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        return &pool->threshold;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        return &pool->reserved;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        return &pool->reserved_high;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        return &pool->used;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        return &pool->used_high;
    default:
        return NULL;
    }
}

CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attr, void *value)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || value == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    else if (policy_of(pool, attr) != NULL)
        *(int *)value = *policy_of(pool, attr);
    else if (number_of(pool, attr) != NULL)
        *(cuuint64_t *)value = *number_of(pool, attr);
    else
        r = CUDA_ERROR_INVALID_VALUE; /* 9 and up are later drivers' */
    soft_space_unlock();
    return r;
}

static CUresult set(struct soft_pool *pool, CUmemPool_attribute attr, const void *value)
{
    if (policy_of(pool, attr) != NULL) {
        *policy_of(pool, attr) = *(const int *)value != 0;
        return CUDA_SUCCESS;
    }
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        pool->threshold = *(const cuuint64_t *)value;
        atomic_store(&soft_pools_dirty, true); /* the next wait looks */
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        if (*(const cuuint64_t *)value != 0)
            return CUDA_ERROR_INVALID_VALUE;
        if (attr == CU_MEMPOOL_ATTR_USED_MEM_HIGH)
            pool->used_high = pool->used;
        else
            pool->reserved_high = pool->reserved;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attr, void *value)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = soft_pool_of(handle);
    r = pool == NULL || value == NULL ? CUDA_ERROR_INVALID_VALUE : set(pool, attr, value);
    soft_space_unlock();
    return r;
}

CUresult cuMemPoolTrimTo(CUmemoryPool handle, size_t minBytesToKeep)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    else
        soft_pool_trim(pool, minBytesToKeep);
    soft_space_unlock();
    return r;
}

/* ------------------------------------------------------------------------------------ access -- */
static bool is_host(CUmemLocationType type)
{
    return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
}

/* What `desc` asks for can be had. *ordinal: SOFT_PHYS_HOST for the host's own access. */
static CUresult check(const struct soft_pool *pool, const CUmemAccessDesc *desc, int *ordinal)
{
    bool managed = pool->props.allocType == CU_MEM_ALLOCATION_TYPE_MANAGED;

    *ordinal = SOFT_PHYS_HOST;
    if (desc->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    if (is_host(desc->location.type)) /* of host memory the host's access stays */
        return pool->ordinal == SOFT_PHYS_HOST && desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    if (desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    *ordinal = soft_visible_ordinal(desc->location.id);
    if (*ordinal < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    if (managed || *ordinal == pool->ordinal) /* cannot be revoked */
        return desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? CUDA_SUCCESS
                                                                 : CUDA_ERROR_INVALID_VALUE;
    if (pool->ordinal == SOFT_PHYS_HOST || desc->flags == CU_MEM_ACCESS_FLAGS_PROT_NONE)
        return CUDA_SUCCESS;
    return soft_devices_peer(*ordinal, pool->ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc *map, size_t count)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;
    int ordinal;

    if (r != CUDA_SUCCESS)
        return r;
    if (map == NULL || count == 0)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && r == CUDA_SUCCESS; i++)
        r = check(pool, &map[i], &ordinal);
    for (size_t i = 0; i < count && r == CUDA_SUCCESS; i++) {
        check(pool, &map[i], &ordinal);
        if (ordinal >= 0)
            pool->access[ordinal] = (uint8_t)map[i].flags;
    }
    for (struct soft_chunk *c = r == CUDA_SUCCESS ? pool->chunks : NULL; c != NULL; c = c->next)
        soft_area_publish(&c->area, c->area.start, c->area.bytes);
    soft_space_unlock();
    return r;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool handle, CUmemLocation *location)
{
    CUresult r = soft_ready();
    const struct soft_pool *pool;
    int ordinal;

    if (r != CUDA_SUCCESS)
        return r;
    if (flags == NULL || location == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else if (is_host(location->type)) {
        *flags = pool->ordinal == SOFT_PHYS_HOST ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                 : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    } else if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else if ((ordinal = soft_visible_ordinal(location->id)) < 0) {
        r = CUDA_ERROR_INVALID_DEVICE;
    } else {
        *flags = (CUmemAccess_flags)pool->access[ordinal];
    }
    soft_space_unlock();
    return r;
}
