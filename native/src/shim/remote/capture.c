/* SPDX-License-Identifier: Apache-2.0
 *
 * Captures: while there is one, calls are asked, since what may not be captured fails at once.
 */
#include <stdlib.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/lease.h"

/* What is leased has gone back: nothing can be freed while something captures. */
static CUresult begun(CUresult r)
{
    if (r == CUDA_SUCCESS)
        harp_remote_capturing(1);
    return r;
}

/* The graph that a capture makes: who asks is told its handle before it ends. One a stream. */
static void remember(CUstream stream, CUgraph graph)
{
    struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUstream, (uintptr_t)stream);
    uint64_t *known = thing != NULL ? thing->facts : NULL;
    if (thing != NULL && known == NULL)
        known = thing->facts = malloc(sizeof *known); /* streams have no other facts */
    if (known != NULL)
        *known = (uintptr_t)graph;
}

static CUgraph remembered(CUstream stream)
{
    struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUstream, (uintptr_t)stream);
    uint64_t *known = thing != NULL ? thing->facts : NULL;
    CUgraph graph = known != NULL ? (CUgraph)(uintptr_t)*known : NULL;
    if (known != NULL)
        *known = 0;
    return graph;
}

CUresult harp_remote_cuStreamBeginCapture(CUstream hStream)
{
    harp_remote_lease_back();
    return begun(harp_sent_cuStreamBeginCapture(hStream));
}

CUresult harp_remote_cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
    harp_remote_lease_back();
    return begun(harp_sent_cuStreamBeginCapture_v2(hStream, mode));
}

CUresult harp_remote_cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                                 const CUgraphNode *dependencies,
                                                 const CUgraphEdgeData *dependencyData,
                                                 size_t numDependencies, CUstreamCaptureMode mode)
{
    harp_remote_lease_back();
    CUresult r = harp_sent_cuStreamBeginCaptureToGraph(hStream, hGraph, dependencies,
                                                       dependencyData, numDependencies, mode);
    if (r == CUDA_SUCCESS)
        remember(hStream, hGraph);
    return begun(r);
}

CUresult harp_remote_cuStreamGetCaptureInfo_v2(CUstream hStream,
                                               CUstreamCaptureStatus *captureStatus_out,
                                               cuuint64_t *id_out, CUgraph *graph_out,
                                               const CUgraphNode **dependencies_out,
                                               size_t *numDependencies_out)
{
    CUgraph graph = NULL;
    CUresult r = harp_sent_cuStreamGetCaptureInfo_v2(hStream, captureStatus_out, id_out, &graph,
                                                     dependencies_out, numDependencies_out);
    if (r == CUDA_SUCCESS && graph != NULL)
        remember(hStream, graph);
    if (r == CUDA_SUCCESS && graph_out != NULL && graph != NULL)
        *graph_out = graph;
    return r;
}

CUresult harp_remote_cuStreamGetCaptureInfo_v3(CUstream hStream,
                                               CUstreamCaptureStatus *captureStatus_out,
                                               cuuint64_t *id_out, CUgraph *graph_out,
                                               const CUgraphNode **dependencies_out,
                                               const CUgraphEdgeData **edgeData_out,
                                               size_t *numDependencies_out)
{
    CUgraph graph = NULL;
    CUresult r =
        harp_sent_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, &graph,
                                            dependencies_out, edgeData_out, numDependencies_out);
    if (r == CUDA_SUCCESS && graph != NULL)
        remember(hStream, graph);
    if (r == CUDA_SUCCESS && graph_out != NULL && graph != NULL)
        *graph_out = graph;
    return r;
}

/* It ends the capture even if that was spoilt; not if there was none, or not its stream's. */
CUresult harp_remote_cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    CUresult r = harp_sent_cuStreamEndCapture(hStream, phGraph);
    if (r == CUDA_SUCCESS || r == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ||
        r == CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
        harp_remote_capturing(-1);
    CUgraph told = r == CUDA_SUCCESS ? remembered(hStream) : NULL;
    if (told != NULL && phGraph != NULL)
        *phGraph = told; /* two ids of one graph: the program has seen this one */
    return r;
}
