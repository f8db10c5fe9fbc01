/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream capture: what the core asks while streams capture.
 *
 * Invariants: (1) a stream's core-side capture pointer is the graph of the one capture it takes
 * part in; (2) soft_capture_active counts captures in progress and events that remember one, so
 * that everybody else pays one load.
 */
#include "soft/gpu/capture_state.h"

#include <stdlib.h>
#include <string.h>

#include "soft/gpu/event.h"

struct soft_capture *soft_captures;
_Atomic unsigned soft_capture_active;

/* ------------------------------------------------------------- what a thread remembers -------- */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t mode_key, peek_key;

static void make_keys(void)
{
    pthread_key_create(&mode_key, NULL);
    pthread_key_create(&peek_key, NULL);
}

CUstreamCaptureMode soft_capture_thread_mode(void)
{
    pthread_once(&once, make_keys);
    return (CUstreamCaptureMode)(uintptr_t)pthread_getspecific(mode_key);
}

void soft_capture_thread_mode_set(CUstreamCaptureMode mode)
{
    pthread_once(&once, make_keys);
    pthread_setspecific(mode_key, (void *)(uintptr_t)mode);
}

void soft_capture_peek(bool on)
{
    pthread_once(&once, make_keys);
    pthread_setspecific(peek_key, (void *)(uintptr_t)on);
}

static bool peeking(void)
{
    pthread_once(&once, make_keys);
    return pthread_getspecific(peek_key) != NULL;
}

/* ------------------------------------------------------------------------ captures, streams --- */
struct soft_capture_stream *soft_capture_find(struct soft_capture *capture,
                                              const struct soft_stream *stream)
{
    struct soft_capture_stream *it = capture->streams;
    while (it != NULL && it->stream != stream)
        it = it->next;
    return it;
}

