/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program sees of memory that can leave the device: an ordinary allocation. And what would
 * see more than that: then the memory stays for good, or the call is refused.
 */
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap_state.h"

#define OWN_ID (1ull << 62) /* no driver counts so far */

static struct harp_swap *const w = &harp_swap_state;

bool harp_swap_find(CUdeviceptr at, struct harp_seen *seen)
{
    if (!harp_swap_used())
        return false;
    *seen = (struct harp_seen){0};
    pthread_mutex_lock(&w->lock);
    const struct harp_slab *slab = harp_heap_slab(&w->heap, at);
    const struct harp_block *b = slab != NULL ? harp_heap_block(&w->heap, at) : NULL;
    if (b != NULL && b->charged == 0)
        *seen = (struct harp_seen){b->key, b->bytes, OWN_ID | b->refs, b->owner};
    pthread_mutex_unlock(&w->lock);
    return slab != NULL;
}

/* --- for good ----------------------------------------------------------------------------------
 */

/* Its lease becomes one of class DEVICE. Without it the slab goes on as it was. */
static CUresult move_lease(int dev, uint64_t bytes)
{
    harp_unlease(dev, HARP_MEM_SWAP, bytes);
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, bytes);
    if (r != CUDA_SUCCESS && harp_lease(dev, HARP_MEM_SWAP, bytes) != CUDA_SUCCESS) {
        harp_overdrawn(dev, HARP_MEM_SWAP, bytes);
        harp_log("swap_unleased dev=%d bytes=%llu", dev, (unsigned long long)bytes);
    }
    return r;
}

/* No memory leaves while `held`. */
static bool pin(CUdeviceptr at, const char *call)
{
    pthread_mutex_lock(&w->lock);
    harp_swap_settled();
    struct harp_slab *slab = harp_heap_slab(&w->heap, at);
    if (slab == NULL || slab->pinned) {
        pthread_mutex_unlock(&w->lock);
        return true;
    }
    int dev = slab->dev;
    uint64_t bytes = slab->bytes;
    slab->pinned = true;
    struct harp_realm *realm = harp_swap_realm(slab->owner);
    if (realm != NULL && realm->spare == slab)
        realm->spare = NULL;
    pthread_mutex_unlock(&w->lock);
    CUresult r = move_lease(dev, bytes);
    harp_log("swap_pinned dev=%d bytes=%llu call=%s granted=%d remedy=\"memory that is shared so "
             "cannot leave the device: run the job with --no-oversubscribe\"",
             dev, (unsigned long long)bytes, call, r == CUDA_SUCCESS);
    if (r == CUDA_SUCCESS)
        return true;
    pthread_mutex_lock(&w->lock);
    slab = harp_heap_slab(&w->heap, at);
    if (slab != NULL)
        slab->pinned = false;
    pthread_mutex_unlock(&w->lock);
    return false;
}

bool harp_swap_pin(CUdeviceptr at, const char *call)
{
    struct harp_seen seen;
    if (harp_inside() || !harp_swap_find(at, &seen))
        return true;
    struct harp_timegate *held = harp_touch_begin((CUcontext)(uintptr_t)seen.ctx);
    bool good = pin(at, call);
    if (held != NULL)
        harp_touch_end(held);
    return good;
}

/* A process that uses two devices may name memory of one in work of the other. */
void harp_swap_pin_all(void)
{
    harp_log("swap_off why=\"contexts on two devices\" effect=\"what is there stays\" "
             "remedy=\"one process per device, or --no-oversubscribe\"");
    for (;;) {
        CUdeviceptr at = 0;
        pthread_mutex_lock(&w->lock);
        for (size_t i = 0; i < w->heap.count && at == 0; i++)
            if (!w->heap.slabs[i]->pinned)
                at = w->heap.slabs[i]->base;
        struct harp_slab *slab = harp_heap_slab(&w->heap, at);
        CUcontext owner = slab != NULL ? (CUcontext)(uintptr_t)slab->owner : NULL;
        pthread_mutex_unlock(&w->lock);
        if (slab == NULL)
            return;
        struct harp_timegate *held = harp_touch_begin(owner);
        bool good = pin(at, "cuCtxCreate");
        if (held != NULL)
            harp_touch_end(held);
        if (!good)
            return;
    }
}

