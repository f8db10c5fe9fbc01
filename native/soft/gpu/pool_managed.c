/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools of managed memory. They deal out no chunks: each allocation is a managed area of its own,
 * the process's, which host and devices may use from the call on. A free has its place in a stream
 * as any other; what is freed can be had by nobody, and its area goes where the pool is settled:
 * when the host waited, at the pool's next allocation, or when it is trimmed. Nothing is kept for
 * the threshold's sake.
 */
#include "soft/gpu/fault.h"
#include "soft/gpu/managed.h"
#include "soft/gpu/pool.h"

#include <stdlib.h>

CUresult soft_pool_managed_locate(const CUmemLocation *location, CUresult none, CUmemLocation *at)
{
    CUdevice device;
    CUresult r;

    /* documented: every device has to let host and kernels use it at the same time */
    for (CUdevice d = 0; d < soft_visible_count(); d++)
        if ((soft_fault_lacks(soft_at(soft_visible_ordinal(d))) & SOFT_DOOR_MANAGED) != 0)
            return CUDA_ERROR_NOT_SUPPORTED;
    *at = *location;
    if ((int)at->type == CU_MEM_LOCATION_TYPE_NONE) {
        at->id = 0; /* ignored */
        return CUDA_SUCCESS;
    }
    if ((int)at->type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT)
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_location_of(at, &device);
    return r == CUDA_ERROR_INVALID_DEVICE ? none : r;
}

static void prefer(struct soft_policy *policy, const void *arg)
{
    policy->preferred = *(const CUmemLocation *)arg;
}

/* Locked. False: no host memory. */
static bool join(struct soft_pool *pool, struct soft_managed *m)
{
    const CUmemLocation *at = &pool->props.location;

    if ((int)at->type != CU_MEM_LOCATION_TYPE_NONE &&
        !soft_policy_change(m, 0, soft_granules(m->bytes), prefer, at))
        return false;
    m->pool = pool;
    m->pool_next = pool->managed;
    m->pool_link = &pool->managed;
    if (pool->managed != NULL)
        pool->managed->pool_link = &m->pool_next;
    pool->managed = m;
    pool->reserved += m->area.bytes;
    pool->used += m->area.bytes;
    if (pool->reserved > pool->reserved_high)
        pool->reserved_high = pool->reserved;
    if (pool->used > pool->used_high)
        pool->used_high = pool->used;
    return true;
}

void soft_pool_managed_left(struct soft_managed *m)
{
    m->pool->reserved -= m->area.bytes;
    if (!m->over)
        m->pool->used -= m->area.bytes;
    *m->pool_link = m->pool_next;
    if (m->pool_next != NULL)
        m->pool_next->pool_link = m->pool_link;
    if (m->freed_in != NULL)
        soft_stream_unref(m->freed_in);
}

/* NULL: it was at once. */
static bool is_complete(const struct soft_managed *m)
{
    return m->freed_in == NULL || soft_order_complete(m->freed_in, m->freed_seq);
}

static bool has_come(struct soft_stream *stream, uint64_t seq, const void *arg)
{
    return soft_order_complete(stream, seq);
}

void soft_pool_managed_settle(struct soft_pool *pool, uint64_t keep, soft_pool_is_over *is_over,
                              const void *arg)
{
    struct soft_managed *m = pool->managed;

    while (m != NULL && pool->reserved > keep) {
        struct soft_managed *next = m->pool_next;

        if (m->over && (m->freed_in == NULL || is_over(m->freed_in, m->freed_seq, arg)))
            soft_managed_drop(&m->area);
        m = next;
    }
}

void soft_pool_managed_trim(struct soft_pool *pool, uint64_t keep)
{
    soft_pool_managed_settle(pool, keep, has_come, NULL);
}

bool soft_pool_managed_pending(const struct soft_pool *pool)
{
    for (const struct soft_managed *m = pool->managed; m != NULL; m = m->pool_next)
        if (m->over)
            return true;
    return false;
}

bool soft_pool_managed_idle(const struct soft_pool *pool)
{
    for (const struct soft_managed *m = pool->managed; m != NULL; m = m->pool_next)
        if (!m->over || !is_complete(m))
            return false;
    return true;
}