CUresult soft_capture_join(struct soft_capture *capture, struct soft_stream *stream,
                           struct soft_capture_stream **out)
{
    struct soft_capture_stream *it = calloc(1, sizeof *it);
    if (it == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_stream_ref(stream);
    it->stream = stream;
    it->next = capture->streams;
    capture->streams = it;
    soft_stream_capture_set(stream, capture->graph);
    *out = it;
    return CUDA_SUCCESS;
}

CUresult soft_capture_depend(struct soft_capture_stream *stream, const CUgraphNode *nodes,
                             size_t count)
{
    if (stream->count + count > stream->room) {
        size_t room = (stream->count + count) * 2;
        CUgraphNode *wider = realloc(stream->deps, room * sizeof *wider);
        if (wider == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        stream->deps = wider;
        stream->room = room;
    }
    for (size_t i = 0; i < count; i++) {
        bool known = false;
        for (size_t k = 0; k < stream->count && !known; k++)
            known = stream->deps[k] == nodes[i];
        if (!known)
            stream->deps[stream->count++] = nodes[i];
    }
    return CUDA_SUCCESS;
}

void soft_capture_begun(struct soft_capture *capture)
{
    capture->next = soft_captures;
    soft_captures = capture;
    capture->graph->capture = capture;
    soft_capture_active++;
}

void soft_capture_end(struct soft_capture *capture)
{
    for (struct soft_capture **link = &soft_captures; *link != NULL; link = &(*link)->next)
        if (*link == capture) {
            *link = capture->next;
            break;
        }
    while (capture->streams != NULL) {
        struct soft_capture_stream *it = capture->streams;
        capture->streams = it->next;
        soft_stream_capture_set(it->stream, NULL);
        soft_stream_unref(it->stream);
        free(it->deps);
        free(it->edges);
        free(it);
    }
    capture->graph->capture = NULL;
    soft_capture_active--;
    free(capture);
}

struct soft_capture *soft_capture_of(const struct soft_stream *stream)
{
    struct soft_graph *graph = soft_stream_capture(stream);
    return graph != NULL ? graph->capture : NULL;
}

CUresult soft_capture_spoil(struct soft_capture *capture, CUresult why)
{
    capture->invalid = true;
    return why;
}

/* ----------------------------------------------------------------- commands become nodes ------ */
static bool begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

static bool type_of(const struct soft_cmd *cmd, CUgraphNodeType *type)
{
    const char *name = cmd->ops->name;
    if (cmd->ops->clone == NULL)
        return false;
    if (begins(name, "kernel"))
        *type = CU_GRAPH_NODE_TYPE_KERNEL;
    else if (begins(name, "memcpy"))
        *type = CU_GRAPH_NODE_TYPE_MEMCPY;
    else if (begins(name, "memset"))
        *type = CU_GRAPH_NODE_TYPE_MEMSET;
    else if (begins(name, "host"))
        *type = CU_GRAPH_NODE_TYPE_HOST;
    else if (begins(name, "memop"))
        *type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    else if (soft_event_is_record(cmd)) /* external ones only: see event.c */
        *type = CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    else if (soft_event_is_wait(cmd))
        *type = CU_GRAPH_NODE_TYPE_WAIT_EVENT;
    else
        return false;
    return true;
}

/* The new node follows all that the stream waits for, and becomes what it waits for. */
static CUresult add_node(struct soft_capture *capture, struct soft_stream *stream,
                         CUgraphNodeType type, struct soft_cmd *cmd, struct soft_node **out)
{
    struct soft_capture_stream *it = soft_capture_find(capture, stream);
    if (it == NULL)
        return CUDA_ERROR_UNKNOWN;
    bool free = type == CU_GRAPH_NODE_TYPE_HOST || type == CU_GRAPH_NODE_TYPE_EVENT_RECORD ||
                type == CU_GRAPH_NODE_TYPE_WAIT_EVENT || type == CU_GRAPH_NODE_TYPE_GRAPH;
    struct soft_ctx *ctx = free ? NULL : soft_stream_ctx(stream);
    CUresult result = soft_graph_add(capture->graph, type, cmd, ctx, it->deps, it->count, out);
    if (result != CUDA_SUCCESS)
        return result;
    if (type == CU_GRAPH_NODE_TYPE_EVENT_RECORD || type == CU_GRAPH_NODE_TYPE_WAIT_EVENT) {
        (*out)->u.event = (CUevent)soft_event_of_cmd(cmd);
        (*out)->has_params = true;
    }
    it->count = 0;
    CUgraphNode node = (CUgraphNode)*out;
    return soft_capture_depend(it, &node, 1);
}

CUresult soft_capture_add(struct soft_graph *graph, struct soft_stream *stream,
                          struct soft_cmd *cmd)
{
    struct soft_node *node = NULL;
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_capture *capture = soft_capture_of(stream);
    CUresult result = CUDA_SUCCESS;
    if (capture == NULL || capture->graph != graph) {
        result = CUDA_ERROR_ILLEGAL_STATE; /* ended by another thread meanwhile */
    } else if (capture->invalid) {
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (!type_of(cmd, &type)) {
        soft_log("capture_refused command=%s", cmd->ops->name);
        result = soft_capture_spoil(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    } else {
        if (type == CU_GRAPH_NODE_TYPE_KERNEL && !cmd->own_priority)
            ((struct soft_launch *)cmd)->attributes.priority = atomic_load(&stream->priority);
        result = add_node(capture, stream, type, cmd, &node);
        if (result != CUDA_SUCCESS)
            soft_capture_spoil(capture, result);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    if (node == NULL)
        soft_cmd_free(cmd);
    return result;
}

CUresult soft_capture_child(struct soft_stream *stream, struct soft_graph *child)
{
    struct soft_node *node = NULL;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_capture *capture = soft_capture_of(stream);
    CUresult result = CUDA_ERROR_ILLEGAL_STATE;
    if (capture != NULL && capture->invalid)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (capture != NULL)
        result = add_node(capture, stream, CU_GRAPH_NODE_TYPE_GRAPH, NULL, &node);
    if (node != NULL) {
        child->owned = true;
        node->u.child = child;
    } else {
        soft_graph_free(child);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

/* ------------------------------------------------------------------- what may not be done ----- */
CUresult soft_capture_check_stream(struct soft_stream *stream)
{
    if (soft_capture_active == 0)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_capture *capture = soft_capture_of(stream);
    CUresult result = CUDA_SUCCESS;
    if (capture != NULL)
        result = soft_capture_spoil(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult soft_capture_check_unsafe(void)
{
    if (soft_capture_active == 0)
        return CUDA_SUCCESS;
    CUstreamCaptureMode heed = soft_capture_thread_mode();
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&soft_graph_lock);
    for (struct soft_capture *it = soft_captures; it != NULL; it = it->next) {
        bool here = pthread_equal(it->thread, pthread_self()) != 0;
        bool local = here && it->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
                     heed != CU_STREAM_CAPTURE_MODE_RELAXED;
        bool global = !here && it->mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                      heed == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (local || global)
            result = soft_capture_spoil(it, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult soft_capture_check_context(const struct soft_ctx *ctx)
{
    if (soft_capture_active == 0)
        return CUDA_SUCCESS;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&soft_graph_lock);
    for (struct soft_capture *it = soft_captures; it != NULL; it = it->next)
        for (const struct soft_capture_stream *s = it->streams; s != NULL; s = s->next)
            if (soft_stream_ctx(s->stream) == ctx)
                result = soft_capture_spoil(it, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult soft_capture_check_legacy(const struct soft_ctx *ctx)
{
    if (soft_capture_active == 0)
        return CUDA_SUCCESS;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&soft_graph_lock);
    for (struct soft_capture *it = soft_captures; it != NULL; it = it->next)
        for (const struct soft_capture_stream *s = it->streams; s != NULL; s = s->next)
            if (soft_stream_ctx(s->stream) == ctx && soft_stream_is_blocking(s->stream)) {
                result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
                if (!peeking())
                    it->invalid = true;
            }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

void soft_capture_forget_stream(struct soft_stream *stream)
{
    if (soft_capture_active == 0)
        return;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_capture *capture = soft_capture_of(stream);
    if (capture != NULL && capture->origin == stream) {
        /* nobody can end it any more */
        struct soft_graph *graph = capture->own_graph ? capture->graph : NULL;
        soft_capture_end(capture);
        if (graph != NULL)
            soft_graph_free(graph);
    } else if (capture != NULL) {
        capture->invalid = true;
    }
    pthread_mutex_unlock(&soft_graph_lock);
}
