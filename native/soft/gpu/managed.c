/* SPDX-License-Identifier: Apache-2.0
 *
 * Managed allocations: made, found, freed.
 */
#include "soft/gpu/managed.h"
#include "soft/gpu/arena.h"
#include "soft/gpu/pool.h"

#include <stdlib.h>
#include <unistd.h>

static struct soft_managed *all;
static uint64_t all_bytes; /* both guarded by space.lock */

struct soft_managed *soft_managed_first(void)
{
    return all;
}

static uint64_t most_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;

    for (int i = 0; i < soft_visible_count(); i++)
        bytes += soft_device_profile(i)->memory_bytes;
    return bytes;
}

static int place(struct soft_managed *m)
{
    uint64_t bytes = soft_granules(m->bytes);
    int err = soft_area_take(&m->area, bytes, 0, 0);

    if (err != 0)
        return err;
    err = soft_area_map(&m->area, m->area.start, m->phys, 0, bytes);
    if (err != 0) {
        soft_area_give(&m->area);
        return err;
    }
    m->next = all;
    m->link = &all;
    if (all != NULL)
        all->link = &m->next;
    all = m;
    all_bytes += bytes;
    soft_area_publish(&m->area, m->area.start, bytes);
    return 0;
}

static CUresult allocate(struct soft_ctx *ctx, uint64_t bytes, unsigned attach, bool inner,
                         CUdeviceptr *out)
{
    uint64_t most = most_bytes(), physical = soft_granules(bytes);
    struct soft_managed *m;
    int err = -1;

    if (bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (physical < bytes || physical > most)
        return CUDA_ERROR_OUT_OF_MEMORY;
    m = calloc(1, sizeof *m + physical / SOFT_GRANULE * sizeof m->granules[0]);
    if (m == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    m->area.ops = &soft_managed_ops;
    m->area.ctx = ctx;
    m->bytes = bytes;
    m->attach = attach;
    m->inner = inner;
    m->id = soft_span_next_id();
    m->hints = calloc(1, sizeof *m->hints);
    m->hint_count = 1;
    m->phys = soft_phys_make(SOFT_PHYS_HOST, physical, SOFT_PHYS_PRIVATE);
    if (m->hints != NULL && m->phys != NULL) {
        soft_space_lock();
        if (physical > most - (all_bytes < most ? all_bytes : most))
            soft_log("%llu bytes of managed memory are more than the host and its devices have",
                     (unsigned long long)(all_bytes + physical));
        else
            err = place(m);
        soft_space_unlock();
    }
    if (err != 0) {
        soft_phys_unref(m->phys);
        free(m->hints);
        free(m);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = m->area.start;
    return CUDA_SUCCESS;
}

CUresult soft_managed_alloc(struct soft_ctx *ctx, uint64_t bytes, unsigned attach, CUdeviceptr *out)
{
    return allocate(ctx, bytes, attach, false, out);
}

CUresult soft_managed_alloc_inner(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out)
{
    return allocate(ctx, bytes, CU_MEM_ATTACH_GLOBAL, true, out);
}

void soft_managed_drop(struct soft_area *area)
{
    struct soft_managed *m = (struct soft_managed *)area;

    if (m->pool != NULL)
        soft_pool_managed_left(m);
    soft_managed_leave(m);
    all_bytes -= area->bytes;
    *m->link = m->next;
    if (m->next != NULL)
        m->next->link = m->link;
    soft_area_give(area);
    soft_phys_unref(m->phys);
    free(m->hints);
    free(m);
}

struct soft_managed *soft_managed_at(CUdeviceptr ptr, uint64_t bytes)
{
    struct soft_managed *m;

    if (!soft_is_device_range(ptr))
        return NULL;
    m = (struct soft_managed *)soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE];
    if (m == NULL || m->area.ops != &soft_managed_ops || ptr - m->area.start >= m->bytes ||
        bytes > m->bytes - (ptr - m->area.start))
        return NULL;
    return m;
}

struct soft_managed *soft_managed_named(CUdeviceptr ptr, uint64_t bytes)
{
    struct soft_managed *m = soft_managed_at(ptr, bytes);

    return m != NULL && !m->claimed ? m : NULL;
}

bool soft_managed_is_there(CUdeviceptr ptr, uint64_t bytes)
{
    bool there;

    soft_space_lock();
    there = soft_managed_at(ptr, bytes) != NULL;
    soft_space_unlock();
    return there;
}

static CUresult give_back(CUdeviceptr ptr, bool inner)
{
    struct soft_managed *m;

    soft_space_lock();
    m = soft_managed_at(ptr, 1);
    if (m != NULL && (m->area.start != ptr || m->inner != inner || m->claimed))
        m = NULL;
    if (m != NULL)
        soft_managed_drop(&m->area);
    soft_space_unlock();
    return m != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult soft_managed_free(CUdeviceptr ptr)
{
    soft_ctx_wait_all();
    return give_back(ptr, false);
}

void soft_managed_free_inner(CUdeviceptr ptr)
{
    (void)give_back(ptr, true);
}
