/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts: their overhead is leased (class OVERHEAD: against the device, not against the limit)
 * before the driver makes one, and everything a context held is un-charged when it is gone.
 *
 * The service thread starts with the first context, while the arbiter is asked for its overhead: a
 * program that only looks has no thread.
 */

#include <pthread.h>
#include <stdlib.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/local.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"
#include "src/shim/gate/time.h"

struct context {
    struct context *next;
    CUcontext ctx;
    CUdevice device;
    int dev;
    uint64_t overhead;
    bool primary;
};

static struct context *contexts; /* under `lock` */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Its parent's contexts are not the child's. */
void harp_contexts_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    contexts = NULL; /* not freed: the heap may have been in mid-change */
}

static bool note(CUcontext ctx, CUdevice device, int dev, uint64_t overhead, bool primary)
{
    pthread_mutex_lock(&lock);
    struct context *c = contexts;
    while (c != NULL && c->ctx != ctx)
        c = c->next;
    bool fresh = c == NULL;
    if (fresh && (c = calloc(1, sizeof *c)) != NULL) {
        *c = (struct context){contexts, ctx, device, dev, overhead, primary};
        contexts = c;
    }
    pthread_mutex_unlock(&lock);
    if (fresh) /* what had room in the one that there was may have none in this one */
        harp_local_forget();
    return fresh;
}

static struct context forget(CUcontext ctx)
{
    struct context gone = {.dev = -1};
    pthread_mutex_lock(&lock);
    for (struct context **at = &contexts; *at != NULL; at = &(*at)->next) {
        if ((*at)->ctx != ctx)
            continue;
        struct context *c = *at;
        *at = c->next;
        gone = *c;
        free(c);
        break;
    }
    pthread_mutex_unlock(&lock);
    return gone;
}

#define AT_ONCE 64

void harp_contexts_each(void (*call)(void *arg, CUcontext ctx, int dev), void *arg)
{
    struct context some[AT_ONCE]; /* more contexts than that no program has for long */
    int n = 0;
    pthread_mutex_lock(&lock);
    for (const struct context *c = contexts; c != NULL && n < AT_ONCE; c = c->next)
        if (c->dev >= 0)
            some[n++] = *c;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < n; i++)
        call(arg, some[i].ctx, some[i].dev);
}

static CUcontext primary_of(CUdevice device)
{
    CUcontext found = NULL;
    pthread_mutex_lock(&lock);
    for (struct context *c = contexts; c != NULL; c = c->next)
        if (c->primary && c->device == device)
            found = c->ctx;
    pthread_mutex_unlock(&lock);
    return found;
}

int harp_context_count(int dev)
{
    int count = 0;
    pthread_mutex_lock(&lock);
    for (const struct context *c = contexts; c != NULL; c = c->next)
        count += dev < 0 || c->dev == dev;
    pthread_mutex_unlock(&lock);
    return count;
}

static CUresult before(CUdevice device, int *dev, uint64_t *overhead)
{
    *dev = harp_device_of(device);
    *overhead = 0;
    if (harp_env()->strict && *dev >= 0 && !harp_session_serve())
        return CUDA_ERROR_OPERATING_SYSTEM;
    if (*dev < 0) /* nobody answered, or not this tenant's device */
        return harp_session_live() ? CUDA_ERROR_NOT_PERMITTED : CUDA_ERROR_OUT_OF_MEMORY;
    *overhead = harp_granules(harp_session_about(*dev).overhead_bytes);
    harp_session_serve_soon();
    return harp_lease(*dev, HARP_MEM_OVERHEAD, *overhead);
}

static void after(CUresult r, CUcontext *pctx, CUdevice device, int dev, uint64_t overhead,
                  bool primary)
{
    if (r != CUDA_SUCCESS || !note(*pctx, device, dev, overhead, primary)) {
        harp_unlease(dev, HARP_MEM_OVERHEAD, overhead);
        return;
    }
    /* Without the thread nobody would answer recalls or end a turn: memory is held, time is free.
     */
    if (harp_session_serve()) {
        harp_swap_context_made(*pctx, device, dev);
        harp_time_context_made(*pctx, dev);
    }
}

