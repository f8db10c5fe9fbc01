/* SPDX-License-Identifier: Apache-2.0
 *
 * Chunks: what a pool has of its device, cut into pieces.
 */
#include "soft/gpu/pool_chunk.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS      512u
#define BUCKET_LEAST 65536u

static struct soft_chunk *chunk_of(struct soft_area *area)
{
    return (struct soft_chunk *)area;
}

static const struct soft_piece *piece_over(const struct soft_chunk *chunk, uint64_t ptr)
{
    const struct soft_piece *p = chunk->at[(ptr - chunk->area.start) / chunk->bucket];

    while (p->start + p->bytes <= ptr)
        p = p->next;
    return p;
}

static bool find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    const struct soft_chunk *chunk = chunk_of(area);
    const struct soft_piece *p = piece_over(chunk, ptr);

    if (p->is != SOFT_PIECE_USED)
        return false;
    *span = (struct soft_span){.ordinal = chunk->pool->ordinal,
                               .start = p->start,
                               .bytes = p->asked,
                               .id = p->id,
                               .host = soft_space_host(p->start),
                               .kind = SOFT_SPAN_POOL,
                               .device = chunk->pool->ordinal != SOFT_PHYS_HOST,
                               .owner = chunk->pool,
                               .handle_types = chunk->pool->props.handleTypes};
    return true;
}

static bool is_missing(const struct soft_chunk *chunk, uint64_t at)
{
    return chunk->missing[(at - chunk->area.start) / SOFT_POOL_UNIT] != 0;
}

static unsigned access_of(struct soft_area *area, uint64_t at, struct soft_ctx *ctx)
{
    const struct soft_chunk *chunk = chunk_of(area);

    return is_missing(chunk, at) ? SOFT_ACCESS_NONE : chunk->pool->access[ctx->ordinal];
}

static bool backed(struct soft_area *area, uint64_t at, uint64_t bytes)
{
    const struct soft_chunk *chunk = chunk_of(area);

    for (uint64_t end = at + bytes; at < end; at = at / SOFT_GRANULE * SOFT_GRANULE + SOFT_GRANULE)
        if (is_missing(chunk, at))
            return false;
    return true;
}

static const struct soft_area_ops device_ops = {
    .find = find, .access = access_of, .backed = backed, .lingers = true};
static const struct soft_area_ops host_ops = {
    .find = find, .access = access_of, .backed = backed, .hosts = true, .lingers = true};

struct soft_chunk *soft_chunk_at(CUdeviceptr ptr)
{
    struct soft_area *area =
        soft_is_device_range(ptr) ? soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE] : NULL;

    return area != NULL && (area->ops == &device_ops || area->ops == &host_ops) ? chunk_of(area)
                                                                                : NULL;
}

struct soft_piece *soft_piece_at(CUdeviceptr ptr, enum soft_piece_is is)
{
    const struct soft_chunk *chunk = soft_chunk_at(ptr);
    const struct soft_piece *p = chunk != NULL ? piece_over(chunk, ptr) : NULL;

    return p != NULL && p->start == ptr && p->is == is ? (struct soft_piece *)p : NULL;
}

/* ------------------------------------------------------------------------------------ pieces -- */
void soft_piece_index(struct soft_piece *p)
{
    struct soft_chunk *chunk = p->chunk;
    uint64_t at = p->start - chunk->area.start, end = at + p->bytes;

    for (uint64_t b = (at + chunk->bucket - 1) / chunk->bucket; b * chunk->bucket < end; b++)
        chunk->at[b] = p;
}

void soft_piece_list(struct soft_piece *p)
{
    struct soft_pool *pool = p->chunk->pool;

    p->free_prev = NULL;
    p->free_next = pool->free;
    if (pool->free != NULL)
        pool->free->free_prev = p;
    pool->free = p;
}

void soft_piece_unlist(struct soft_piece *p)
{
    if (p->free_prev != NULL)
        p->free_prev->free_next = p->free_next;
    else
        p->chunk->pool->free = p->free_next;
    if (p->free_next != NULL)
        p->free_next->free_prev = p->free_prev;
    p->free_prev = p->free_next = NULL;
}

void soft_piece_over(struct soft_piece *p)
{
    if (p->stream != NULL)
        soft_stream_unref(p->stream);
    p->stream = NULL;
    p->seq = 0;
}

struct soft_piece *soft_piece_split(struct soft_piece *p, uint64_t bytes)
{
    struct soft_piece *rest = calloc(1, sizeof *rest);

