/* SPDX-License-Identifier: Apache-2.0
 *
 * Frees that have their place in a stream. The driver has the memory back when the stream has got
 * there; the host learns that where it waits, and where it must know: when memory is short.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/edge.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/graph_memory.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"

#define ROUND_NS 250000000ull

bool harp_order_pending;
static bool asking; /* the service thread asks pools */

struct late { /* linear memory that cuMemFreeAsync was given */
    struct late *next;
    struct harp_block block;
    uintptr_t stream;
    CUcontext ctx; /* of the stream; NULL: not known */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct late *linear;

static bool own_handle(CUstream stream)
{
    return (uintptr_t)stream > 2; /* not the default ones */
}

/* Whether the process has one context, as far as anybody saw: its default stream is the one. */
static bool one_context(void)
{
    return harp_gate_contexts() <= 1 && harp_context_count(-1) <= 1;
}

/* A default stream has one handle in all contexts, and the per-thread one in all threads. */
uintptr_t harp_order_key(CUstream stream)
{
    if (own_handle(stream))
        return (uintptr_t)stream + 1;
    if (stream == CU_STREAM_PER_THREAD || !one_context())
        return HARP_NOBODY;
    return (uintptr_t)CU_STREAM_LEGACY + 1;
}

CUstreamCaptureMode harp_relaxed(CUstreamCaptureMode mode)
{
    if (HARP_HAS(cuThreadExchangeStreamCaptureMode)) {
        CUresult r;
        HARP_INSIDE(r, HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode));
        (void)r;
    }
    return mode;
}

/* Asking a stream that is being captured, or the legacy one beside it, would end the capture. */
static bool is_idle(uintptr_t key)
{
    CUstream stream = (CUstream)(key - 1);
    CUresult r = CUDA_ERROR_NOT_READY;
    if (!HARP_HAS(cuStreamQuery) || !harp_edge_enter())
        return false;
    /* a default stream may be another context's by now */
    if (!harp_capturing(stream) && (own_handle(stream) || one_context()))
        HARP_INSIDE(r, HARP_REAL(cuStreamQuery)(stream));
    harp_edge_leave();
    return r == CUDA_SUCCESS;
}

static CUcontext current(void)
{
    CUcontext ctx = NULL;
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuCtxGetCurrent)(&ctx));
    return r == CUDA_SUCCESS ? ctx : NULL;
}

static CUcontext context_of(CUstream stream)
{
    CUcontext ctx = NULL;
    CUresult r;
    if (!own_handle(stream) || !HARP_HAS(cuStreamGetCtx))
        return current();
    HARP_INSIDE(r, HARP_REAL(cuStreamGetCtx)(stream, &ctx));
    return r == CUDA_SUCCESS ? ctx : NULL;
}

void harp_order_freed(const struct harp_block *block, CUstream stream)
{
    struct late *l = malloc(sizeof *l);
    if (l == NULL) { /* then at once, as if it were over */
        harp_linear_release(block);
        return;
    }
    l->block = *block;
    l->stream = harp_order_key(stream);
    l->ctx = context_of(stream);
    pthread_mutex_lock(&lock);
    l->next = linear;
    linear = l;
    pthread_mutex_unlock(&lock);
    __atomic_store_n(&harp_order_pending, true, __ATOMIC_RELAXED);
}

/* `over`: the host has waited for all in that context; NULL: for none. True: some are still to
 * come. */
static bool settle_linear(CUcontext over)
{
    pthread_mutex_lock(&lock);
    struct late *list = linear;
    linear = NULL;
    pthread_mutex_unlock(&lock);
    struct late *left = NULL, **end = &left;
    uintptr_t busy = 0; /* asked just now */
    while (list != NULL) {
        struct late *l = list;
        list = l->next;
        if ((over == NULL || l->ctx != over) &&
            (l->stream == HARP_NOBODY || l->stream == busy || !is_idle(l->stream))) {
            busy = l->stream;
            *end = l;
            end = &l->next;
            continue;
        }
        harp_linear_release(&l->block);
        free(l);
    }
    pthread_mutex_lock(&lock);
    *end = linear;
    linear = left;
    bool more = linear != NULL;
    pthread_mutex_unlock(&lock);
    return more;
}

