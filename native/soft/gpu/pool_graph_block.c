/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks: the physical memory behind graphs' addresses, and what a device has of it.
 */
#include <errno.h>
#include <stdlib.h>

#include "soft/gpu/pool_graph_state.h"

static struct soft_graph_pool pools[SOFT_MAX_DEVICES];

struct soft_graph_pool *soft_graph_pool_of(int ordinal)
{
    return &pools[ordinal];
}

static void count(struct soft_graph_pool *pool, uint64_t *current, uint64_t *high, int64_t change)
{
    *current += (uint64_t)change;
    if (*current > *high)
        *high = *current;
}

void soft_graph_block_until(struct soft_graph_block *b, struct soft_stream *stream, uint64_t seq)
{
    struct soft_dep *until;
    size_t kept = 0;

    for (size_t i = 0; i < b->count; i++) {
        if (b->until[i].stream == stream && b->until[i].seq < seq)
            b->until[i].seq = seq;
        if (soft_order_complete(b->until[i].stream, b->until[i].seq))
            soft_stream_unref(b->until[i].stream);
        else
            b->until[kept++] = b->until[i];
    }
    b->count = kept;
    for (size_t i = 0; i < b->count; i++)
        if (b->until[i].stream == stream && b->until[i].seq >= seq)
            return;
    if (b->count == b->room) {
        until = realloc(b->until, (b->room + 4) * sizeof *until);
        if (until == NULL) {
            b->living++; /* nobody knows when it is free: it never is */
            return;
        }
        b->until = until;
        b->room += 4;
    }
    soft_stream_ref(stream);
    b->until[b->count++] = (struct soft_dep){stream, seq};
}

static bool is_over(const struct soft_graph_block *b)
{
    for (size_t i = 0; i < b->count; i++)
        if (!soft_order_complete(b->until[i].stream, b->until[i].seq))
            return false;
    return b->living == 0 && b->launching == 0;
}

static bool may_use(const struct soft_graph_block *b, const struct soft_graph_memory *memory,
                    struct soft_stream *stream, uint64_t at)
{
    for (size_t i = 0; i < b->count; i++) {
        const struct soft_dep *d = &b->until[i];

        if (!(d->stream == memory->last && d->seq <= memory->last_seq) &&
            !soft_order_complete(d->stream, d->seq) &&
            !soft_order_follows(stream, at, d->stream, d->seq))
            return false;
    }
    return b->living == 0 && b->launching == 0;
}

static struct soft_graph_block *make(struct soft_graph_pool *pool, int ordinal)
{
    struct soft_graph_block *b = calloc(1, sizeof *b);

    if (pool->phys == NULL)
        pool->phys = soft_phys_make_growing(ordinal, SOFT_PHYS_PRIVATE);
    if (b == NULL || pool->phys == NULL)
        goto full;
    if (soft_phys_grow(pool->phys, SOFT_POOL_UNIT, &b->offset) != 0) {
        soft_graph_pool_trim(ordinal);
        if (soft_phys_grow(pool->phys, SOFT_POOL_UNIT, &b->offset) != 0)
            goto full;
    }
    b->ordinal = ordinal;
    b->next = pool->blocks;
    pool->blocks = b;
    count(pool, &pool->reserved, &pool->reserved_high, (int64_t)SOFT_POOL_UNIT);
    return b;
full:
    free(b);
    return NULL;
}

struct soft_graph_block *soft_graph_block_take(struct soft_graph_memory *memory, int ordinal,
                                               struct soft_graph_block *had,
                                               struct soft_stream *stream)
{
    struct soft_graph_pool *pool = &pools[ordinal];
    uint64_t at = soft_order_submitted(stream);
    struct soft_graph_block *b = had;

    if (b == NULL || !may_use(b, memory, stream, at))
        for (b = pool->blocks; b != NULL; b = b->next)
            if (may_use(b, memory, stream, at))
                break;
    if (b == NULL)
        b = make(pool, ordinal);
    if (b != NULL)
        b->launching++;
    return b;
}

void soft_graph_unit_plan(struct soft_graph_segment *s, size_t unit, struct soft_graph_block *block)
{
    struct soft_graph_block *had = s->unit[unit].planned;
    struct soft_graph_pool *pool = &pools[s->ordinal];

    if (had == block)
        return;
    s->unit[unit].planned = block;
    if (block != NULL && block->bound++ == 0)
        count(pool, &pool->used, &pool->used_high, (int64_t)SOFT_POOL_UNIT);
    if (had != NULL && --had->bound == 0)
        count(pool, &pool->used, &pool->used_high, -(int64_t)SOFT_POOL_UNIT);
}

