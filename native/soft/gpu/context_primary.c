/* SPDX-License-Identifier: Apache-2.0
 *
 * The primary context of each device: one, shared by all that retain it.
 */
#include "soft/gpu/context.h"

struct primary {
    struct soft_ctx ctx;
    unsigned retained;
    unsigned flags;
};

static struct primary primaries[SOFT_MAX_DEVICES];           /* by CUdevice; guarded by soft_lock */
static pthread_mutex_t end_lock = PTHREAD_MUTEX_INITIALIZER; /* one primary ends at a time */

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

/* Its retainers stay: each has its release to make still, and the next one that retains brings the
 * context back to life, under the same handle. */
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
    if (!soft_ctx_flags_fit(flags))
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

/* CUDA 7's, which were strict about a context in use. */
CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
    unsigned before;
    int active;
    CUresult r = cuDevicePrimaryCtxGetState(dev, &before, &active);

    if (r == CUDA_SUCCESS && active != 0)
        return CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE;
    return r != CUDA_SUCCESS ? r : cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice dev)
{
    return cuDevicePrimaryCtxRelease_v2(dev);
}

CUresult cuDevicePrimaryCtxReset(CUdevice dev)
{
    return cuDevicePrimaryCtxReset_v2(dev);
}
