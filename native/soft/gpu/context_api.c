/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on contexts: creation, the stack of each thread, the primary contexts.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/context.h"

#include <stdlib.h>

static void stack_put(struct soft_thread *t, int at, struct soft_ctx *ctx)
{
    t->stack[at] = ctx;
    t->stack_id[at] = ctx->id;
}

bool soft_ctx_flags_fit(unsigned flags)
{
    unsigned sched = flags & CU_CTX_SCHED_MASK;

    return (flags & ~(unsigned)CU_CTX_FLAGS_MASK) == 0 &&
           (sched == CU_CTX_SCHED_AUTO || sched == CU_CTX_SCHED_SPIN ||
            sched == CU_CTX_SCHED_YIELD || sched == CU_CTX_SCHED_BLOCKING_SYNC);
}

static CUresult create(CUcontext *pctx, unsigned flags, CUdevice dev, unsigned api_version)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();
    struct soft_ctx *ctx;

    if (r != CUDA_SUCCESS)
        return r;
    if (pctx == NULL || !soft_ctx_flags_fit(flags))
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_visible_ordinal(dev) < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    if (t == NULL || t->depth == SOFT_STACK)
        return CUDA_ERROR_OUT_OF_MEMORY;
    ctx = calloc(1, sizeof *ctx);
    if (ctx == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    ctx->device = dev;
    ctx->flags = flags;
    soft_lock();
    r = soft_ctx_make(ctx);
    soft_unlock();
    if (r != CUDA_SUCCESS) {
        free(ctx);
        return r;
    }
    ctx->api_version = api_version;
    stack_put(t, t->depth++, ctx);
    *pctx = soft_ctx_handle(ctx);
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    return create(pctx, flags, dev, 3020);
}

/* CUDA 2's: differs in the version it tells. */
CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    return create(pctx, flags, dev, 3010);
}

CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
                        unsigned int flags, CUdevice dev)
{
    if (numParams < 0 || (numParams > 0 && paramsArray == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    if (numParams > 0)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return cuCtxCreate_v2(pctx, flags, dev);
}

CUresult cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags,
                        CUdevice dev)
{
    if (ctxCreateParams != NULL && ctxCreateParams->cigParams != NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (ctxCreateParams != NULL)
        return cuCtxCreate_v3(pctx, ctxCreateParams->execAffinityParams,
                              ctxCreateParams->numExecAffinityParams, flags, dev);
    return cuCtxCreate_v2(pctx, flags, dev);
}

CUresult cuCtxDestroy_v2(CUcontext handle)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();
    struct soft_ctx *ctx;

    if (r != CUDA_SUCCESS)
        return r;
    soft_lock();
    ctx = soft_ctx_of(handle);
    /* whoever takes the handle out is the one that ends it; a primary one is released instead */
    if (ctx == NULL || ctx->primary || !soft_handle_remove(SOFT_H_CONTEXT, ctx)) {
        soft_unlock();
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    soft_unlock();
    if (t != NULL && t->depth > 0 && t->stack[t->depth - 1] == ctx)
        t->depth--;
    soft_ctx_end(ctx);
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext handle)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();
    struct soft_ctx *ctx = soft_ctx_of(handle);

    if (r != CUDA_SUCCESS)
        return r;
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (t == NULL || t->depth == SOFT_STACK)
        return CUDA_ERROR_OUT_OF_MEMORY;
    stack_put(t, t->depth++, ctx);
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *pctx)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();

    if (r != CUDA_SUCCESS)
        return r;
    if (t == NULL || t->depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    t->depth--;
    if (pctx != NULL)
        *pctx = soft_ctx_handle(t->stack[t->depth]);
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext handle)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();
    struct soft_ctx *ctx;

    if (r != CUDA_SUCCESS)
        return r;
    if (t == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (handle == NULL) {
        if (t->depth > 0)
            t->depth--;
        return CUDA_SUCCESS;
    }
    ctx = soft_ctx_of(handle);
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (t->depth == 0)
        t->depth = 1;
    stack_put(t, t->depth - 1, ctx);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *pctx)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();

    if (r != CUDA_SUCCESS)
        return r;
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pctx = t != NULL && t->depth > 0 ? soft_ctx_handle(t->stack[t->depth - 1]) : NULL;
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------ counted uses, and CUDA 2's names ---
 */
CUresult cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current_any(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pctx == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    soft_lock();
    ctx->usage++;
    soft_unlock();
    *pctx = soft_ctx_handle(ctx);
    return CUDA_SUCCESS;
}

/* The context must be current here; the last use gone, it is destroyed. */
CUresult cuCtxDetach(CUcontext handle)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current_any(&ctx);
    bool last = false;

    if (r != CUDA_SUCCESS)
        return r;
    if (soft_ctx_of(handle) != ctx)
        return CUDA_ERROR_INVALID_CONTEXT;
    soft_lock();
    if (ctx->primary && ctx->usage == 1)
        r = CUDA_ERROR_INVALID_CONTEXT; /* what is left is the retainers' */
    else
        last = --ctx->usage == 0;
    soft_unlock();
    return last ? cuCtxDestroy_v2(handle) : r;
}

CUresult cuCtxDestroy(CUcontext handle)
{
    return cuCtxDestroy_v2(handle);
}

CUresult cuCtxPushCurrent(CUcontext handle)
{
    return cuCtxPushCurrent_v2(handle);
}

CUresult cuCtxPopCurrent(CUcontext *pctx)
{
    return cuCtxPopCurrent_v2(pctx);
}
