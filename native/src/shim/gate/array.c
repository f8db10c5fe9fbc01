/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays. Their layout is the driver's secret, but it says what one takes that is mapped later: so
 * it is asked of a twin that takes nothing. Where it has no such arrays a formula says more than it
 * can be: every level of every layer in units of 64 KiB.
 */
#include "src/shim/gate/memory.h"

#include <stddef.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/session.h"

/* Memory comes later, through cuMemCreate, which is charged itself. */
#define MEMORY_LATER (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)

#define UNIT  (64ull << 10)
#define ROW   64u /* bytes that a row is padded to; rows, and slices or layers, go by LINES */
#define LINES 8u

static uint64_t element_bytes(CUarray_format format)
{
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return 4;
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return 2;
    default:
        return 8; /* block-compressed, video and normalised formats: their largest element */
    }
}

static uint64_t one_if_zero(uint64_t n)
{
    return n != 0 ? n : 1;
}

static uint64_t up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint64_t by_formula(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned int levels)
{
    if ((d->Flags & MEMORY_LATER) != 0)
        return 0;
    bool layered = (d->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) != 0;
    uint64_t element = element_bytes(d->Format) * one_if_zero(d->NumChannels), total = 0;
    uint64_t w = one_if_zero(d->Width), h = one_if_zero(d->Height), n = one_if_zero(d->Depth);
    for (unsigned int level = 0; level < levels; level++) {
        if (w > (1ull << 40) || h > (1ull << 40) || n > (1ull << 40) ||
            (double)w * (double)h * (double)n * (double)element > 1e15)
            return 1ull << 50; /* no device has it: denied */
        total += up(up(w * element, ROW) * up(h, d->Height != 0 ? LINES : 1) *
                        up(n, d->Depth != 0 ? LINES : 1),
                    UNIT);
        w = one_if_zero(w / 2);
        h = one_if_zero(h / 2);
        n = layered ? n : one_if_zero(n / 2);
    }
    return total;
}

/* What the driver says of a twin of one array (levels 0) or of a mipmap; 0: it does not. */
static uint64_t by_twin(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned int levels, CUdevice device)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = *d;
    CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {0};
    CUarray array = NULL;
    CUmipmappedArray mipmap = NULL;
    desc.Flags |= CUDA_ARRAY3D_DEFERRED_MAPPING;
    if (!HARP_HAS(cuArrayGetMemoryRequirements) || !HARP_HAS(cuMipmappedArrayGetMemoryRequirements))
        return 0;
    harp_enter();
    if (levels == 0 && HARP_REAL(cuArray3DCreate_v2)(&array, &desc) == CUDA_SUCCESS) {
        if (HARP_REAL(cuArrayGetMemoryRequirements)(&needs, array, device) != CUDA_SUCCESS)
            needs.size = 0;
        HARP_REAL(cuArrayDestroy)(array);
    } else if (levels != 0 &&
               HARP_REAL(cuMipmappedArrayCreate)(&mipmap, &desc, levels) == CUDA_SUCCESS) {
        if (HARP_REAL(cuMipmappedArrayGetMemoryRequirements)(&needs, mipmap, device) !=
            CUDA_SUCCESS)
            needs.size = 0;
        HARP_REAL(cuMipmappedArrayDestroy)(mipmap);
    }
    harp_leave();
    return needs.size;
}

static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned int levels)
{
    CUdevice device;
    CUresult r;
    uint64_t most = by_formula(d, levels != 0 ? levels : 1), told = 0;
    if (most == 0 || most >= 1ull << 50)
        return most;
    HARP_INSIDE(r, HARP_REAL(cuCtxGetDevice)(&device));
    if (r == CUDA_SUCCESS)
        told = by_twin(d, levels, device);
    return told != 0 ? told : most;
}

