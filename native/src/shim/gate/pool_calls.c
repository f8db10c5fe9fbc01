/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations from pools, and what is done with pools themselves.
 *
 * Where the most that a pool may grow by cannot be had, an allocation is refused only if nothing
 * else helps: what the process's pools do not need goes back; memory that other streams have freed
 * is waited for, as a driver does on a full device; and from a device's own pool the allocation may
 * be one of its own, of whole granules instead of the pool's units.
 */
#include "src/shim/gate/pool.h"

#include <stddef.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/session.h"

struct request {
    CUdeviceptr *dptr;
    size_t bytes;
    CUmemoryPool pool;
    CUstream stream, on; /* as given; NULL said as what it stands for */
    harp_fn_cuMemAllocAsync async;
    harp_fn_cuMemAllocFromPoolAsync from; /* NULL: the other */
};

static CUresult call(const struct request *q)
{
    CUresult r;
    HARP_INSIDE(r, q->from != NULL ? q->from(q->dptr, q->bytes, q->pool, q->stream)
                                   : q->async(q->dptr, q->bytes, q->stream));
    return r;
}

/* The device of the stream's context. */
static CUresult device_of(CUstream stream, CUdevice *device)
{
    CUcontext ctx, ignored;
    CUresult r;
    if ((uintptr_t)stream <= 2 || harp_context_count(-1) <= 1) {
        HARP_INSIDE(r, HARP_REAL(cuCtxGetDevice)(device));
        return r;
    }
    HARP_INSIDE(r, HARP_REAL(cuStreamGetCtx)(stream, &ctx));
    if (r == CUDA_SUCCESS)
        HARP_INSIDE(r, HARP_REAL(cuCtxPushCurrent_v2)(ctx));
    if (r != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuCtxGetDevice)(device));
    CUresult popped;
    HARP_INSIDE(popped, HARP_REAL(cuCtxPopCurrent_v2)(&ignored));
    return r != CUDA_SUCCESS ? r : popped;
}

static struct harp_pool *pool_for(const struct request *q)
{
    CUdevice device;
    if (q->from != NULL)
        return harp_pool_of(q->pool);
    return device_of(q->on, &device) == CUDA_SUCCESS ? harp_pool_current(device) : NULL;
}

static CUresult managed(const struct request *q)
{
    struct harp_linear l;
    CUresult r = harp_linear_begin(&l, q->bytes, true);
    if (r != CUDA_SUCCESS && !l.straight && harp_order_wait(NULL))
        r = harp_linear_begin(&l, q->bytes, true);
    if (r != CUDA_SUCCESS)
        return l.straight ? call(q) : r;
    return harp_linear_end(&l, call(q), q->dptr, q->bytes);
}

/* Of a pool of the host. No context takes it along. */
static CUresult pinned(const struct request *q)
{
    uint64_t bytes = harp_host_pages(0, q->bytes);
    int dev = harp_session_any();
    CUresult r = harp_lease(dev, HARP_MEM_HOST, bytes);
    if (r != CUDA_SUCCESS && harp_order_wait(NULL))
        r = harp_lease(dev, HARP_MEM_HOST, bytes);
    if (r != CUDA_SUCCESS)
        return r;
    r = call(q);
    struct harp_block block = {.charged = bytes, .dev = dev, .cls = HARP_MEM_HOST};
    block.key = r == CUDA_SUCCESS ? *q->dptr : 0;
    if (r == CUDA_SUCCESS && !harp_host_note(&block)) {
        CUresult ignored;
        HARP_INSIDE(ignored, HARP_REAL(cuMemFreeAsync)(*q->dptr, q->on));
        (void)ignored;
        r = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, HARP_MEM_HOST, bytes);
    return r;
}

