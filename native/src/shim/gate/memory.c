/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear memory: allocate, free, and what a program sees of the device's size.
 */
#include "src/shim/gate/memory.h"

#include <stddef.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"

/* Records what the driver made and settles the lease; on failure *charged is what is still held. */
static CUresult settle(CUdeviceptr ptr, uint64_t bytes, CUcontext ctx, int dev, uint64_t leased)
{
    uint64_t charged;
    struct harp_ledger *l = harp_ledger_lock();
    int failed = harp_ledger_add(l, ptr, bytes, (uint64_t)(uintptr_t)ctx, dev, &charged);
    harp_ledger_unlock();
    if (failed != 0) {
        harp_unlease(dev, HARP_MEM_DEVICE, leased);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (charged <= leased) {
        harp_unlease(dev, HARP_MEM_DEVICE, leased - charged);
        return CUDA_SUCCESS;
    }
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, charged - leased);
    if (r == CUDA_SUCCESS)
        return r;
    struct harp_block block;
    l = harp_ledger_lock();
    uint64_t freed = harp_ledger_take(l, ptr, &block) ? harp_ledger_release(l, &block) : 0;
    harp_ledger_unlock();
    uint64_t stay = charged - freed; /* somebody else lies in that granule by now */
    if (stay > leased)
        harp_overdrawn(dev, stay - leased);
    else
        harp_unlease(dev, HARP_MEM_DEVICE, leased - stay);
    return r;
}

/* What an allocation of `bytes` may cost at most. When the lease is denied, a small one may still
 * fit into a granule that is held already: then it is tried with nothing leased. */
static CUresult lease_for(int dev, uint64_t bytes, uint64_t *leased)
{
    *leased = harp_granules(bytes);
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, *leased);
    if (r == CUDA_SUCCESS || bytes >= HARP_GRANULE_BYTES || dev < 0)
        return r;
    *leased = 0;
    struct harp_ledger *l = harp_ledger_lock();
    bool room = harp_ledger_has_room(l, dev, bytes);
    harp_ledger_unlock();
    return room ? CUDA_SUCCESS : r;
}

/* The common course of cuMemAlloc and its kin: ALLOCATE is the driver's call, which sets *dptr;
 * HELD is evaluated after it (the size may be known only then). */
#define ALLOCATE(dptr, bytes, call, held)                                                          \
    do {                                                                                           \
        CUresult harp_r;                                                                           \
        int harp_dev;                                                                              \
        CUcontext harp_ctx;                                                                        \
        if (harp_inside() || (dptr) == NULL || (bytes) == 0)                                       \
            return call;                                                                           \
        if (harp_device_current(&harp_dev, &harp_ctx) != CUDA_SUCCESS)                             \
            return call; /* the driver's own error */                                              \
        uint64_t harp_leased;                                                                      \
        if ((harp_r = lease_for(harp_dev, (bytes), &harp_leased)) != CUDA_SUCCESS)                 \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        if (harp_r != CUDA_SUCCESS) {                                                              \
            harp_unlease(harp_dev, HARP_MEM_DEVICE, harp_leased);                                  \
            return harp_r;                                                                         \
        }                                                                                          \
        harp_r = settle(*(dptr), (held), harp_ctx, harp_dev, harp_leased);                         \
        if (harp_r != CUDA_SUCCESS) {                                                              \
            CUresult harp_ignored;                                                                 \
            HARP_INSIDE(harp_ignored, HARP_REAL(cuMemFree_v2)(*(dptr)));                           \
            (void)harp_ignored;                                                                    \
            *(dptr) = 0;                                                                           \
        }                                                                                          \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    CUresult r;
    if (harp_swap_alloc(dptr, bytesize, &r))
        return r;
    ALLOCATE(dptr, bytesize, HARP_REAL(cuMemAlloc_v2)(dptr, bytesize), bytesize);
}

CUresult harp_hook_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                                      size_t Height, unsigned int ElementSizeBytes)
{
    if (pPitch == NULL || (Height != 0 && WidthInBytes > (SIZE_MAX >> 1) / Height))
        return HARP_REAL(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
    size_t pitch = (WidthInBytes + 511) & ~(size_t)511, guess = pitch * Height, exact;
    CUresult r;
    if (!__builtin_mul_overflow(pitch, Height, &exact) &&
        (ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16) &&
        harp_swap_alloc(dptr, exact, &r)) {
        if (r == CUDA_SUCCESS)
            *pPitch = pitch;
        return r;
    }
    ALLOCATE(dptr, guess,
             HARP_REAL(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes),
             *pPitch * Height);
}

CUresult harp_hook_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    ALLOCATE(dptr, bytesize, HARP_REAL(cuMemAllocManaged)(dptr, bytesize, flags), bytesize);
}