/* --- queries -----------------------------------------------------------------------------------
 */

CUresult harp_hook_cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    struct harp_seen seen;
    CUcontext ctx = NULL;
    if (!harp_swap_find(dptr, &seen) || HARP_REAL(cuCtxGetCurrent)(&ctx) != CUDA_SUCCESS ||
        ctx == NULL)
        return HARP_REAL(cuMemGetAddressRange_v2)(pbase, psize, dptr);
    if (seen.base == 0)
        return CUDA_ERROR_NOT_FOUND;
    if (pbase != NULL)
        *pbase = seen.base;
    if (psize != NULL)
        *psize = seen.bytes;
    return CUDA_SUCCESS;
}

/* The value, and its size; 0: the driver's own answer will do. */
static size_t value_of(CUpointer_attribute attribute, CUdeviceptr ptr, const struct harp_seen *seen,
                       uint64_t *value)
{
    *value = 0;
    switch ((int)attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *value = seen->ctx;
        return 8;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *value = CU_MEMORYTYPE_DEVICE;
        return 4;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *value = ptr;
        return 8;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: /* see cuIpcGetMemHandle */
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        return 1;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *value = seen->id;
        return 8;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *value = seen->base;
        return 8;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *value = seen->bytes;
        return 8;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *value = 1;
        return 1;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        return 4;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *value = CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
        return 4;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        return 8;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: {
        pthread_mutex_lock(&w->lock);
        const struct harp_realm *realm = harp_swap_realm(seen->ctx);
        *value = realm != NULL ? (uint64_t)realm->device : 0;
        pthread_mutex_unlock(&w->lock);
        return 4;
    }
    default:
        return 0;
    }
}

CUresult harp_hook_cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    struct harp_seen seen;
    uint64_t value;
    CUcontext ctx = NULL;
    if (data == NULL || !harp_swap_find(ptr, &seen) ||
        HARP_REAL(cuCtxGetCurrent)(&ctx) != CUDA_SUCCESS || ctx == NULL)
        return HARP_REAL(cuPointerGetAttribute)(data, attribute, ptr);
    if (seen.base == 0 || attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER)
        return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_POINTER_ATTRIBUTE_P2P_TOKENS &&
        !harp_swap_pin(ptr, "cuPointerGetAttribute"))
        return CUDA_ERROR_OUT_OF_MEMORY;
    size_t bytes = value_of(attribute, ptr, &seen, &value);
    if (bytes == 0)
        return HARP_REAL(cuPointerGetAttribute)(data, attribute, ptr);
    memcpy(data, &value, bytes);
    return CUDA_SUCCESS;
}

CUresult harp_hook_cuPointerGetAttributes(unsigned int numAttributes,
                                          CUpointer_attribute *attributes, void **data,
                                          CUdeviceptr ptr)
{
    struct harp_seen seen;
    if (!harp_swap_find(ptr, &seen))
        return HARP_REAL(cuPointerGetAttributes)(numAttributes, attributes, data, ptr);
    if (seen.base == 0) /* nobody's: as host memory that CUDA does not know */
        return HARP_REAL(cuPointerGetAttributes)(numAttributes, attributes, data, 1);
    CUresult r = HARP_REAL(cuPointerGetAttributes)(numAttributes, attributes, data, ptr);
    for (unsigned int i = 0; r == CUDA_SUCCESS && i < numAttributes; i++) {
        uint64_t value;
        size_t bytes = value_of(attributes[i], ptr, &seen, &value);
        if (attributes[i] == CU_POINTER_ATTRIBUTE_HOST_POINTER)
            bytes = sizeof value;
        memcpy(data[i], &value, bytes);
    }
    return r;
}

