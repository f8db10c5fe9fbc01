/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools where the host waited: what those waits prove to be over is free for everybody, and what a
 * pool has beyond its threshold goes back to the device. And where a context ends.
 */
#include "soft/gpu/pool_chunk.h"
#include "soft/gpu/pool_graph.h"

_Atomic bool soft_pools_dirty;
_Atomic unsigned soft_pools_waiting;

static bool over_for_all(struct soft_stream *stream, uint64_t seq, const void *arg)
{
    return soft_order_complete(stream, seq);
}

static bool chunk_is_idle(const struct soft_chunk *chunk)
{
    for (const struct soft_piece *p = chunk->pieces; p != NULL && chunk->used == 0; p = p->next)
        if (p->is == SOFT_PIECE_FREE && p->stream != NULL &&
            !soft_order_complete(p->stream, p->seq))
            return false;
    return chunk->used == 0;
}

static bool pool_is_idle(const struct soft_pool *pool)
{
    for (const struct soft_chunk *c = pool->chunks; c != NULL; c = c->next)
        if (!chunk_is_idle(c))
            return false;
    return soft_pool_managed_idle(pool);
}

void soft_pools_reap(void)
{
    struct soft_pool *pool = soft_pools;

    while (pool != NULL && atomic_load(&soft_pools_waiting) > 0) {
        struct soft_pool *next = pool->next;
        struct soft_chunk *chunk = pool->imported ? pool->chunks : NULL;

        while (chunk != NULL) {
            struct soft_chunk *after = chunk->next;

            if (chunk_is_idle(chunk))
                soft_chunk_drop(chunk);
            chunk = after;
        }
        if (pool->destroyed && pool_is_idle(pool)) {
            soft_pool_wipe(pool);
            soft_pool_delete(pool);
        }
        pool = next;
    }
}

/* All pools: settle, give back. Locked. */
static void tidy(soft_pool_is_over *is_over, const void *arg)
{
    bool pending = false;

    for (struct soft_pool *pool = soft_pools; pool != NULL; pool = pool->next) {
        soft_pool_settle(pool, is_over, arg);
        if (pool->reserved > pool->threshold)
            soft_pool_trim(pool, pool->threshold);
        for (const struct soft_piece *p = pool->free; p != NULL && !pending; p = p->free_next)
            pending = p->stream != NULL;
        pending = pending || soft_pool_managed_pending(pool);
    }
    soft_pools_reap();
    if (!pending)
        atomic_store(&soft_pools_dirty, false);
}

struct place {
    struct soft_stream *stream;
    uint64_t seq;
};

static bool before_place(struct soft_stream *stream, uint64_t seq, const void *arg)
{
    const struct place *place = arg;

    return soft_order_follows(place->stream, place->seq, stream, seq);
}

void soft_pools_synced(struct soft_stream *stream, uint64_t seq)
{
    struct place place = {stream, seq};

    if (!atomic_load(&soft_pools_dirty))
        return;
    if (seq == 0) {
        pthread_mutex_lock(&stream->lock);
        place.seq = stream->completed;
        pthread_mutex_unlock(&stream->lock);
    }
    soft_space_lock();
    tidy(before_place, &place);
    soft_space_unlock();
}

struct streams {
    const struct soft_ctx *ctx;
    bool only_blocking;
};

static bool of_streams(struct soft_stream *s, uint64_t seq, const void *arg)
{
    const struct streams *which = arg;

    return s->ctx == which->ctx && (s->blocking || s->legacy || !which->only_blocking) &&
           soft_order_complete(s, seq);
}

void soft_pools_synced_ctx(struct soft_ctx *ctx, bool only_blocking)
{
    struct streams which = {ctx, only_blocking};

    if (!atomic_load(&soft_pools_dirty))
        return;
    soft_space_lock();
    tidy(of_streams, &which);
    soft_space_unlock();
}

void soft_pools_reached(struct soft_stream *stream, uint64_t seq)
{
    struct place place = {stream, seq};

    if (atomic_load(&soft_pools_waiting) == 0)
        return;
    soft_space_lock();
    for (struct soft_pool *pool = soft_pools; pool != NULL; pool = pool->next)
        if (pool->imported || pool->destroyed)
            soft_pool_settle(pool, before_place, &place);
    soft_pools_reap();
    soft_space_unlock();
}

void soft_pools_ctx_end(struct soft_ctx *ctx)
{
    bool last = true;

    for (struct soft_ctx *c = soft_ctx_first(); c != NULL; c = c->next)
        last = last && (c == ctx || c->ordinal != ctx->ordinal || !atomic_load(&c->alive));
    soft_space_lock();
    tidy(over_for_all, NULL);
    for (struct soft_pool *pool = soft_pools; pool != NULL && last; pool = pool->next)
        if (pool->ordinal == ctx->ordinal)
            soft_pool_wipe(pool);
    if (last)
        soft_graph_pool_wipe(ctx->ordinal);
    soft_pools_reap();
    soft_space_unlock();
}
