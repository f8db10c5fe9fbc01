/* SPDX-License-Identifier: Apache-2.0
 *
 * Which free memory of a pool an allocation may have: see pool.h.
 */
#include "soft/gpu/pool_chunk.h"

#include <stdlib.h>

struct soft_pool *soft_pools;

void soft_piece_use(struct soft_piece *p, uint64_t asked)
{
    struct soft_pool *pool = p->chunk->pool;

    soft_piece_unlist(p);
    soft_piece_over(p);
    p->is = SOFT_PIECE_USED;
    p->asked = asked;
    p->id = soft_span_next_id();
    p->chunk->used++;
    pool->used += asked;
    if (pool->used > pool->used_high)
        pool->used_high = pool->used;
}

/* The legacy stream and those that heed it are ordered by every submission. */
static bool follows_by_legacy(const struct soft_stream *stream, const struct soft_stream *on)
{
    return stream->ctx == on->ctx &&
           ((stream->legacy && on->blocking) || (stream->blocking && on->legacy));
}

static bool may_use(const struct soft_pool *pool, struct soft_stream *stream, uint64_t at,
                    const struct soft_piece *p)
{
    if (p->stream == NULL || p->stream == stream)
        return true;
    if (pool->follow_events &&
        (follows_by_legacy(stream, p->stream) || soft_order_follows(stream, at, p->stream, p->seq)))
        return true;
    return pool->opportunistic && soft_order_complete(p->stream, p->seq);
}

/* Where the smallest run of usable pieces begins that has room; NULL: nowhere. */
static struct soft_piece *best_run(struct soft_pool *pool, uint64_t bytes)
{
    struct soft_piece *best = NULL;
    uint64_t best_bytes = UINT64_MAX;

    for (struct soft_piece *p = pool->free; p != NULL; p = p->free_next) {
        uint64_t room = 0;

        if (!p->usable || (p->prev != NULL && p->prev->is == SOFT_PIECE_FREE && p->prev->usable))
            continue;
        for (const struct soft_piece *q = p; q != NULL && q->is == SOFT_PIECE_FREE && q->usable;
             q = q->next)
            room += q->bytes;
        if (room >= bytes && room < best_bytes) {
            best = p;
            best_bytes = room;
        }
    }
    return best;
}

/* `stream`: who is ordered behind `p` already, if by the legacy stream then only from its next
 * command on, which need not come; NULL: nobody. */
static int need_add(struct soft_pool_need *need, const struct soft_piece *p,
                    const struct soft_stream *stream)
{
    struct soft_dep *deps;

    if (p->stream == NULL || p->stream == stream || (stream != NULL && !p->stream->legacy))
        return 0;
    deps = realloc(need->deps, (need->count + 1) * sizeof *deps);
    if (deps == NULL)
        return -1;
    soft_stream_ref(p->stream);
    deps[need->count++] = (struct soft_dep){p->stream, p->seq};
    need->deps = deps;
    return 0;
}

static uint64_t padded(uint64_t asked)
{
    return (asked + SOFT_POOL_ALIGN - 1) / SOFT_POOL_ALIGN * SOFT_POOL_ALIGN;
}

/* One piece for `asked` bytes out of the run that begins with `p`. */
static struct soft_piece *cut(struct soft_pool *pool, struct soft_piece *p, uint64_t asked,
                              const struct soft_stream *stream, struct soft_pool_need *need)
{
    uint64_t bytes = padded(asked), room = 0;
    bool early = false;

    /* all that can fail first: what is absorbed forgets whom it waited for */
    for (const struct soft_piece *q = p; room < bytes; q = q->next) {
        if (need_add(need, q, stream) != 0)
            return NULL;
        early = early || q->stream != NULL;
        room += q->bytes;
    }
    while (p->bytes < bytes) {
        struct soft_piece *next = p->next;
        uint64_t more = bytes - p->bytes;

        if (next->bytes <= more) {
            soft_piece_absorb(p);
            continue;
        }
        next->start += more;
        next->bytes -= more;
        p->bytes = bytes;
        soft_piece_index(p);
        soft_piece_index(next);
    }
    if (p->bytes > bytes)
        soft_piece_split(p, bytes); /* without memory for the rest it gets it all */
    soft_piece_use(p, asked);
    p->early = early;
    return p;
}

