/* SPDX-License-Identifier: Apache-2.0
 *
 * What calls take away is wiped when, and in which order.
 *
 * (1) A thing is wiped before the call that frees it, and forgotten after that has succeeded. Freed
 *     in the order of a stream it is wiped in that order.
 * (2) A call that frees waits for what may still write there, as a driver's own does. Not while
 *     streams are captured: that would end their captures.
 * (3) Physical memory goes back with its last handle or its last mapping, whichever is later. Once
 *     its handles are gone, it is kept over the last unmap by one of ours, and wiped after it.
 */
#include "src/worker/wipe.h"

#include <stdlib.h>
#include <unistd.h>

#include "src/worker/worker.h"

#define QUIET_MS 100 /* for calls that are under way to end */

static bool off;
static atomic_bool over;
static atomic_uint under_way;

void wipe_not(void)
{
    off = true;
}

bool wipe_is_off(void)
{
    return off;
}

bool wipe_is_over(void)
{
    return atomic_load(&over);
}

bool wipe_call_begins(void)
{
    atomic_fetch_add(&under_way, 1);
    return !atomic_load(&over);
}

void wipe_call_ends(void)
{
    atomic_fetch_sub(&under_way, 1);
}

/* --- one thing --- */

static bool zero(const struct wipe_place *in, const struct held *h)
{
    if (h->kind == HELD_ARRAY || h->kind == HELD_MIPMAPPED)
        return wipe_array(in, h);
    return wipe_linear(in, h->key, h->bytes);
}

/* Not if the call will be refused: then it is the program's still. */
static void zero_now(struct lane *lane, const struct held *h)
{
    struct wipe_place in;
    CUcontext current = NULL;
    if (DRIVER(cuCtxGetCurrent)(&current) != CUDA_SUCCESS || current == NULL ||
        !wipe_enter(lane, &in, h->context, h->device))
        return;
    if (!held_forbids(lane->id, (unsigned)in.mode)) {
        if (!held_captures())
            wipe_settle();
        if (zero(&in, h))
            wipe_finish(&in);
    }
    wipe_leave(&in);
}

bool wipe_last(struct lane *lane, uint64_t handle, const struct held *p)
{
    struct wipe_place in;
    if (!wipe_enter(lane, &in, 0, p->device))
        return false;
    bool done = wipe_physical(&in, handle, p->bytes, p->device);
    wipe_leave(&in);
    return done;
}

/* --- before a call --- */

static bool memory_at(uint64_t address, struct held *to)
{
    return held_get(HELD_LINEAR, address, to) || held_get(HELD_POOL, address, to);
}

static void free_in_order(struct lane *lane, const uint64_t *args)
{
    struct held h;
    const CUstream on = (CUstream)(uintptr_t)args[1];
    if (!memory_at(args[0], &h) || call_captures(lane, args[1]))
        return;
    if (lane->flags & HARP_FRAME_PER_THREAD)
        DRIVER(cuMemsetD8Async_ptsz)(h.key, 0, h.bytes, on);
    else
        DRIVER(cuMemsetD8Async)(h.key, 0, h.bytes, on);
    lane->freed = h;
}

static void free_now(struct lane *lane, const struct held *h)
{
    zero_now(lane, h);
    lane->freed = *h;
}

/* Everything that goes with a context. */
static void wipe_context(struct lane *lane, const struct held *context)
{
    size_t count;
    struct wipe_place in;
    struct held *all = held_all(&count);
    if (wipe_enter(lane, &in, context->key, context->device)) {
        if (!held_captures())
            wipe_settle();
        for (size_t i = 0; i < count; i++)
            if ((all[i].kind == HELD_LINEAR || all[i].kind == HELD_ARRAY ||
                 all[i].kind == HELD_MIPMAPPED) &&
                all[i].context == context->key)
                zero(&in, &all[i]);
        wipe_finish(&in);
        wipe_leave(&in);
    }
    free(all);
}

