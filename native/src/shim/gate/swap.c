/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks and slabs of memory that may leave the device, for the program's threads.
 *
 * Physical memory is made and given back only while the device's memory is at home: `making` keeps
 * the mover away meanwhile. While it is away a new slab is an address, and has its memory when the
 * others have theirs.
 */
#include "src/shim/gate/swap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/swap_state.h"

static struct harp_swap *const w = &harp_swap_state;

/* Nothing is mapped behind a slab: what runs over its end is caught, as it would be elsewhere. */
#define GUARD HARP_GRANULE_BYTES

/* --- slabs come and go -------------------------------------------------------------------------
 */

static uint32_t class_of(const struct harp_slab *slab)
{
    return slab->pinned ? HARP_MEM_DEVICE : HARP_MEM_SWAP;
}

/* Managed memory is there at once and lies where it is told to. */
static CUresult reserve(struct harp_slab *slab, CUdevice device)
{
    CUdeviceptr base = 0;
    CUresult r;
    harp_enter();
    if (slab->managed) {
        r = HARP_REAL(cuMemAllocManaged)(&base, slab->bytes, CU_MEM_ATTACH_GLOBAL);
        if (r == CUDA_SUCCESS && HARP_HAS(cuMemAdvise))
            HARP_REAL(cuMemAdvise)(base, slab->bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, device);
    } else {
        r = HARP_REAL(cuMemAddressReserve)(&base, slab->bytes + GUARD, 0, 0, 0);
    }
    harp_leave();
    slab->base = base;
    return r;
}

static void unreserve(const struct harp_slab *slab)
{
    harp_enter();
    if (slab->managed)
        HARP_REAL(cuMemFree_v2)(slab->base);
    else
        HARP_REAL(cuMemAddressFree)(slab->base, slab->bytes + GUARD);
    harp_leave();
}

void harp_swap_hold(void)
{
    pthread_mutex_lock(&w->lock);
    harp_swap_settled();
    w->making++;
    pthread_mutex_unlock(&w->lock);
}