/* Begins again, if that may help after the growth could not be had. */
static CUresult begin_again(struct harp_growth *g, const struct request *q, struct harp_pool *pool)
{
    uintptr_t key = harp_order_key(q->on);
    bool waited = harp_pool_has_room(pool, q->bytes, key) || harp_order_wait(pool);
    if (harp_order_wait(NULL) || waited)
        return harp_pool_begin(g, pool, q->bytes, key);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* An allocation beside the pool. */
static CUresult beside(const struct request *q, const struct harp_pool *pool)
{
    CUdevice here;
    CUresult r;
    if (!pool->builtin || harp_granules(q->bytes) % harp_pool_unit(pool->dev) == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    HARP_INSIDE(r, HARP_REAL(cuCtxGetDevice)(&here));
    if (r != CUDA_SUCCESS || here != pool->device)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return harp_hook_cuMemAlloc_v2(q->dptr, q->bytes);
}

static CUresult from_device(const struct request *q, struct harp_pool *pool)
{
    struct harp_growth g;
    CUresult r = harp_pool_begin(&g, pool, q->bytes, harp_order_key(q->on));
    if (r != CUDA_SUCCESS)
        r = begin_again(&g, q, pool);
    if (r != CUDA_SUCCESS)
        return beside(q, pool);
    r = call(q);
    if (r == CUDA_ERROR_OUT_OF_MEMORY && harp_pools_trim(pool->dev) != 0)
        r = call(q);
    CUresult paid = harp_pool_end(&g, r, r == CUDA_SUCCESS ? *q->dptr : 0, q->bytes);
    if (r == CUDA_SUCCESS && paid != CUDA_SUCCESS) {
        CUresult ignored;
        if (harp_pool_freeing(*q->dptr) == pool) {
            HARP_INSIDE(ignored, HARP_REAL(cuMemFreeAsync)(*q->dptr, q->on));
            harp_pool_freed(pool, *q->dptr, ignored, harp_order_key(q->on));
        }
        harp_pools_trim(pool->dev);
        *q->dptr = 0;
        r = paid;
    }
    return r;
}

static CUresult allocate(const struct request *q)
{
    if (harp_inside() || q->dptr == NULL || q->bytes == 0)
        return call(q);
    if (!HARP_HAS(cuMemPoolGetAttribute) || !HARP_HAS(cuDeviceGetMemPool))
        return harp_refused("cuMemAllocAsync") ? CUDA_ERROR_NOT_SUPPORTED : call(q);
    if (harp_capturing(q->on)) {
        harp_graphs_matter();
        return call(q);
    }
    struct harp_pool *pool = pool_for(q);
    if (pool == NULL) /* the driver's own error */
        return call(q);
    CUresult r;
    switch (pool->kind) {
    case HARP_POOL_DEVICE:
        r = from_device(q, pool);
        break;
    case HARP_POOL_MANAGED:
        r = managed(q);
        break;
    case HARP_POOL_HOST:
        r = pinned(q);
        break;
    default:
        r = call(q);
        break;
    }
    harp_pool_put(pool);
    return r;
}

static CUstream own_stream(CUstream stream)
{
    return stream != NULL ? stream : CU_STREAM_PER_THREAD;
}

CUresult harp_hook_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    return allocate(&(struct request){.dptr = dptr,
                                      .bytes = bytesize,
                                      .stream = hStream,
                                      .on = hStream,
                                      .async = HARP_REAL(cuMemAllocAsync)});
}

CUresult harp_hook_cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    return allocate(&(struct request){.dptr = dptr,
                                      .bytes = bytesize,
                                      .stream = hStream,
                                      .on = own_stream(hStream),
                                      .async = HARP_REAL(cuMemAllocAsync_ptsz)});
}

CUresult harp_hook_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                           CUstream hStream)
{
    return allocate(&(struct request){.dptr = dptr,
                                      .bytes = bytesize,
                                      .pool = pool,
                                      .stream = hStream,
                                      .on = hStream,
                                      .from = HARP_REAL(cuMemAllocFromPoolAsync)});
}

CUresult harp_hook_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize,
                                                CUmemoryPool pool, CUstream hStream)
{
    return allocate(&(struct request){.dptr = dptr,
                                      .bytes = bytesize,
                                      .pool = pool,
                                      .stream = hStream,
                                      .on = own_stream(hStream),
                                      .from = HARP_REAL(cuMemAllocFromPoolAsync_ptsz)});
}

/* --- pools -------------------------------------------------------------------------------------
 */

static enum harp_pool_kind kind_of(const CUmemLocation *location, CUmemAllocationType type)
{
    if (type == CU_MEM_ALLOCATION_TYPE_MANAGED)
        return HARP_POOL_MANAGED;
    return location->type == CU_MEM_LOCATION_TYPE_DEVICE ? HARP_POOL_DEVICE : HARP_POOL_HOST;
}

static CUresult met(CUresult r, const CUmemoryPool *pool, enum harp_pool_kind kind, CUdevice device,
                    bool builtin)
{
    if (r == CUDA_SUCCESS && !harp_inside())
        harp_pool_put(harp_pool_get(*pool, kind, device, builtin));
    return r;
}

