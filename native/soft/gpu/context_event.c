/* SPDX-License-Identifier: Apache-2.0
 *
 * Events of whole contexts: recorded behind all that a context holds, and waited for by all that
 * it will be given. Each has an inner stream, so that neither waits for the other; what is
 * submitted after a wait depends on that command's place (order_by_fence in queue.c).
 */
#include "soft/gpu/event.h"

#include "soft/gpu/capture.h"

static CUresult inner_stream(struct soft_ctx *ctx, struct soft_stream **at,
                             struct soft_stream **out)
{
    soft_lock();
    if (*at == NULL)
        *at = soft_stream_inner(ctx);
    *out = *at;
    soft_unlock();
    return *out == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

/* With submit_lock held, so that no command slips in between. */
static void gather(struct soft_cmd *cmd, struct soft_stream *marker)
{
    struct soft_ctx *ctx = marker->ctx;

    for (struct soft_stream *s = ctx->streams; s != NULL; s = s->next) {
        uint64_t seq = s == marker ? 0 : soft_stream_pending(s);

        if (seq != 0 && soft_cmd_depend(cmd, s, seq) != 0)
            soft_ctx_poison(ctx, CUDA_ERROR_UNKNOWN); /* no memory for 16 bytes */
    }
}

static void raise_fence(struct soft_cmd *cmd, struct soft_stream *marker)
{
    marker->ctx->fence_seq = cmd->seq;
}

static const struct soft_cmd_ops gather_ops = {
    .name = "context_mark", .engine = SOFT_NO_ENGINE, .submitted = gather};
static const struct soft_cmd_ops fence_ops = {
    .name = "context_fence", .engine = SOFT_NO_ENGINE, .submitted = raise_fence};

static CUresult submit_new(struct soft_stream *marker, const struct soft_cmd_ops *ops)
{
    struct soft_cmd *cmd = soft_cmd_new(ops);

    return cmd == NULL ? CUDA_ERROR_OUT_OF_MEMORY : soft_submit(marker, cmd);
}

static CUresult enter(CUcontext handle, CUevent event_handle, struct soft_ctx **ctx,
                      struct soft_event **event)
{
    CUresult r = soft_ctx_given(handle, ctx);

    if (r == CUDA_SUCCESS)
        r = soft_ctx_sticky(*ctx);
    if (r == CUDA_SUCCESS)
        r = soft_event_of(event_handle, event);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_context(*ctx);
    return r;
}

CUresult cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent)
{
    struct soft_ctx *ctx;
    struct soft_event *event;
    struct soft_stream *marker;
    struct soft_cmd *cmd;
    CUresult r = enter(hCtx, hEvent, &ctx, &event);

    if (r != CUDA_SUCCESS)
        return r;
    if (event->ctx != ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    r = inner_stream(ctx, &ctx->recorder, &marker);
    if (r != CUDA_SUCCESS)
        return r;
    soft_capture_record(marker, hEvent, &r); /* it stands for no capture any more */
    r = submit_new(marker, &gather_ops);
    if (r == CUDA_SUCCESS)
        r = soft_event_record_new(event, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(marker, cmd);
}

CUresult cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent)
{
    struct soft_ctx *ctx;
    struct soft_event *event;
    struct soft_stream *marker;
    struct soft_cmd *cmd;
    CUresult r = enter(hCtx, hEvent, &ctx, &event);

    if (r != CUDA_SUCCESS)
        return r;
    if (soft_capture_check_event(hEvent) != CUDA_SUCCESS)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    r = inner_stream(ctx, &ctx->fence, &marker);
    if (r == CUDA_SUCCESS)
        r = soft_event_wait_new(event, &cmd);
    if (r == CUDA_SUCCESS)
        r = soft_submit(marker, cmd);
    return r != CUDA_SUCCESS ? r : submit_new(marker, &fence_ops);
}
