/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on linear device memory.
 */
#include "soft/gpu/arena.h"
#include "soft/gpu/capture.h"
#include "soft/gpu/managed.h"
#include "soft/gpu/pool.h"

#define PITCH_ALIGN 512u

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);
    uint64_t used;

    if (r != CUDA_SUCCESS)
        return r;
    if (free_bytes == NULL || total == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    soft_phys_sweep();
    used = soft_state_used_bytes(soft_the_state, soft_at(ctx->ordinal));
    *total = ctx->profile->memory_bytes;
    *free_bytes = used < *total ? *total - used : 0;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (dptr == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return soft_mem_alloc(ctx, bytesize, dptr);
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                            unsigned int ElementSizeBytes)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);
    size_t pitch, bytes;

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (dptr == NULL || pPitch == NULL || WidthInBytes == 0 || Height == 0 ||
        (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16))
        return CUDA_ERROR_INVALID_VALUE;
    if (WidthInBytes > SIZE_MAX - PITCH_ALIGN)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pitch = (WidthInBytes + PITCH_ALIGN - 1) / PITCH_ALIGN * PITCH_ALIGN;
    if (__builtin_mul_overflow(pitch, Height, &bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = soft_mem_alloc(ctx, bytes, dptr);
    if (r == CUDA_SUCCESS)
        *pPitch = pitch;
    return r;
}

CUresult cuMemFree_v2(CUdeviceptr dptr)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS || dptr == 0)
        return r; /* freeing nothing is allowed */
    if (!soft_span_find(dptr, &span) || span.start != dptr || span.inner)
        return CUDA_ERROR_INVALID_VALUE;
    /* documented: of what pools dealt out it waits for nothing */
    if (span.kind == SOFT_SPAN_POOL)
        return soft_pool_free(dptr);
    if (span.kind == SOFT_SPAN_MANAGED)
        return soft_pool_free(dptr) == CUDA_SUCCESS ? CUDA_SUCCESS : soft_managed_free(dptr);
    if (span.kind != SOFT_SPAN_LINEAR)
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_ctx_wait(span.ctx);
    if (r != CUDA_SUCCESS)
        return r;
    return soft_mem_free(span.ctx, dptr);
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (!soft_span_find(dptr, &span))
        return CUDA_ERROR_NOT_FOUND;
    if (pbase != NULL)
        *pbase = span.start;
    if (psize != NULL)
        *psize = span.bytes;
    return CUDA_SUCCESS;
}
