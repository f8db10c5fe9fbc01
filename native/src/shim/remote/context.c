/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts: the stacks are this side's alone, and what they are made of is remembered.
 */
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/memory.h"

/* The thread's stack, in a session; NULL: why in *r. */
static struct harp_lane *stack(CUresult *r)
{
    *r = harp_remote_ready();
    struct harp_lane *lane = *r == CUDA_SUCCESS ? harp_lane() : NULL;
    if (lane == NULL && *r == CUDA_SUCCESS)
        *r = CUDA_ERROR_OUT_OF_MEMORY;
    return lane;
}

static struct harp_thing *thing_of(CUcontext ctx)
{
    return harp_thing_of(HARP_HANDLE_CUcontext, (uintptr_t)ctx);
}

CUresult harp_remote_cuCtxPushCurrent_v2(CUcontext ctx)
{
    CUresult r;
    struct harp_lane *lane = stack(&r);
    return lane == NULL ? r : harp_lane_push(lane, ctx);
}

CUresult harp_remote_cuCtxPushCurrent(CUcontext ctx)
{
    return harp_remote_cuCtxPushCurrent_v2(ctx);
}

CUresult harp_remote_cuCtxPopCurrent_v2(CUcontext *pctx)
{
    CUresult r;
    struct harp_lane *lane = stack(&r);
    return lane == NULL ? r : harp_lane_pop(lane, pctx);
}

CUresult harp_remote_cuCtxPopCurrent(CUcontext *pctx)
{
    return harp_remote_cuCtxPopCurrent_v2(pctx);
}

CUresult harp_remote_cuCtxSetCurrent(CUcontext ctx)
{
    CUresult r;
    struct harp_lane *lane = stack(&r);
    return lane == NULL ? r : harp_lane_set(lane, ctx);
}

CUresult harp_remote_cuCtxGetCurrent(CUcontext *pctx)
{
    CUresult r;
    struct harp_lane *lane = stack(&r);
    if (lane != NULL && pctx == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        *pctx = lane->depth == 0 ? NULL : lane->stack[lane->depth - 1].ctx;
    return r;
}

/* Whether it is known to live: a primary one does while it is retained. */
CUresult harp_remote_cuCtxGetDevice(CUdevice *device)
{
    CUresult r;
    struct harp_lane *lane = stack(&r);
    if (lane == NULL)
        return r;
    uint64_t id = harp_lane_current(lane);
    struct harp_thing *ctx = id == 0 ? NULL : harp_thing_by_id(HARP_HANDLE_CUcontext, id, false);
    if (ctx == NULL || ctx->device < 0 || device == NULL || (id >> 63 != 0 && ctx->uses == 0))
        return harp_sent_cuCtxGetDevice(device);
    *device = ctx->device;
    return CUDA_SUCCESS;
}

/* --- made and ended --------------------------------------------------------------------------- */

/* The new one is current here; in the worker it is on its thread's own stack. */
static CUresult made(struct harp_lane *lane, CUcontext *pctx, CUdevice dev, CUresult r)
{
    if (r != CUDA_SUCCESS)
        return r;
    struct harp_thing *thing = thing_of(*pctx);
    if (thing != NULL)
        thing->device = dev;
    harp_remote_moved(lane);
    return harp_lane_push(lane, *pctx);
}

static struct harp_lane *room(CUresult *r)
{
    struct harp_lane *lane = stack(r);
    if (lane == NULL || lane->depth < HARP_REMOTE_STACK)
        return lane;
    *r = CUDA_ERROR_OUT_OF_MEMORY;
    return NULL;
}

CUresult harp_remote_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    CUresult r;
    struct harp_lane *lane = room(&r);
    return lane == NULL ? r : made(lane, pctx, dev, harp_sent_cuCtxCreate_v2(pctx, flags, dev));
}

CUresult harp_remote_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray,
                                    int numParams, unsigned int flags, CUdevice dev)
{
    CUresult r;
    struct harp_lane *lane = room(&r);
    if (lane == NULL)
        return r;
    if (numParams < 0 || (numParams > 0 && paramsArray == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    r = harp_sent_cuCtxCreate_v3(pctx, paramsArray, numParams, flags, dev);
    return made(lane, pctx, dev, r);
}

CUresult harp_remote_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams,
                                    unsigned int flags, CUdevice dev)
{
    CUresult r;
    struct harp_lane *lane = room(&r);
    if (lane == NULL)
        return r;
    r = harp_sent_cuCtxCreate_v4(pctx, ctxCreateParams, flags, dev);
    return made(lane, pctx, dev, r);
}

static uint32_t ended; /* contexts; atomic */

uint32_t harp_remote_contexts_ended(void)
{
    return __atomic_load_n(&ended, __ATOMIC_RELAXED);
}

void harp_remote_end(struct harp_thing *thing)
{
    uint64_t id = thing->id;
    bool owner = harp_handle_owns((enum harp_handle)thing->kind);
    if (thing->kind == HARP_HANDLE_CUcontext) {
        __atomic_add_fetch(&ended, 1, __ATOMIC_RELAXED);
        harp_remote_forget_memory(id);
    }
    harp_thing_end(thing);
    if (owner)
        harp_thing_end_owned(id);
}

static void gone(struct harp_lane *lane, uint64_t id)
{
    harp_lane_lost(lane, id);
    harp_remote_moved(lane);
}

/* In a session that is over a context is only a handle: that ends here. `r`: what else is said. */
static CUresult ended_with_it(CUcontext ctx, CUresult r)
{
    struct harp_lane *lane = harp_lane();
    struct harp_thing *thing = thing_of(ctx);
    if (!harp_remote_ended() || lane == NULL || thing == NULL || thing->id >> 63 != 0)
        return r;
    uint64_t id = thing->id;
    harp_remote_end(thing);
    harp_lane_lost(lane, id);
    return CUDA_SUCCESS;
}

CUresult harp_remote_cuCtxDestroy_v2(CUcontext ctx)
{
    CUresult r;
    struct harp_lane *lane = stack(&r);
    struct harp_thing *thing = lane == NULL ? NULL : thing_of(ctx);
    uint64_t id = thing == NULL ? 0 : thing->id;
    if (lane == NULL)
        return ended_with_it(ctx, r);
    harp_remote_leave_arena(id);
    r = harp_sent_cuCtxDestroy_v2(ctx);
    if (r != CUDA_SUCCESS && harp_remote_gone())
        return ended_with_it(ctx, r);
    if (r == CUDA_SUCCESS)
        gone(lane, id);
    return r;
}

CUresult harp_remote_cuCtxDestroy(CUcontext ctx)
{
    return harp_remote_cuCtxDestroy_v2(ctx);
}

CUresult harp_remote_cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
    CUresult r = harp_sent_cuCtxAttach(pctx, flags);
    struct harp_thing *thing = r == CUDA_SUCCESS ? thing_of(*pctx) : NULL;
    if (thing != NULL)
        __atomic_add_fetch(&thing->uses, 1, __ATOMIC_RELAXED);
    return r;
}

