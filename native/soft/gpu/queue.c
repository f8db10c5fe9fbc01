/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream's queue: submission, order among streams, waiting. What a command waits for was
 * submitted before it, so waits cannot form a ring.
 */
#include "soft/gpu/context.h"

#include <stdlib.h>

#include "soft/gpu/capture.h"
#include "soft/gpu/pool.h"

int soft_cmd_depend(struct soft_cmd *cmd, struct soft_stream *stream, uint64_t seq)
{
    struct soft_dep *deps = realloc(cmd->deps, (cmd->dep_count + 1) * sizeof *deps);

    if (deps == NULL)
        return -1;
    soft_stream_ref(stream);
    deps[cmd->dep_count++] = (struct soft_dep){stream, seq};
    cmd->deps = deps;
    return 0;
}

struct soft_cmd *soft_cmd_new(const struct soft_cmd_ops *ops)
{
    struct soft_cmd *cmd = calloc(1, sizeof *cmd);

    if (cmd != NULL)
        cmd->ops = ops;
    return cmd;
}

void soft_cmd_drop(struct soft_cmd *cmd)
{
    for (size_t i = 0; i < cmd->dep_count; i++)
        soft_stream_unref(cmd->deps[i].stream);
    free(cmd->deps);
    cmd->deps = NULL;
    cmd->dep_count = 0;
    if (cmd->ops->destroy != NULL)
        cmd->ops->destroy(cmd);
    else
        free(cmd);
}

uint64_t soft_stream_pending(struct soft_stream *stream)
{
    uint64_t seq;

    pthread_mutex_lock(&stream->lock);
    seq = stream->completed < stream->submitted ? stream->submitted : 0;
    pthread_mutex_unlock(&stream->lock);
    return seq;
}

bool soft_stream_idle(struct soft_stream *stream)
{
    return soft_stream_pending(stream) == 0;
}

/* The legacy default stream waits for all blocking streams, and they for it. With submit_lock
 * held: so the order is one order for all. */
static int order_by_legacy(struct soft_ctx *ctx, struct soft_stream *stream, struct soft_cmd *cmd)
{
    uint64_t seq;

    if (stream->legacy) {
        for (struct soft_stream *s = ctx->streams; s != NULL; s = s->next)
            if (s != stream && s->blocking && (seq = soft_stream_pending(s)) != 0 &&
                soft_cmd_depend(cmd, s, seq) != 0)
                return -1;
    } else if (stream->blocking && ctx->legacy != NULL &&
               (seq = soft_stream_pending(ctx->legacy)) != 0) {
        return soft_cmd_depend(cmd, ctx->legacy, seq);
    }
    return 0;
}

/* With submit_lock held. */
static int order_by_fence(struct soft_ctx *ctx, struct soft_stream *stream, struct soft_cmd *cmd)
{
    /* what inner streams do was ordered when it was launched */
    if (ctx->fence_seq == stream->fence_seq || stream->inner)
        return 0;
    if (soft_cmd_depend(cmd, ctx->fence, ctx->fence_seq) != 0)
        return -1;
    stream->fence_seq = ctx->fence_seq;
    return 0;
}

/* True if it had to wait: it holds the stream then, which may have been destroyed meanwhile. */
static bool wait_for_room(struct soft_stream *stream)
{
    bool waited = false;

    pthread_mutex_lock(&stream->lock);
    while (stream->submitted - stream->completed >= SOFT_QUEUE_DEPTH && !stream->stopping) {
        if (!waited)
            soft_stream_ref(stream);
        waited = true;
        pthread_cond_wait(&stream->done, &stream->lock);
    }
    pthread_mutex_unlock(&stream->lock);
    return waited;
}

CUresult soft_submit(struct soft_stream *stream, struct soft_cmd *cmd)
{
    uint64_t seq;

    return soft_submit_at(stream, cmd, &seq);
}

CUresult soft_submit_at(struct soft_stream *stream, struct soft_cmd *cmd, uint64_t *seq)
{
    struct soft_ctx *ctx = stream->ctx;
    struct soft_graph *capture = atomic_load(&stream->capture);
    CUresult r = CUDA_SUCCESS;
    bool held;

    if (capture != NULL)
        return soft_capture_add(capture, stream, cmd);
    if (atomic_load(&soft_ending)) {
        soft_cmd_drop(cmd);
        return CUDA_ERROR_DEINITIALIZED;
    }
    /* room is not reserved: threads that race for the last place may overshoot by their number */
    held = wait_for_room(stream);
    pthread_mutex_lock(&ctx->submit_lock);
    if (order_by_legacy(ctx, stream, cmd) != 0 || order_by_fence(ctx, stream, cmd) != 0) {
        r = CUDA_ERROR_OUT_OF_MEMORY;
        goto out;
    }
    pthread_mutex_lock(&stream->lock);
    if (stream->stopping) {
        r = CUDA_ERROR_CONTEXT_IS_DESTROYED; /* nobody would carry it out */
    } else if (!stream->started && soft_stream_start(stream) != 0) {
        r = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        *seq = cmd->seq = ++stream->submitted;
        if (!stream->inner || cmd->submit_ns == 0)
            cmd->submit_ns = soft_now_ns();
        if (!cmd->own_priority)
            cmd->priority = atomic_load(&stream->priority);
        cmd->next = NULL;
    }
    pthread_mutex_unlock(&stream->lock);
    if (r != CUDA_SUCCESS)
        goto out;
    if (cmd->ops->submitted != NULL)
        cmd->ops->submitted(cmd, stream);
    soft_order_note(stream, cmd);
    pthread_mutex_lock(&stream->lock);
    if (stream->tail != NULL)
        stream->tail->next = cmd;
    else
        stream->head = cmd;
    stream->tail = cmd;
    pthread_cond_signal(&stream->work);
    pthread_mutex_unlock(&stream->lock);
    cmd = NULL;
out:
    pthread_mutex_unlock(&ctx->submit_lock);
    if (cmd != NULL)
        soft_cmd_drop(cmd);
    if (held)
        soft_stream_unref(stream);
    return r;
}

