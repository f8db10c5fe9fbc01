/* SPDX-License-Identifier: Apache-2.0
 *
 * Events. A record is a place in a stream; an event knows its latest one. Its time stamp is the
 * device clock at which that place was reached: the logical end of what stands before it.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/pool.h"

#include <stdlib.h>

struct soft_event {
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    _Atomic int refs;
    unsigned flags;
    struct soft_event *next; /* of the list of all; guarded by list_lock */

    pthread_mutex_t lock;       /* guards all below */
    uint64_t record;            /* number of the latest record; 0: never */
    uint64_t done;              /* number of the latest record reached */
    uint64_t stamp_ns;          /* of `done` */
    struct soft_stream *stream; /* place of the latest record; counted */
    uint64_t seq;
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct soft_event *list;

static void unref(struct soft_event *event)
{
    if (atomic_fetch_sub(&event->refs, 1) != 1)
        return;
    if (event->stream != NULL)
        soft_stream_unref(event->stream);
    pthread_mutex_destroy(&event->lock);
    free(event);
}

static void unlink_event(struct soft_event *event)
{
    for (struct soft_event **at = &list; *at != NULL; at = &(*at)->next)
        if (*at == event) {
            *at = event->next;
            return;
        }
}

/* Its context is gone: so are the events in it. */
void soft_events_forget(struct soft_ctx *ctx)
{
    pthread_mutex_lock(&list_lock);
    for (struct soft_event **at = &list; *at != NULL;) {
        struct soft_event *event = *at;

        if (event->ctx == ctx && event->ctx_id == ctx->id) {
            *at = event->next;
            soft_handle_remove(SOFT_H_EVENT, event);
            unref(event);
        } else {
            at = &event->next;
        }
    }
    pthread_mutex_unlock(&list_lock);
}

CUresult soft_event_of(CUevent handle, struct soft_event **out)
{
    struct soft_event *event = (struct soft_event *)(void *)handle;

    if (!soft_handle_is(SOFT_H_EVENT, event))
        return CUDA_ERROR_INVALID_HANDLE;
    *out = event;
    return CUDA_SUCCESS;
}

/* Every call on an event: initialised, current context, living event. */
static CUresult enter(CUevent handle, struct soft_event **out)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    return r != CUDA_SUCCESS ? r : soft_event_of(handle, out);
}

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    struct soft_ctx *ctx;
    struct soft_event *event;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (phEvent == NULL || (Flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING |
                                                CU_EVENT_INTERPROCESS)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_EVENT_INTERPROCESS) != 0)
        return (Flags & CU_EVENT_DISABLE_TIMING) != 0 ? CUDA_ERROR_NOT_SUPPORTED
                                                      : CUDA_ERROR_INVALID_VALUE;
    event = calloc(1, sizeof *event);
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->ctx = ctx;
    event->ctx_id = ctx->id;
    event->refs = 1;
    event->flags = Flags;
    pthread_mutex_init(&event->lock, NULL);
    if (soft_handle_add(SOFT_H_EVENT, event) != 0) {
        unref(event);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&list_lock);
    event->next = list;
    list = event;
    pthread_mutex_unlock(&list_lock);
    *phEvent = (CUevent)(void *)event;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent hEvent)
{
    struct soft_event *event = (struct soft_event *)(void *)hEvent;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (!soft_handle_is(SOFT_H_EVENT, event))
        return CUDA_ERROR_INVALID_HANDLE;
    soft_capture_forget_event(hEvent);
    pthread_mutex_lock(&list_lock);
    if (!soft_handle_remove(SOFT_H_EVENT, event)) {
        pthread_mutex_unlock(&list_lock);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    unlink_event(event);
    pthread_mutex_unlock(&list_lock);
    unref(event); /* a record under way keeps it */
    return CUDA_SUCCESS;
}

/* --------------------------------------------------------------------------------- recording -- */
struct record {
    struct soft_cmd cmd;
    struct soft_event *event;
    uint64_t number;
};

static void record_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct record *r = (struct record *)cmd;
    struct soft_event *event = r->event;
    struct soft_stream *old;

    soft_stream_ref(stream);
    pthread_mutex_lock(&event->lock);
    old = event->stream;
    event->stream = stream;
    event->seq = cmd->seq;
    r->number = ++event->record;
    pthread_mutex_unlock(&event->lock);
    if (old != NULL)
        soft_stream_unref(old);
}

static void record_ended(struct soft_cmd *cmd, uint64_t end_ns)
{
    struct record *r = (struct record *)cmd;

    pthread_mutex_lock(&r->event->lock);
    if (r->number > r->event->done) {
        r->event->done = r->number;
        r->event->stamp_ns = end_ns;
    }
    pthread_mutex_unlock(&r->event->lock);
}

