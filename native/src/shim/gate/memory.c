/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear memory: allocate and free.
 */
#include "src/shim/gate/memory.h"

#include <sched.h>
#include <stddef.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/graph_memory.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"

/* Records what the driver made and settles the lease. */
static CUresult settle(const struct harp_linear *li, CUdeviceptr ptr, uint64_t bytes)
{
    CUcontext ctx = li->ctx;
    int dev = li->dev;
    uint64_t leased = li->leased;
    uint64_t charged, owner = (uint64_t)(uintptr_t)ctx;
    if (harp_linear_charge(ptr, bytes, owner, dev, li->apart, leased, &charged) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (charged <= leased)
        return CUDA_SUCCESS;
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, charged - leased);
    if (r == CUDA_SUCCESS)
        return r;
    struct harp_block block;
    struct harp_ledger *l = harp_ledger_lock();
    uint64_t freed = harp_ledger_take(l, ptr, &block) ? harp_ledger_release(l, &block) : 0;
    harp_ledger_unlock();
    uint64_t stay = charged - freed; /* somebody else lies in that granule by now */
    if (stay > leased)
        harp_overdrawn(dev, HARP_MEM_DEVICE, stay - leased);
    else
        harp_unlease(dev, HARP_MEM_DEVICE, leased - stay);
    return r;
}

/* Calls of the driver that may open a granule. One that must not is alone: what it counts on could
 * be taken by another. All three atomic. */
static unsigned opening;
static bool squeezing;
static bool unsure; /* a driver opened one where there was room */

static void open_begin(void)
{
    while (__atomic_add_fetch(&opening, 1, __ATOMIC_SEQ_CST),
           __atomic_load_n(&squeezing, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(&opening, 1, __ATOMIC_SEQ_CST);
        sched_yield();
    }
}

bool harp_linear_opening(void)
{
    return __atomic_load_n(&opening, __ATOMIC_SEQ_CST) != 0;
}

/* True: the caller is alone, and there is room for its `bytes` in what is held. */
static bool squeeze_begin(const struct harp_linear *l, uint64_t bytes)
{
    if (bytes >= HARP_GRANULE_BYTES || l->dev < 0 || l->apart ||
        __atomic_load_n(&unsure, __ATOMIC_RELAXED))
        return false;
    while (__atomic_exchange_n(&squeezing, true, __ATOMIC_SEQ_CST))
        sched_yield();
    while (__atomic_load_n(&opening, __ATOMIC_SEQ_CST) != 0)
        sched_yield();
    struct harp_ledger *ledger = harp_ledger_lock();
    bool room = harp_ledger_has_room(ledger, l->dev, (uint64_t)(uintptr_t)l->ctx, bytes);
    harp_ledger_unlock();
    if (!room)
        __atomic_store_n(&squeezing, false, __ATOMIC_SEQ_CST);
    return room;
}

static void call_end(const struct harp_linear *l)
{
    if (l->squeezed)
        __atomic_store_n(&squeezing, false, __ATOMIC_SEQ_CST);
    else
        __atomic_sub_fetch(&opening, 1, __ATOMIC_SEQ_CST);
}

void harp_linear_forked(void)
{
    opening = 0;
    squeezing = false;
}

/* What an allocation of `bytes` may cost at most. When the lease is denied, a small one may still
 * fit into a granule that is held already: then it is tried with nothing leased. */
static CUresult lease_for(struct harp_linear *l, uint64_t bytes)
{
    l->leased = harp_granules(bytes);
    CUresult r = harp_lease(l->dev, HARP_MEM_DEVICE, l->leased);
    l->squeezed = r != CUDA_SUCCESS && squeeze_begin(l, bytes);
    if (r == CUDA_SUCCESS)
        open_begin();
    else if (l->squeezed)
        l->leased = 0;
    return l->squeezed ? CUDA_SUCCESS : r;
}

CUresult harp_linear_begin(struct harp_linear *l, uint64_t bytes, bool apart)
{
    l->apart = apart;
    CUresult r = harp_device_current(&l->dev, &l->ctx);
    l->straight = r != CUDA_SUCCESS; /* the driver's own error */
    return l->straight ? r : lease_for(l, bytes);
}

CUresult harp_linear_end(struct harp_linear *l, CUresult r, CUdeviceptr *dptr, uint64_t held)
{
    if (r != CUDA_SUCCESS) {
        call_end(l);
        harp_unlease(l->dev, HARP_MEM_DEVICE, l->leased);
        return r;
    }
    r = settle(l, *dptr, held);
    call_end(l);
    if (r != CUDA_SUCCESS) {
        if (l->squeezed)
            __atomic_store_n(&unsure, true, __ATOMIC_RELAXED);
        CUresult ignored;
        HARP_INSIDE(ignored, HARP_REAL(cuMemFree_v2)(*dptr));
        (void)ignored;
        *dptr = 0;
    }
    return r;
}

/* The common course of cuMemAlloc and its kin: `call` is the driver's, which sets *dptr; `held` is
 * evaluated after it (the size may be known only then). A full device may have room once our pools
 * have given back. */
#define ALLOCATE(separate, dptr, bytes, call, held)                                                \
    do {                                                                                           \
        struct harp_linear harp_l;                                                                 \
        CUresult harp_r;                                                                           \
        if (harp_inside() || (dptr) == NULL || (bytes) == 0)                                       \
            return call;                                                                           \
        harp_r = harp_linear_begin(&harp_l, (bytes), (separate));                                  \
        if (harp_r != CUDA_SUCCESS)                                                                \
            return harp_l.straight ? call : harp_r;                                                \
        HARP_INSIDE(harp_r, call);                                                                 \
        if (harp_r == CUDA_ERROR_OUT_OF_MEMORY && harp_pools_trim(harp_l.dev) != 0)                \
            HARP_INSIDE(harp_r, call);                                                             \
        return harp_linear_end(&harp_l, harp_r, (dptr), (held));                                   \
    } while (0)

CUresult harp_hook_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    CUresult r;
    if (harp_swap_alloc(dptr, bytesize, &r))
        return r;
    ALLOCATE(false, dptr, bytesize, HARP_REAL(cuMemAlloc_v2)(dptr, bytesize), bytesize);
}