/* Another thread may destroy it meanwhile. */
void soft_stream_wait_seq(struct soft_stream *stream, uint64_t seq)
{
    soft_stream_ref(stream);
    pthread_mutex_lock(&stream->lock);
    while (stream->completed < seq)
        pthread_cond_wait(&stream->done, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
    soft_stream_unref(stream);
}

CUresult soft_stream_wait(struct soft_stream *stream)
{
    struct soft_ctx *ctx = stream->ctx;

    if (stream->legacy)
        return soft_legacy_wait(ctx);
    soft_stream_ref(stream); /* another thread may destroy it meanwhile */
    soft_stream_wait_seq(stream, soft_stream_pending(stream));
    soft_pools_synced(stream, 0);
    soft_stream_unref(stream);
    return soft_ctx_error(ctx);
}

struct pending {
    struct soft_stream *stream;
    uint64_t seq;
};

/* What of it a wait on the context is for; 0: nothing. */
static uint64_t awaited(struct soft_stream *s, bool only_blocking)
{
    return s->blocking || s->legacy || !only_blocking ? soft_stream_pending(s) : 0;
}

/* Without memory for the list: stream by stream, by their numbers. What other threads enqueue
 * meanwhile may be waited for as well; none that was there at the call is left out. */
static void wait_each(struct soft_ctx *ctx, bool only_blocking)
{
    uint64_t after = 0, until = 0;

    for (;;) {
        struct pending next = {NULL, 0};

        pthread_mutex_lock(&ctx->submit_lock);
        for (struct soft_stream *s = ctx->streams; s != NULL && after == 0; s = s->next)
            until = s->id > until ? s->id : until;
        for (struct soft_stream *s = ctx->streams; s != NULL; s = s->next)
            if (s->id > after && s->id <= until && (next.stream == NULL || s->id < next.stream->id))
                next.stream = s;
        if (next.stream != NULL) {
            soft_stream_ref(next.stream);
            next.seq = awaited(next.stream, only_blocking);
        }
        pthread_mutex_unlock(&ctx->submit_lock);
        if (next.stream == NULL)
            return;
        after = next.stream->id;
        soft_stream_wait_seq(next.stream, next.seq);
        soft_stream_unref(next.stream);
    }
}

static CUresult wait_all(struct soft_ctx *ctx, bool only_blocking)
{
    struct pending *list = NULL;
    size_t count = 0, at = 0;

    pthread_mutex_lock(&ctx->submit_lock);
    for (struct soft_stream *s = ctx->streams; s != NULL; s = s->next)
        count++;
    if (count > 0)
        list = calloc(count, sizeof *list);
    for (struct soft_stream *s = ctx->streams; s != NULL && list != NULL; s = s->next) {
        uint64_t seq = awaited(s, only_blocking);

        if (seq == 0)
            continue;
        soft_stream_ref(s);
        list[at++] = (struct pending){s, seq};
    }
    pthread_mutex_unlock(&ctx->submit_lock);
    if (count > 0 && list == NULL)
        wait_each(ctx, only_blocking);
    for (size_t i = 0; i < at; i++) {
        soft_stream_wait_seq(list[i].stream, list[i].seq);
        soft_stream_unref(list[i].stream);
    }
    free(list);
    soft_pools_synced_ctx(ctx, only_blocking);
    return soft_ctx_error(ctx);
}

CUresult soft_legacy_wait(struct soft_ctx *ctx)
{
    return wait_all(ctx, true);
}

CUresult soft_ctx_wait(struct soft_ctx *ctx)
{
    return wait_all(ctx, false);
}

void soft_ctx_wait_quietly(struct soft_ctx *ctx)
{
    CUresult r = soft_ctx_wait(ctx);
    int none = CUDA_SUCCESS;

    if (r != CUDA_SUCCESS && soft_ctx_sticky(ctx) == CUDA_SUCCESS)
        atomic_compare_exchange_strong(&ctx->deferred, &none, (int)r);
}

/* Contexts' structs outlive them. */
void soft_ctx_wait_all(void)
{
    struct soft_ctx *ctx;

    soft_lock();
    ctx = soft_ctx_first();
    soft_unlock();
    for (; ctx != NULL; ctx = ctx->next)
        if (atomic_load(&ctx->alive))
            soft_ctx_wait_quietly(ctx);
}