    if (rest == NULL)
        return NULL;
    *rest = *p;
    rest->start = p->start + bytes;
    rest->bytes = p->bytes - bytes;
    rest->prev = p;
    if (rest->next != NULL)
        rest->next->prev = rest;
    p->next = rest;
    p->bytes = bytes;
    if (rest->stream != NULL)
        soft_stream_ref(rest->stream);
    if (rest->is == SOFT_PIECE_FREE)
        soft_piece_list(rest);
    soft_piece_index(rest);
    return rest;
}

void soft_piece_absorb(struct soft_piece *p)
{
    struct soft_piece *gone = p->next;

    if (gone->is == SOFT_PIECE_FREE)
        soft_piece_unlist(gone);
    soft_piece_over(gone);
    p->bytes += gone->bytes;
    p->next = gone->next;
    if (p->next != NULL)
        p->next->prev = p;
    soft_piece_index(p);
    free(gone);
}

/* ------------------------------------------------------------------------------------ chunks -- */
static struct soft_chunk *chunk_new(struct soft_pool *pool, uint64_t bytes)
{
    uint64_t bucket = bytes / BUCKETS > BUCKET_LEAST ? bytes / BUCKETS : BUCKET_LEAST;
    struct soft_chunk *chunk = calloc(1, sizeof *chunk);
    struct soft_piece *piece = calloc(1, sizeof *piece);

    if (chunk == NULL || piece == NULL)
        goto no_memory;
    chunk->at = calloc((size_t)(bytes / bucket + 1), sizeof(struct soft_piece *));
    chunk->missing = calloc((size_t)(bytes / SOFT_POOL_UNIT + 1), 1);
    if (chunk->at == NULL || chunk->missing == NULL)
        goto no_memory;
    chunk->pool = pool;
    chunk->bucket = bucket;
    chunk->area.ops = pool->ordinal == SOFT_PHYS_HOST ? &host_ops : &device_ops;
    if (soft_area_take(&chunk->area, bytes, 0, 0) != 0)
        goto no_memory;
    *piece = (struct soft_piece){
        .chunk = chunk, .start = chunk->area.start, .bytes = bytes, .is = SOFT_PIECE_FREE};
    chunk->pieces = piece;
    soft_piece_index(piece);
    soft_piece_list(piece);
    chunk->next = pool->chunks;
    chunk->link = &pool->chunks;
    if (pool->chunks != NULL)
        pool->chunks->link = &chunk->next;
    pool->chunks = chunk;
    return chunk;
no_memory:
    if (chunk != NULL) {
        free(chunk->at);
        free(chunk->missing);
    }
    free(chunk);
    free(piece);
    return NULL;
}

/* Its memory is given back, or was not there yet. */
static void chunk_delete(struct soft_chunk *chunk)
{
    struct soft_piece *p = chunk->pieces;

    while (p != NULL) {
        struct soft_piece *gone = p;

        p = p->next;
        if (gone->is == SOFT_PIECE_FREE)
            soft_piece_unlist(gone);
        else if (gone->is != SOFT_PIECE_GONE)
            chunk->pool->used -= gone->asked;
        soft_piece_over(gone);
        free(gone);
    }
    *chunk->link = chunk->next;
    if (chunk->next != NULL)
        chunk->next->link = chunk->link;
    soft_area_give(&chunk->area);
    free(chunk->at);
    free(chunk->missing);
    free(chunk);
}

static void reserve(struct soft_pool *pool, uint64_t bytes)
{
    pool->reserved += bytes;
    if (pool->reserved > pool->reserved_high)
        pool->reserved_high = pool->reserved;
}

struct soft_chunk *soft_chunk_make(struct soft_pool *pool, uint64_t bytes)
{
    struct soft_chunk *chunk;

    bytes = (bytes + SOFT_POOL_UNIT - 1) / SOFT_POOL_UNIT * SOFT_POOL_UNIT;
    if (pool->max_bytes != 0 &&
        (bytes > pool->max_bytes || pool->reserved > pool->max_bytes - bytes))
        return NULL;
    chunk = chunk_new(pool, bytes);
    if (chunk == NULL)
        return NULL;
    if (soft_phys_grow(pool->phys, bytes, &chunk->offset) != 0) {
        chunk_delete(chunk);
        return NULL;
    }
    if (soft_area_map(&chunk->area, chunk->area.start, pool->phys, chunk->offset, bytes) != 0) {
        soft_phys_shrink(pool->phys, chunk->offset, bytes);
        chunk_delete(chunk);
        return NULL;
    }
    soft_area_publish(&chunk->area, chunk->area.start, bytes);
    reserve(pool, bytes);
    return chunk;
}

