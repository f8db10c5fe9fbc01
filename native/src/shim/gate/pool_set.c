/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pools there are. A pool is known by its handle as long as it has one, and stays known
 * afterwards while something in it lives or is still to be freed.
 */
#include "src/shim/gate/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/session.h"

#define DEVICES 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* pools and all that is in them */
static struct harp_pool *pools;
static CUmemoryPool current[DEVICES]; /* by ordinal; NULL: to be asked for. Atomic */

void harp_pools_lock(void)
{
    pthread_mutex_lock(&lock);
}

void harp_pools_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

static struct harp_pool *find(CUmemoryPool handle)
{
    struct harp_pool *p = pools;
    while (p != NULL && p->handle != handle)
        p = p->next;
    return p;
}

struct harp_pool *harp_pool_get(CUmemoryPool handle, enum harp_pool_kind kind, CUdevice device,
                                bool builtin)
{
    int dev = kind == HARP_POOL_DEVICE ? harp_device_of(device) : -1;
    harp_pools_lock();
    struct harp_pool *p = handle != NULL ? find(handle) : NULL;
    bool first = pools == NULL;
    if (p == NULL && handle != NULL && (p = calloc(1, sizeof *p)) != NULL) {
        p->handle = handle;
        p->kind = kind;
        p->device = device;
        p->dev = dev;
        p->next = pools;
        pools = p;
    }
    if (p != NULL) {
        p->builtin |= builtin;
        p->users++;
    }
    harp_pools_unlock();
    if (first) /* they are asked from time to time */
        harp_session_wake();
    return p;
}

static struct harp_pool *known(CUmemoryPool handle)
{
    harp_pools_lock();
    struct harp_pool *p = handle != NULL ? find(handle) : NULL;
    if (p != NULL)
        p->users++;
    harp_pools_unlock();
    return p;
}

struct harp_pool *harp_pool_of(CUmemoryPool handle)
{
    struct harp_pool *p = known(handle);
    int count = 0;
    CUdevice here = 0;
    cuuint64_t reserved;
    CUresult r;
    if (p != NULL || handle == NULL)
        return p;
    HARP_INSIDE(r, HARP_REAL(cuMemPoolGetAttribute)(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
                                                    &reserved));
    if (r != CUDA_SUCCESS) /* not a pool at all */
        return NULL;
    HARP_INSIDE(r, HARP_REAL(cuDeviceGetCount)(&count));
    for (CUdevice d = 0; r == CUDA_SUCCESS && d < count; d++) {
        CUmemoryPool own = NULL;
        HARP_INSIDE(r, HARP_REAL(cuDeviceGetDefaultMemPool)(&own, d));
        if (r == CUDA_SUCCESS && own == handle)
            return harp_pool_get(handle, HARP_POOL_DEVICE, d, true);
    }
    HARP_INSIDE(r, HARP_REAL(cuCtxGetDevice)(&here));
    return r == CUDA_SUCCESS ? harp_pool_get(handle, HARP_POOL_DEVICE, here, false) : NULL;
}

struct harp_pool *harp_pool_current(CUdevice device)
{
    CUmemoryPool handle = NULL, own = NULL;
    CUresult r;
    if (device < 0 || device >= DEVICES)
        return NULL;
    handle = __atomic_load_n(&current[device], __ATOMIC_ACQUIRE);
    struct harp_pool *p = known(handle);
    if (p != NULL)
        return p;
    HARP_INSIDE(r, HARP_REAL(cuDeviceGetMemPool)(&handle, device));
    if (r != CUDA_SUCCESS)
        return NULL;
    HARP_INSIDE(r, HARP_REAL(cuDeviceGetDefaultMemPool)(&own, device));
    p = harp_pool_get(handle, HARP_POOL_DEVICE, device, r == CUDA_SUCCESS && own == handle);
    __atomic_store_n(&current[device], handle, __ATOMIC_RELEASE);
    return p;
}

