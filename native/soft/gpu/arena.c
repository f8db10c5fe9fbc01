/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear device memory of a context: granules of its own for what is large, shared ones ("slabs")
 * for what is small.
 */
#include "soft/gpu/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLAB_UNIT  512u
#define SLAB_UNITS (SOFT_GRANULE / SLAB_UNIT)
#define SLAB_MOST  (1u << 20) /* what is larger gets granules of its own */

struct soft_block { /* one allocation, or a slab of small ones */
    struct soft_area area;
    struct soft_phys *phys;
    uint64_t bytes, id; /* as asked for */
    bool inner;
    /* slab: */
    struct soft_block *next, **link; /* list of slabs with room */
    uint32_t used_units, cursor;
    uint16_t *first;      /* per unit: first unit of its allocation + 1; 0 = free */
    uint32_t *unit_bytes; /* at the first unit: bytes asked for */
    uint64_t *unit_id;
    bool *unit_inner;
};

static struct soft_block *block_of(struct soft_area *area)
{
    return (struct soft_block *)area;
}

static bool block_find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    const struct soft_block *b = block_of(area);

    *span = (struct soft_span){.ctx = area->ctx,
                               .ordinal = area->ctx->ordinal,
                               .start = area->start,
                               .bytes = b->bytes,
                               .id = b->id,
                               .host = soft_space_host(area->start),
                               .kind = SOFT_SPAN_LINEAR,
                               .device = true,
                               .inner = b->inner};
    return true;
}

static bool slab_find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    const struct soft_block *b = block_of(area);
    uint32_t unit = (uint32_t)((ptr - area->start) / SLAB_UNIT);

    if (b->first[unit] == 0)
        return false;
    unit = b->first[unit] - 1u;
    block_find(area, ptr, span);
    span->start = area->start + (uint64_t)unit * SLAB_UNIT;
    span->bytes = b->unit_bytes[unit];
    span->id = b->unit_id[unit];
    span->inner = b->unit_inner[unit];
    span->host = soft_space_host(span->start);
    return true;
}

static void block_drop(struct soft_block *b)
{
    soft_area_give(&b->area);
    soft_phys_unref(b->phys);
    free(b->first);
    free(b->unit_bytes);
    free(b->unit_id);
    free(b->unit_inner);
    free(b);
}

static void forget(struct soft_area *area)
{
    block_drop(block_of(area));
}

/* both may be freed in stream order, while other streams run */
static const struct soft_area_ops block_ops = {
    .find = block_find, .forget = forget, .lingers = true};
static const struct soft_area_ops slab_ops = {.find = slab_find, .forget = forget, .lingers = true};

static struct soft_block *block_new(struct soft_ctx *ctx, uint64_t bytes,
                                    const struct soft_area_ops *ops)
{
    uint64_t physical = soft_granules(bytes);
    struct soft_block *b = calloc(1, sizeof *b);

    if (b == NULL)
        return NULL;
    b->area.ops = ops;
    b->area.ctx = ctx;
    b->bytes = bytes;
    b->phys = soft_phys_make(ctx->ordinal, physical, SOFT_PHYS_PRIVATE);
    if (b->phys == NULL)
        goto no_memory;
    b->id = b->phys->id;
    if (soft_area_take(&b->area, physical, 0, 0) != 0)
        goto no_room;
    if (soft_area_map(&b->area, b->area.start, b->phys, 0, physical) != 0) {
        soft_area_give(&b->area);
        goto no_room;
    }
    soft_area_publish(&b->area, b->area.start, physical);
    return b;
no_room:
    soft_phys_unref(b->phys);
no_memory:
    free(b);
    return NULL;
}

static void slab_link(struct soft_arena *a, struct soft_block *b)
{
    b->next = a->slabs;
    b->link = &a->slabs;
    if (a->slabs != NULL)
        a->slabs->link = &b->next;
    a->slabs = b;
}

static void slab_unlink(struct soft_block *b)
{
    if (b->link == NULL)
        return;
    *b->link = b->next;
    if (b->next != NULL)
        b->next->link = b->link;
    b->next = NULL;
    b->link = NULL;
}

static struct soft_block *slab_new(struct soft_ctx *ctx)
{
    struct soft_block *b = block_new(ctx, SOFT_GRANULE, &slab_ops);

    if (b == NULL)
        return NULL;
    b->first = calloc(SLAB_UNITS, sizeof *b->first);
    b->unit_bytes = calloc(SLAB_UNITS, sizeof *b->unit_bytes);
    b->unit_id = calloc(SLAB_UNITS, sizeof *b->unit_id);
    b->unit_inner = calloc(SLAB_UNITS, sizeof *b->unit_inner);
    if (b->first == NULL || b->unit_bytes == NULL || b->unit_id == NULL || b->unit_inner == NULL) {
        block_drop(b);
        return NULL;
    }
    slab_link(ctx->arena, b);
    return b;
}

static uint32_t units_of(uint64_t bytes)
{
    return (uint32_t)((bytes + SLAB_UNIT - 1) / SLAB_UNIT);
}

static bool fits_at(const struct soft_block *b, uint32_t at, uint32_t units, uint32_t *next)
{
    for (uint32_t u = at; u < at + units; u++)
        if (b->first[u] != 0) {
            uint32_t first = b->first[u] - 1u;

            *next = first + units_of(b->unit_bytes[first]);
            return false;
        }
    return true;
}