static void unmap(struct soft_graph_segment *s, size_t unit)
{
    s->unit[unit].mapped = NULL;
    soft_area_unmap(&s->area, s->area.start + unit * SOFT_POOL_UNIT, SOFT_POOL_UNIT);
}

int soft_graph_unit_map(struct soft_graph_segment *s, size_t unit, struct soft_graph_block *block)
{
    struct soft_graph_unit *u = &s->unit[unit];
    uint64_t at = s->area.start + unit * SOFT_POOL_UNIT;
    int err;

    if (u->mapped == block)
        return 0;
    err = soft_area_map(&s->area, at, pools[s->ordinal].phys, block->offset, SOFT_POOL_UNIT);
    u->mapped = err == 0 ? block : NULL;
    soft_area_publish(&s->area, at, SOFT_POOL_UNIT);
    return err;
}

/* No addresses lead to it any more, and its bytes are the device's again. */
static void drop(struct soft_graph_pool *pool, struct soft_graph_block *b)
{
    for (struct soft_graph_memory *m = soft_graph_memories; m != NULL; m = m->next)
        for (struct soft_graph_segment *s = m->segments; s != NULL; s = s->next)
            for (size_t u = 0; u < s->units; u++) {
                if (s->unit[u].mapped == b)
                    unmap(s, u);
                if (s->unit[u].planned == b)
                    soft_graph_unit_plan(s, u, NULL);
            }
    soft_phys_shrink(pool->phys, b->offset, SOFT_POOL_UNIT);
    count(pool, &pool->reserved, &pool->reserved_high, -(int64_t)SOFT_POOL_UNIT);
    for (size_t i = 0; i < b->count; i++)
        soft_stream_unref(b->until[i].stream);
    free(b->until);
    free(b);
}

static void drop_all(int ordinal, bool whatever)
{
    struct soft_graph_pool *pool = &pools[ordinal];
    struct soft_graph_block **at = &pool->blocks;

    while (*at != NULL) {
        struct soft_graph_block *b = *at;

        if (whatever || is_over(b)) {
            *at = b->next;
            drop(pool, b);
        } else {
            at = &b->next;
        }
    }
}

void soft_graph_pool_trim(int ordinal)
{
    drop_all(ordinal, false);
}

/* The first of them that lives on the device; NULL: none. */
static struct soft_graph_alloc *living_on(int ordinal)
{
    for (struct soft_graph_memory *m = soft_graph_memories; m != NULL; m = m->next)
        for (struct soft_graph_alloc *a = m->allocs; a != NULL; a = a->next)
            if (a->living && a->segment->ordinal == ordinal)
                return a;
    return NULL;
}

void soft_graph_pool_wipe(int ordinal)
{
    struct soft_graph_alloc *a;

    while ((a = living_on(ordinal)) != NULL) {
        struct soft_graph_memory *memory = a->memory;

        soft_graph_alloc_live(a, false);
        soft_graph_memory_unref(memory);
    }
    drop_all(ordinal, true);
}

/* -------------------------------------------------------------------------------- entry points */
static CUresult enter(CUdevice device, int *ordinal)
{
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    *ordinal = soft_visible_ordinal(device);
    return *ordinal < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGraphMemTrim(CUdevice device)
{
    int ordinal;
    CUresult r = enter(device, &ordinal);

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    soft_graph_pool_trim(ordinal);
    soft_space_unlock();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    const struct soft_graph_pool *pool;
    int ordinal;
    CUresult r = enter(device, &ordinal);

    if (r != CUDA_SUCCESS)
        return r;
    if (value == NULL || (int)attr < 0 || attr > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
        return CUDA_ERROR_INVALID_VALUE;
    pool = &pools[ordinal];
    soft_space_lock();
    *(cuuint64_t *)value = attr == CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT       ? pool->used
                           : attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH        ? pool->used_high
                           : attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT ? pool->reserved
                                                                            : pool->reserved_high;
    soft_space_unlock();
    return CUDA_SUCCESS;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    int ordinal;
    CUresult r = enter(device, &ordinal);

    if (r != CUDA_SUCCESS)
        return r;
    if (value == NULL || *(const cuuint64_t *)value != 0 ||
        (attr != CU_GRAPH_MEM_ATTR_USED_MEM_HIGH && attr != CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH))
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    if (attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
        pools[ordinal].used_high = pools[ordinal].used;
    else
        pools[ordinal].reserved_high = pools[ordinal].reserved;
    soft_space_unlock();
    return CUDA_SUCCESS;
}