/* True: some of its frees are still to come. */
static bool settle_pieces(struct harp_pool *pool, bool all)
{
    uintptr_t stream = 0;
    harp_pools_lock();
    uint64_t order = pool->pieces.frees;
    while ((stream = harp_pieces_pending(&pool->pieces, stream)) != 0) {
        harp_pools_unlock();
        bool idle = all || (stream != HARP_NOBODY && is_idle(stream));
        harp_pools_lock();
        if (idle)
            harp_pieces_over(&pool->pieces, stream, order);
        if (stream == HARP_NOBODY)
            break;
    }
    bool left = harp_pieces_pending(&pool->pieces, 0) != 0;
    harp_pools_unlock();
    return left;
}

/* When it is to be asked again, which it was as `due` says: frees that are found to be over now may
 * have ended after the wait before, which gave nothing back for them. */
static enum harp_pool_due asked(struct harp_pool *pool, enum harp_pool_due due, bool has_waited,
                                bool all)
{
    bool pending = settle_pieces(pool, all);
    harp_pool_settle(pool);
    if (pending)
        return HARP_POOL_FREES;
    bool known = has_waited && (all || due == HARP_POOL_WAIT);
    return known || !harp_pool_above(pool) ? HARP_POOL_KNOWN : HARP_POOL_WAIT;
}

/* `has_waited`: the host has, for something; `over`: as above. */
static void settle(bool has_waited, CUcontext over)
{
    if (!__atomic_exchange_n(&harp_order_pending, false, __ATOMIC_RELAXED))
        return;
    CUstreamCaptureMode mode = harp_relaxed(CU_STREAM_CAPTURE_MODE_RELAXED);
    bool all = over != NULL && one_context();
    bool left = settle_linear(over);
    struct harp_pool *pool = NULL;
    while ((pool = harp_pool_next(pool, -1)) != NULL) {
        enum harp_pool_due known = HARP_POOL_KNOWN;
        enum harp_pool_due due = __atomic_exchange_n(&pool->due, known, __ATOMIC_RELAXED);
        if (due == known || (due = asked(pool, due, has_waited, all)) == known)
            continue;
        /* unless something was freed meanwhile */
        __atomic_compare_exchange_n(&pool->due, &known, due, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED);
        left = true;
    }
    harp_relaxed(mode);
    if (left)
        __atomic_store_n(&harp_order_pending, true, __ATOMIC_RELAXED);
}

void harp_order_settle(void)
{
    settle(false, NULL);
}

static bool wait_for(uintptr_t key)
{
    CUstream stream = (CUstream)(key - 1);
    CUresult r = CUDA_ERROR_NOT_READY;
    if (!harp_capturing(stream))
        HARP_INSIDE(r, HARP_REAL(cuStreamSynchronize)(stream));
    return r == CUDA_SUCCESS;
}

/* The next stream after `after` that a free of linear memory is to come in; 0: none. */
static uintptr_t late_stream(uintptr_t after)
{
    uintptr_t next = 0;
    pthread_mutex_lock(&lock);
    for (const struct late *l = linear; l != NULL; l = l->next)
        if (l->stream > after && l->stream != HARP_NOBODY && (next == 0 || l->stream < next))
            next = l->stream;
    pthread_mutex_unlock(&lock);
    return next;
}

static bool wait_for_linear(void)
{
    uintptr_t stream = 0;
    bool waited = false;
    CUstreamCaptureMode mode = harp_relaxed(CU_STREAM_CAPTURE_MODE_RELAXED);
    while ((stream = late_stream(stream)) != 0)
        waited |= wait_for(stream);
    if (waited)
        settle_linear(NULL);
    harp_relaxed(mode);
    return waited;
}

bool harp_order_wait(struct harp_pool *pool)
{
    uintptr_t stream = 0;
    bool waited = false;
    if (pool == NULL)
        return wait_for_linear();
    CUstreamCaptureMode mode = harp_relaxed(CU_STREAM_CAPTURE_MODE_RELAXED);
    harp_pools_lock();
    uint64_t order = pool->pieces.frees;
    while ((stream = harp_pieces_pending(&pool->pieces, stream)) != 0 && stream != HARP_NOBODY) {
        harp_pools_unlock();
        bool done = wait_for(stream);
        harp_pools_lock();
        if (done) {
            harp_pieces_over(&pool->pieces, stream, order);
            waited = true;
        }
    }
    harp_pools_unlock();
    harp_relaxed(mode);
    if (waited)
        harp_pool_settle(pool);
    return waited;
}

