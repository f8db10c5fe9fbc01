/* SPDX-License-Identifier: Apache-2.0
 *
 * Events recorded in captures: they stand for what their stream depended on then, and tie streams
 * together.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/capture_state.h"

struct captured_event { /* an event last recorded in a capture */
    struct captured_event *next;
    CUevent event;
    uint64_t capture_id; /* may be over by now */
    CUgraphNode *deps;
    size_t count;
};
static struct captured_event *events; /* guarded by soft_graph_lock */

static void forget(CUevent event)
{
    for (struct captured_event **link = &events; *link != NULL; link = &(*link)->next)
        if ((*link)->event == event) {
            struct captured_event *gone = *link;
            *link = gone->next;
            free(gone->deps);
            free(gone);
            soft_capture_active--;
            return;
        }
}

static CUresult remember(CUevent event, const struct soft_capture *capture,
                         const struct soft_capture_stream *stream)
{
    forget(event);
    struct captured_event *it = calloc(1, sizeof *it);
    if (it == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    it->deps = calloc(stream->count + 1, sizeof *it->deps);
    if (it->deps == NULL) {
        free(it);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (stream->count > 0)
        memcpy(it->deps, stream->deps, stream->count * sizeof *it->deps);
    it->count = stream->count;
    it->event = event;
    it->capture_id = capture->id;
    it->next = events;
    events = it;
    soft_capture_active++;
    return CUDA_SUCCESS;
}

static struct captured_event *event_of(CUevent event)
{
    struct captured_event *it = events;
    while (it != NULL && it->event != event)
        it = it->next;
    return it;
}

static struct soft_capture *capture_with_id(uint64_t id)
{
    struct soft_capture *capture = soft_captures;
    while (capture != NULL && capture->id != id)
        capture = capture->next;
    return capture;
}

bool soft_capture_record(struct soft_stream *stream, CUevent event, CUresult *result)
{
    if (soft_capture_active == 0)
        return false;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_capture *capture = soft_capture_of(stream);
    if (capture == NULL) {
        forget(event);
    } else if (capture->invalid) {
        *result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else {
        const struct soft_capture_stream *it = soft_capture_find(capture, stream);
        *result = it != NULL ? remember(event, capture, it) : CUDA_ERROR_UNKNOWN;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return capture != NULL;
}

static CUresult wait_captured(struct soft_stream *stream, const struct captured_event *event,
                              struct soft_capture *mine, struct soft_capture *theirs)
{
    if (theirs == NULL) /* its capture is over: it stands for nothing */
        return mine != NULL ? soft_capture_spoil(mine, CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
                            : CUDA_ERROR_CAPTURED_EVENT;
    if (theirs->invalid || (mine != NULL && mine->invalid))
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (mine != NULL && mine != theirs) {
        soft_capture_spoil(mine, CUDA_ERROR_STREAM_CAPTURE_MERGE);
        return soft_capture_spoil(theirs, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    }
    if (soft_stream_is_legacy(stream))
        return soft_capture_spoil(theirs, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    struct soft_capture_stream *it = soft_capture_find(theirs, stream);
    CUresult result = CUDA_SUCCESS;
    if (it == NULL)
        result = soft_capture_join(theirs, stream, &it);
    if (result == CUDA_SUCCESS)
        result = soft_capture_depend(it, event->deps, event->count);
    return result == CUDA_SUCCESS ? result : soft_capture_spoil(theirs, result);
}

bool soft_capture_wait(struct soft_stream *stream, CUevent event, CUresult *result)
{
    if (soft_capture_active == 0)
        return false;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_capture *mine = soft_capture_of(stream);
    const struct captured_event *known = event_of(event);
    bool ours = mine != NULL || known != NULL;
    if (known != NULL)
        *result = wait_captured(stream, known, mine, capture_with_id(known->capture_id));
    else if (mine != NULL)
        *result = mine->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                : soft_capture_spoil(mine, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    pthread_mutex_unlock(&soft_graph_lock);
    return ours;
}

CUresult soft_capture_check_event(CUevent event)
{
    if (soft_capture_active == 0)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&soft_graph_lock);
    const struct captured_event *known = event_of(event);
    if (known != NULL) {
        struct soft_capture *capture = capture_with_id(known->capture_id);
        if (capture != NULL)
            capture->invalid = true;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return known != NULL ? CUDA_ERROR_CAPTURED_EVENT : CUDA_SUCCESS;
}

void soft_capture_forget_event(CUevent event)
{
    if (soft_capture_active == 0)
        return;
    pthread_mutex_lock(&soft_graph_lock);
    forget(event);
    pthread_mutex_unlock(&soft_graph_lock);
}
