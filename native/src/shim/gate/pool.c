/* SPDX-License-Identifier: Apache-2.0
 *
 * What is held for a pool: see pool.h.
 *
 * At any moment `held` covers what the pool had when no call was under way and the most that each
 * call since may have added. It shrinks when a call ends: to what the pool says it has, and what
 * the calls still under way may add.
 */
#include "src/shim/gate/pool.h"

#include <sched.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"

#define UNIT_FIRST (32ull << 20) /* before a driver has shown what its own is */

static uint64_t units[HARP_MAX_DEVICES]; /* 0: not seen yet; under the pools' lock */

uint64_t harp_pool_unit(int dev)
{
    uint64_t unit = dev >= 0 ? __atomic_load_n(&units[dev], __ATOMIC_RELAXED) : 0;
    return unit != 0 ? unit : UNIT_FIRST;
}

static uint64_t whole(uint64_t bytes, uint64_t unit)
{
    return bytes > UINT64_MAX - unit ? UINT64_MAX / unit * unit : (bytes + unit - 1) / unit * unit;
}

/* One call of `bytes`, alone, made a pool grow by `grown`. */
static void learn(int dev, uint64_t bytes, uint64_t grown)
{
    uint64_t unit = harp_pool_unit(dev);
    if (grown % unit == 0 && grown <= whole(bytes, unit)) /* less: it had given back as well */
        return;
    uint64_t seen = grown & -grown; /* the largest power of two in it */
    if (seen < HARP_GRANULE_BYTES)
        seen = HARP_GRANULE_BYTES;
    if (seen == unit)
        return;
    __atomic_store_n(&units[dev], seen, __ATOMIC_RELAXED);
    harp_log("pool_unit dev=%d bytes=%llu", dev, (unsigned long long)seen);
}

struct answer {
    bool said;
    uint64_t ticket;
    cuuint64_t reserved, threshold;
};

/* What the pool has. No lock held. */
static struct answer ask(struct harp_pool *pool)
{
    struct answer a = {0};
    harp_pools_lock();
    a.ticket = ++pool->tickets;
    CUmemoryPool handle = pool->handle;
    harp_pools_unlock();
    if (handle == NULL)
        return a;
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMemPoolGetAttribute)(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
                                                    &a.reserved));
    if (r == CUDA_SUCCESS)
        HARP_INSIDE(r, HARP_REAL(cuMemPoolGetAttribute)(handle, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                                                        &a.threshold));
    a.said = r == CUDA_SUCCESS;
    return a;
}

/* Lock held. False: a later answer has been heard already, or there was none. */
static bool heard(struct harp_pool *pool, const struct answer *a)
{
    if (!a->said || a->ticket <= pool->applied)
        return false;
    pool->applied = a->ticket;
    if (a->reserved < pool->reserved)
        harp_pieces_shrunk(&pool->pieces, harp_pool_unit(pool->dev));
    pool->reserved = a->reserved;
    pool->threshold = a->threshold;
    return true;
}

/* What need not be held any more, and what is missing. Lock held. */
static uint64_t spare(struct harp_pool *pool, uint64_t *missing)
{
    uint64_t have = harp_granules(pool->reserved), most = have + pool->inflight;
    if (pool->quick && pool->extra == 0) /* what it counts on may be what went back just now */
        most += pool->quick_bytes;
    *missing = have > pool->held ? have - pool->held : 0;
    uint64_t back = pool->held > most ? pool->held - most : 0;
    pool->held += *missing;
    pool->held -= back;
    return back;
}

/* No lock held. The pool grew by more than anybody knew it could. */
static CUresult pay(const struct harp_pool *pool, uint64_t missing)
{
    if (missing == 0)
        return CUDA_SUCCESS;
    CUresult r = harp_lease_once(pool->dev, HARP_MEM_DEVICE, missing);
    if (r != CUDA_SUCCESS)
        harp_overdrawn(pool->dev, HARP_MEM_DEVICE, missing);
    return r;
}

static uint64_t settle(struct harp_pool *pool, uint64_t *missing)
{
    struct answer a = ask(pool);
    harp_pools_lock();
    heard(pool, &a);
    uint64_t back = spare(pool, missing);
    harp_pools_unlock();
    harp_unlease(pool->dev, HARP_MEM_DEVICE, back);
    return back;
}

uint64_t harp_pool_settle(struct harp_pool *pool)
{
    uint64_t missing, back = settle(pool, &missing);
    pay(pool, missing);
    return back;
}

void harp_pool_look(struct harp_pool *pool)
{
    uint64_t missing;
    settle(pool, &missing);
    if (missing != 0) /* the answer to a question would come to this very thread */
        harp_overdrawn(pool->dev, HARP_MEM_DEVICE, missing);
}

void harp_pool_touched(struct harp_pool *pool)
{
    __atomic_store_n(&pool->due, HARP_POOL_FREES, __ATOMIC_RELAXED);
    __atomic_store_n(&harp_order_pending, true, __ATOMIC_RELAXED);
}

bool harp_pool_above(struct harp_pool *pool)
{
    harp_pools_lock();
    bool above = pool->reserved > pool->threshold;
    harp_pools_unlock();
    return above;
}

void harp_pool_freed(struct harp_pool *pool, CUdeviceptr ptr, CUresult r, uintptr_t stream)
{
    harp_pools_lock();
    if (r == CUDA_SUCCESS)
        harp_pieces_freed(&pool->pieces, ptr, stream);
    else
        harp_pieces_refused(&pool->pieces, ptr);
    harp_pools_unlock();
    if (r == CUDA_SUCCESS)
        harp_pool_touched(pool);
    harp_pool_put(pool);
}