struct soft_piece *soft_piece_take(struct soft_pool *pool, struct soft_stream *stream,
                                   uint64_t asked, struct soft_pool_need *need)
{
    uint64_t at = soft_order_submitted(stream);
    struct soft_chunk *chunk;
    struct soft_piece *p;

    for (p = pool->free; p != NULL; p = p->free_next)
        p->usable = may_use(pool, stream, at, p);
    p = best_run(pool, padded(asked));
    if (p == NULL) {
        chunk = soft_chunk_make(pool, asked);
        p = chunk != NULL ? chunk->pieces : NULL;
    }
    return p != NULL ? cut(pool, p, asked, stream, need) : NULL;
}

struct soft_piece *soft_piece_take_pending(struct soft_pool *pool, uint64_t asked,
                                           struct soft_pool_need *need)
{
    struct soft_piece *p;

    for (p = pool->free; p != NULL; p = p->free_next)
        p->usable = true;
    p = best_run(pool, padded(asked));
    return p != NULL ? cut(pool, p, asked, NULL, need) : NULL;
}

/* Those behind it that are free on the same terms become part of it. */
static void join(struct soft_piece *p)
{
    while (p->next != NULL && p->next->is == SOFT_PIECE_FREE && p->next->stream == p->stream) {
        uint64_t seq = p->seq > p->next->seq ? p->seq : p->next->seq;

        soft_piece_absorb(p);
        p->seq = seq;
    }
}

void soft_piece_free(struct soft_piece *piece, struct soft_stream *stream, uint64_t seq)
{
    struct soft_pool *pool = piece->chunk->pool;

    piece->is = SOFT_PIECE_FREE;
    /* freed at once, while what had the memory before may still run: not before its allocation */
    if (stream != NULL || piece->stream == NULL || soft_order_complete(piece->stream, piece->seq)) {
        soft_piece_over(piece);
        if (stream != NULL)
            soft_stream_ref(stream);
        piece->stream = stream;
        piece->seq = seq;
    }
    piece->chunk->used--;
    pool->used -= piece->asked;
    atomic_store(&soft_pools_dirty, true);
    soft_piece_list(piece);
    join(piece);
    if (piece->prev != NULL && piece->prev->is == SOFT_PIECE_FREE)
        join(piece->prev);
}

void soft_pool_settle(struct soft_pool *pool, soft_pool_is_over *is_over, const void *arg)
{
    soft_pool_managed_settle(pool, 0, is_over, arg);
    for (struct soft_piece *p = pool->free; p != NULL; p = p->free_next)
        if (p->stream != NULL && is_over(p->stream, p->seq, arg))
            soft_piece_over(p);
    for (struct soft_piece *p = pool->free; p != NULL; p = p->free_next)
        join(p);
}

void soft_pool_trim(struct soft_pool *pool, uint64_t keep)
{
    struct soft_chunk *chunk = pool->chunks;

    /* documented: pools of several processes give nothing back as long as they exist */
    if (pool->props.handleTypes != CU_MEM_HANDLE_TYPE_NONE || pool->imported)
        return;
    soft_pool_managed_trim(pool, keep);
    while (chunk != NULL && pool->reserved > keep) {
        struct soft_chunk *next = chunk->next;

        if (soft_chunk_trim(chunk, keep))
            soft_chunk_drop(chunk);
        chunk = next;
    }
}

void soft_pool_wipe(struct soft_pool *pool)
{
    soft_pool_managed_wipe(pool);
    while (pool->chunks != NULL)
        soft_chunk_drop(pool->chunks);
}
