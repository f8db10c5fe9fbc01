/* SPDX-License-Identifier: Apache-2.0
 *
 * Limits of a context: what can be set, what becomes of the value. A driver rounds and clamps
 * where it says so, and refuses the rest.
 */
#include "soft/gpu/context.h"

#define STACK_MOST (512u << 10) /* local memory of a thread, compute capability 2.0 and up */
#define L2_FETCH   128u
#define FIFO_LEAST 4096u
#define HEAP_UNIT  4096u
#define SYNC_DEPTH 24u

static bool known(const struct soft_ctx *ctx, CUlimit limit)
{
    /* synchronising in a kernel went away with compute capability 9.0 */
    if (limit == CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH)
        return ctx->profile->cc_major < 9;
    return (unsigned)limit <= CU_LIMIT_PERSISTING_L2_CACHE_SIZE;
}

CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pvalue == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (!known(ctx, limit))
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
    if (!known(ctx, limit))
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    /* too late where a kernel that depends on it was launched */
    if (ctx->fixed_limits[limit])
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)limit) {
    case CU_LIMIT_STACK_SIZE:
        if (value > STACK_MOST)
            return CUDA_ERROR_INVALID_VALUE;
        value = (value + 15) / 16 * 16;
        break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
        if (value > ctx->profile->memory_bytes)
            return CUDA_ERROR_OUT_OF_MEMORY;
        if (value < FIFO_LEAST)
            value = FIFO_LEAST;
        break;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        if (value > ctx->profile->memory_bytes)
            return CUDA_ERROR_OUT_OF_MEMORY;
        value = (value + HEAP_UNIT - 1) / HEAP_UNIT * HEAP_UNIT;
        break;
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
        if (value > SYNC_DEPTH)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY: /* a hint */
        if (value > L2_FETCH)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE: /* clamped to the attribute, which is 0 */
        value = 0;
        break;
    default:
        break;
    }
    ctx->limits[limit] = value;
    return CUDA_SUCCESS;
}
