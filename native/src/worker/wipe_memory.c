/* SPDX-License-Identifier: Apache-2.0
 *
 * Zeros, by a stream of our own: a program's may be captured, or wait for something.
 */
#include <stdlib.h>

#include "src/worker/wipe.h"
#include "src/worker/worker.h"

#define ROWS_BYTES (1u << 20) /* of zeros, for arrays: what they are copied from */

/* --- where --- */

static bool context_of(uint64_t context, int device, struct held *to)
{
    return (context != 0 && held_get(HELD_CONTEXT, context, to)) || held_context(device, false, to);
}

static uint64_t stream_of(const struct held *context)
{
    CUstream made;
    if (context->stream != 0)
        return context->stream;
    if (DRIVER(cuStreamCreate)(&made, CU_STREAM_NON_BLOCKING) != CUDA_SUCCESS)
        return 0;
    uint64_t has = held_stream(context->key, (uintptr_t)made);
    if (has != (uintptr_t)made)
        DRIVER(cuStreamDestroy_v2)(made);
    return has;
}

static void exchange(int *mode)
{
    CUstreamCaptureMode other = (CUstreamCaptureMode)*mode;
    DRIVER(cuThreadExchangeStreamCaptureMode)(&other);
    *mode = (int)other;
}

static void leave(struct wipe_place *in)
{
    CUcontext popped;
    exchange(&in->mode);
    if (in->pushed)
        DRIVER(cuCtxPopCurrent_v2)(&popped);
}

/* Whoever ends it waits until that is left, or has ended it meanwhile. */
static bool kept_alive(struct lane *lane, uint64_t context, int device, struct held *to)
{
    while (context_of(context, device, to)) {
        uint64_t serial = to->serial;
        if (lane != NULL)
            within_enter(lane, to->key);
        if (held_get(HELD_CONTEXT, to->key, to) && to->serial == serial)
            return true;
        if (lane != NULL)
            within_leave(lane);
    }
    return false;
}

static bool enter(struct wipe_place *in, const struct held *found)
{
    CUcontext current = NULL;
    DRIVER(cuCtxGetCurrent)(&current);
    if ((uintptr_t)current != found->key) {
        if (DRIVER(cuCtxPushCurrent_v2)((CUcontext)(uintptr_t)found->key) != CUDA_SUCCESS)
            return false;
        in->pushed = true;
    }
    /* Ours is no part of what the program's thread may do while something captures. */
    exchange(&in->mode);
    in->stream = stream_of(found);
    if (in->stream == 0)
        leave(in);
    return in->stream != 0;
}

bool wipe_enter(struct lane *lane, struct wipe_place *in, uint64_t context, int device)
{
    struct held found;
    if (!kept_alive(lane, context, device, &found))
        return false;
    *in = (struct wipe_place){
        .lane = lane, .context = found.key, .mode = CU_STREAM_CAPTURE_MODE_RELAXED};
    if (enter(in, &found))
        return true;
    if (lane != NULL)
        within_leave(lane);
    return false;
}

void wipe_leave(struct wipe_place *in)
{
    leave(in);
    if (in->lane != NULL)
        within_leave(in->lane);
}

void wipe_settle(void)
{
    DRIVER(cuCtxSynchronize)();
}

bool wipe_finish(const struct wipe_place *in)
{
    return DRIVER(cuStreamSynchronize)((CUstream)(uintptr_t)in->stream) == CUDA_SUCCESS;
}

/* --- what --- */

bool wipe_linear(const struct wipe_place *in, uint64_t address, uint64_t bytes)
{
    return DRIVER(cuMemsetD8Async)(address, 0, bytes, (CUstream)(uintptr_t)in->stream) ==
           CUDA_SUCCESS;
}

/* 0: how its elements lie is not known here. */
static size_t element_bytes(const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    switch (d->Format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return d->NumChannels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return 2u * d->NumChannels;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return 4u * d->NumChannels;
    default:
        return 0;
    }
}

/* There is no memset for arrays: zeros of the host's are copied, some rows at a time. */
static bool one_array(const struct wipe_place *in, CUarray array)
{
    CUDA_ARRAY3D_DESCRIPTOR d;
    if (DRIVER(cuArray3DGetDescriptor_v2)(&d, array) != CUDA_SUCCESS)
        return false;
    if (d.Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING))
        return true; /* has no memory of its own */
    const size_t width = d.Width * element_bytes(&d), height = d.Height == 0 ? 1 : d.Height,
                 depth = d.Depth == 0 ? 1 : d.Depth;
    if (width == 0)
        return false;
    const size_t rows = width >= ROWS_BYTES ? 1 : ROWS_BYTES / width;
    void *zeros = calloc(rows < height ? rows : height, width);
    bool done = zeros != NULL;
    for (size_t z = 0; done && z < depth; z++)
        for (size_t y = 0; done && y < height; y += rows) {
            const CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                                        .srcHost = zeros,
                                        .srcPitch = width,
                                        .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                                        .dstArray = array,
                                        .dstY = y,
                                        .dstZ = z,
                                        .WidthInBytes = width,
                                        .Height = rows < height - y ? rows : height - y,
                                        .Depth = 1};
            done =
                DRIVER(cuMemcpy3DAsync_v2)(&copy, (CUstream)(uintptr_t)in->stream) == CUDA_SUCCESS;
        }
    done = wipe_finish(in) && done;
    free(zeros);
    return done;
}

bool wipe_array(const struct wipe_place *in, const struct held *array)
{
    if (array->kind == HELD_ARRAY)
        return one_array(in, (CUarray)(uintptr_t)array->key);
    bool done = true;
    for (unsigned level = 0; level < array->uses; level++) {
        CUarray one;
        done &= DRIVER(cuMipmappedArrayGetLevel)(&one, (CUmipmappedArray)(uintptr_t)array->key,
                                                 level) == CUDA_SUCCESS &&
                one_array(in, one);
    }
    return done;
}

/* Where the program has mapped it, it may be that nobody may write: so at a place of our own. */
bool wipe_physical(const struct wipe_place *in, uint64_t handle, uint64_t bytes, int device)
{
    const CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
                                    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr at = 0;
    if (DRIVER(cuMemAddressReserve)(&at, bytes, 0, 0, 0) != CUDA_SUCCESS)
        return false;
    bool mapped = DRIVER(cuMemMap)(at, bytes, 0, handle, 0) == CUDA_SUCCESS;
    bool done = mapped && DRIVER(cuMemSetAccess)(at, bytes, &access, 1) == CUDA_SUCCESS &&
                wipe_linear(in, at, bytes) && wipe_finish(in);
    if (mapped)
        DRIVER(cuMemUnmap)(at, bytes);
    DRIVER(cuMemAddressFree)(at, bytes);
    return done;
}