static bool driver_knows(CUdevice device)
{
    int count = 0;
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuDeviceGetCount)(&count));
    return r == CUDA_SUCCESS && device >= 0 && device < count;
}

#define CREATE(pctx, device, primary, call)                                                        \
    do {                                                                                           \
        int harp_dev;                                                                              \
        uint64_t harp_overhead;                                                                    \
        CUresult harp_r;                                                                           \
        if (harp_inside() || (pctx) == NULL || !driver_knows(device))                              \
            return call; /* the driver's own error */                                              \
        if ((harp_r = before(device, &harp_dev, &harp_overhead)) != CUDA_SUCCESS)                  \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        after(harp_r, (pctx), device, harp_dev, harp_overhead, (primary));                         \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    if (primary_of(dev) != NULL && pctx != NULL) /* paid for already */
        return HARP_REAL(cuDevicePrimaryCtxRetain)(pctx, dev);
    CREATE(pctx, dev, true, HARP_REAL(cuDevicePrimaryCtxRetain)(pctx, dev));
}

CUresult harp_hook_cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    CREATE(pctx, dev, false, HARP_REAL(cuCtxCreate)(pctx, flags, dev));
}

CUresult harp_hook_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    CREATE(pctx, dev, false, HARP_REAL(cuCtxCreate_v2)(pctx, flags, dev));
}

CUresult harp_hook_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
                                  unsigned int flags, CUdevice dev)
{
    CREATE(pctx, dev, false, HARP_REAL(cuCtxCreate_v3)(pctx, paramsArray, numParams, flags, dev));
}

CUresult harp_hook_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams,
                                  unsigned int flags, CUdevice dev)
{
    CREATE(pctx, dev, false, HARP_REAL(cuCtxCreate_v4)(pctx, ctxCreateParams, flags, dev));
}

CUresult harp_hook_cuGLCtxCreate(CUcontext *pCtx, unsigned int Flags, CUdevice device)
{
    CREATE(pCtx, device, false, HARP_REAL(cuGLCtxCreate)(pCtx, Flags, device));
}

CUresult harp_hook_cuGLCtxCreate_v2(CUcontext *pCtx, unsigned int Flags, CUdevice device)
{
    CREATE(pCtx, device, false, HARP_REAL(cuGLCtxCreate_v2)(pCtx, Flags, device));
}

CUresult harp_hook_cuVDPAUCtxCreate(CUcontext *pCtx, unsigned int flags, CUdevice device,
                                    VdpDevice vdpDevice, VdpGetProcAddress *vdpGetProcAddress)
{
    CREATE(pCtx, device, false,
           HARP_REAL(cuVDPAUCtxCreate)(pCtx, flags, device, vdpDevice, vdpGetProcAddress));
}

CUresult harp_hook_cuVDPAUCtxCreate_v2(CUcontext *pCtx, unsigned int flags, CUdevice device,
                                       VdpDevice vdpDevice, VdpGetProcAddress *vdpGetProcAddress)
{
    CREATE(pCtx, device, false,
           HARP_REAL(cuVDPAUCtxCreate_v2)(pCtx, flags, device, vdpDevice, vdpGetProcAddress));
}

/* A green context holds a reference of its device's primary one, which may be the first. */
CUresult harp_hook_cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev,
                                    unsigned int flags)
{
    CUcontext primary;
    CUresult r;
    if (harp_inside() || phCtx == NULL || !driver_knows(dev))
        return HARP_REAL(cuGreenCtxCreate)(phCtx, desc, dev, flags);
    if ((r = harp_hook_cuDevicePrimaryCtxRetain(&primary, dev)) != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuGreenCtxCreate)(phCtx, desc, dev, flags));
    harp_hook_cuDevicePrimaryCtxRelease_v2(dev);
    return r;
}

/* --- the end --------------------------------------------------------------------------------- */