void soft_pool_managed_wipe(struct soft_pool *pool)
{
    while (pool->managed != NULL)
        soft_managed_drop(&pool->managed->area);
}

/* The host waits for all frees that are still to come. Not locked. */
static void wait_for_frees(CUmemoryPool handle)
{
    for (;;) {
        struct soft_stream *stream = NULL;
        const struct soft_pool *pool;
        uint64_t seq = 0;

        soft_space_lock();
        pool = soft_pool_of(handle);
        for (const struct soft_managed *m = pool != NULL ? pool->managed : NULL;
             m != NULL && stream == NULL; m = m->pool_next)
            if (m->over && !is_complete(m)) {
                stream = m->freed_in;
                seq = m->freed_seq;
                soft_stream_ref(stream);
            }
        soft_space_unlock();
        if (stream == NULL)
            return;
        soft_stream_wait_seq(stream, seq);
        soft_stream_unref(stream);
    }
}

/* True: that gave memory back. */
static bool settle(CUmemoryPool handle)
{
    struct soft_pool *pool;
    bool gave = false;

    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool != NULL) {
        uint64_t before = pool->reserved;

        soft_pool_managed_trim(pool, 0);
        gave = pool->reserved < before;
    }
    soft_space_unlock();
    return gave;
}

CUresult soft_pool_managed_alloc(CUmemoryPool handle, uint64_t bytes, CUdeviceptr *out)
{
    struct soft_pool *pool;
    struct soft_managed *m;
    CUdeviceptr ptr;
    CUresult r;

    settle(handle);
    r = soft_managed_alloc(NULL, bytes, CU_MEM_ATTACH_GLOBAL, &ptr);
    if (r == CUDA_ERROR_OUT_OF_MEMORY) {
        wait_for_frees(handle); /* there may be none any more that were still to come just now */
        if (settle(handle))
            r = soft_managed_alloc(NULL, bytes, CU_MEM_ATTACH_GLOBAL, &ptr);
    }
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    m = soft_managed_at(ptr, 1);
    pool = soft_pool_of(handle);
    if (pool == NULL || m == NULL || !join(pool, m)) { /* destroyed, or freed by a guess, since */
        if (m != NULL)
            soft_managed_drop(&m->area);
        r = pool == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    }
    soft_space_unlock();
    if (r == CUDA_SUCCESS)
        *out = ptr;
    return r;
}

/* ----------------------------------------------------------------------------------- freeing -- */
static struct soft_managed *find(CUdeviceptr ptr, bool claimed)
{
    struct soft_managed *m = soft_managed_at(ptr, 1);

    return m != NULL && m->pool != NULL && m->area.start == ptr && m->claimed == claimed && !m->over
               ? m
               : NULL;
}

bool soft_pool_managed_claim(CUdeviceptr ptr)
{
    struct soft_managed *m = find(ptr, false);

    if (m != NULL)
        m->claimed = true;
    return m != NULL;
}

bool soft_pool_managed_unclaim(CUdeviceptr ptr)
{
    struct soft_managed *m = find(ptr, true);

    if (m != NULL)
        m->claimed = false;
    return m != NULL;
}

bool soft_pool_managed_freed(CUdeviceptr ptr, struct soft_stream *stream, uint64_t seq)
{
    struct soft_managed *m = find(ptr, true);

    if (m == NULL)
        return false;
    m->over = true;
    if (stream != NULL)
        soft_stream_ref(stream);
    m->freed_in = stream;
    m->freed_seq = seq;
    m->pool->used -= m->area.bytes;
    atomic_store(&soft_pools_dirty, true);
    return true;
}

CUmemoryPool soft_pool_managed_handle(CUdeviceptr inside)
{
    const struct soft_managed *m;
    CUmemoryPool handle = NULL;

    soft_space_lock();
    m = soft_managed_at(inside, 1);
    if (m != NULL && m->pool != NULL)
        handle = soft_pool_handle(m->pool);
    soft_space_unlock();
    return handle;
}