CUresult harp_hook_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    CUresult r = HARP_REAL(cuMemPoolCreate)(pool, poolProps);
    if (r != CUDA_SUCCESS)
        return r;
    return met(r, pool, kind_of(&poolProps->location, poolProps->allocType), poolProps->location.id,
               false);
}

CUresult harp_hook_cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    return met(HARP_REAL(cuDeviceGetDefaultMemPool)(pool_out, dev), pool_out, HARP_POOL_DEVICE, dev,
               true);
}

CUresult harp_hook_cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    return met(HARP_REAL(cuDeviceGetMemPool)(pool, dev), pool, HARP_POOL_DEVICE, dev, false);
}

CUresult harp_hook_cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location,
                                          CUmemAllocationType type)
{
    CUresult r = HARP_REAL(cuMemGetDefaultMemPool)(pool_out, location, type);
    return r != CUDA_SUCCESS ? r
                             : met(r, pool_out, kind_of(location, type), location->id,
                                   kind_of(location, type) == HARP_POOL_DEVICE);
}

CUresult harp_hook_cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location,
                                   CUmemAllocationType type)
{
    CUresult r = HARP_REAL(cuMemGetMemPool)(pool, location, type);
    return r != CUDA_SUCCESS ? r : met(r, pool, kind_of(location, type), location->id, false);
}

CUresult harp_hook_cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle,
                                                      CUmemAllocationHandleType handleType,
                                                      unsigned long long flags)
{
    return met(HARP_REAL(cuMemPoolImportFromShareableHandle)(pool_out, handle, handleType, flags),
               pool_out, HARP_POOL_IMPORTED, 0, false);
}

CUresult harp_hook_cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
    CUresult r = HARP_REAL(cuDeviceSetMemPool)(dev, pool);
    harp_pool_current_changed();
    return r;
}

CUresult harp_hook_cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type,
                                   CUmemoryPool pool)
{
    CUresult r = HARP_REAL(cuMemSetMemPool)(location, type, pool);
    harp_pool_current_changed();
    return r;
}

/* A pool that a call is about; NULL: leave the call as it is. */
static struct harp_pool *subject(CUmemoryPool handle)
{
    struct harp_pool *pool = harp_inside() ? NULL : harp_pool_of(handle);
    if (pool != NULL && pool->kind == HARP_POOL_DEVICE)
        return pool;
    harp_pool_put(pool);
    return NULL;
}

CUresult harp_hook_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
    struct harp_pool *p = subject(pool);
    CUresult r;
    if (p == NULL)
        return HARP_REAL(cuMemPoolTrimTo)(pool, minBytesToKeep);
    harp_pool_shrink_begin(p);
    HARP_INSIDE(r, HARP_REAL(cuMemPoolTrimTo)(pool, minBytesToKeep));
    harp_pool_shrink_end(p);
    harp_pool_put(p);
    return r;
}

CUresult harp_hook_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    struct harp_pool *p = attr == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD ? subject(pool) : NULL;
    CUresult r;
    if (p == NULL)
        return HARP_REAL(cuMemPoolSetAttribute)(pool, attr, value);
    harp_pool_shrink_begin(p); /* it may give back from now on */
    HARP_INSIDE(r, HARP_REAL(cuMemPoolSetAttribute)(pool, attr, value));
    harp_pool_shrink_end(p);
    harp_pool_touched(p);
    harp_pool_put(p);
    return r;
}

CUresult harp_hook_cuMemPoolDestroy(CUmemoryPool pool)
{
    struct harp_pool *p = harp_inside() ? NULL : harp_pool_of(pool);
    CUresult r;
    if (p == NULL)
        return HARP_REAL(cuMemPoolDestroy)(pool);
    if (p->kind == HARP_POOL_DEVICE)
        harp_pool_settle(p);
    harp_pool_shrink_begin(p);
    harp_pools_lock();
    p->handle = NULL; /* another pool may get it as soon as the driver is done */
    harp_pools_unlock();
    HARP_INSIDE(r, HARP_REAL(cuMemPoolDestroy)(pool));
    harp_pools_lock();
    if (r != CUDA_SUCCESS)
        p->handle = pool;
    p->slow--;
    harp_pools_unlock();
    harp_pool_current_changed();
    if (r == CUDA_SUCCESS) {
        harp_pool_touched(p);
        harp_order_settle(); /* frees that are over let it go now */
    }
    harp_pool_put(p);
    return r;
}
