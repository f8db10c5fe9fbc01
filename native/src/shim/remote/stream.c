/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams, events and graphs that are launched: told where nothing can be wrong, else asked.
 */
#include "src/shim/remote/calls.h"

/* The context that a stream, or an event, was made in; 0: none that is known. */
static uint64_t context_of(enum harp_handle kind, const void *handle)
{
    const struct harp_thing *thing = harp_thing_of(kind, (uintptr_t)handle);
    const struct harp_lane *lane = harp_lane();
    if (thing != NULL)
        return thing->owner;
    bool own = kind == HARP_HANDLE_CUstream && (uintptr_t)handle <= 2; /* NULL and its names */
    return own && lane != NULL ? harp_lane_current(lane) : 0;
}

static void same_context(CUstream stream, CUevent event)
{
    uint64_t one = context_of(HARP_HANDLE_CUstream, stream);
    if (one == 0 || one != context_of(HARP_HANDLE_CUevent, event))
        harp_remote_doubt();
}

CUresult harp_remote_cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    if (phEvent == NULL || (Flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)))
        harp_remote_doubt();
    return harp_sent_cuEventCreate(phEvent, Flags);
}

CUresult harp_remote_cuEventRecord(CUevent hEvent, CUstream hStream)
{
    struct harp_thing *event = harp_thing_of(HARP_HANDLE_CUevent, (uintptr_t)hEvent);
    if (event != NULL)
        __atomic_store_n(&event->uses, harp_remote_capturing(0), __ATOMIC_RELAXED);
    same_context(hStream, hEvent);
    return harp_sent_cuEventRecord(hEvent, hStream);
}

CUresult harp_remote_cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    if (phStream == NULL || Flags > CU_STREAM_NON_BLOCKING)
        harp_remote_doubt();
    return harp_sent_cuStreamCreate(phStream, Flags);
}

CUresult harp_remote_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    const struct harp_thing *event = harp_thing_of(HARP_HANDLE_CUevent, (uintptr_t)hEvent);
    bool captured = event != NULL && __atomic_load_n(&event->uses, __ATOMIC_RELAXED) != 0;
    if (Flags != 0 || captured || context_of(HARP_HANDLE_CUstream, hStream) == 0)
        harp_remote_doubt();
    return harp_sent_cuStreamWaitEvent(hStream, hEvent, Flags);
}

/* Of a graph that has run, the next run is as right: while all contexts are there, and if no graph
 * of the program has memory of its own. */
CUresult harp_remote_cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
{
    struct harp_thing *exec = harp_thing_of(HARP_HANDLE_CUgraphExec, (uintptr_t)hGraphExec);
    uint32_t now = harp_remote_contexts_ended() + 1;
    bool ran = exec != NULL && __atomic_load_n(&exec->uses, __ATOMIC_RELAXED) == now;
    if (!ran || harp_remote_graph_memory(false) || context_of(HARP_HANDLE_CUstream, hStream) == 0)
        harp_remote_doubt();
    CUresult r = harp_sent_cuGraphLaunch(hGraphExec, hStream);
    if (r == CUDA_SUCCESS && !ran)
        __atomic_store_n(&exec->uses, now, __ATOMIC_RELAXED);
    return r;
}
