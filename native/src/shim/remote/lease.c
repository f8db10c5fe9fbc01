/* SPDX-License-Identifier: Apache-2.0
 *
 * What is here the worker has made, by allocations of the driver's: so to hand one out needs no
 * answer, and there is none to hand out that does not exist. All goes back before the worker is
 * taken at its word that there is no memory, or says how much: so a program finds neither less nor
 * more of it than without.
 */
#include "src/shim/remote/lease.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "src/shim/remote/forget.h"
#include "src/shim/remote/room.h"
#include "src/shim/remote/stock.h"

#define IDLE_MS 1000 /* longer than a step of most programs */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards it */
static struct harp_stock stock;
/* What of it each call looks at, without the lock; atomic. */
static size_t count;
static bool tight;
static uint64_t oldest_ms; /* when the one came that is here longest */
static unsigned giving;    /* threads that have taken some out of it, to give back */

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* With the lock held, after a change. */
static void changed(void)
{
    __atomic_store_n(&oldest_ms, stock.count == 0 ? 0 : stock.spare[0].since_ms, __ATOMIC_RELAXED);
    __atomic_store_n(&count, stock.count, __ATOMIC_RELAXED);
    __atomic_store_n(&tight, stock.tight, __ATOMIC_RELAXED);
}

static bool any(void)
{
    return __atomic_load_n(&count, __ATOMIC_RELAXED) != 0;
}

static bool put(struct harp_spare *one)
{
    one->since_ms = now_ms();
    pthread_mutex_lock(&lock);
    bool there = harp_stock_put(&stock, one);
    changed();
    pthread_mutex_unlock(&lock);
    return there;
}

static CUresult say(unsigned op, uint64_t at)
{
    const uint64_t args[1] = {at};
    return harp_remote_make(op, args, 1);
}

/* --- back ------------------------------------------------------------------------------------- */

/* In its own context: a thread without one may free nothing. What it is of may have ended. */
static void give(const struct harp_lane *lane, const struct harp_spare *one)
{
    struct harp_thing *ctx = harp_thing_by_id(HARP_HANDLE_CUcontext, one->ctx, false);
    const bool other = harp_lane_current(lane) != one->ctx;
    if (ctx == NULL || (other && harp_remote_cuCtxPushCurrent_v2((CUcontext)ctx) != CUDA_SUCCESS))
        return;
    if (say(HARP_OP_harpMemTake, one->at) == CUDA_SUCCESS)
        harp_sent_cuMemFree_v2(one->at);
    if (other)
        harp_remote_cuCtxPopCurrent_v2(NULL);
}

/* What has been here until then, but for one size. The call that is being made is asked or told as
 * it was to be. */
static bool give_all(struct harp_lane *lane, uint64_t until_ms, const struct harp_spare *but)
{
    struct harp_spare one;
    const bool doubt = lane->doubt, hurry = lane->hurry;
    bool some = false, more = true;
    if (lane->gives || lane->inside)
        return false;
    lane->gives = true;
    __atomic_add_fetch(&giving, 1, __ATOMIC_SEQ_CST);
    while (more) {
        lane->doubt = lane->hurry = false;
        pthread_mutex_lock(&lock);
        more = but == NULL ? harp_stock_old(&stock, until_ms, &one)
                           : harp_stock_other(&stock, but->ctx, but->bytes, &one);
        changed();
        pthread_mutex_unlock(&lock);
        if (more)
            give(lane, &one);
        some |= more;
    }
    __atomic_sub_fetch(&giving, 1, __ATOMIC_SEQ_CST);
    lane->gives = false;
    lane->doubt = doubt;
    lane->hurry = hurry;
    return some;
}

static bool others_give(void)
{
    return __atomic_load_n(&giving, __ATOMIC_SEQ_CST) != 0;
}

/* What another thread is giving back counts, once it has. */
bool harp_remote_lease_back(void)
{
    struct harp_lane *lane =
        (any() || others_give()) && harp_remote_ready() == CUDA_SUCCESS ? harp_lane() : NULL;
    if (lane == NULL || lane->gives)
        return false;
    bool some = give_all(lane, UINT64_MAX, NULL);
    for (; others_give(); some = true)
        sched_yield();
    return some;
}

