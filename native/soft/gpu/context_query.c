/* SPDX-License-Identifier: Apache-2.0
 *
 * What a context can be asked, what can be set on it, and waiting for it. Limits: context_limit.c.
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

CUresult soft_ctx_given(CUcontext handle, struct soft_ctx **ctx)
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
    CUresult r = soft_ctx_given(handle, &ctx);

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
    CUresult r = soft_ctx_given(handle, &ctx);

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
    CUresult r = soft_ctx_given(handle, &ctx);

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
    if (!soft_ctx_flags_fit(flags))
        return CUDA_ERROR_INVALID_VALUE;
    ctx->flags = flags;
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

/* Banks have four bytes and stay so; what was asked for is what is told, as the driver has it. */
CUresult cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pConfig == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pConfig = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS && (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE)
        r = CUDA_ERROR_INVALID_VALUE;
    return r; /* a hint that no device since 5.0 heeds */
}

/* No device here divides its SMs among contexts: cuDeviceGetExecAffinitySupport says so. */
CUresult cuCtxGetExecAffinity(CUexecAffinityParam *pExecAffinity, CUexecAffinityType type)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS && (pExecAffinity == NULL || (unsigned)type >= CU_EXEC_AFFINITY_TYPE_MAX))
        r = CUDA_ERROR_INVALID_VALUE;
    return r != CUDA_SUCCESS ? r : CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
}

/* No lines of L2 persist: the attribute and the limit are 0, so there is nothing to undo. */
CUresult cuCtxResetPersistingL2Cache(void)
{
    struct soft_ctx *ctx;

    return soft_current(&ctx);
}

/* Nothing but the CPU writes to device memory, and what it has written can be seen: nothing to
 * flush, and the device's attributes promise no flush (GPU_DIRECT_RDMA_SUPPORTED is 0). */
CUresult cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget target,
                                    CUflushGPUDirectRDMAWritesScope scope)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (target != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX ||
        (scope != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER &&
         scope != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_ALL_DEVICES))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* No profiler listens. */
CUresult cuProfilerStart(void)
{
    struct soft_ctx *ctx;

    return soft_current(&ctx);
}

CUresult cuProfilerStop(void)
{
    return cuProfilerStart();
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (leastPriority != NULL)
        *leastPriority = SOFT_PRIORITY_LEAST;
    if (greatestPriority != NULL)
        *greatestPriority = SOFT_PRIORITY_GREATEST;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize_v2(CUcontext handle)
{
    struct soft_ctx *ctx;
    CUresult r = soft_ctx_given(handle, &ctx);

    if (r == CUDA_SUCCESS)
        r = soft_ctx_sticky(ctx);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_context(ctx);
    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    return r != CUDA_SUCCESS ? r : soft_ctx_wait(ctx);
}

CUresult cuCtxSynchronize(void)
{
    return cuCtxSynchronize_v2(NULL);
}