bool wipe_is_end(unsigned op, const uint64_t *args, struct held *to)
{
    switch (op) {
    case HARP_OP_cuCtxDestroy_v2:
    case HARP_OP_cuCtxDestroy:
        return held_get(HELD_CONTEXT, args[0], to) && !to->primary;
    case HARP_OP_cuCtxDetach:
        return held_get(HELD_CONTEXT, args[0], to) && to->uses == 1;
    case HARP_OP_cuDevicePrimaryCtxRelease_v2:
    case HARP_OP_cuDevicePrimaryCtxRelease:
        return held_context((int)args[0], true, to) && to->uses == 1;
    case HARP_OP_cuDevicePrimaryCtxReset_v2:
    case HARP_OP_cuDevicePrimaryCtxReset:
        return held_context((int)args[0], true, to);
    default:
        return false;
    }
}

static struct wipe_kept *room_for_one(struct lane *lane)
{
    if (lane->kept_count == lane->kept_room) {
        unsigned want = lane->kept_room == 0 ? 16 : 2 * lane->kept_room;
        struct wipe_kept *more = realloc(lane->kept, want * sizeof *more);
        if (more == NULL)
            return NULL;
        lane->kept = more;
        lane->kept_room = want;
    }
    return &lane->kept[lane->kept_count];
}

/* (3) */
static void before_unmap(struct lane *lane, uint64_t at, uint64_t end)
{
    size_t count;
    struct held p, *all = held_mappings(at, end, &count);
    struct wipe_kept *kept;
    CUmemGenericAllocationHandle handle;
    for (size_t i = 0; i < count; i++) {
        if (!held_get(HELD_PHYSICAL, all[i].physical, &p) || p.uses != 0 ||
            (kept = room_for_one(lane)) == NULL ||
            DRIVER(cuMemRetainAllocationHandle)(&handle, (void *)(uintptr_t)all[i].key) !=
                CUDA_SUCCESS)
            continue;
        *kept = (struct wipe_kept){.handle = handle, .physical = p};
        lane->kept_count++;
    }
    free(all);
}

static void before_release(struct lane *lane, const uint64_t *args)
{
    struct held h, p;
    if (held_get(HELD_HANDLE, args[0], &h) && held_get(HELD_PHYSICAL, h.physical, &p) &&
        p.uses == 1 && p.maps == 0)
        wipe_last(lane, args[0], &p);
}

void wipe_before(struct lane *lane, unsigned op, const uint64_t *args)
{
    struct held h;
    lane->freed = (struct held){.kind = HELD_NONE};
    lane->kept_count = 0;
    lane->ended = 0;
    if (wipe_is_end(op, args, &h)) { /* whose memory it was is asked also if nothing is wiped */
        if (!off)
            wipe_context(lane, &h);
        lane->freed = h;
        lane->freed_serial = held_now();
    }
    if (off)
        return;
    switch (op) {
    case HARP_OP_cuMemFree_v2:
        if (memory_at(args[0], &h))
            free_now(lane, &h);
        break;
    case HARP_OP_cuMemFreeAsync:
        free_in_order(lane, args);
        break;
    case HARP_OP_cuArrayDestroy:
        if (held_get(HELD_ARRAY, args[0], &h))
            free_now(lane, &h);
        break;
    case HARP_OP_cuMipmappedArrayDestroy:
        if (held_get(HELD_MIPMAPPED, args[0], &h))
            free_now(lane, &h);
        break;
    case HARP_OP_cuMemUnmap:
        before_unmap(lane, args[0], args[0] + args[1]);
        break;
    case HARP_OP_cuMemRelease:
        before_release(lane, args);
        break;
    default:
        break;
    }
}

void wipe_all(void)
{
    atomic_store(&over, true);
    for (unsigned ms = 0; !off && ms < QUIET_MS && atomic_load(&under_way) != 0; ms++)
        usleep(1000);
    if (!off)
        wipe_held();
}
