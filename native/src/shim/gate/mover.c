/* SPDX-License-Identifier: Apache-2.0
 *
 * The mover: takes a device's memory to the host and brings it back, all of it at once, in a thread
 * of its own, so that the service thread can answer recalls meanwhile.
 *
 * Nothing of the process runs then: the gate of both lanes is shut and drained, no call is inside
 * it, and no slab is being made. An eviction copies everything before it gives anything back, so
 * what fails leaves all as it was, or is put back. A restore that fails leaves the copy on the
 * host.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap_state.h"
#include "src/shim/gate/thread.h"

#define MS       1000000ull
#define SHUT_NS  (5000 * MS) /* waiting for the gate to be shut and drained */
#define AGAIN_NS (1000 * MS)

static struct harp_swap *const w = &harp_swap_state;

struct move {
    int dev;
    uint64_t bytes;
    uint64_t pinning_ns;        /* made the arena larger, which lasts */
    char text[HARP_NAME_BYTES]; /* what failed */
};

static bool failed(struct move *m, CUresult r, const char *step)
{
    if (r == CUDA_SUCCESS)
        return false;
    snprintf(m->text, sizeof m->text, "%s: CUDA error %d", step, (int)r);
    return true;
}

/* --- copies ------------------------------------------------------------------------------------
 */

/* With the context current. On two streams: where there are two engines they share the work. */
static CUresult copy_slab(const struct harp_realm *realm, const struct harp_slab *slab, bool out)
{
    CUresult r = CUDA_SUCCESS;
    for (uint64_t done = 0, run; done < slab->bytes && r == CUDA_SUCCESS; done += run) {
        void *host = harp_arena_at(&realm->arena, slab->parked + done, &run);
        if (run > slab->bytes - done)
            run = slab->bytes - done;
        CUstream on = realm->streams[(slab->parked + done) / HARP_GRANULE_BYTES % 2];
        if (host == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        r = out ? HARP_REAL(cuMemcpyDtoHAsync_v2)(host, slab->base + done, run, on)
                : HARP_REAL(cuMemcpyHtoDAsync_v2)(slab->base + done, host, run, on);
    }
    return r;
}

static CUresult prefetch(const struct harp_realm *realm, const struct harp_slab *slab, bool out)
{
    if (!HARP_HAS(cuMemPrefetchAsync))
        return CUDA_ERROR_NOT_SUPPORTED;
    return HARP_REAL(cuMemPrefetchAsync)(slab->base, slab->bytes,
                                         out ? CU_DEVICE_CPU : realm->device, realm->streams[0]);
}

static CUresult streams_made(struct harp_realm *realm)
{
    CUresult r = CUDA_SUCCESS;
    for (int i = 0; i < 2 && r == CUDA_SUCCESS; i++)
        if (realm->streams[i] == NULL)
            r = HARP_REAL(cuStreamCreate)(&realm->streams[i], CU_STREAM_NON_BLOCKING);
    return r;
}

/* Of one context: what is to be copied is queued, then waited for. `out`: to the host. */
static bool copy_realm(struct move *m, struct harp_realm *realm, bool out)
{
    uint64_t owner = (uint64_t)(uintptr_t)realm->ctx, parked = 0;
    bool any = false;
    for (size_t i = 0; i < w->heap.count; i++) {
        struct harp_slab *slab = w->heap.slabs[i];
        if (slab->owner != owner || slab->pinned)
            continue;
        any = true;
        if (!out)
            continue;
        slab->saved = slab->handle != 0 && slab->live != 0;
        slab->parked = parked;
        parked += slab->saved ? slab->bytes : 0;
    }
    CUcontext before;
    if (!any)
        return true;
    if (failed(m, HARP_REAL(cuCtxPushCurrent_v2)(realm->ctx), "context"))
        return false;
    CUresult r = streams_made(realm);
    if (!failed(m, r, "stream") && parked != 0) {
        uint64_t from = harp_now_ns();
        failed(m, r = harp_arena_grow(&realm->arena, m->dev, parked), "pinned host memory");
        m->pinning_ns += harp_now_ns() - from;
    }
    for (size_t i = 0; i < w->heap.count && r == CUDA_SUCCESS; i++) {
        const struct harp_slab *slab = w->heap.slabs[i];
        if (slab->owner != owner || slab->pinned)
            continue;
        if (slab->managed)
            r = prefetch(realm, slab, out);
        else if (slab->saved)
            r = copy_slab(realm, slab, out);
        failed(m, r, out ? "copy to the host" : "copy to the device");
    }
    for (int i = 0; i < 2; i++) {
        CUresult done = realm->streams[i] != NULL
                            ? HARP_REAL(cuStreamSynchronize)(realm->streams[i])
                            : CUDA_SUCCESS;
        if (r == CUDA_SUCCESS)
            failed(m, r = done, out ? "copy to the host" : "copy to the device");
    }
    HARP_REAL(cuCtxPopCurrent_v2)(&before);
    return r == CUDA_SUCCESS;
}

static bool copy_all(struct move *m, bool out)
{
    for (struct harp_realm *realm = w->realms; realm != NULL; realm = realm->next)
        if (realm->dev == m->dev && !copy_realm(m, realm, out))
            return false;
    return true;
}

/* --- physical memory ---------------------------------------------------------------------------
 */

static bool moves(const struct move *m, const struct harp_slab *slab)
{
    return slab->dev == m->dev && !slab->pinned && !slab->managed;
}

static bool unback_all(struct move *m)
{
    for (size_t i = 0; i < w->heap.count; i++) {
        struct harp_slab *slab = w->heap.slabs[i];
        if (!moves(m, slab) || slab->handle == 0)
            continue;
        if (failed(m, harp_slab_unback(slab), "unmap"))
            return false;
        slab->handle = 0;
        m->bytes += slab->bytes;
    }
    return true;
}

static bool back_all(struct move *m)
{
    for (size_t i = 0; i < w->heap.count; i++) {
        struct harp_slab *slab = w->heap.slabs[i];
        const struct harp_realm *realm = harp_swap_realm(slab->owner);
        if (!moves(m, slab) || slab->handle != 0 || realm == NULL)
            continue;
        if (failed(m, harp_slab_back(slab, realm->device, &slab->handle), "device memory"))
            return false;
        m->bytes += slab->bytes;
    }
    return true;
}

static uint64_t managed_bytes(const struct move *m)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < w->heap.count; i++)
        if (w->heap.slabs[i]->dev == m->dev && w->heap.slabs[i]->managed)
            sum += w->heap.slabs[i]->bytes;
    return sum;
}

