/* SPDX-License-Identifier: Apache-2.0
 *
 * Events: made, recorded, gone.
 */
#include "soft/gpu/event.h"

#include <stdlib.h>

#include "soft/gpu/capture.h"
#include "soft/gpu/fault.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct soft_event *list;

void soft_event_unref(struct soft_event *event)
{
    if (atomic_fetch_sub(&event->refs, 1) != 1)
        return;
    if (event->stream != NULL)
        soft_stream_unref(event->stream);
    soft_ipc_event_drop(event->ipc);
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
            soft_event_unref(event);
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

CUresult soft_event_enter(CUevent handle, struct soft_event **out)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    return r != CUDA_SUCCESS ? r : soft_event_of(handle, out);
}

CUresult soft_event_add(struct soft_ctx *ctx, unsigned flags, struct soft_ipc_event *ipc,
                        CUevent *out)
{
    struct soft_event *event = calloc(1, sizeof *event);

    if (event == NULL) {
        soft_ipc_event_drop(ipc);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    event->ctx = ctx;
    event->ctx_id = ctx->id;
    event->refs = 1;
    event->flags = flags;
    event->ipc = ipc;
    pthread_mutex_init(&event->lock, NULL);
    if (soft_handle_add(SOFT_H_EVENT, event) != 0) {
        soft_event_unref(event);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&list_lock);
    event->next = list;
    list = event;
    pthread_mutex_unlock(&list_lock);
    *out = (CUevent)(void *)event;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    struct soft_ctx *ctx;
    struct soft_ipc_event *ipc = NULL;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (phEvent == NULL || (Flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING |
                                                CU_EVENT_INTERPROCESS)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_EVENT_INTERPROCESS) != 0) {
        if ((Flags & CU_EVENT_DISABLE_TIMING) == 0)
            return CUDA_ERROR_INVALID_VALUE;
        if ((soft_fault_lacks(soft_at(ctx->ordinal)) & SOFT_DOOR_IPC) != 0)
            return CUDA_ERROR_NOT_SUPPORTED;
        ipc = soft_ipc_event_make();
        if (ipc == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return soft_event_add(ctx, Flags, ipc, phEvent);
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
    soft_event_unref(event); /* a record under way keeps it */
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent hEvent)
{
    return cuEventDestroy_v2(hEvent);
}

/* --------------------------------------------------------------------------------- recording -- */
uint64_t soft_event_note(struct soft_event *event, struct soft_stream *stream, uint64_t seq)
{
    struct soft_stream *old;
    uint64_t number;

    soft_stream_ref(stream);
    pthread_mutex_lock(&event->lock);
    old = event->stream;
    event->stream = stream;
    event->seq = seq;
    /* an interprocess record has a number in the shared state as well: its low half */
    event->record = event->ipc == NULL
                        ? event->record + 1
                        : ((event->record >> 32) + 1) << 32 | soft_ipc_event_begin(event->ipc);
    number = event->record;
    pthread_mutex_unlock(&event->lock);
    if (old != NULL)
        soft_stream_unref(old);
    return number;
}

void soft_event_reached(struct soft_event *event, uint64_t number, uint64_t at_ns)
{
    pthread_mutex_lock(&event->lock);
    if (number > event->done) {
        event->done = number;
        event->stamp_ns = at_ns;
    }
    pthread_mutex_unlock(&event->lock);
    if (event->ipc != NULL)
        soft_ipc_event_end(event->ipc, (uint32_t)number, at_ns);
}

static void record_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct soft_record *r = (struct soft_record *)cmd;

    if (r->number == 0)
        r->number = soft_event_note(r->on.event, stream, cmd->seq);
}

static void record_ended(struct soft_cmd *cmd, uint64_t end_ns)
{
    struct soft_record *r = (struct soft_record *)cmd;

    soft_event_reached(r->on.event, r->number, end_ns);
}

struct soft_cmd *soft_event_cmd_new(struct soft_event *event, const struct soft_cmd_ops *ops,
                                    size_t bytes)
{
    struct soft_event_cmd *c = calloc(1, bytes);

    if (c == NULL)
        return NULL;
    c->cmd.ops = ops;
    c->event = event;
    atomic_fetch_add(&event->refs, 1);
    return &c->cmd;
}

void soft_event_cmd_destroy(struct soft_cmd *cmd)
{
    soft_event_unref(((struct soft_event_cmd *)cmd)->event);
    free(cmd);
}

struct soft_event *soft_event_of_cmd(const struct soft_cmd *cmd)
{
    return ((const struct soft_event_cmd *)cmd)->event;
}

static struct soft_cmd *record_clone(const struct soft_cmd *cmd)
{
    return soft_event_cmd_new(soft_event_of_cmd(cmd), cmd->ops, sizeof(struct soft_record));
}

static const struct soft_cmd_ops record_ops = {.name = "event_record",
                                               .engine = SOFT_NO_ENGINE,
                                               .clone = record_clone,
                                               .destroy = soft_event_cmd_destroy,
                                               .submitted = record_submitted,
                                               .ended = record_ended};

CUresult soft_event_record_new(struct soft_event *event, struct soft_cmd **out)
{
    *out = soft_event_cmd_new(event, &record_ops, sizeof(struct soft_record));
    return *out == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    struct soft_event *event;
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    CUresult r = soft_event_enter(hEvent, &event);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if ((flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (event->ctx != stream->ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    if ((flags & CU_EVENT_RECORD_EXTERNAL) != 0) { /* a node of its own; in captures only */
        if (soft_stream_capture(stream) == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        r = soft_event_record_new(event, &cmd);
        return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
    }
    if (soft_capture_record(stream, hEvent, &r))
        return r;
    r = soft_event_record_new(event, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream)
{
    return cuEventRecordWithFlags(hEvent, hStream, CU_EVENT_RECORD_DEFAULT);
}

bool soft_event_is_record(const struct soft_cmd *cmd)
{
    return cmd->ops == &record_ops;
}
