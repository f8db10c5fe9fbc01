/* SPDX-License-Identifier: Apache-2.0
 *
 * What a call that has succeeded has given to the session, or taken away.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/worker/wipe.h"
#include "src/worker/worker.h"

static void kept(int err)
{
    static atomic_bool said;
    if (err != 0 && !atomic_exchange(&said, true))
        fputs("harp-worker: no memory for what is to be wiped: some of it will not be\n", stderr);
}

static void keep(struct held *h)
{
    if (h->key != 0)
        kept(held_put(h));
}

static uint64_t pointed(uint64_t slot)
{
    uint64_t value = 0;
    if (slot != 0)
        memcpy(&value, (const void *)(uintptr_t)slot, sizeof value);
    return value;
}

static uint64_t current(void)
{
    CUcontext context = NULL;
    return DRIVER(cuCtxGetCurrent)(&context) == CUDA_SUCCESS ? (uintptr_t)context : 0;
}

static int current_device(void)
{
    CUdevice device = -1;
    return DRIVER(cuCtxGetDevice)(&device) == CUDA_SUCCESS ? device : -1;
}

static void unmapped(struct lane *lane, bool done, uint64_t at, uint64_t end)
{
    size_t count = 0;
    struct held p, *all = done ? held_mappings(at, end, &count) : NULL;
    for (size_t i = 0; i < count; i++) {
        held_drop(&all[i]);
        held_count(HELD_PHYSICAL, all[i].physical, 0, -1, &p);
    }
    free(all);
    for (unsigned i = 0; i < lane->kept_count; i++) {
        const struct wipe_kept *kept = &lane->kept[i];
        if (done && !held_get(HELD_PHYSICAL, kept->physical.key, &p)) /* that was the last one */
            wipe_last(lane, kept->handle, &kept->physical);
        DRIVER(cuMemRelease)(kept->handle);
    }
    lane->kept_count = 0;
}

static void context_made(uint64_t context, int device, bool primary)
{
    struct held h = {.kind = HELD_CONTEXT, .key = context, .device = device, .primary = primary};
    h.uses = 1;
    kept(held_put_or_use(&h)); /* retained again, it is the same one */
}

/* `lane->freed` is the context if this was the end of it. */
static void context_left(struct lane *lane, uint64_t context)
{
    struct held h;
    if (lane->freed.kind == HELD_CONTEXT) {
        held_drop_context(lane->freed.key, lane->freed_serial);
        lane->ended = lane->freed.serial;
    } else if (context != 0 && held_count(HELD_CONTEXT, context, -1, 0, &h) && h.uses == 0) {
        held_drop_context(context, held_now());
        lane->ended = h.serial;
    }
}

static void made(enum held_kind kind, uint64_t key, uint64_t bytes, unsigned levels)
{
    struct held h = {.kind = kind, .key = key, .bytes = bytes, .uses = levels};
    h.context = current();
    h.device = current_device();
    if (bytes != 0 || kind == HELD_ARRAY || kind == HELD_MIPMAPPED)
        keep(&h);
}

static void physical_made(const uint64_t *args)
{
    static atomic_ulong numbers;
    const CUmemAllocationProp *prop = (const void *)(uintptr_t)args[2];
    if (prop == NULL || prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return; /* the host's is the kernel's to wipe */
    struct held p = {.kind = HELD_PHYSICAL,
                     .key = atomic_fetch_add(&numbers, 1) + 1,
                     .bytes = args[1],
                     .device = prop->location.id,
                     .uses = 1};
    struct held h = {.kind = HELD_HANDLE, .key = pointed(args[0]), .physical = p.key, .uses = 1};
    keep(&p);
    keep(&h);
}

static void mapped(const uint64_t *args)
{
    struct held h, p;
    if (!held_get(HELD_HANDLE, args[3], &h) || !held_count(HELD_PHYSICAL, h.physical, 0, 1, &p))
        return;
    struct held m = {.kind = HELD_MAPPING, .key = args[0], .bytes = args[1], .physical = p.key};
    keep(&m);
}

/* Where it is mapped there is not kept: it is never taken for the last mapping's. */
static void mapped_arrays(const uint64_t *args)
{
    const CUarrayMapInfo *infos = (const void *)(uintptr_t)args[0];
    struct held h, p;
    for (uint64_t i = 0; infos != NULL && i < args[1]; i++)
        if (held_get(HELD_HANDLE, infos[i].memHandle.memHandle, &h))
            held_count(HELD_PHYSICAL, h.physical, 0, 1, &p);
}

static void retained(uint64_t handle, uint64_t address)
{
    size_t count;
    struct held h, *all = held_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct held *m = &all[i];
        if (m->kind != HELD_MAPPING || address - m->key >= m->bytes ||
            !held_count(HELD_PHYSICAL, m->physical, 1, 0, &h))
            continue;
        if (!held_count(HELD_HANDLE, handle, 1, 0, &h)) {
            h = (struct held){.kind = HELD_HANDLE, .key = handle, .uses = 1};
            h.physical = m->physical;
            keep(&h);
        }
        break;
    }
    free(all);
}

static void released(uint64_t handle)
{
    struct held h;
    if (held_count(HELD_HANDLE, handle, -1, 0, &h))
        held_count(HELD_PHYSICAL, h.physical, -1, 0, &h);
}