/* --- the two moves. No lock: the places LEAVING and COMING keep all others off the heap ---------
 */

static bool evict(struct move *m)
{
    if (!copy_all(m, true))
        return false;
    if (unback_all(m)) {
        m->bytes += managed_bytes(m);
        return true;
    }
    struct move undo = {.dev = m->dev};
    if (!back_all(&undo) || !copy_all(&undo, false)) {
        harp_log("swap_stranded dev=%d why=\"%s, then %s\" effect=\"stays on the host\"", m->dev,
                 m->text, undo.text);
        unback_all(&undo);
        return true;
    }
    m->bytes = 0;
    return false;
}

/* What the host has is old from now on. */
static void forget_copies(const struct move *m)
{
    for (size_t i = 0; i < w->heap.count; i++)
        if (w->heap.slabs[i]->dev == m->dev)
            w->heap.slabs[i]->saved = false;
}

static bool restore(struct move *m)
{
    if (back_all(m) && copy_all(m, false)) {
        forget_copies(m);
        m->bytes += managed_bytes(m);
        return true;
    }
    struct move undo = {.dev = m->dev};
    unback_all(&undo);
    m->bytes = 0;
    return false;
}

/* --- the thread --------------------------------------------------------------------------------
 */

/* From the order on nothing is made on the device, or is missing there, unseen. Lock held. */
static void set_out(struct harp_swapdev *d, uint16_t op)
{
    if (d->place != (op == HARP_EVICT ? PLACE_HERE : PLACE_AWAY))
        return;
    d->place = op == HARP_EVICT ? PLACE_LEAVING : PLACE_COMING;
    w->moving++;
}

static void answer(const struct move *m, uint16_t op, uint32_t seq, bool good, uint64_t began)
{
    struct harp_msg msg = {.op = op == HARP_EVICT ? HARP_EVICTED : HARP_RESTORED,
                           .dev = (uint32_t)m->dev,
                           .seq = seq,
                           .bytes = m->bytes,
                           .used_ns = harp_now_ns() - began,
                           .wait_ns = m->pinning_ns,
                           .b = !good};
    memcpy(msg.text, m->text, sizeof msg.text);
    harp_log("%s dev=%d bytes=%llu us=%llu pinning_us=%llu%s%s%s",
             op == HARP_EVICT ? "evicted" : "restored", m->dev, (unsigned long long)m->bytes,
             (unsigned long long)(msg.used_ns / 1000), (unsigned long long)(m->pinning_ns / 1000),
             good ? "" : " failed=\"", good ? "" : m->text, good ? "" : "\"");
    harp_session_tell(&msg);
}

/* Off the device, or back on it. No lock. */
static bool carry_out(struct move *m, bool out)
{
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    bool good = false;
    harp_enter();
    if (HARP_HAS(cuThreadExchangeStreamCaptureMode)) /* another thread's capture is not ours */
        HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode);
    if (out && __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED))
        snprintf(m->text, sizeof m->text, "the program ends");
    else if (out && !harp_gate_away(m->dev, SHUT_NS))
        snprintf(m->text, sizeof m->text, "its gate is open, or work is in flight");
    else
        good = out ? evict(m) : restore(m);
    harp_leave();
    return good;
}

