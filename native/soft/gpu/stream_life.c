/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream's life: made, started with its first command, destroyed by the client while it still
 * has work, ended with its context.
 */
#include "soft/gpu/context.h"

#include <signal.h>
#include <stdlib.h>

#include "soft/gpu/pool.h"

#define STREAM_STACK_BYTES (1u << 20)

static _Atomic uint64_t next_stream_id = 1;

struct soft_stream *soft_stream_new(struct soft_ctx *ctx, unsigned flags, int priority)
{
    struct soft_stream *stream = calloc(1, sizeof *stream);

    if (stream == NULL)
        return NULL;
    stream->ctx = ctx;
    stream->ctx_id = ctx->id;
    stream->id = atomic_fetch_add(&next_stream_id, 1);
    stream->refs = 1;
    stream->flags = flags;
    stream->priority = priority;
    stream->blocking = (flags & CU_STREAM_NON_BLOCKING) == 0;
    stream->attributes.policy = CU_SYNC_POLICY_AUTO;
    stream->attributes.domains = (CUlaunchMemSyncDomainMap){0, 0};
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->work, NULL);
    pthread_cond_init(&stream->done, NULL);
    return stream;
}

void soft_stream_ref(struct soft_stream *stream)
{
    atomic_fetch_add(&stream->refs, 1);
}

void soft_stream_unref(struct soft_stream *stream)
{
    if (atomic_fetch_sub(&stream->refs, 1) != 1)
        return;
    soft_order_forget(stream);
    pthread_mutex_destroy(&stream->lock);
    pthread_cond_destroy(&stream->work);
    pthread_cond_destroy(&stream->done);
    free(stream);
}

/* With the stream's lock held. */
int soft_stream_start(struct soft_stream *stream)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STREAM_STACK_BYTES);
    sigfillset(&all); /* the client's signals are the client's threads' */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    soft_stream_ref(stream);
    err = pthread_create(&stream->thread, &attr, soft_stream_main, stream);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (err != 0)
        soft_stream_unref(stream);
    stream->started = err == 0;
    return err;
}

struct soft_stream *soft_stream_inner(struct soft_ctx *ctx)
{
    struct soft_stream *stream = soft_stream_new(ctx, CU_STREAM_NON_BLOCKING, 0);

    if (stream == NULL)
        return NULL;
    stream->inner = true;
    pthread_mutex_lock(&ctx->submit_lock);
    stream->next = ctx->streams;
    ctx->streams = stream;
    pthread_mutex_unlock(&ctx->submit_lock);
    return stream;
}

struct soft_stream *soft_stream_unlink(struct soft_ctx *ctx, bool inner)
{
    struct soft_stream *found = NULL;

    pthread_mutex_lock(&ctx->submit_lock);
    for (struct soft_stream **at = &ctx->streams; *at != NULL; at = &(*at)->next)
        if (inner || !(*at)->inner) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_mutex_unlock(&ctx->submit_lock);
    return found;
}

static void reap_orphans(struct soft_ctx *ctx)
{
    struct soft_stream **at = &ctx->streams, *gone = NULL;

    while (*at != NULL) {
        struct soft_stream *s = *at;
        bool over;

        pthread_mutex_lock(&s->lock);
        over = s->orphan && s->completed == s->submitted;
        pthread_mutex_unlock(&s->lock);
        if (over) {
            *at = s->next;
            s->next = gone;
            gone = s;
        } else {
            at = &s->next;
        }
    }
    while (gone != NULL) {
        struct soft_stream *s = gone;

        gone = s->next;
        if (s->started)
            pthread_join(s->thread, NULL); /* on its way out */
        soft_stream_unref(s);
    }
}

/* It stays in the context's list (cuCtxSynchronize waits for it) until its work is done and the
 * next stream is made or dropped. */
void soft_stream_orphan(struct soft_stream *stream)
{
    struct soft_ctx *ctx = stream->ctx;

    pthread_mutex_lock(&ctx->submit_lock);
    pthread_mutex_lock(&stream->lock);
    stream->orphan = true;
    stream->stopping = true;
    pthread_cond_signal(&stream->work);
    pthread_mutex_unlock(&stream->lock);
    soft_order_forget(stream);
    reap_orphans(ctx);
    pthread_mutex_unlock(&ctx->submit_lock);
}

/* The context goes: waits for the thread to have done all it holds. */
void soft_stream_stop(struct soft_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->stopping = true;
    pthread_cond_signal(&stream->work);
    pthread_mutex_unlock(&stream->lock);
    if (stream->started)
        pthread_join(stream->thread, NULL);
    soft_order_forget(stream);
    soft_stream_unref(stream);
}

struct soft_ctx *soft_stream_ctx(const struct soft_stream *stream)
{
    return stream->ctx;
}

struct soft_graph *soft_stream_capture(const struct soft_stream *stream)
{
    return atomic_load(&stream->capture);
}

void soft_stream_capture_set(struct soft_stream *stream, struct soft_graph *capture)
{
    atomic_store(&stream->capture, capture);
}

bool soft_stream_is_legacy(const struct soft_stream *stream)
{
    return stream->legacy;
}

bool soft_stream_is_blocking(const struct soft_stream *stream)
{
    return stream->blocking;
}