void harp_pool_current_changed(void)
{
    for (int i = 0; i < DEVICES; i++)
        __atomic_store_n(&current[i], NULL, __ATOMIC_RELEASE);
}

/* Destroyed, and nothing is in it: what is held for it; else 0. Lock held. */
static bool over(const struct harp_pool *p)
{
    return p->handle == NULL && p->users == 0 && p->pieces.live == 0 &&
           harp_pieces_pending(&p->pieces, 0) == 0;
}

/* One user less; with the last one a pool may go. Lock held. Returns bytes to give back. */
static uint64_t let_go(struct harp_pool *pool)
{
    uint64_t held = 0;
    pool->users--;
    if (!over(pool))
        return 0;
    struct harp_pool **at = &pools;
    while (*at != pool)
        at = &(*at)->next;
    *at = pool->next;
    held = pool->held;
    harp_pieces_clear(&pool->pieces);
    free(pool);
    return held;
}

void harp_pool_put(struct harp_pool *pool)
{
    if (pool == NULL)
        return;
    harp_pools_lock();
    int dev = pool->dev;
    uint64_t back = let_go(pool);
    harp_pools_unlock();
    harp_unlease(dev, HARP_MEM_DEVICE, back);
}

struct harp_pool *harp_pool_next(struct harp_pool *after, int dev)
{
    harp_pools_lock();
    struct harp_pool *p = after != NULL ? after->next : pools;
    while (p != NULL && (p->kind != HARP_POOL_DEVICE || (dev >= 0 && p->dev != dev)))
        p = p->next;
    if (p != NULL)
        p->users++;
    harp_pools_unlock();
    harp_pool_put(after);
    return p;
}

struct harp_pool *harp_pool_freeing(CUdeviceptr ptr)
{
    if (__atomic_load_n(&pools, __ATOMIC_RELAXED) == NULL)
        return NULL;
    harp_pools_lock();
    struct harp_pool *p = pools;
    while (p != NULL) {
        if (p->quick && p->quick_bytes > harp_pool_unit(p->dev)) { /* it counts on what lives */
            harp_pools_unlock();
            sched_yield();
            harp_pools_lock();
            p = pools;
        } else if (harp_pieces_freeing(&p->pieces, ptr)) {
            break;
        } else {
            p = p->next;
        }
    }
    if (p != NULL)
        p->users++;
    harp_pools_unlock();
    return p;
}

/* With its last context a device takes back what pools have of it. */
void harp_pools_context_gone(CUcontext ctx, int dev)
{
    struct harp_pool *p = NULL;
    bool last = harp_context_count(dev) == 0;
    harp_order_context_gone(ctx);
    while ((p = harp_pool_next(p, dev)) != NULL) {
        harp_pool_shrink_begin(p);
        harp_pool_shrink_end(p);
        harp_pools_lock();
        if (last && (p->handle == NULL || p->reserved == 0))
            harp_pieces_clear(&p->pieces);
        harp_pools_unlock();
    }
    harp_graph_memory_settle(dev);
}

uint64_t harp_pools_trim(int dev)
{
    struct harp_pool *p = NULL;
    uint64_t back = 0;
    CUstreamCaptureMode mode = harp_relaxed(CU_STREAM_CAPTURE_MODE_RELAXED);
    uint64_t before = harp_slack(dev);
    harp_order_settle();
    while ((p = harp_pool_next(p, dev)) != NULL) {
        CUmemoryPool handle = p->handle;
        CUresult r;
        if (p->reserved == 0 || handle == NULL)
            continue;
        harp_pool_shrink_begin(p);
        HARP_INSIDE(r, HARP_REAL(cuMemPoolTrimTo)(handle, 0));
        (void)r;
        back += harp_pool_shrink_end(p);
    }
    back += harp_graph_memory_trim(dev);
    uint64_t after = harp_slack(dev);
    harp_relaxed(mode);
    return back + (after > before ? after - before : 0);
}

void harp_pools_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    pools = NULL; /* not freed: the heap may have been in mid-change */
    memset(current, 0, sizeof current);
    harp_order_pending = false;
}
