/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on contexts: creation, the stack of each thread, the primary contexts.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/context.h"

#include <stdlib.h>

struct primary {
    struct soft_ctx ctx;
    unsigned retained;
    unsigned flags;
    bool changing; /* being ended: others wait */
};

static struct primary primaries[SOFT_MAX_DEVICES];           /* by CUdevice; guarded by soft_lock */
static pthread_mutex_t end_lock = PTHREAD_MUTEX_INITIALIZER; /* one primary ends at a time */

static void stack_put(struct soft_thread *t, int at, struct soft_ctx *ctx)
{
    t->stack[at] = ctx;
    t->stack_id[at] = ctx->id;
}

static bool flags_fit(unsigned flags)
{
    unsigned sched = flags & CU_CTX_SCHED_MASK;

    return (flags & ~(unsigned)CU_CTX_FLAGS_MASK) == 0 &&
           (sched == CU_CTX_SCHED_AUTO || sched == CU_CTX_SCHED_SPIN ||
            sched == CU_CTX_SCHED_YIELD || sched == CU_CTX_SCHED_BLOCKING_SYNC);
}

CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    CUresult r = soft_ready();
    struct soft_thread *t = soft_thread();
    struct soft_ctx *ctx;

    if (r != CUDA_SUCCESS)
        return r;
    if (pctx == NULL || !flags_fit(flags))
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
    stack_put(t, t->depth++, ctx);
    *pctx = soft_ctx_handle(ctx);
    return CUDA_SUCCESS;
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
    /* whoever takes the handle out is the one that ends it */
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

/* ------------------------------------------------------------------------ primary contexts --- */
static struct primary *primary_of(CUdevice dev)
{
    return soft_visible_ordinal(dev) < 0 ? NULL : &primaries[dev];
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    CUresult r = soft_ready();
    struct primary *p;

    if (r != CUDA_SUCCESS)
        return r;
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if ((p = primary_of(dev)) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&end_lock);
    soft_lock();
    if (!atomic_load(&p->ctx.alive)) {
        p->ctx.device = dev;
        p->ctx.primary = true;
        p->ctx.flags = p->flags;
        r = soft_ctx_make(&p->ctx);
    }
    if (r == CUDA_SUCCESS) {
        p->retained++;
        *pctx = soft_ctx_handle(&p->ctx);
    }
    soft_unlock();
    pthread_mutex_unlock(&end_lock);
    return r;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    CUresult r = soft_ready();
    struct primary *p;
    bool last = false;

    if (r != CUDA_SUCCESS)
        return r;
    if ((p = primary_of(dev)) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&end_lock);
    soft_lock();
    if (p->retained == 0)
        r = CUDA_ERROR_INVALID_CONTEXT;
    else
        last = --p->retained == 0;
    soft_unlock();
    if (last && atomic_load(&p->ctx.alive))
        soft_ctx_end(&p->ctx);
    pthread_mutex_unlock(&end_lock);
    return r;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    CUresult r = soft_ready();
    struct primary *p;

    if (r != CUDA_SUCCESS)
        return r;
    if ((p = primary_of(dev)) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&end_lock);
    if (atomic_load(&p->ctx.alive))
        soft_ctx_end(&p->ctx);
    soft_lock();
    p->retained = 0;
    soft_unlock();
    pthread_mutex_unlock(&end_lock);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
    CUresult r = soft_ready();
    struct primary *p;

    if (r != CUDA_SUCCESS)
        return r;
    if ((p = primary_of(dev)) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!flags_fit(flags))
        return CUDA_ERROR_INVALID_VALUE;
    soft_lock();
    p->flags = flags;
    if (atomic_load(&p->ctx.alive))
        p->ctx.flags = flags;
    soft_unlock();
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
    CUresult r = soft_ready();
    struct primary *p;

    if (r != CUDA_SUCCESS)
        return r;
    if ((p = primary_of(dev)) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (flags == NULL || active == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    soft_lock();
    *flags = p->flags;
    *active = atomic_load(&p->ctx.alive);
    soft_unlock();
    return CUDA_SUCCESS;
}
