/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting for events: by streams, by the host, and what time passed between two.
 */
#include "soft/gpu/event.h"

#include "soft/gpu/capture.h"
#include "soft/gpu/pool.h"

bool soft_event_place(struct soft_event *event, struct soft_stream **stream, uint64_t *seq)
{
    bool pending;

    pthread_mutex_lock(&event->lock);
    pending = event->done < event->record;
    if (pending) {
        *stream = event->stream;
        *seq = event->seq;
        soft_stream_ref(*stream);
    }
    pthread_mutex_unlock(&event->lock);
    return pending;
}

/* The place that the latest record stands for, `stream` by reference; false: never recorded. A node
 * of a graph may have reached its event while the graph goes on: then what stands before the graph
 * is over, no more. */
static bool latest_of(struct soft_event *event, struct soft_stream **stream, uint64_t *seq,
                      bool *pending)
{
    pthread_mutex_lock(&event->lock);
    *pending = event->done < event->record;
    *stream = event->stream;
    *seq = event->seq;
    if (*stream != NULL)
        soft_stream_ref(*stream);
    pthread_mutex_unlock(&event->lock);
    if (*stream != NULL && !*pending && !soft_order_complete(*stream, *seq))
        --*seq;
    return *stream != NULL;
}

void soft_event_wait_settle(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct soft_event_wait *w = (struct soft_event_wait *)cmd;
    struct soft_event *event = w->on.event;
    struct soft_stream *on;
    uint64_t seq, stamp;
    bool pending;

    if (w->settled)
        return;
    w->settled = true;
    if (soft_event_place(event, &on, &seq)) {
        if (on != stream && soft_cmd_depend(cmd, on, seq) != 0)
            soft_ctx_poison(stream->ctx, CUDA_ERROR_UNKNOWN); /* no memory for 16 bytes */
        soft_stream_unref(on);
        return;
    }
    /* reached, perhaps at an instant that lies after this submission by the device's clock */
    pthread_mutex_lock(&event->lock);
    stamp = event->stamp_ns;
    pthread_mutex_unlock(&event->lock);
    if (stamp > cmd->submit_ns)
        cmd->submit_ns = stamp;
    if (cmd->seq == 0) /* a graph's, which gets its place in a lane later */
        return;
    if (latest_of(event, &on, &seq, &pending)) {
        if (!pending) /* else another thread has recorded it anew meanwhile */
            soft_order_add(stream, cmd->seq, on, seq);
        soft_stream_unref(on);
    }
}

static struct soft_cmd *wait_clone(const struct soft_cmd *cmd)
{
    return soft_event_cmd_new(soft_event_of_cmd(cmd), cmd->ops, sizeof(struct soft_event_wait));
}

static const struct soft_cmd_ops wait_ops = {.name = "event_wait",
                                             .engine = SOFT_NO_ENGINE,
                                             .clone = wait_clone,
                                             .destroy = soft_event_cmd_destroy,
                                             .submitted = soft_event_wait_settle};

CUresult soft_event_wait_new(struct soft_event *event, struct soft_cmd **out)
{
    if (event->ipc != NULL)
        return soft_event_wait_ipc_new(event, out);
    *out = soft_event_cmd_new(event, &wait_ops, sizeof(struct soft_event_wait));
    return *out == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

bool soft_event_is_wait(const struct soft_cmd *cmd)
{
    return cmd->ops == &wait_ops;
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    struct soft_event *event;
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    CUresult r = soft_event_enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if ((Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_EVENT_WAIT_EXTERNAL) != 0) { /* a node of its own; in captures only */
        if (soft_stream_capture(stream) == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        r = soft_event_wait_new(event, &cmd);
        return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
    }
    if (soft_capture_wait(stream, hEvent, &r))
        return r;
    r = soft_event_wait_new(event, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
}

CUresult cuEventQuery(CUevent hEvent)
{
    struct soft_event *event;
    bool ready;
    CUresult r = soft_event_enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_event(hEvent);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&event->lock);
    ready = event->ipc != NULL || event->done == event->record;
    pthread_mutex_unlock(&event->lock);
    if (event->ipc != NULL)
        ready = soft_ipc_event_ready(event->ipc, soft_ipc_event_latest(event->ipc));
    return ready ? soft_ctx_told(event->ctx) : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent hEvent)
{
    struct soft_event *event;
    struct soft_stream *stream;
    struct soft_ctx *ctx;
    uint64_t seq;
    bool pending;
    CUresult r = soft_event_enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_event(hEvent);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    ctx = event->ctx;
    if (event->ipc != NULL) {
        atomic_fetch_add(&event->refs, 1); /* another thread may destroy it meanwhile */
        soft_ipc_event_wait(event->ipc, soft_ipc_event_latest(event->ipc), ctx);
        soft_event_unref(event);
    } else if (latest_of(event, &stream, &seq, &pending)) {
        if (pending)
            soft_stream_wait_seq(stream, seq);
        soft_pools_synced(stream, seq);
        soft_stream_unref(stream);
    }
    return soft_ctx_error(ctx);
}

CUresult cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    struct soft_event *start, *end;
    uint64_t from, to;
    bool recorded, ready;
    CUresult r = soft_event_enter(hStart, &start);

    if (r == CUDA_SUCCESS)
        r = soft_event_enter(hEnd, &end);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_event(hStart);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_event(hEnd);
    if (r != CUDA_SUCCESS)
        return r;
    if (pMilliseconds == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (start->ctx != end->ctx || ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0)
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&start->lock);
    recorded = start->record > 0;
    ready = start->done == start->record;
    from = start->stamp_ns;
    pthread_mutex_unlock(&start->lock);
    pthread_mutex_lock(&end->lock);
    recorded = recorded && end->record > 0;
    ready = ready && end->done == end->record;
    to = end->stamp_ns;
    pthread_mutex_unlock(&end->lock);
    if (!recorded)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!ready)
        return CUDA_ERROR_NOT_READY;
    *pMilliseconds = (float)((double)(int64_t)(to - from) / 1e6);
    return soft_ctx_sticky(start->ctx);
}

CUresult cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    return cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}