static void record_destroy(struct soft_cmd *cmd)
{
    unref(((struct record *)cmd)->event);
    free(cmd);
}

static struct soft_cmd *record_clone(const struct soft_cmd *cmd)
{
    struct soft_cmd *copy;

    return soft_event_record_new(((const struct record *)cmd)->event, &copy) == CUDA_SUCCESS ? copy
                                                                                             : NULL;
}

static const struct soft_cmd_ops record_ops = {.name = "event_record",
                                               .engine = SOFT_NO_ENGINE,
                                               .clone = record_clone,
                                               .destroy = record_destroy,
                                               .submitted = record_submitted,
                                               .ended = record_ended};

CUresult soft_event_record_new(struct soft_event *event, struct soft_cmd **out)
{
    struct record *r = calloc(1, sizeof *r);

    if (r == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r->cmd.ops = &record_ops;
    r->event = event;
    atomic_fetch_add(&event->refs, 1);
    *out = &r->cmd;
    return CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    struct soft_event *event;
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    CUresult r = enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if ((flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (event->ctx != stream->ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    if (soft_capture_record(stream, hEvent, &r))
        return r;
    r = soft_event_record_new(event, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream)
{
    return cuEventRecordWithFlags(hEvent, hStream, CU_EVENT_RECORD_DEFAULT);
}

/* ------------------------------------------------------------------------------------ waiting --
 */
static bool place_of(struct soft_event *event, struct soft_stream **stream, uint64_t *seq)
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

/* Its latest record, reached or not. */
static bool latest_of(struct soft_event *event, struct soft_stream **stream, uint64_t *seq)
{
    pthread_mutex_lock(&event->lock);
    *stream = event->stream;
    *seq = event->seq;
    if (*stream != NULL)
        soft_stream_ref(*stream);
    pthread_mutex_unlock(&event->lock);
    return *stream != NULL;
}

struct wait {
    struct soft_cmd cmd;
    struct soft_event *event;
};

static void wait_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct soft_event *event = ((struct wait *)cmd)->event;
    struct soft_stream *on;
    uint64_t seq, stamp;

    if (place_of(event, &on, &seq)) {
        if (on != stream && soft_cmd_depend(cmd, on, seq) != 0)
            soft_ctx_poison(stream->ctx, CUDA_ERROR_UNKNOWN); /* no memory for 16 bytes */
        soft_stream_unref(on);
        return;
    }
    /* reached, perhaps at an instant that lies after this submission by the device's clock */
    pthread_mutex_lock(&event->lock);
    stamp = event->stamp_ns;
    if (event->stream != NULL)
        soft_order_add(stream, cmd->seq, event->stream, event->seq);
    pthread_mutex_unlock(&event->lock);
    if (stamp > cmd->submit_ns)
        cmd->submit_ns = stamp;
}

static void wait_destroy(struct soft_cmd *cmd)
{
    unref(((struct wait *)cmd)->event);
    free(cmd);
}

static struct soft_cmd *wait_clone(const struct soft_cmd *cmd)
{
    struct soft_cmd *copy;

    return soft_event_wait_new(((const struct wait *)cmd)->event, &copy) == CUDA_SUCCESS ? copy
                                                                                         : NULL;
}

static const struct soft_cmd_ops wait_ops = {.name = "event_wait",
                                             .engine = SOFT_NO_ENGINE,
                                             .clone = wait_clone,
                                             .destroy = wait_destroy,
                                             .submitted = wait_submitted};

CUresult soft_event_wait_new(struct soft_event *event, struct soft_cmd **out)
{
    struct wait *w = calloc(1, sizeof *w);

    if (w == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    w->cmd.ops = &wait_ops;
    w->event = event;
    atomic_fetch_add(&event->refs, 1);
    *out = &w->cmd;
    return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    struct soft_event *event;
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    CUresult r = enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if ((Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_capture_wait(stream, hEvent, &r))
        return r;
    r = soft_event_wait_new(event, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
}

CUresult cuEventQuery(CUevent hEvent)
{
    struct soft_event *event;
    bool ready;
    CUresult r = enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_event(hEvent);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&event->lock);
    ready = event->done == event->record;
    pthread_mutex_unlock(&event->lock);
    return ready ? soft_ctx_error(event->ctx) : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent hEvent)
{
    struct soft_event *event;
    struct soft_stream *stream;
    struct soft_ctx *ctx;
    uint64_t seq;
    CUresult r = enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_event(hEvent);
    if (r != CUDA_SUCCESS)
        return r;
    ctx = event->ctx;
    if (latest_of(event, &stream, &seq)) {
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
    CUresult r = enter(hStart, &start);

    if (r == CUDA_SUCCESS)
        r = enter(hEnd, &end);
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