CUresult harp_hook_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                                      size_t Height, unsigned int ElementSizeBytes)
{
    if (pPitch == NULL || (Height != 0 && WidthInBytes > (SIZE_MAX >> 1) / Height))
        return HARP_REAL(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
    size_t pitch = (WidthInBytes + 511) & ~(size_t)511, guess = pitch * Height, exact;
    CUresult r;
    if (!__builtin_mul_overflow(pitch, Height, &exact) &&
        (ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16) &&
        harp_swap_alloc(dptr, exact, &r)) {
        if (r == CUDA_SUCCESS)
            *pPitch = pitch;
        return r;
    }
    ALLOCATE(false, dptr, guess,
             HARP_REAL(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes),
             *pPitch * Height);
}

CUresult harp_hook_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    ALLOCATE(true, dptr, bytesize, HARP_REAL(cuMemAllocManaged)(dptr, bytesize, flags), bytesize);
}

bool harp_capturing(CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult r = CUDA_SUCCESS;
    if (HARP_HAS(cuStreamIsCapturing))
        HARP_INSIDE(r, HARP_REAL(cuStreamIsCapturing)(stream, &status));
    if (r == CUDA_SUCCESS)
        return status != CU_STREAM_CAPTURE_STATUS_NONE;
    /* any other error is the context's or the handle's: the call itself will say so */
    return r >= CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED &&
           r <= CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
}

/* --- free ------------------------------------------------------------------------------------ */

struct freeing {
    struct harp_block block; /* linear memory, or of a pool of the host */
    struct harp_pool *pool;
    bool taken;
};

static void free_begin(struct freeing *f, CUdeviceptr ptr)
{
    struct harp_ledger *l = harp_ledger_lock();
    f->taken = harp_ledger_take(l, ptr, &f->block);
    harp_ledger_unlock();
    f->pool = f->taken ? NULL : harp_pool_freeing(ptr);
    f->taken |= f->pool == NULL && harp_host_take(ptr, &f->block);
}

static void put_back(const struct harp_block *block)
{
    if (block->cls == HARP_MEM_HOST) {
        harp_host_note(block);
        return;
    }
    struct harp_ledger *l = harp_ledger_lock();
    harp_ledger_put_back(l, block);
    harp_ledger_unlock();
}

/* `ordered`: when `stream` gets there; else the driver has waited for all that used it. */
static void free_end(struct freeing *f, CUresult r, CUdeviceptr ptr, bool ordered, CUstream stream)
{
    if (f->pool != NULL)
        harp_pool_freed(f->pool, ptr, r, ordered ? harp_order_key(stream) : HARP_ANYBODY);
    else if (f->taken && r != CUDA_SUCCESS)
        put_back(&f->block);
    else if (f->taken && ordered)
        harp_order_freed(&f->block, stream);
    else if (f->taken) {
        harp_linear_release(&f->block);
        if (__atomic_load_n(&harp_order_pending, __ATOMIC_RELAXED))
            harp_order_settle();
    } else if (r == CUDA_SUCCESS && __atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED))
        harp_graph_memory_freed(ptr);
}

#define FREE(dptr, call, ordered, stream)                                                          \
    do {                                                                                           \
        struct freeing harp_f;                                                                     \
        CUresult harp_r;                                                                           \
        if (harp_inside())                                                                         \
            return call;                                                                           \
        free_begin(&harp_f, (dptr));                                                               \
        HARP_INSIDE(harp_r, call);                                                                 \
        free_end(&harp_f, harp_r, (dptr), (ordered), (stream));                                    \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuMemFree_v2(CUdeviceptr dptr)
{
    CUresult r;
    if (harp_swap_free(dptr, &r))
        return r;
    FREE(dptr, HARP_REAL(cuMemFree_v2)(dptr), false, NULL);
}

CUresult harp_hook_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    FREE(dptr, HARP_REAL(cuMemFreeAsync)(dptr, hStream), true, hStream);
}

CUresult harp_hook_cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
    FREE(dptr, HARP_REAL(cuMemFreeAsync_ptsz)(dptr, hStream), true,
         hStream != NULL ? hStream : CU_STREAM_PER_THREAD);
}