/* One job; the lock is held, and let go. */
static void work(int dev)
{
    struct harp_swapdev *d = &w->dev[dev];
    struct move m = {.dev = dev};
    uint16_t op = d->op;
    uint32_t seq = d->seq;
    uint64_t began = harp_now_ns();
    bool out = op == HARP_EVICT, good = true;
    d->op = 0;
    set_out(d, op);
    if (d->place == (out ? PLACE_COMING : PLACE_LEAVING)) {
        /* the opposite order was not carried out yet, and its answer is waited for no more */
        w->moving--;
        d->place = out ? PLACE_AWAY : PLACE_HERE;
        pthread_cond_broadcast(&w->changed);
    } else if (d->place == (out ? PLACE_LEAVING : PLACE_COMING)) {
        while (w->making != 0)
            pthread_cond_wait(&w->changed, &w->lock);
        pthread_mutex_unlock(&w->lock);
        good = carry_out(&m, out);
        pthread_mutex_lock(&w->lock);
        w->moving--;
        d->place = good == out ? PLACE_AWAY : PLACE_HERE;
        pthread_cond_broadcast(&w->changed);
    }
    bool here = d->place == PLACE_HERE;
    d->again_ns = !out && seq == 0 && !good ? harp_now_ns() + AGAIN_NS : 0;
    pthread_mutex_unlock(&w->lock);
    if (here)
        harp_gate_home(dev);
    answer(&m, op, seq, good, began);
    pthread_mutex_lock(&w->lock);
}

static void answer_recall(int dev)
{
    struct harp_swapdev *d = &w->dev[dev];
    struct harp_msg msg = {
        .op = HARP_RECALLED, .dev = (uint32_t)dev, .seq = d->recall_seq, .bytes = d->recalled};
    d->recall_seq = 0;
    pthread_mutex_unlock(&w->lock);
    harp_swap_drop_spares(dev, true);
    harp_session_tell(&msg);
    pthread_mutex_lock(&w->lock);
}

static void sleep_until(uint64_t at)
{
    uint64_t now = harp_now_ns();
    harp_wait_ns(&w->changed, &w->lock, at > now ? at - now : 0);
}

static void *run(void *arg)
{
    (void)arg;
    prctl(PR_SET_NAME, "harp-mover");
    pthread_mutex_lock(&w->lock);
    for (;;) {
        int next = -1;
        uint64_t again = UINT64_MAX;
        for (int dev = 0; dev < (int)HARP_MAX_DEVICES && next < 0; dev++) {
            struct harp_swapdev *d = &w->dev[dev];
            if (d->op == 0 && d->again_ns != 0 && harp_now_ns() >= d->again_ns)
                d->op = HARP_RESTORE;
            if (d->op != 0 || d->recall_seq != 0)
                next = dev;
            else if (d->again_ns != 0 && d->again_ns < again)
                again = d->again_ns;
        }
        if (next >= 0 && w->dev[next].recall_seq != 0)
            answer_recall(next);
        else if (next >= 0)
            work(next);
        else if (again != UINT64_MAX)
            sleep_until(again);
        else
            pthread_cond_wait(&w->changed, &w->lock);
    }
    return NULL;
}

static bool start(void)
{
    w->thread = w->thread || harp_thread_start(run);
    return w->thread;
}

/* The driver goes soon: what is on its way arrives first. */
void harp_swap_exiting(uint64_t ns)
{
    uint64_t until = harp_now_ns() + ns;
    pthread_mutex_lock(&w->lock);
    while (w->moving != 0 && harp_now_ns() < until)
        sleep_until(until);
    pthread_mutex_unlock(&w->lock);
}

bool harp_swap_recall(int dev, uint32_t seq, uint64_t bytes)
{
    pthread_mutex_lock(&w->lock);
    const struct harp_realm *realm = w->realms;
    while (realm != NULL && (realm->dev != dev || realm->spare == NULL))
        realm = realm->next;
    bool mine = realm != NULL && w->dev[dev].place == PLACE_HERE && start();
    if (mine) {
        w->dev[dev].recall_seq = seq;
        w->dev[dev].recalled = bytes;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return mine;
}

void harp_swap_move(int dev, uint32_t seq, uint16_t op)
{
    struct move m = {.dev = dev};
    pthread_mutex_lock(&w->lock);
    struct harp_swapdev *d = &w->dev[dev];
    bool own = op == 0; /* a gate has opened: whoever opened it knows of no eviction */
    bool wanted = !own || (d->place == PLACE_AWAY && d->op == 0 && d->again_ns == 0);
    bool there = !wanted || start();
    if (wanted && there) {
        d->op = own ? HARP_RESTORE : op;
        d->seq = seq;
        d->again_ns = 0;
        set_out(d, d->op);
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    if (!there) {
        snprintf(m.text, sizeof m.text, "no thread for it");
        answer(&m, op, seq, false, harp_now_ns());
    }
}