static CUresult keep(CUresult r, const void *array, CUcontext ctx, int dev, uint64_t bytes)
{
    bool alone = bytes > HARP_PACKED_MOST;
    if (r == CUDA_SUCCESS)
        r = harp_handle_made_of(alone ? HARP_MEM_DEVICE : HARP_PACKED, (uint64_t)(uintptr_t)array,
                                (uint64_t)(uintptr_t)ctx, dev,
                                alone ? harp_granules(bytes) : bytes);
    if (r != CUDA_SUCCESS)
        harp_packed_unlease(ctx, dev, bytes);
    return r;
}

#define MAKE(handle, bytes, call, undo)                                                            \
    do {                                                                                           \
        int harp_dev;                                                                              \
        CUcontext harp_ctx;                                                                        \
        if (harp_inside() || harp_device_current(&harp_dev, &harp_ctx) != CUDA_SUCCESS)            \
            return call;                                                                           \
        uint64_t harp_bytes = (bytes);                                                             \
        CUresult harp_r = harp_packed_lease(harp_ctx, harp_dev, harp_bytes);                       \
        if (harp_r != CUDA_SUCCESS)                                                                \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        bool harp_made = harp_r == CUDA_SUCCESS;                                                   \
        harp_r = keep(harp_r, *(handle), harp_ctx, harp_dev, harp_bytes);                          \
        if (harp_made && harp_r != CUDA_SUCCESS) {                                                 \
            CUresult harp_ignored;                                                                 \
            HARP_INSIDE(harp_ignored, undo(*(handle)));                                            \
            (void)harp_ignored;                                                                    \
        }                                                                                          \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
    if (pHandle == NULL || pAllocateArray == NULL)
        return HARP_REAL(cuArrayCreate_v2)(pHandle, pAllocateArray);
    CUDA_ARRAY3D_DESCRIPTOR d = {.Width = pAllocateArray->Width,
                                 .Height = pAllocateArray->Height,
                                 .Format = pAllocateArray->Format,
                                 .NumChannels = pAllocateArray->NumChannels};
    MAKE(pHandle, array_bytes(&d, 0), HARP_REAL(cuArrayCreate_v2)(pHandle, pAllocateArray),
         HARP_REAL(cuArrayDestroy));
}

CUresult harp_hook_cuArray3DCreate_v2(CUarray *pHandle,
                                      const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
    if (pHandle == NULL || pAllocateArray == NULL)
        return HARP_REAL(cuArray3DCreate_v2)(pHandle, pAllocateArray);
    MAKE(pHandle, array_bytes(pAllocateArray, 0),
         HARP_REAL(cuArray3DCreate_v2)(pHandle, pAllocateArray), HARP_REAL(cuArrayDestroy));
}

CUresult harp_hook_cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
                                          const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                          unsigned int numMipmapLevels)
{
    if (pHandle == NULL || pMipmappedArrayDesc == NULL || numMipmapLevels == 0 ||
        numMipmapLevels > 64)
        return HARP_REAL(cuMipmappedArrayCreate)(pHandle, pMipmappedArrayDesc, numMipmapLevels);
    MAKE(pHandle, array_bytes(pMipmappedArrayDesc, numMipmapLevels),
         HARP_REAL(cuMipmappedArrayCreate)(pHandle, pMipmappedArrayDesc, numMipmapLevels),
         HARP_REAL(cuMipmappedArrayDestroy));
}

#define DESTROY(handle, call)                                                                      \
    do {                                                                                           \
        CUresult harp_r;                                                                           \
        if (harp_inside())                                                                         \
            return call;                                                                           \
        struct harp_drop harp_gone = harp_handle_drop((uint64_t)(uintptr_t)(handle));              \
        HARP_INSIDE(harp_r, call);                                                                 \
        harp_handle_dropped(&harp_gone, harp_r == CUDA_SUCCESS);                                   \
        if (harp_r == CUDA_SUCCESS)                                                                \
            harp_keeper_gone((uint64_t)(uintptr_t)(handle));                                       \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuArrayDestroy(CUarray hArray)
{
    DESTROY(hArray, HARP_REAL(cuArrayDestroy)(hArray));
}

CUresult harp_hook_cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
    DESTROY(hMipmappedArray, HARP_REAL(cuMipmappedArrayDestroy)(hMipmappedArray));
}