void harp_swap_let_go(void)
{
    pthread_mutex_lock(&w->lock);
    w->making--;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* A slab that is in the heap no more: all of it goes. `here`: counted in `making`. */
static void give_back(const struct harp_slab *slab, bool here)
{
    if (slab->handle != 0)
        harp_slab_unback(slab);
    unreserve(slab);
    harp_unlease(slab->dev, class_of(slab), slab->bytes);
    if (here)
        harp_swap_let_go();
}

/* Takes an empty slab out of the heap. Lock held. */
static bool take_out(struct harp_slab *slab, struct harp_slab *gone)
{
    bool here = w->dev[slab->dev].place == PLACE_HERE;
    *gone = *slab;
    harp_heap_drop(&w->heap, slab);
    if (here)
        w->making++;
    return here;
}

bool harp_swap_drop_spares(int dev, bool mover)
{
    bool any = false;
    for (;;) {
        struct harp_slab gone;
        pthread_mutex_lock(&w->lock);
        if (!mover)
            harp_swap_settled();
        struct harp_realm *realm = w->realms;
        while (realm != NULL && (realm->dev != dev || realm->spare == NULL))
            realm = realm->next;
        if (realm == NULL || w->moving != 0) {
            pthread_mutex_unlock(&w->lock);
            return any;
        }
        bool here = take_out(realm->spare, &gone);
        realm->spare = NULL;
        pthread_mutex_unlock(&w->lock);
        give_back(&gone, here);
        any = true;
    }
}

/* --- allocate ----------------------------------------------------------------------------------
 */

static uint64_t take(struct harp_realm *realm, uint64_t bytes)
{
    uint64_t ptr = harp_heap_take(&w->heap, (uint64_t)(uintptr_t)realm->ctx, bytes);
    if (ptr != 0 && realm->spare != NULL && realm->spare->live != 0)
        realm->spare = NULL;
    return ptr;
}

/* A slab with one block in it, if the device has the memory. NOT_READY: that came back meanwhile.
 */
static CUresult make_once(CUcontext ctx, CUdevice device, int dev, uint64_t bytes, bool managed,
                          uint64_t *ptr)
{
    struct harp_slab slab = {.bytes = harp_slab_bytes(bytes), .dev = dev, .managed = managed};
    CUresult r = reserve(&slab, device);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&w->lock);
    harp_swap_settled();
    bool here = w->dev[dev].place == PLACE_HERE;
    w->making += here;
    pthread_mutex_unlock(&w->lock);
    if (here && !managed)
        r = harp_slab_back(&slab, device, &slab.handle);
    struct harp_slab *added = NULL;
    pthread_mutex_lock(&w->lock);
    if (!here) /* it may have come back meanwhile, or be on its way: then this one is late */
        harp_swap_settled();
    bool late = !here && w->dev[dev].place == PLACE_HERE;
    if (r == CUDA_SUCCESS && !late && harp_swap_realm((uint64_t)(uintptr_t)ctx) != NULL)
        added = harp_heap_add(&w->heap, slab.base, slab.bytes, (uint64_t)(uintptr_t)ctx,
                              bytes <= HARP_SMALL_BYTES);
    if (added != NULL) {
        added->dev = dev;
        added->handle = slab.handle;
        added->managed = managed;
        *ptr = harp_heap_place(&w->heap, added, bytes);
        if (*ptr == 0)
            harp_heap_drop(&w->heap, added);
    }
    w->making -= here;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (*ptr != 0)
        return CUDA_SUCCESS;
    if (slab.handle != 0)
        harp_slab_unback(&slab);
    unreserve(&slab);
    return late ? CUDA_ERROR_NOT_READY : r != CUDA_SUCCESS ? r : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult make(CUcontext ctx, CUdevice device, int dev, uint64_t bytes, bool managed,
                     uint64_t *ptr)
{
    CUresult r;
    do
        r = make_once(ctx, device, dev, bytes, managed, ptr);
    while (r == CUDA_ERROR_NOT_READY);
    return r;
}

static CUresult leased(CUcontext ctx, CUdevice device, int dev, uint64_t bytes, bool managed,
                       uint64_t *ptr)
{
    uint64_t size = harp_slab_bytes(bytes);
    if (size == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = harp_lease(dev, HARP_MEM_SWAP, size);
    if (r != CUDA_SUCCESS && harp_swap_drop_spares(dev, false))
        r = harp_lease(dev, HARP_MEM_SWAP, size);
    if (r != CUDA_SUCCESS)
        return r;
    r = make(ctx, device, dev, bytes, managed, ptr);
    if (r == CUDA_ERROR_OUT_OF_MEMORY &&
        (harp_swap_drop_spares(dev, false) || harp_pools_trim(dev) != 0))
        r = make(ctx, device, dev, bytes, managed, ptr);
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, HARP_MEM_SWAP, size);
    return r;
}

/* Blocks that were freed while a stream was captured: once none is, and the context is idle. Lock
 * held, and let go. */
static void bury(CUcontext ctx);

bool harp_swap_alloc(CUdeviceptr *dptr, uint64_t bytes, CUresult *r)
{
    int dev;
    CUcontext ctx;
    if (dptr == NULL || bytes == 0 || harp_inside() ||
        harp_device_current(&dev, &ctx) != CUDA_SUCCESS || !harp_swap_on(dev))
        return false;
    /* What the driver would say to it whoever asks: of a broken context, of a capture. */
    HARP_INSIDE(*r, HARP_REAL(cuMemAlloc_v2)(NULL, bytes));
    if (*r != CUDA_ERROR_INVALID_VALUE)
        return *r != CUDA_SUCCESS;
    int saved = errno;
    if (!__atomic_exchange_n(&w->used, true, __ATOMIC_RELAXED))
        harp_log("swap_on dev=%d", dev);
    harp_gate_closable(dev);
    pthread_mutex_lock(&w->lock);
    bury(ctx);
    harp_swap_settled();
    struct harp_realm *realm = harp_swap_realm((uint64_t)(uintptr_t)ctx);
    uint64_t ptr = realm != NULL ? take(realm, bytes) : 0;
    CUdevice device = realm != NULL ? realm->device : 0;
    bool managed = w->dev[dev].tier == TIER_MANAGED;
    pthread_mutex_unlock(&w->lock);
    if (realm == NULL)
        return false;
    *r = ptr != 0 ? CUDA_SUCCESS : leased(ctx, device, dev, bytes, managed, &ptr);
    if (*r == CUDA_SUCCESS)
        *dptr = ptr;
    errno = saved;
    return true;
}

/* --- free --------------------------------------------------------------------------------------
 */

/* A driver's cuMemFree waits until nothing runs that could still use the memory. */
static CUresult wait_idle(CUcontext ctx)
{
    CUcontext current = NULL;
    harp_enter();
    bool pushed = HARP_REAL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != ctx &&
                  HARP_REAL(cuCtxPushCurrent_v2)(ctx) == CUDA_SUCCESS;
    CUresult r = HARP_REAL(cuCtxSynchronize)();
    if (pushed)
        HARP_REAL(cuCtxPopCurrent_v2)(&current);
    harp_leave();
    return r;
}

/* One block less; lock held, and let go. */
static void free_block(uint64_t ptr)
{
    harp_swap_settled();
    struct harp_slab gone, *slab = harp_heap_free(&w->heap, ptr);
    struct harp_realm *realm = slab != NULL ? harp_swap_realm(slab->owner) : NULL;
    if (slab == NULL || slab->live != 0)
        return;
    if (slab->cells != NULL && !slab->pinned && realm != NULL && realm->spare == NULL) {
        realm->spare = slab;
        return;
    }
    bool here = take_out(slab, &gone);
    pthread_mutex_unlock(&w->lock);
    give_back(&gone, here);
    pthread_mutex_lock(&w->lock);
}

static void bury(CUcontext ctx)
{
    if (w->dead == 0 || w->captures != 0)
        return;
    pthread_mutex_unlock(&w->lock);
    CUresult r = wait_idle(ctx);
    pthread_mutex_lock(&w->lock);
    for (bool more = r == CUDA_SUCCESS; more;) {
        more = false;
        for (size_t i = 0; i < w->heap.blocks.places && !more; i++) {
            const struct harp_block *b = &w->heap.blocks.at[i];
            if (b->key == 0 || b->charged == 0 || b->owner != (uint64_t)(uintptr_t)ctx)
                continue;
            w->dead--;
            more = true;
            free_block(b->key);
        }
    }
}

bool harp_swap_free(CUdeviceptr dptr, CUresult *r)
{
    if (!harp_swap_used() || harp_inside())
        return false;
    int saved = errno;
    pthread_mutex_lock(&w->lock);
    const struct harp_block *b = harp_map_find(&w->heap.blocks, dptr);
    bool ours = b != NULL && b->charged == 0;
    CUcontext owner = ours ? (CUcontext)(uintptr_t)b->owner : NULL;
    pthread_mutex_unlock(&w->lock);
    if (!ours)
        return false;
    HARP_INSIDE(*r, HARP_REAL(cuMemFree_v2)(0)); /* see harp_swap_alloc */
    if (*r != CUDA_SUCCESS)
        return true;
    bool captured = __atomic_load_n(&w->captures, __ATOMIC_RELAXED) != 0;
    if (!captured && (*r = wait_idle(owner)) != CUDA_SUCCESS)
        return true;
    pthread_mutex_lock(&w->lock);
    struct harp_block *block = harp_map_find(&w->heap.blocks, dptr);
    if (block == NULL || block->charged != 0) {
        *r = CUDA_ERROR_INVALID_VALUE; /* another thread was faster */
    } else if (captured) {
        block->charged = 1;
        w->dead++;
    } else {
        free_block(dptr);
    }
    pthread_mutex_unlock(&w->lock);
    errno = saved;
    return true;
}

void harp_swap_context_gone(CUcontext ctx)
{
    uint64_t owner = (uint64_t)(uintptr_t)ctx;
    pthread_mutex_lock(&w->lock);
    struct harp_realm **at = &w->realms;
    while (*at != NULL && (*at)->ctx != ctx)
        at = &(*at)->next;
    struct harp_realm *realm = *at;
    if (realm != NULL)
        *at = realm->next;
    for (size_t i = w->heap.count; realm != NULL && i-- > 0;) {
        struct harp_slab gone, *slab = w->heap.slabs[i];
        if (slab->owner != owner)
            continue;
        bool here = take_out(slab, &gone);
        pthread_mutex_unlock(&w->lock);
        give_back(&gone, here);
        pthread_mutex_lock(&w->lock);
        i = w->heap.count;
    }
    w->dead = 0; /* its own are no more */
    for (size_t i = 0; i < w->heap.blocks.places; i++)
        w->dead += w->heap.blocks.at[i].key != 0 && w->heap.blocks.at[i].charged != 0;
    pthread_mutex_unlock(&w->lock);
    if (realm == NULL)
        return;
    harp_arena_forget(&realm->arena, realm->dev);
    free(realm);
}