/* --- captures --- */

/* A stream that is each thread's own is its lane's. */
static uint64_t stream_of(const struct lane *lane, uint64_t stream)
{
    const bool own = stream == 2 || (stream == 0 && (lane->flags & HARP_FRAME_PER_THREAD) != 0);
    return own ? lane->id : stream;
}

static void captures(const struct lane *lane, uint64_t stream, uint64_t mode)
{
    struct held h = {.kind = HELD_CAPTURE, .key = stream_of(lane, stream), .lane = lane->id};
    h.context = current();
    h.uses = (unsigned)mode;
    keep(&h);
}

static void captures_no_more(const struct lane *lane, uint64_t stream)
{
    struct held h;
    if (held_captures() && held_get(HELD_CAPTURE, stream_of(lane, stream), &h))
        held_drop(&h);
}

/* A capture is over, however it ended. */
static bool capture_ended(CUresult result)
{
    return result == CUDA_SUCCESS || (result >= CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED &&
                                      result <= CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
}

/* Contexts are kept also if nothing is wiped: memory and handles end with them. */
static bool contexts(struct lane *lane, unsigned op, const uint64_t *args)
{
    struct held h;
    switch (op) {
    case HARP_OP_cuCtxCreate_v2:
    case HARP_OP_cuCtxCreate_v3:
    case HARP_OP_cuCtxCreate_v4:
    case HARP_OP_cuCtxAttach:
        context_made(pointed(args[0]), current_device(), false);
        break;
    case HARP_OP_cuDevicePrimaryCtxRetain:
        context_made(pointed(args[0]), (int)args[1], true);
        break;
    case HARP_OP_cuCtxDestroy_v2:
    case HARP_OP_cuCtxDestroy:
    case HARP_OP_cuDevicePrimaryCtxReset_v2:
    case HARP_OP_cuDevicePrimaryCtxReset:
        context_left(lane, 0);
        break;
    case HARP_OP_cuCtxDetach:
        context_left(lane, args[0]);
        break;
    case HARP_OP_cuDevicePrimaryCtxRelease_v2:
    case HARP_OP_cuDevicePrimaryCtxRelease:
        context_left(lane, held_context((int)args[0], true, &h) ? h.key : 0);
        break;
    default:
        return false;
    }
    return true;
}

static void succeeded(struct lane *lane, unsigned op, const uint64_t *args)
{
    switch (op) {
    case HARP_OP_cuMemAlloc_v2:
        made(HELD_LINEAR, pointed(args[0]), args[1], 0);
        break;
    case HARP_OP_cuMemAllocPitch_v2:
        made(HELD_LINEAR, pointed(args[0]), pointed(args[1]) * args[3], 0);
        break;
    case HARP_OP_cuMemAllocAsync:
        if (!call_captures(lane, args[2]))
            made(HELD_POOL, pointed(args[0]), args[1], 0);
        break;
    case HARP_OP_cuMemAllocFromPoolAsync:
        if (!call_captures(lane, args[3]))
            made(HELD_POOL, pointed(args[0]), args[1], 0);
        break;
    case HARP_OP_cuArrayCreate_v2:
    case HARP_OP_cuArray3DCreate_v2:
        made(HELD_ARRAY, pointed(args[0]), 0, 0);
        break;
    case HARP_OP_cuMipmappedArrayCreate:
        made(HELD_MIPMAPPED, pointed(args[0]), 0, (unsigned)args[2]);
        break;
    case HARP_OP_cuMemCreate:
        physical_made(args);
        break;
    case HARP_OP_cuMemMap:
        mapped(args);
        break;
    case HARP_OP_cuMemMapArrayAsync:
        mapped_arrays(args);
        break;
    case HARP_OP_cuMemRetainAllocationHandle:
        retained(pointed(args[0]), args[1]);
        break;
    case HARP_OP_cuMemRelease:
        released(args[0]);
        break;
    case HARP_OP_cuStreamBeginCapture:
        captures(lane, args[0], CU_STREAM_CAPTURE_MODE_GLOBAL);
        break;
    case HARP_OP_cuStreamBeginCapture_v2:
        captures(lane, args[0], args[1]);
        break;
    case HARP_OP_cuStreamBeginCaptureToGraph:
        captures(lane, args[0], args[5]);
        break;
    case HARP_OP_cuStreamDestroy_v2:
    case HARP_OP_cuStreamDestroy:
        captures_no_more(lane, args[0]);
        break;
    default:
        if (lane->freed.kind != HELD_NONE)
            held_drop(&lane->freed);
        break;
    }
}

void wipe_after(struct lane *lane, unsigned op, CUresult result, const uint64_t *args)
{
    if ((result == CUDA_SUCCESS && contexts(lane, op, args)) || wipe_is_off())
        return;
    if (op == HARP_OP_cuMemUnmap)
        unmapped(lane, result == CUDA_SUCCESS, args[0], args[0] + args[1]);
    if (op == HARP_OP_cuStreamEndCapture && capture_ended(result))
        captures_no_more(lane, args[0]);
    if (result == CUDA_SUCCESS)
        succeeded(lane, op, args);
}
