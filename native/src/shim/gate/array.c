/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays and the memory limits of a context: charged by formula, rounded up to whole granules, as
 * their true layout is the driver's secret.
 */
#include "src/shim/gate/memory.h"

#include <stddef.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/session.h"

/* Memory comes later, through cuMemCreate, which is charged itself. */
#define MEMORY_LATER (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)

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

static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned int levels)
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
        total += harp_granules(w * h * n * element);
        w = one_if_zero(w / 2);
        h = one_if_zero(h / 2);
        n = layered ? n : one_if_zero(n / 2);
    }
    return total;
}

static CUresult keep(CUresult r, const void *array, CUcontext ctx, int dev, uint64_t bytes)
{
    if (r == CUDA_SUCCESS)
        r = harp_handle_made((uint64_t)(uintptr_t)array, (uint64_t)(uintptr_t)ctx, dev, bytes);
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, HARP_MEM_DEVICE, bytes);
    return r;
}

static void harp_ignore(CUresult r)
{
    (void)r;
}

#define MAKE(handle, bytes, call, undo)                                                            \
    do {                                                                                           \
        int harp_dev;                                                                              \
        CUcontext harp_ctx;                                                                        \
        if (harp_inside() || harp_device_current(&harp_dev, &harp_ctx) != CUDA_SUCCESS)            \
            return call;                                                                           \
        uint64_t harp_bytes = (bytes);                                                             \
        CUresult harp_r = harp_lease(harp_dev, HARP_MEM_DEVICE, harp_bytes);                       \
        if (harp_r != CUDA_SUCCESS)                                                                \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        bool harp_made = harp_r == CUDA_SUCCESS;                                                   \
        harp_r = keep(harp_r, *(handle), harp_ctx, harp_dev, harp_bytes);                          \
        if (harp_made && harp_r != CUDA_SUCCESS)                                                   \
            harp_ignore(undo(*(handle)));                                                          \
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
    MAKE(pHandle, array_bytes(&d, 1), HARP_REAL(cuArrayCreate_v2)(pHandle, pAllocateArray),
         HARP_REAL(cuArrayDestroy));
}

CUresult harp_hook_cuArray3DCreate_v2(CUarray *pHandle,
                                      const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
    if (pHandle == NULL || pAllocateArray == NULL)
        return HARP_REAL(cuArray3DCreate_v2)(pHandle, pAllocateArray);
    MAKE(pHandle, array_bytes(pAllocateArray, 1),
         HARP_REAL(cuArray3DCreate_v2)(pHandle, pAllocateArray), HARP_REAL(cuArrayDestroy));
}

CUresult harp_hook_cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
                                          const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                          unsigned int numMipmapLevels)
{
    if (pHandle == NULL || pMipmappedArrayDesc == NULL || numMipmapLevels > 64)
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

/* --- cuCtxSetLimit: stack, heap and buffers live in device memory ---------------------------- */

static uint64_t per_unit(CUlimit limit, CUdevice device)
{
    if (limit == CU_LIMIT_MALLOC_HEAP_SIZE || limit == CU_LIMIT_PRINTF_FIFO_SIZE)
        return 1;
    if (limit != CU_LIMIT_STACK_SIZE)
        return 0;
    int sms = 0, threads = 0; /* a stack for every thread that can be resident */
    CUresult r;
    HARP_INSIDE(
        r, HARP_REAL(cuDeviceGetAttribute)(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    HARP_INSIDE(r, HARP_REAL(cuDeviceGetAttribute)(
                       &threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, device));
    return r == CUDA_SUCCESS ? (uint64_t)sms * (uint64_t)threads : 0;
}

CUresult harp_hook_cuCtxSetLimit(CUlimit limit, size_t value)
{
    int dev;
    CUcontext ctx;
    CUdevice device;
    size_t old = 0;
    CUresult r;
    if (harp_inside() || harp_device_current(&dev, &ctx) != CUDA_SUCCESS || !harp_limited(dev))
        return HARP_REAL(cuCtxSetLimit)(limit, value);
    HARP_INSIDE(r, HARP_REAL(cuCtxGetLimit)(&old, limit));
    if (r != CUDA_SUCCESS || value <= old || HARP_REAL(cuCtxGetDevice)(&device) != CUDA_SUCCESS)
        return HARP_REAL(cuCtxSetLimit)(limit, value);
    uint64_t more = value - old, unit = per_unit(limit, device);
    if (unit != 0 && more > (1ull << 50) / unit)
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint64_t bytes = harp_granules(more * unit);
    if ((r = harp_lease(dev, HARP_MEM_DEVICE, bytes)) != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuCtxSetLimit)(limit, value));
    if (r == CUDA_SUCCESS && bytes != 0)
        r = harp_handle_made((uint64_t)(uintptr_t)ctx | HARP_KEY_LIMIT, (uint64_t)(uintptr_t)ctx,
                             dev, bytes);
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, HARP_MEM_DEVICE, bytes);
    return r;
}
