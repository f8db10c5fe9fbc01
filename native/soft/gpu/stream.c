/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on streams; which stream a handle means.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/context.h"

#include <stdlib.h>

CUresult soft_legacy_stream(struct soft_ctx *ctx, struct soft_stream **out)
{
    CUresult r = CUDA_SUCCESS;

    pthread_mutex_lock(&ctx->submit_lock);
    if (ctx->legacy == NULL) {
        struct soft_stream *s = soft_stream_new(ctx, CU_STREAM_DEFAULT, 0);

        if (s == NULL) {
            r = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            s->legacy = true;
            s->blocking = false;
            s->next = ctx->streams;
            ctx->streams = s;
            ctx->legacy = s;
        }
    }
    *out = ctx->legacy;
    pthread_mutex_unlock(&ctx->submit_lock);
    return r;
}

CUresult soft_stream_of(CUstream handle, struct soft_stream **out)
{
    struct soft_ctx *ctx;
    CUresult r;

    if (handle != NULL && handle != CU_STREAM_LEGACY && handle != CU_STREAM_PER_THREAD) {
        struct soft_stream *s = (struct soft_stream *)(void *)handle;

        if (!soft_handle_is(SOFT_H_STREAM, s))
            return CUDA_ERROR_INVALID_HANDLE;
        *out = s;
        return soft_ctx_sticky(s->ctx);
    }
    r = soft_current(&ctx);
    if (r != CUDA_SUCCESS)
        return r;
    if (handle == CU_STREAM_PER_THREAD || (handle == NULL && soft_per_thread_default()))
        return soft_per_thread_stream(ctx, out);
    r = soft_capture_check_legacy(ctx);
    return r != CUDA_SUCCESS ? r : soft_legacy_stream(ctx, out);
}

CUresult soft_stream_enter(CUstream handle, struct soft_stream **out)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    return r != CUDA_SUCCESS ? r : soft_stream_of(handle, out);
}

CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    struct soft_ctx *ctx;
    struct soft_stream *s;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (phStream == NULL || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    /* out of range is brought into it, as documented */
    priority = soft_priority_clamp(priority);
    s = soft_stream_new(ctx, flags, priority);
    if (s == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (soft_handle_add(SOFT_H_STREAM, s) != 0) {
        soft_stream_unref(s);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&ctx->submit_lock);
    s->next = ctx->streams;
    ctx->streams = s;
    pthread_mutex_unlock(&ctx->submit_lock);
    *phStream = (CUstream)(void *)s;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return cuStreamCreateWithPriority(phStream, Flags, 0);
}

CUresult cuStreamDestroy_v2(CUstream hStream)
{
    struct soft_stream *s = (struct soft_stream *)(void *)hStream;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (!soft_handle_is(SOFT_H_STREAM, s))
        return CUDA_ERROR_INVALID_HANDLE;
    soft_capture_forget_stream(s);
    if (!soft_handle_remove(SOFT_H_STREAM, s))
        return CUDA_ERROR_INVALID_HANDLE;
    soft_stream_orphan(s);
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream hStream)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_stream(s);
    return r != CUDA_SUCCESS ? r : soft_stream_wait(s);
}

static bool legacy_idle(struct soft_ctx *ctx)
{
    bool idle = true;

    pthread_mutex_lock(&ctx->submit_lock);
    for (struct soft_stream *s = ctx->streams; s != NULL && idle; s = s->next)
        idle = (!s->legacy && !s->blocking) || soft_stream_idle(s);
    pthread_mutex_unlock(&ctx->submit_lock);
    return idle;
}

CUresult cuStreamQuery(CUstream hStream)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_stream(s);
    if (r != CUDA_SUCCESS)
        return r;
    if (!(s->legacy ? legacy_idle(s->ctx) : soft_stream_idle(s)))
        return CUDA_ERROR_NOT_READY;
    return soft_ctx_told(s->ctx);
}

CUresult cuStreamGetPriority(CUstream hStream, int *priority)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (priority == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *priority = atomic_load(&s->priority);
    return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = s->flags;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetId(CUstream hStream, unsigned long long *streamId)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (streamId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *streamId = s->id;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream hStream, CUcontext *pctx)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pctx = soft_ctx_handle(s->ctx);
    return CUDA_SUCCESS;
}

CUresult cuStreamGetDevice(CUstream hStream, CUdevice *device)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = s->ctx->device;
    return CUDA_SUCCESS;
}
