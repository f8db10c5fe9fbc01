/* SPDX-License-Identifier: Apache-2.0
 *
 * cuStream*Capture*: begin, end, state.
 */
#include <stdlib.h>

#include "soft/gpu/capture_state.h"

static CUresult begin(CUstream handle, CUstreamCaptureMode mode, CUgraph into,
                      const CUgraphNode *deps, size_t dep_count)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if ((int)mode < 0 || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    soft_capture_peek(true);
    result = soft_stream_of(handle, &stream);
    soft_capture_peek(false);
    if (result != CUDA_SUCCESS)
        return result;
    if (soft_stream_is_legacy(stream))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    static uint64_t ids; /* guarded by soft_graph_lock */
    struct soft_capture *capture = calloc(1, sizeof *capture);
    struct soft_capture_stream *first = NULL;
    if (capture == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&soft_graph_lock);
    if (soft_stream_capture(stream) != NULL) {
        result = CUDA_ERROR_ILLEGAL_STATE;
    } else if (into != NULL) {
        capture->graph = soft_graph_of(into);
        if (capture->graph == NULL || capture->graph->capture != NULL)
            result = CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; result == CUDA_SUCCESS && i < dep_count; i++) {
            const struct soft_node *node = soft_node_of(deps[i]);
            if (node == NULL || node->graph != capture->graph)
                result = CUDA_ERROR_INVALID_VALUE;
        }
    } else {
        result = soft_graph_new(&capture->graph);
        capture->own_graph = true;
    }
    if (result == CUDA_SUCCESS) {
        capture->id = ++ids;
        capture->mode = mode;
        capture->thread = pthread_self();
        capture->origin = stream;
        soft_capture_begun(capture);
        result = soft_capture_join(capture, stream, &first);
        if (result == CUDA_SUCCESS && dep_count > 0)
            result = soft_capture_depend(first, deps, dep_count);
        if (result != CUDA_SUCCESS)
            soft_capture_end(capture);
    } else {
        free(capture);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
    return begin(hStream, mode, NULL, NULL, 0);
}

CUresult cuStreamBeginCapture(CUstream hStream)
{
    return begin(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0);
}

CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                     const CUgraphNode *dependencies,
                                     const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                     CUstreamCaptureMode mode)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (hGraph == NULL || (numDependencies > 0 && dependencies == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_edges_plain(dependencyData, numDependencies);
    if (result != CUDA_SUCCESS)
        return result;
    return begin(hStream, mode, hGraph, dependencies, numDependencies);
}

/* Every stream that took part must have come back: its last nodes lie before the origin's. */
static bool all_joined(struct soft_capture *capture)
{
    const struct soft_capture_stream *origin = soft_capture_find(capture, capture->origin);
    for (const struct soft_capture_stream *it = capture->streams; it != NULL; it = it->next)
        for (size_t i = 0; it != origin && i < it->count; i++) {
            bool before = false;
            for (size_t k = 0; k < origin->count && !before; k++)
                before = soft_node_before((struct soft_node *)it->deps[i],
                                          (struct soft_node *)origin->deps[k]);
            if (!before)
                return false;
        }
    return true;
}

CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    soft_capture_peek(true);
    result = soft_stream_of(hStream, &stream);
    soft_capture_peek(false);
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_stream_capture(stream);
    struct soft_capture *capture = graph != NULL ? graph->capture : NULL;
    if (capture == NULL) {
        result = CUDA_ERROR_ILLEGAL_STATE;
    } else if (capture->origin != stream) {
        capture->invalid = true;
        result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    } else if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
               !pthread_equal(capture->thread, pthread_self())) {
        result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    } else {
        if (capture->invalid)
            result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        else if (!all_joined(capture))
            result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        bool own = capture->own_graph;
        soft_capture_end(capture);
        *phGraph = NULL;
        if (result == CUDA_SUCCESS)
            *phGraph = (CUgraph)graph;
        else if (own)
            soft_graph_free(graph);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

/* The stream of a query: being asked spoils no capture. */
static CUresult peek(CUstream handle, struct soft_stream **stream)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    soft_capture_peek(true);
    result = soft_stream_of(handle, stream);
    soft_capture_peek(false);
    return result;
}

static CUstreamCaptureStatus status_of(const struct soft_capture *capture)
{
    if (capture == NULL)
        return CU_STREAM_CAPTURE_STATUS_NONE;
    return capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                            : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

/* What is given out of the dependencies stays good until the stream captures more. */
CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                   cuuint64_t *id_out, CUgraph *graph_out,
                                   const CUgraphNode **dependencies_out,
                                   const CUgraphEdgeData **edgeData_out,
                                   size_t *numDependencies_out)
{
    struct soft_stream *stream;
    CUresult result = peek(hStream, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (captureStatus_out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_stream_capture(stream);
    struct soft_capture *capture = graph != NULL ? graph->capture : NULL;
    *captureStatus_out = status_of(capture);
    if (*captureStatus_out == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        struct soft_capture_stream *it = soft_capture_find(capture, stream);
        if (edgeData_out != NULL) {
            free(it->edges);
            it->edges = calloc(it->count + 1, sizeof *it->edges);
            if (it->edges == NULL)
                result = CUDA_ERROR_OUT_OF_MEMORY;
            *edgeData_out = it->edges;
        }
        if (id_out != NULL)
            *id_out = capture->id;
        if (graph_out != NULL)
            *graph_out = (CUgraph)graph;
        if (dependencies_out != NULL)
            *dependencies_out = it->deps;
        if (numDependencies_out != NULL)
            *numDependencies_out = it->count;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                   cuuint64_t *id_out, CUgraph *graph_out,
                                   const CUgraphNode **dependencies_out,
                                   size_t *numDependencies_out)
{
    return cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, graph_out,
                                     dependencies_out, NULL, numDependencies_out);
}

CUresult cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                cuuint64_t *id_out)
{
    return cuStreamGetCaptureInfo_v2(hStream, captureStatus_out, id_out, NULL, NULL, NULL);
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
    return cuStreamGetCaptureInfo_v2(hStream, captureStatus, NULL, NULL, NULL, NULL);
}

CUresult cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies,
                                              const CUgraphEdgeData *dependencyData,
                                              size_t numDependencies, unsigned int flags)
{
    struct soft_stream *stream;
    CUresult result = peek(hStream, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (numDependencies > 0 && dependencies == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    result = soft_edges_plain(dependencyData, numDependencies);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_stream_capture(stream);
    struct soft_capture *capture = graph != NULL ? graph->capture : NULL;
    if (capture == NULL)
        result = CUDA_ERROR_ILLEGAL_STATE;
    else if (capture->invalid)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    for (size_t i = 0; result == CUDA_SUCCESS && i < numDependencies; i++) {
        const struct soft_node *node = soft_node_of(dependencies[i]);
        if (node == NULL || node->graph != graph)
            result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        struct soft_capture_stream *it = soft_capture_find(capture, stream);
        if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
            it->count = 0;
        result = soft_capture_depend(it, dependencies, numDependencies);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode *dependencies,
                                           size_t numDependencies, unsigned int flags)
{
    return cuStreamUpdateCaptureDependencies_v2(hStream, dependencies, NULL, numDependencies,
                                                flags);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (mode == NULL || (int)*mode < 0 || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode before = soft_capture_thread_mode();
    soft_capture_thread_mode_set(*mode);
    *mode = before;
    return CUDA_SUCCESS;
}
