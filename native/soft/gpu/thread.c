/* SPDX-License-Identifier: Apache-2.0
 *
 * What the driver keeps per thread: the context stack, the per-thread default streams, and which
 * default stream NULL means. By pthread key, since an ELF TLS block would keep the library from
 * loading where static TLS is used up, and under musl.
 */
#include "soft/gpu/context.h"

#include <stdlib.h>

#include "soft/gpu/capture.h"

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

/* A thread ends: its default streams drain by themselves. */
static void forget(void *arg)
{
    struct soft_thread *t = arg;

    for (size_t i = 0; i < t->default_count && !atomic_load(&soft_ending); i++) {
        struct soft_stream *s = t->defaults[i];

        soft_capture_forget_stream(s);
        soft_lock();
        if (atomic_load(&s->ctx->alive) && s->ctx_id == s->ctx->id)
            soft_stream_orphan(s);
        soft_unlock();
        soft_stream_unref(s);
    }
    free(t->defaults);
    free(t);
}

static void make_key(void)
{
    pthread_key_create(&key, forget);
}

struct soft_thread *soft_thread(void)
{
    struct soft_thread *t;

    pthread_once(&key_once, make_key);
    t = pthread_getspecific(key);
    if (t == NULL) {
        t = calloc(1, sizeof *t);
        if (t != NULL)
            pthread_setspecific(key, t);
    }
    return t;
}

bool soft_per_thread_default(void)
{
    struct soft_thread *t = soft_thread();

    return t != NULL && t->per_thread_default;
}

void soft_per_thread_default_set(bool on)
{
    struct soft_thread *t = soft_thread();

    if (t != NULL)
        t->per_thread_default = on;
}

CUresult soft_per_thread_stream(struct soft_ctx *ctx, struct soft_stream **out)
{
    struct soft_thread *t = soft_thread();
    struct soft_stream **wider, *s;

    if (t == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < t->default_count; i++) {
        if (t->defaults[i]->ctx_id == ctx->id) {
            *out = t->defaults[i];
            return CUDA_SUCCESS;
        }
    }
    wider = realloc(t->defaults, (t->default_count + 1) * sizeof *wider);
    if (wider == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    t->defaults = wider;
    s = soft_stream_new(ctx, CU_STREAM_DEFAULT, 0);
    if (s == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    s->per_thread = true;
    soft_stream_ref(s); /* the thread's, beside the context's */
    pthread_mutex_lock(&ctx->submit_lock);
    s->next = ctx->streams;
    ctx->streams = s;
    pthread_mutex_unlock(&ctx->submit_lock);
    t->defaults[t->default_count++] = s;
    *out = s;
    return CUDA_SUCCESS;
}