struct soft_piece *soft_chunk_import(struct soft_pool *pool, uint64_t offset, uint64_t bytes)
{
    uint64_t from = offset / SOFT_GRANULE * SOFT_GRANULE, inside = offset - from;
    uint64_t all = soft_granules(inside + bytes);
    struct soft_chunk *chunk = chunk_new(pool, all);
    struct soft_piece *p = chunk != NULL ? chunk->pieces : NULL;

    if (chunk == NULL)
        return NULL;
    chunk->offset = from;
    /* what lies round it is the exporter's: nobody's here */
    if (inside > 0 && (p = soft_piece_split(p, inside)) != NULL) {
        soft_piece_unlist(chunk->pieces);
        chunk->pieces->is = SOFT_PIECE_GONE;
    }
    if (p != NULL && p->bytes > bytes) {
        struct soft_piece *rest = soft_piece_split(p, bytes);

        if (rest != NULL) {
            soft_piece_unlist(rest);
            rest->is = SOFT_PIECE_GONE;
        }
        p = rest != NULL ? p : NULL;
    }
    if (p == NULL || soft_area_map(&chunk->area, chunk->area.start, pool->phys, from, all) != 0) {
        chunk_delete(chunk);
        return NULL;
    }
    soft_area_publish(&chunk->area, chunk->area.start, all);
    reserve(pool, all);
    return p;
}

void soft_chunk_drop(struct soft_chunk *chunk)
{
    struct soft_pool *pool = chunk->pool;
    uint64_t end = chunk->area.bytes;

    for (uint64_t at = 0; at < end; at += SOFT_POOL_UNIT) {
        uint64_t bytes = end - at < SOFT_POOL_UNIT ? end - at : SOFT_POOL_UNIT;

        if (chunk->missing[at / SOFT_POOL_UNIT] != 0)
            continue;
        if (!pool->imported) {
            soft_area_unmap(&chunk->area, chunk->area.start + at, bytes);
            soft_phys_shrink(pool->phys, chunk->offset + at, bytes);
        }
        pool->reserved -= bytes;
    }
    chunk_delete(chunk);
}

/* ---------------------------------------------------------------------------------- trimming -- */
static bool is_over(const struct soft_piece *p)
{
    return p->is == SOFT_PIECE_GONE ||
           (p->is == SOFT_PIECE_FREE &&
            (p->stream == NULL || soft_order_complete(p->stream, p->seq)));
}

/* The pieces from `p` on that reach into [.., end): are all of them over? */
static bool all_over(const struct soft_piece *p, uint64_t end)
{
    for (; p != NULL && p->start < end; p = p->next)
        if (!is_over(p))
            return false;
    return true;
}

/* [start, end) becomes addresses without memory. False: no memory for a piece. */
static bool carve(struct soft_chunk *chunk, uint64_t start, uint64_t end)
{
    struct soft_piece *p = (struct soft_piece *)piece_over(chunk, start), *first;

    if (p->start < start && (p = soft_piece_split(p, start - p->start)) == NULL)
        return false;
    for (first = p;; p = p->next) {
        if (p->start + p->bytes > end && soft_piece_split(p, end - p->start) == NULL)
            return false;
        if (p->is == SOFT_PIECE_FREE)
            soft_piece_unlist(p);
        soft_piece_over(p);
        p->is = SOFT_PIECE_GONE;
        if (p->start + p->bytes == end)
            break;
    }
    if (first->prev != NULL && first->prev->is == SOFT_PIECE_GONE)
        first = first->prev;
    while (first->next != NULL && first->next->is == SOFT_PIECE_GONE)
        soft_piece_absorb(first);
    return true;
}

bool soft_chunk_trim(struct soft_chunk *chunk, uint64_t keep)
{
    struct soft_pool *pool = chunk->pool;
    uint64_t start = chunk->area.start, end = start + chunk->area.bytes;

    for (uint64_t at = start; at < end; at += SOFT_POOL_UNIT) {
        uint8_t *missing = &chunk->missing[(at - start) / SOFT_POOL_UNIT];

        if (*missing != 0)
            continue;
        if (pool->reserved < SOFT_POOL_UNIT || pool->reserved - SOFT_POOL_UNIT < keep)
            return false;
        if (!all_over(piece_over(chunk, at), at + SOFT_POOL_UNIT) ||
            !carve(chunk, at, at + SOFT_POOL_UNIT))
            continue;
        *missing = 1;
        soft_area_unmap(&chunk->area, at, SOFT_POOL_UNIT);
        soft_phys_shrink(pool->phys, chunk->offset + (at - start), SOFT_POOL_UNIT);
        pool->reserved -= SOFT_POOL_UNIT;
    }
    return chunk->pieces->is == SOFT_PIECE_GONE && chunk->pieces->next == NULL;
}