/* A captured allocation becomes a node of the graph, with memory of the graph's own. */
static bool capturing(CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult r = CUDA_SUCCESS;
    if (HARP_HAS(cuStreamIsCapturing))
        HARP_INSIDE(r, HARP_REAL(cuStreamIsCapturing)(stream, &status));
    return r != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

#define POOLED(name, stream, call)                                                                 \
    do {                                                                                           \
        if (!harp_inside() && capturing(stream) && harp_refused(name " in a capture"))             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                       \
        ALLOCATE(dptr, bytesize, call, bytesize);                                                  \
    } while (0)

static CUstream own_stream(CUstream stream)
{
    return stream != NULL ? stream : CU_STREAM_PER_THREAD;
}

CUresult harp_hook_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    POOLED("cuMemAllocAsync", hStream, HARP_REAL(cuMemAllocAsync)(dptr, bytesize, hStream));
}

CUresult harp_hook_cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    POOLED("cuMemAllocAsync", own_stream(hStream),
           HARP_REAL(cuMemAllocAsync_ptsz)(dptr, bytesize, hStream));
}

CUresult harp_hook_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                           CUstream hStream)
{
    POOLED("cuMemAllocFromPoolAsync", hStream,
           HARP_REAL(cuMemAllocFromPoolAsync)(dptr, bytesize, pool, hStream));
}

CUresult harp_hook_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize,
                                                CUmemoryPool pool, CUstream hStream)
{
    POOLED("cuMemAllocFromPoolAsync", own_stream(hStream),
           HARP_REAL(cuMemAllocFromPoolAsync_ptsz)(dptr, bytesize, pool, hStream));
}

/* --- free ------------------------------------------------------------------------------------ */

#define FREE(dptr, call)                                                                           \
    do {                                                                                           \
        struct harp_block harp_block;                                                              \
        CUresult harp_r;                                                                           \
        if (harp_inside())                                                                         \
            return call;                                                                           \
        struct harp_ledger *harp_l = harp_ledger_lock();                                           \
        bool harp_ours = harp_ledger_take(harp_l, (dptr), &harp_block);                            \
        harp_ledger_unlock();                                                                      \
        HARP_INSIDE(harp_r, call);                                                                 \
        if (!harp_ours)                                                                            \
            return harp_r;                                                                         \
        uint64_t harp_freed = 0;                                                                   \
        harp_l = harp_ledger_lock();                                                               \
        if (harp_r == CUDA_SUCCESS)                                                                \
            harp_freed = harp_ledger_release(harp_l, &harp_block);                                 \
        else                                                                                       \
            harp_ledger_put_back(harp_l, &harp_block);                                             \
        harp_ledger_unlock();                                                                      \
        harp_unlease(harp_block.dev, HARP_MEM_DEVICE, harp_freed);                                 \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuMemFree_v2(CUdeviceptr dptr)
{
    CUresult r;
    if (harp_swap_free(dptr, &r))
        return r;
    FREE(dptr, HARP_REAL(cuMemFree_v2)(dptr));
}

CUresult harp_hook_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    FREE(dptr, HARP_REAL(cuMemFreeAsync)(dptr, hStream));
}

CUresult harp_hook_cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
    FREE(dptr, HARP_REAL(cuMemFreeAsync_ptsz)(dptr, hStream));
}

/* --- what the program sees ------------------------------------------------------------------- */

/* Never more than can be had in one piece now: the tenant's free bytes, the device's, whole
 * granules. */
CUresult harp_hook_cuMemGetInfo_v2(size_t *free, size_t *total)
{
    CUresult r = HARP_REAL(cuMemGetInfo_v2)(free, total);
    int dev;
    CUcontext ctx;
    if (r != CUDA_SUCCESS || harp_inside() || free == NULL || total == NULL ||
        harp_device_current(&dev, &ctx) != CUDA_SUCCESS)
        return r;
    struct harp_msg msg = {.op = HARP_MEM_INFO, .dev = (uint32_t)dev};
    uint64_t can = 0, limit = dev >= 0 ? harp_session_about(dev).limit_bytes : 0;
    if (dev >= 0) {
        can = harp_slack(dev);
        if (harp_session_ask(&msg) == 0 && msg.op == HARP_MEM_STATE) {
            can += msg.free_bytes;
            limit = msg.limit_bytes;
        }
    }
    /* What others have on the device now does not matter to memory that can leave it. */
    if (can < *free || harp_swap_on(dev))
        *free = can < *total ? can : *total;
    *free &= ~(size_t)(HARP_GRANULE_BYTES - 1);
    if (limit != 0 && limit < *total)
        *total = limit;
    return r;
}

CUresult harp_hook_cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult r = HARP_REAL(cuDeviceTotalMem_v2)(bytes, device);
    if (r != CUDA_SUCCESS || harp_inside() || bytes == NULL)
        return r;
    int dev = harp_device_of(device);
    uint64_t limit = dev >= 0 ? harp_session_about(dev).limit_bytes : 0;
    if (limit != 0 && limit < *bytes)
        *bytes = limit;
    return r;
}
