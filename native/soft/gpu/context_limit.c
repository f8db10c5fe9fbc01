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

/* Device memory of one limit: a stack for every thread that can be resident, heap and FIFO as they
 * are. A driver takes heap and FIFO only with the first kernel that needs them (seen on an H200);
 * here it is the call. */
static uint64_t bytes_of(const struct soft_ctx *ctx, int limit, size_t value)
{
    const struct soft_profile *p = ctx->profile;

    if (limit == CU_LIMIT_STACK_SIZE)
        return (uint64_t)value * (unsigned)p->threads_per_sm * (unsigned)p->sm_count;
    return limit == CU_LIMIT_PRINTF_FIFO_SIZE || limit == CU_LIMIT_MALLOC_HEAP_SIZE ? value : 0;
}

/* Charges the device for what all limits take beyond the usual values, which are part of a
 * context's overhead; `limit` shall have `value`. With soft_lock. */
static CUresult charge(struct soft_ctx *ctx, int limit, size_t value)
{
    uint64_t want = 0;
    CUresult r = CUDA_SUCCESS;

    for (int i = 0; i < SOFT_LIMITS; i++) {
        size_t in_force = i == CU_LIMIT_STACK_SIZE ? ctx->stack_bytes : ctx->limits[i];
        uint64_t now = bytes_of(ctx, i, i == limit ? value : in_force);
        uint64_t usual = bytes_of(ctx, i, soft_limit_usual(i));

        want += now > usual ? now - usual : 0;
    }
    want = (want + SOFT_GRANULE - 1) / SOFT_GRANULE * SOFT_GRANULE;
    if (want > ctx->limit_bytes &&
        soft_slot_charge(soft_the_state, soft_at(ctx->ordinal), 0, want - ctx->limit_bytes) != 0)
        r = CUDA_ERROR_OUT_OF_MEMORY;
    else if (want < ctx->limit_bytes)
        soft_slot_release(soft_the_state, soft_at(ctx->ordinal), 0, ctx->limit_bytes - want);
    if (r == CUDA_SUCCESS)
        ctx->limit_bytes = want;
    if (r == CUDA_SUCCESS && limit == CU_LIMIT_STACK_SIZE)
        ctx->stack_bytes = value;
    return r;
}

static CUresult apply(struct soft_ctx *ctx, int limit, size_t value)
{
    soft_lock();
    /* too late where a kernel that depends on it was launched */
    CUresult r = ctx->fixed_limits[limit] ? CUDA_ERROR_INVALID_VALUE : charge(ctx, limit, value);
    if (r == CUDA_SUCCESS)
        ctx->limits[limit] = value;
    soft_unlock();
    return r;
}

CUresult soft_ctx_local(struct soft_ctx *ctx, uint32_t frame_bytes)
{
    CUresult r = CUDA_SUCCESS;

    if (atomic_load_explicit(&ctx->stack_bytes, memory_order_relaxed) >= frame_bytes)
        return CUDA_SUCCESS;
    soft_lock();
    if (ctx->stack_bytes < frame_bytes)
        r = charge(ctx, CU_LIMIT_STACK_SIZE, frame_bytes);
    soft_unlock();
    return r;
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
    return apply(ctx, (int)limit, value);
}