static bool slab_take(struct soft_block *b, uint64_t bytes, bool inner, uint64_t *ptr)
{
    uint32_t units = units_of(bytes);

    if (b->used_units + units > SLAB_UNITS)
        return false;
    for (int pass = 0; pass < 2; pass++) {
        uint32_t at = pass == 0 ? b->cursor : 0, next = 0;

        while (at + units <= SLAB_UNITS) {
            if (!fits_at(b, at, units, &next)) {
                at = next;
                continue;
            }
            for (uint32_t u = at; u < at + units; u++)
                b->first[u] = (uint16_t)(at + 1);
            b->unit_bytes[at] = (uint32_t)bytes;
            b->unit_id[at] = soft_span_next_id();
            b->unit_inner[at] = inner;
            b->used_units += units;
            b->cursor = at + units;
            *ptr = b->area.start + (uint64_t)at * SLAB_UNIT;
            return true;
        }
    }
    return false;
}

static uint64_t take(struct soft_ctx *ctx, uint64_t bytes, bool inner)
{
    struct soft_arena *a = ctx->arena;
    struct soft_block *b;
    uint64_t ptr = 0;

    if (bytes > SLAB_MOST) {
        b = block_new(ctx, bytes, &block_ops);
        if (b == NULL)
            return 0;
        b->inner = inner;
        return b->area.start;
    }
    for (b = a->slabs; b != NULL; b = b->next)
        if (slab_take(b, bytes, inner, &ptr))
            break;
    if (b == NULL && (b = slab_new(ctx)) != NULL)
        slab_take(b, bytes, inner, &ptr);
    if (b != NULL && b->used_units == SLAB_UNITS)
        slab_unlink(b);
    return ptr;
}

static CUresult allocate(struct soft_ctx *ctx, uint64_t bytes, bool inner, CUdeviceptr *out)
{
    uint64_t ptr;

    if (bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > ctx->profile->memory_bytes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    do {
        soft_space_lock();
        ptr = take(ctx, bytes, inner);
        soft_space_unlock();
    } while (ptr == 0 && soft_reclaim(ctx->ordinal, bytes));
    if (ptr == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = ptr;
    return CUDA_SUCCESS;
}

CUresult soft_mem_alloc(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out)
{
    return allocate(ctx, bytes, false, out);
}

CUresult soft_mem_alloc_inner(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out)
{
    return allocate(ctx, bytes, true, out);
}

CUresult soft_mem_free(struct soft_ctx *ctx, CUdeviceptr ptr)
{
    CUresult r = CUDA_ERROR_INVALID_VALUE;
    struct soft_area *area;
    struct soft_block *b;
    struct soft_span span;

    if (!soft_is_device_range(ptr))
        return r;
    soft_space_lock();
    area = soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE];
    if (area == NULL || area->ctx != ctx || (area->ops != &block_ops && area->ops != &slab_ops) ||
        !area->ops->find(area, ptr, &span) || span.start != ptr)
        goto out;
    b = block_of(area);
    r = CUDA_SUCCESS;
    if (area->ops == &block_ops) {
        block_drop(b);
    } else {
        uint32_t at = (uint32_t)((ptr - area->start) / SLAB_UNIT), units = units_of(span.bytes);

        soft_phys_mark(b->phys, ptr - area->start, 0);
        memset(&b->first[at], 0, units * sizeof *b->first);
        b->used_units -= units;
        if (b->link == NULL)
            slab_link(ctx->arena, b);
        if (b->used_units == 0) {
            slab_unlink(b);
            block_drop(b);
        }
    }
out:
    soft_space_unlock();
    return r;
}

struct soft_phys *soft_block_at(uint64_t ptr, struct soft_span *span, uint64_t *offset)
{
    struct soft_area *area =
        soft_is_device_range(ptr) ? soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE] : NULL;

    if (area == NULL || (area->ops != &block_ops && area->ops != &slab_ops) ||
        !area->ops->find(area, ptr, span) || ptr - span->start >= span->bytes)
        return NULL;
    *offset = span->start - area->start;
    return block_of(area)->phys;
}

void *soft_mem_host(struct soft_ctx *ctx, CUdeviceptr ptr, uint64_t bytes)
{
    struct soft_span span;

    if (!soft_span_reach(ptr, bytes, &span))
        return NULL;
    if (span.device &&
        ctx->arena->map[(ptr - soft_space.base) / SOFT_GRANULE] == SOFT_ACCESS_NONE &&
        span.kind != SOFT_SPAN_MANAGED)
        return NULL;
    return span.host + (ptr - span.start);
}

/* ------------------------------------------------------------------------- with its context --- */
int soft_arena_make(struct soft_ctx *ctx)
{
    struct soft_arena *a = calloc(1, sizeof *a);
    int err = -ENOMEM;

    if (a == NULL)
        return -ENOMEM;
    soft_space_lock();
    err = soft_space_make();
    if (err == 0) {
        a->map = mmap(NULL, soft_space.granules, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        err = a->map == MAP_FAILED ? -ENOMEM : 0;
    }
    if (err == 0) {
        a->ctx = ctx;
        a->next = soft_space.arenas;
        soft_space.arenas = a;
        ctx->arena = a;
        soft_space_publish(ctx);
    } else {
        free(a);
    }
    soft_space_unlock();
    return err;
}

void soft_arena_end(struct soft_ctx *ctx)
{
    struct soft_arena *a = ctx->arena, **at = &soft_space.arenas;

    if (a == NULL)
        return;
    soft_host_forget(ctx);
    soft_space_lock();
    while (a->areas != NULL)
        a->areas->ops->forget(a->areas);
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    ctx->arena = NULL;
    soft_space_unlock();
    munmap(a->map, soft_space.granules);
    free(a);
}