/* --- what would see more -----------------------------------------------------------------------
 */

/* SYNC_MEMOPS is set on what is handed to another device's driver by its address. */
CUresult harp_hook_cuPointerSetAttribute(const void *value, CUpointer_attribute attribute,
                                         CUdeviceptr ptr)
{
    if (!harp_swap_pin(ptr, "cuPointerSetAttribute"))
        return CUDA_ERROR_OUT_OF_MEMORY;
    return HARP_REAL(cuPointerSetAttribute)(value, attribute, ptr);
}

CUresult harp_hook_cuMemGetHandleForAddressRange(void *handle, CUdeviceptr dptr, size_t size,
                                                 CUmemRangeHandleType handleType,
                                                 unsigned long long flags)
{
    if (!harp_swap_pin(dptr, "cuMemGetHandleForAddressRange"))
        return CUDA_ERROR_OUT_OF_MEMORY;
    return HARP_REAL(cuMemGetHandleForAddressRange)(handle, dptr, size, handleType, flags);
}

/* No driver makes such a handle of memory that is mapped by parts. */
CUresult harp_hook_cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
    struct harp_seen seen;
    if (pHandle == NULL || harp_inside() || !harp_swap_find(dptr, &seen) || seen.base == 0)
        return HARP_REAL(cuIpcGetMemHandle)(pHandle, dptr);
    harp_log(
        "refused call=cuIpcGetMemHandle why=\"memory of an oversubscribing tenant has no legacy "
        "IPC handle\" remedy=\"run the job with --no-oversubscribe\"");
    return CUDA_ERROR_NOT_SUPPORTED;
}

struct harp_timegate *harp_swap_touch(void)
{
    CUcontext ctx = NULL;
    CUresult r;
    if (!harp_swap_used() || harp_inside())
        return NULL;
    HARP_INSIDE(r, HARP_REAL(cuCtxGetCurrent)(&ctx));
    return r == CUDA_SUCCESS ? harp_touch_begin(ctx) : NULL;
}

bool harp_swap_captured(CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult r = CUDA_ERROR_NOT_SUPPORTED;
    if (HARP_HAS(cuStreamIsCapturing))
        HARP_INSIDE(r, HARP_REAL(cuStreamIsCapturing)(stream, &status));
    return r == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* --- operations on memory that a stream comes to at some time -----------------------------------
 */

static bool has_address(const CUstreamBatchMemOpParams *op)
{
    return op->operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 ||
           op->operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 ||
           op->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64 ||
           op->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
}

static bool pin_ops(unsigned int count, const CUstreamBatchMemOpParams *ops)
{
    for (unsigned int i = 0; ops != NULL && harp_swap_used() && i < count; i++)
        if (has_address(&ops[i]) && !harp_swap_pin(ops[i].waitValue.address, "cuStreamBatchMemOp"))
            return false;
    return true;
}

#define BATCH(symbol)                                                                              \
    if (!pin_ops(count, paramArray))                                                               \
        return CUDA_ERROR_OUT_OF_MEMORY;                                                           \
    return HARP_REAL(symbol)(stream, count, paramArray, flags)

CUresult harp_hook_cuStreamBatchMemOp(CUstream stream, unsigned int count,
                                      CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    BATCH(cuStreamBatchMemOp);
}

CUresult harp_hook_cuStreamBatchMemOp_ptsz(CUstream stream, unsigned int count,
                                           CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    BATCH(cuStreamBatchMemOp_ptsz);
}

CUresult harp_hook_cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                                         CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    BATCH(cuStreamBatchMemOp_v2);
}

CUresult harp_hook_cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned int count,
                                              CUstreamBatchMemOpParams *paramArray,
                                              unsigned int flags)
{
    BATCH(cuStreamBatchMemOp_v2_ptsz);
}