static void gone(CUcontext ctx)
{
    struct context c = forget(ctx);
    if (c.dev < 0)
        return;
    harp_memory_owner_gone((uint64_t)(uintptr_t)ctx);
    harp_pools_context_gone(ctx, c.dev);
    harp_host_owner_gone((uint64_t)(uintptr_t)ctx);
    harp_code_owner_gone(ctx);
    harp_limit_owner_gone(ctx);
    harp_packed_owner_gone(ctx, c.dev);
    harp_swap_context_gone(ctx);
    harp_unlease(c.dev, HARP_MEM_OVERHEAD, c.overhead);
}

static CUresult destroy(CUcontext ctx, CUresult (*call)(CUcontext))
{
    if (harp_inside() || ctx == NULL)
        return call(ctx);
    harp_time_context_going(ctx); /* our events live in it */
    harp_local_forget();          /* its functions' handles may be reused */
    harp_swap_hold();
    CUresult r;
    HARP_INSIDE(r, call(ctx));
    if (r == CUDA_SUCCESS)
        gone(ctx);
    harp_swap_let_go();
    return r;
}

CUresult harp_hook_cuCtxDestroy(CUcontext ctx)
{
    return destroy(ctx, HARP_REAL(cuCtxDestroy));
}

CUresult harp_hook_cuCtxDestroy_v2(CUcontext ctx)
{
    return destroy(ctx, HARP_REAL(cuCtxDestroy_v2));
}

CUresult harp_hook_cuCtxDetach(CUcontext ctx)
{
    return destroy(ctx, HARP_REAL(cuCtxDetach));
}

/* Somebody has let go of a primary context: is it gone? */
static void released(CUcontext ctx, CUdevice device, CUresult r)
{
    unsigned int flags;
    int active = 0;
    CUresult asked;
    HARP_INSIDE(asked, HARP_REAL(cuDevicePrimaryCtxGetState)(device, &flags, &active));
    if (r == CUDA_SUCCESS && asked == CUDA_SUCCESS && !active)
        gone(ctx);
    else
        harp_time_context_made(ctx, harp_device_of(device)); /* somebody else holds it too */
}

static CUresult let_go(CUdevice device, CUresult (*call)(CUdevice))
{
    CUcontext ctx = harp_inside() ? NULL : primary_of(device);
    if (ctx == NULL)
        return call(device);
    harp_time_context_going(ctx);
    harp_local_forget();
    harp_swap_hold();
    CUresult r;
    HARP_INSIDE(r, call(device));
    released(ctx, device, r);
    harp_swap_let_go();
    return r;
}

CUresult harp_hook_cuDevicePrimaryCtxRelease(CUdevice dev)
{
    return let_go(dev, HARP_REAL(cuDevicePrimaryCtxRelease));
}

CUresult harp_hook_cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    return let_go(dev, HARP_REAL(cuDevicePrimaryCtxRelease_v2));
}

CUresult harp_hook_cuDevicePrimaryCtxReset(CUdevice dev)
{
    return let_go(dev, HARP_REAL(cuDevicePrimaryCtxReset));
}

CUresult harp_hook_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    return let_go(dev, HARP_REAL(cuDevicePrimaryCtxReset_v2));
}

/* It may have been the last to hold a primary context; which one's it was nobody tells. */
CUresult harp_hook_cuGreenCtxDestroy(CUgreenCtx hCtx)
{
    struct context primaries[HARP_MAX_DEVICES];
    size_t n = 0;
    CUresult r;
    if (harp_inside())
        return HARP_REAL(cuGreenCtxDestroy)(hCtx);
    pthread_mutex_lock(&lock);
    for (const struct context *c = contexts; c != NULL && n < HARP_MAX_DEVICES; c = c->next)
        if (c->primary)
            primaries[n++] = *c;
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < n; i++)
        harp_time_context_going(primaries[i].ctx);
    harp_local_forget();
    harp_swap_hold();
    HARP_INSIDE(r, HARP_REAL(cuGreenCtxDestroy)(hCtx));
    for (size_t i = 0; i < n; i++)
        released(primaries[i].ctx, primaries[i].device, r);
    harp_swap_let_go();
    return r;
}
