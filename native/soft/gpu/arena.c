/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation of device memory: see arena.h. The address range is twice the device's memory, so that
 * no order of calls fails for want of a hole while bytes are free (hardware maps pages anywhere).
 */
#include "soft/gpu/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLAB_UNIT  512u
#define SLAB_UNITS (SOFT_GRANULE / SLAB_UNIT)
#define SLAB_MOST  (1u << 20) /* what is larger gets granules of its own */

struct soft_block { /* a run of granules: one allocation, or a slab of small ones */
    uint64_t start, bytes, id;
    bool is_slab;
    /* slab: */
    struct soft_block *next, **link; /* list of slabs with room */
    uint32_t used_units, cursor;
    uint16_t *first;      /* per unit: first unit of its allocation + 1; 0 = free */
    uint32_t *unit_bytes; /* at the first unit: bytes asked for */
    uint64_t *unit_id;
};

static _Atomic uint64_t next_span_id = 1;

uint64_t soft_span_next_id(void)
{
    return atomic_fetch_add(&next_span_id, 1);
}

static void *reserve(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_DONTFORK); /* a child has no device memory, and forks stay cheap */
    madvise(p, bytes, MADV_DONTDUMP);
    return p;
}

int soft_arena_make(struct soft_ctx *ctx)
{
    struct soft_arena *a = calloc(1, sizeof *a);
    uint64_t lo, hi;

    if (a == NULL)
        return -ENOMEM;
    a->granules = 2 * ((ctx->profile->memory_bytes + SOFT_GRANULE - 1) / SOFT_GRANULE);
    a->bytes = a->granules * SOFT_GRANULE;
    a->reserved_bytes = a->bytes + SOFT_GRANULE;
    a->map = mmap(NULL, a->granules, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    a->owner = calloc(a->granules, sizeof(struct soft_block *));
    a->reserved[0] = reserve(a->reserved_bytes);
    a->reserved[1] = reserve(a->reserved_bytes);
    pthread_mutex_init(&a->lock, NULL);
    ctx->arena = a;
    if (a->map == MAP_FAILED || a->owner == NULL || a->reserved[0] == NULL ||
        a->reserved[1] == NULL) {
        soft_log("cannot reserve %llu bytes of address space for device memory; remedy: raise "
                 "'ulimit -v'",
                 (unsigned long long)a->reserved_bytes);
        soft_arena_end(ctx);
        return -ENOMEM;
    }
    lo = ((uint64_t)(uintptr_t)a->reserved[0] + SOFT_GRANULE - 1) / SOFT_GRANULE * SOFT_GRANULE;
    hi = ((uint64_t)(uintptr_t)a->reserved[1] + SOFT_GRANULE - 1) / SOFT_GRANULE * SOFT_GRANULE;
    a->base = lo;
    a->delta = (int64_t)(hi - lo);
    return 0;
}

static void block_free(struct soft_block *b)
{
    free(b->first);
    free(b->unit_bytes);
    free(b->unit_id);
    free(b);
}

void soft_arena_end(struct soft_ctx *ctx)
{
    struct soft_arena *a = ctx->arena;

    if (a == NULL)
        return;
    soft_host_forget(ctx);
    if (a->owner != NULL) {
        for (uint64_t g = 0; g < a->granules && a->used > 0;) {
            struct soft_block *b = a->owner[g];

            if (b == NULL) {
                g++;
                continue;
            }
            g += (b->bytes + SOFT_GRANULE - 1) / SOFT_GRANULE;
            block_free(b);
        }
        free((void *)a->owner);
    }
    if (a->map != MAP_FAILED)
        munmap(a->map, a->granules);
    for (int i = 0; i < 2; i++)
        if (a->reserved[i] != NULL)
            munmap(a->reserved[i], a->reserved_bytes);
    if (a->used > 0)
        soft_slot_release(soft_the_state, ctx->ordinal, a->used * SOFT_GRANULE, 0);
    pthread_mutex_destroy(&a->lock);
    free(a);
    ctx->arena = NULL;
}

static void *host_of(const struct soft_arena *a, uint64_t ptr)
{
    return (void *)(uintptr_t)(ptr + (uint64_t)a->delta);
}

/* First run of `count` free granules at or after `from`, before `to`. */
static uint64_t find_run(const struct soft_arena *a, uint64_t from, uint64_t to, uint64_t count)
{
    while (from + count <= to) {
        uint64_t n = 0;

        while (n < count && a->map[from + n] == 0)
            n++;
        if (n == count)
            return from;
        from += n + 1;
    }
    return UINT64_MAX;
}

/* A run of granules, charged to the device and mapped. */
static struct soft_block *block_new(struct soft_ctx *ctx, uint64_t bytes)
{
    struct soft_arena *a = ctx->arena;
    uint64_t count = (bytes + SOFT_GRANULE - 1) / SOFT_GRANULE;
    uint64_t physical = count * SOFT_GRANULE, at;
    struct soft_block *b = calloc(1, sizeof *b);

    if (b == NULL)
        return NULL;
    if (soft_slot_charge(soft_the_state, ctx->ordinal, physical, 0) != 0)
        goto no_charge;
    at = find_run(a, a->hint, a->granules, count);
    if (at == UINT64_MAX)
        at = find_run(a, 0, a->granules, count);
    if (at == UINT64_MAX)
        goto no_room;
    b->start = a->base + at * SOFT_GRANULE;
    b->bytes = bytes;
    b->id = soft_span_next_id();
    if (mprotect(host_of(a, b->start), physical, PROT_READ | PROT_WRITE) != 0)
        goto no_room;
    for (uint64_t g = at; g < at + count; g++) {
        a->owner[g] = b;
        a->map[g] = 1;
    }
    a->used += count;
    a->hint = at + count < a->granules ? at + count : 0;
    return b;
no_room:
    soft_slot_release(soft_the_state, ctx->ordinal, physical, 0);
no_charge:
    free(b);
    return NULL;
}

static void block_drop(struct soft_ctx *ctx, struct soft_block *b)
{
    struct soft_arena *a = ctx->arena;
    uint64_t count = (b->bytes + SOFT_GRANULE - 1) / SOFT_GRANULE;
    uint64_t at = (b->start - a->base) / SOFT_GRANULE;

    for (uint64_t g = at; g < at + count; g++) {
        a->map[g] = 0;
        a->owner[g] = NULL;
    }
    madvise(host_of(a, b->start), count * SOFT_GRANULE, MADV_DONTNEED);
    mprotect(host_of(a, b->start), count * SOFT_GRANULE, PROT_NONE);
    a->used -= count;
    soft_slot_release(soft_the_state, ctx->ordinal, count * SOFT_GRANULE, 0);
    block_free(b);
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
    struct soft_block *b = block_new(ctx, SOFT_GRANULE);

    if (b == NULL)
        return NULL;
    b->is_slab = true;
    b->first = calloc(SLAB_UNITS, sizeof *b->first);
    b->unit_bytes = calloc(SLAB_UNITS, sizeof *b->unit_bytes);
    b->unit_id = calloc(SLAB_UNITS, sizeof *b->unit_id);
    if (b->first == NULL || b->unit_bytes == NULL || b->unit_id == NULL) {
        block_drop(ctx, b);
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

static bool slab_take(struct soft_block *b, uint64_t bytes, uint64_t *ptr)
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
            b->used_units += units;
            b->cursor = at + units;
            *ptr = b->start + (uint64_t)at * SLAB_UNIT;
            return true;
        }
    }
    return false;
}

