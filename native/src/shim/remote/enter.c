/* SPDX-License-Identifier: Apache-2.0
 *
 * Where each call of the program's begins and ends. A session that has ended is replaced only while
 * none is in between: so no call looks whether what it follows is still there, and none goes on in
 * another session than it began in.
 */
#include "src/shim/remote/calls.h"

/* This thread may be the one that opens another. */
static bool ended(enum harp_remote_opens opens)
{
    if (opens == HARP_REMOTE_OPENS || harp_things_hold())
        return harp_remote_ended();
    return harp_remote_gone(); /* with contexts, who waits for an answer may still find it */
}

/* Not while another takes its place: the old one has ended, and that is what is said of it. */
static CUresult enter(struct harp_lane *lane)
{
    if (harp_lane_enter(lane))
        return CUDA_SUCCESS;
    CUresult r = harp_remote_ready(); /* a child made by fork has none at all */
    return r == CUDA_ERROR_NOT_INITIALIZED ? r : CUDA_ERROR_DEVICE_UNAVAILABLE;
}

CUresult harp_remote_enter(enum harp_remote_opens opens, struct harp_lane **own)
{
    struct harp_lane *lane = *own = harp_lane();
    if (lane == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = enter(lane);
    /* a call that another is around, in a function of the program's, keeps the old one */
    if (opens == HARP_REMOTE_STAYS || lane->inside || lane->calls > 1)
        return r;
    if (r == CUDA_ERROR_NOT_INITIALIZED || (r == CUDA_SUCCESS && !ended(opens)))
        return r;
    if (r == CUDA_SUCCESS)
        harp_lane_leave(lane);
    CUresult why = harp_remote_again();
    r = enter(lane);
    if (r != CUDA_SUCCESS || why == CUDA_SUCCESS || opens != HARP_REMOTE_BEGINS)
        return r;
    harp_lane_leave(lane);
    return why;
}