void harp_remote_lease_look(struct harp_lane *lane)
{
    if (!any())
        return;
    const uint64_t now = now_ms();
    if (__atomic_load_n(&tight, __ATOMIC_RELAXED))
        give_all(lane, UINT64_MAX, NULL);
    else if (now - __atomic_load_n(&oldest_ms, __ATOMIC_RELAXED) > IDLE_MS)
        give_all(lane, now - IDLE_MS, NULL);
}

static void tighten(bool is)
{
    pthread_mutex_lock(&lock);
    harp_stock_tight(&stock, is);
    changed();
    pthread_mutex_unlock(&lock);
}

void harp_remote_lease_recalled(void)
{
    tighten(true);
}

void harp_remote_forget_lease(uint64_t ctx)
{
    pthread_mutex_lock(&lock);
    harp_stock_forget(&stock, ctx);
    changed();
    pthread_mutex_unlock(&lock);
}

void harp_remote_forget_leases(void)
{
    pthread_mutex_lock(&lock);
    stock = (struct harp_stock){.count = 0};
    changed();
    pthread_mutex_unlock(&lock);
}

/* --- the program's calls ---------------------------------------------------------------------- */

/* The context of a thread whose calls may be told; 0: each is to be asked. */
static uint64_t told_in(void)
{
    const struct harp_lane *lane = harp_remote_ready() == CUDA_SUCCESS ? harp_lane() : NULL;
    return lane != NULL && harp_remote_tells(lane) ? harp_lane_current(lane) : 0;
}

bool harp_remote_lease_take(CUdeviceptr *at, size_t bytes)
{
    const uint64_t ctx = any() ? told_in() : 0;
    if (ctx == 0)
        return false;
    pthread_mutex_lock(&lock);
    uint64_t found = harp_stock_take(&stock, ctx, bytes);
    changed();
    pthread_mutex_unlock(&lock);
    if (found == 0 || say(HARP_OP_harpMemTake, found) != CUDA_SUCCESS)
        return false;
    *at = found;
    return true;
}

/* Drivers cut small allocations out of blocks. What is spare lies in between, and would be where
 * the next one is put: so whatever is placed finds there what the program has, and nothing else. */
static unsigned asks(uint64_t ctx, size_t bytes)
{
    const struct harp_spare its = {.ctx = ctx, .bytes = bytes};
    if (any() && bytes <= HARP_LEASE_LARGEST)
        give_all(harp_lane(), UINT64_MAX, &its);
    pthread_mutex_lock(&lock);
    const unsigned ask = harp_stock_ask(&stock, ctx, bytes);
    pthread_mutex_unlock(&lock);
    return ask;
}

CUresult harp_remote_lease_ask(CUdeviceptr *at, size_t bytes)
{
    const uint64_t ctx = told_in();
    uint64_t got[HARP_LEASE_COUNT] = {0};
    const unsigned ask = ctx == 0 ? 1 : asks(ctx, bytes);
    if (ask == 1)
        return harp_sent_cuMemAlloc_v2(at, bytes);
    const uint64_t args[3] = {bytes, ask, (uintptr_t)got};
    CUresult r = harp_remote_make(HARP_OP_harpMemLease, args, 3);
    if (r != CUDA_SUCCESS)
        return r;
    *at = got[0];
    tighten(got[1] == 0);
    for (unsigned i = 1; i < ask && got[i] != 0; i++) {
        struct harp_spare one = {.at = got[i], .bytes = bytes, .ctx = ctx, .fresh = true};
        if (harp_remote_reserve(one.at, bytes) != 0 || !put(&one))
            give(harp_lane(), &one);
    }
    return r;
}

bool harp_remote_lease_keep(const struct harp_range *was, CUresult *r)
{
    const uint64_t ctx = told_in();
    if (ctx == 0 || ctx != was->ctx)
        return false;
    pthread_mutex_lock(&lock);
    const bool keeps = harp_stock_keeps(&stock, ctx, was->bytes);
    pthread_mutex_unlock(&lock);
    if (!keeps)
        return false;
    *r = say(HARP_OP_harpMemKeep, was->base);
    struct harp_spare one = {.at = was->base, .bytes = was->bytes, .ctx = ctx};
    if (*r == CUDA_SUCCESS && !put(&one))
        give(harp_lane(), &one);
    return true;
}

CUresult harp_remote_cuMemGetInfo_v2(size_t *free, size_t *total)
{
    harp_remote_lease_back();
    return harp_sent_cuMemGetInfo_v2(free, total);
}