/* --- one call ----------------------------------------------------------------------------------
 */

/* Memory of the pool will do, and nothing that happens meanwhile takes it away. Lock held. */
static bool has_room(struct harp_pool *pool, uint64_t bytes, uintptr_t stream)
{
    return !pool->unsure && pool->slow == 0 && !pool->quick && pool->handle != NULL &&
           harp_pieces_fit(&pool->pieces, bytes, stream, harp_pool_unit(pool->dev),
                           pool->threshold != 0 && pool->threshold >= pool->reserved);
}

bool harp_pool_has_room(struct harp_pool *pool, uint64_t bytes, uintptr_t stream)
{
    harp_pools_lock();
    bool room = has_room(pool, bytes, stream);
    harp_pools_unlock();
    return room;
}

CUresult harp_pool_begin(struct harp_growth *g, struct harp_pool *pool, uint64_t bytes,
                         uintptr_t stream)
{
    *g = (struct harp_growth){
        .pool = pool, .bound = whole(bytes, harp_pool_unit(pool->dev)), .stream = stream};
    harp_pools_lock();
    g->begun = ++pool->begun;
    g->quick = has_room(pool, bytes, stream);
    if (g->quick) {
        pool->quick = true;
        pool->quick_bytes = g->bound;
        harp_pools_unlock();
        return CUDA_SUCCESS;
    }
    g->alone = pool->slow++ == 0 && !pool->quick;
    uint64_t extra = pool->quick && pool->extra == 0 ? pool->quick_bytes : 0;
    harp_pools_unlock();
    CUresult r = bytes > UINT64_MAX / 4 ? CUDA_ERROR_OUT_OF_MEMORY
                                        : harp_lease(pool->dev, HARP_MEM_DEVICE, g->bound + extra);
    harp_pools_lock();
    if (r != CUDA_SUCCESS) {
        pool->slow--;
    } else {
        pool->held += g->bound + extra;
        pool->inflight += g->bound;
        if (extra != 0 && pool->quick) {
            pool->extra = extra;
            pool->inflight += extra;
        }
    }
    harp_pools_unlock();
    return r;
}

static CUresult end_quick(const struct harp_growth *g, CUresult r, CUdeviceptr ptr, uint64_t bytes)
{
    struct harp_pool *pool = g->pool;
    uint64_t missing = 0, back = 0;
    struct answer a = {0};
    harp_pools_lock();
    bool known = r != CUDA_SUCCESS || harp_pieces_made(&pool->pieces, ptr, bytes, g->stream, 0);
    bool told = pool->tickets != pool->applied; /* somebody was told what is not so any more */
    harp_pools_unlock();
    if (!known || told) /* it had given back what was counted on, without a word */
        a = ask(pool);
    harp_pools_lock();
    heard(pool, &a);
    pool->quick = false;
    pool->inflight -= pool->extra;
    pool->extra = 0;
    back = spare(pool, &missing);
    if (!known)
        harp_pieces_shrunk(&pool->pieces, harp_pool_unit(pool->dev));
    if (missing != 0)
        pool->unsure = true;
    harp_pools_unlock();
    harp_unlease(pool->dev, HARP_MEM_DEVICE, back);
    if (missing == 0)
        return r;
    harp_log("pool_unsure dev=%d why=\"its driver deals out memory in an order of its own\"",
             pool->dev);
    return pay(pool, missing);
}

CUresult harp_pool_end(const struct harp_growth *g, CUresult r, CUdeviceptr ptr, uint64_t bytes)
{
    struct harp_pool *pool = g->pool;
    uint64_t missing;
    if (g->quick)
        return end_quick(g, r, ptr, bytes);
    struct answer a = ask(pool);
    harp_pools_lock();
    uint64_t before = pool->reserved, grown = 0;
    bool alone = g->alone && pool->begun == g->begun;
    if (heard(pool, &a) && alone && a.reserved > before)
        grown = a.reserved - before;
    if (r == CUDA_SUCCESS) {
        learn(pool->dev, bytes, grown);
        if (grown != whole(bytes, harp_pool_unit(pool->dev)))
            grown = 0; /* something else came or went as well */
        if (!harp_pieces_made(&pool->pieces, ptr, bytes, g->stream, grown) && grown == 0)
            harp_pieces_shrunk(&pool->pieces, harp_pool_unit(pool->dev));
    }
    pool->slow--;
    pool->inflight -= g->bound;
    uint64_t back = spare(pool, &missing);
    harp_pools_unlock();
    harp_unlease(pool->dev, HARP_MEM_DEVICE, back);
    CUresult paid = pay(pool, missing);
    return r == CUDA_SUCCESS ? paid : r;
}

void harp_pool_shrink_begin(struct harp_pool *pool)
{
    harp_pools_lock();
    pool->slow++;
    pool->begun++;
    while (pool->quick) { /* it takes no longer than a call that finds its memory */
        harp_pools_unlock();
        sched_yield();
        harp_pools_lock();
    }
    harp_pools_unlock();
}

uint64_t harp_pool_shrink_end(struct harp_pool *pool)
{
    uint64_t back = harp_pool_settle(pool);
    harp_pools_lock();
    pool->slow--;
    harp_pools_unlock();
    return back;
}