/* The last use gone, it is destroyed. */
CUresult harp_remote_cuCtxDetach(CUcontext ctx)
{
    struct harp_thing *thing = thing_of(ctx);
    if (thing != NULL && __atomic_load_n(&thing->uses, __ATOMIC_RELAXED) == 0)
        harp_remote_leave_arena(thing->id);
    CUresult r = harp_sent_cuCtxDetach(ctx);
    struct harp_lane *lane = harp_lane();
    if (r != CUDA_SUCCESS && harp_remote_gone())
        return ended_with_it(ctx, r);
    if (r != CUDA_SUCCESS || thing == NULL || lane == NULL || thing->id >> 63 != 0)
        return r;
    if (__atomic_fetch_sub(&thing->uses, 1, __ATOMIC_RELAXED) != 0)
        return r;
    uint64_t id = thing->id;
    harp_remote_end(thing);
    gone(lane, id);
    return r;
}

/* --- primary contexts ------------------------------------------------------------------------- */

#define PRIMARIES 64
/* By device: uses of its primary context that were retained and not released; atomic. Others ask.
 */
static struct harp_thing *primary[PRIMARIES];

static struct harp_thing *primary_of(CUdevice dev)
{
    return dev < 0 || dev >= PRIMARIES ? NULL : __atomic_load_n(&primary[dev], __ATOMIC_ACQUIRE);
}

/* Its handle will be good again, what was in it will not. */
static void emptied(const struct harp_thing *thing)
{
    __atomic_add_fetch(&ended, 1, __ATOMIC_RELAXED);
    harp_remote_forget_memory(thing->id);
    harp_thing_end_owned(thing->id);
}

void harp_remote_forget_contexts(void)
{
    for (unsigned i = 0; i < PRIMARIES; i++)
        __atomic_store_n(&primary[i], NULL, __ATOMIC_RELEASE);
}

CUresult harp_remote_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    CUresult r = harp_sent_cuDevicePrimaryCtxRetain(pctx, dev);
    struct harp_thing *thing = r == CUDA_SUCCESS ? thing_of(*pctx) : NULL;
    if (thing == NULL || dev >= PRIMARIES)
        return r;
    thing->device = dev;
    __atomic_add_fetch(&thing->uses, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&primary[dev], thing, __ATOMIC_RELEASE);
    return r;
}

/* Takes one away, if there is one. How many there were. */
static uint32_t release(struct harp_thing *thing)
{
    uint32_t uses = thing == NULL ? 0 : __atomic_load_n(&thing->uses, __ATOMIC_RELAXED);
    while (uses > 0 && !__atomic_compare_exchange_n(&thing->uses, &uses, uses - 1, false,
                                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return uses;
}

/* The last release ends what is in the context: whoever asks afterwards shall find it so. */
CUresult harp_remote_cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    struct harp_thing *thing = primary_of(dev);
    uint32_t uses = release(thing);
    if (uses == 1)
        harp_remote_leave_arena(thing->id);
    if (uses < 2)
        harp_remote_doubt();
    CUresult r = harp_sent_cuDevicePrimaryCtxRelease_v2(dev);
    if (r != CUDA_SUCCESS && uses > 0 && harp_remote_gone())
        r = CUDA_SUCCESS; /* only a number is left of it */
    if (r != CUDA_SUCCESS && uses > 0)
        __atomic_add_fetch(&thing->uses, 1, __ATOMIC_RELAXED);
    if (r == CUDA_SUCCESS && uses == 1)
        emptied(thing);
    return r;
}

CUresult harp_remote_cuDevicePrimaryCtxRelease(CUdevice dev)
{
    return harp_remote_cuDevicePrimaryCtxRelease_v2(dev);
}

CUresult harp_remote_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    struct harp_thing *thing = primary_of(dev);
    if (thing != NULL)
        harp_remote_leave_arena(thing->id);
    CUresult r = harp_sent_cuDevicePrimaryCtxReset_v2(dev);
    if (r != CUDA_SUCCESS && thing != NULL && harp_remote_gone())
        r = CUDA_SUCCESS;
    if (r != CUDA_SUCCESS || thing == NULL)
        return r;
    __atomic_store_n(&thing->uses, 0, __ATOMIC_RELAXED);
    emptied(thing);
    return r;
}

CUresult harp_remote_cuDevicePrimaryCtxReset(CUdevice dev)
{
    return harp_remote_cuDevicePrimaryCtxReset_v2(dev);
}
