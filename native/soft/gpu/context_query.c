/* SPDX-License-Identifier: Apache-2.0
 *
 * What a context can be asked, what can be set on it, and waiting for it.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/context.h"

CUresult cuCtxGetDevice(CUdevice *device)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current_any(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ctx->device;
    return CUDA_SUCCESS;
}

/* NULL: the current one. */
static CUresult given(CUcontext handle, struct soft_ctx **ctx)
{
    CUresult r;

    if (handle == NULL)
        return soft_current_any(ctx);
    r = soft_ready();
    if (r != CUDA_SUCCESS)
        return r;
    *ctx = soft_ctx_of(handle);
    return *ctx != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext handle)
{
    struct soft_ctx *ctx;
    CUresult r = given(handle, &ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ctx->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int *version)
{
    struct soft_ctx *ctx;
    CUresult r = given(handle, &ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *version = ctx->api_version;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long *id)
{
    struct soft_ctx *ctx;
    CUresult r = given(handle, &ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *id = ctx->id;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned int *flags)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current_any(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = ctx->flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned int flags)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if ((flags & ~(unsigned)CU_CTX_FLAGS_MASK) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    ctx->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pvalue == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if ((unsigned)limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *pvalue = ctx->limits[limit];
    return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        if (value > 512u << 10)
            return CUDA_ERROR_INVALID_VALUE;
        value = (value + 15) / 16 * 16;
        break;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
        if (value > 128)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
        if (value > (size_t)ctx->profile->l2_bytes)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
    case CU_LIMIT_MALLOC_HEAP_SIZE:
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
        break;
    default:
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    }
    ctx->limits[limit] = value;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pconfig == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pconfig = CU_FUNC_CACHE_PREFER_NONE;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS && (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
        r = CUDA_ERROR_INVALID_VALUE;
    return r; /* a hint: this device's split is fixed */
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (leastPriority != NULL)
        *leastPriority = 0;
    if (greatestPriority != NULL)
        *greatestPriority = -5;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize_v2(CUcontext handle)
{
    struct soft_ctx *ctx;
    CUresult r = given(handle, &ctx);

    if (r == CUDA_SUCCESS)
        r = soft_ctx_sticky(ctx);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    return r != CUDA_SUCCESS ? r : soft_ctx_wait(ctx);
}

CUresult cuCtxSynchronize(void)
{
    return cuCtxSynchronize_v2(NULL);
}