CUresult soft_mem_alloc(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out)
{
    struct soft_arena *a = ctx->arena;
    struct soft_block *b;
    uint64_t ptr = 0;

    if (bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > ctx->profile->memory_bytes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&a->lock);
    if (bytes > SLAB_MOST) {
        b = block_new(ctx, bytes);
        ptr = b != NULL ? b->start : 0;
    } else {
        for (b = a->slabs; b != NULL; b = b->next)
            if (slab_take(b, bytes, &ptr))
                break;
        if (b == NULL && (b = slab_new(ctx)) != NULL)
            slab_take(b, bytes, &ptr);
        if (b != NULL && b->used_units == SLAB_UNITS)
            slab_unlink(b);
    }
    pthread_mutex_unlock(&a->lock);
    if (ptr == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = ptr;
    return CUDA_SUCCESS;
}

/* With the arena's lock held. */
static bool find(struct soft_ctx *ctx, uint64_t ptr, struct soft_span *span)
{
    struct soft_arena *a = ctx->arena;
    struct soft_block *b;

    if (ptr < a->base || ptr - a->base >= a->bytes)
        return false;
    b = a->owner[(ptr - a->base) / SOFT_GRANULE];
    if (b == NULL)
        return false;
    *span = (struct soft_span){
        .ctx = ctx, .start = b->start, .bytes = b->bytes, .id = b->id, .device = true};
    if (b->is_slab) {
        uint32_t unit = (uint32_t)((ptr - b->start) / SLAB_UNIT);

        if (b->first[unit] == 0)
            return false;
        unit = b->first[unit] - 1u;
        span->start = b->start + (uint64_t)unit * SLAB_UNIT;
        span->bytes = b->unit_bytes[unit];
        span->id = b->unit_id[unit];
    }
    span->host = host_of(a, span->start);
    return ptr - span->start < span->bytes;
}

CUresult soft_mem_free(struct soft_ctx *ctx, CUdeviceptr ptr)
{
    struct soft_arena *a = ctx->arena;
    struct soft_span span;
    struct soft_block *b;

    pthread_mutex_lock(&a->lock);
    if (!find(ctx, ptr, &span) || span.start != ptr) {
        pthread_mutex_unlock(&a->lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    b = a->owner[(ptr - a->base) / SOFT_GRANULE];
    if (!b->is_slab) {
        block_drop(ctx, b);
    } else {
        uint32_t at = (uint32_t)((ptr - b->start) / SLAB_UNIT), units = units_of(span.bytes);

        memset(&b->first[at], 0, units * sizeof *b->first);
        b->used_units -= units;
        if (b->link == NULL)
            slab_link(a, b);
        if (b->used_units == 0) {
            slab_unlink(b);
            block_drop(ctx, b);
        }
    }
    pthread_mutex_unlock(&a->lock);
    return CUDA_SUCCESS;
}

bool soft_span_find(CUdeviceptr ptr, struct soft_span *span)
{
    bool found = false;

    soft_lock();
    for (struct soft_ctx *ctx = soft_ctx_first(); ctx != NULL && !found; ctx = ctx->next) {
        if (!atomic_load(&ctx->alive) || ctx->arena == NULL)
            continue;
        pthread_mutex_lock(&ctx->arena->lock);
        found = find(ctx, ptr, span);
        pthread_mutex_unlock(&ctx->arena->lock);
    }
    soft_unlock();
    return found || soft_host_find(ptr, span);
}

bool soft_is_device_range(uint64_t ptr)
{
    bool is = false;

    soft_lock();
    for (struct soft_ctx *ctx = soft_ctx_first(); ctx != NULL && !is; ctx = ctx->next)
        is = atomic_load(&ctx->alive) && ctx->arena != NULL && ptr >= ctx->arena->base &&
             ptr - ctx->arena->base < ctx->arena->bytes;
    soft_unlock();
    return is;
}

void *soft_mem_host(struct soft_ctx *ctx, CUdeviceptr ptr, uint64_t bytes)
{
    struct soft_span span;
    bool found;

    pthread_mutex_lock(&ctx->arena->lock);
    found = find(ctx, ptr, &span);
    pthread_mutex_unlock(&ctx->arena->lock);
    if (!found && !soft_host_find(ptr, &span))
        return NULL;
    if (bytes > span.bytes - (ptr - span.start))
        return NULL;
    return span.host + (ptr - span.start);
}