/* 0: streams of a context that is gone: perhaps every one. */
static void pieces_stream_gone(uintptr_t key)
{
    if (!__atomic_load_n(&harp_order_pending, __ATOMIC_RELAXED))
        return;
    struct harp_pool *pool = NULL;
    while ((pool = harp_pool_next(pool, -1)) != NULL) {
        harp_pools_lock();
        harp_pieces_stream_gone(&pool->pieces, key);
        harp_pools_unlock();
    }
}

void harp_order_stream_gone(CUstream stream)
{
    uintptr_t key = harp_order_key(stream);
    pieces_stream_gone(key);
    pthread_mutex_lock(&lock);
    for (struct late *l = linear; l != NULL; l = l->next)
        if (l->stream == key)
            l->stream = HARP_NOBODY;
    pthread_mutex_unlock(&lock);
}

void harp_order_context_gone(CUcontext ctx)
{
    struct late *over = NULL;
    pieces_stream_gone(0);
    pthread_mutex_lock(&lock);
    for (struct late **at = &linear; *at != NULL;) {
        struct late *l = *at;
        if (l->ctx != ctx && l->block.owner != (uint64_t)(uintptr_t)ctx) {
            if (l->ctx == NULL) /* perhaps one of its streams: not to be asked any more */
                l->stream = HARP_NOBODY;
            at = &l->next;
            continue;
        }
        *at = l->next;
        l->next = over;
        over = l;
    }
    pthread_mutex_unlock(&lock);
    while (over != NULL) {
        struct late *l = over;
        over = l->next;
        harp_linear_release(&l->block);
        free(l);
    }
}

void harp_order_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    linear = NULL;
    harp_order_pending = asking = false;
    harp_edge_forked();
}

/* --- the service thread ------------------------------------------------------------------------
 */

/* A driver's pools also give back at waits that nobody sees: in a copy, say. So they are asked from
 * time to time. Nothing is asked of streams here: which context is current is not the program's. */
int64_t harp_order_round(void)
{
    static uint64_t next_ns;
    uint64_t now = harp_now_ns();
    struct harp_pool *pool = NULL;
    bool any = false;
    if (now < next_ns)
        return (int64_t)(next_ns - now);
    __atomic_store_n(&asking, true, __ATOMIC_SEQ_CST);
    while ((pool = harp_pool_next(pool, -1)) != NULL) {
        any = true;
        if (pool->held != 0 && !__atomic_load_n(&harp_time_exiting, __ATOMIC_SEQ_CST))
            harp_pool_look(pool);
    }
    __atomic_store_n(&asking, false, __ATOMIC_SEQ_CST);
    if (!any)
        return -1;
    next_ns = now + ROUND_NS;
    return (int64_t)ROUND_NS;
}

void harp_order_exiting(void)
{
    for (int ms = 0; ms < 100 && __atomic_load_n(&asking, __ATOMIC_SEQ_CST); ms++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
}

/* --- where the host waits ----------------------------------------------------------------------
 */

/* Something comes of the host having waited for all. */
static bool needs_context(void)
{
    return !harp_inside() && (__atomic_load_n(&harp_order_pending, __ATOMIC_RELAXED) ||
                              __atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED));
}

/* `ctx`: the host has waited for all in it; NULL: for some of it. */
static CUresult waited(CUresult r, CUcontext ctx)
{
    if (!harp_inside() && __atomic_load_n(&harp_order_pending, __ATOMIC_RELAXED))
        settle(r == CUDA_SUCCESS, r == CUDA_SUCCESS ? ctx : NULL);
    if (ctx != NULL && r == CUDA_SUCCESS &&
        __atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED) && one_context())
        harp_graph_memory_idle();
    return r;
}

CUresult harp_hook_cuCtxSynchronize(void)
{
    CUresult r = HARP_REAL(cuCtxSynchronize)();
    return waited(r, needs_context() ? current() : NULL);
}

CUresult harp_hook_cuCtxSynchronize_v2(CUcontext ctx)
{
    return waited(HARP_REAL(cuCtxSynchronize_v2)(ctx), ctx);
}

CUresult harp_hook_cuStreamSynchronize(CUstream hStream)
{
    return waited(HARP_REAL(cuStreamSynchronize)(hStream), NULL);
}

CUresult harp_hook_cuStreamSynchronize_ptsz(CUstream hStream)
{
    return waited(HARP_REAL(cuStreamSynchronize_ptsz)(hStream), NULL);
}

CUresult harp_hook_cuEventSynchronize(CUevent hEvent)
{
    return waited(HARP_REAL(cuEventSynchronize)(hEvent), NULL);
}
