/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting for the turn, and in it for room in the queue. The gate's lock is held, and let go while
 * waiting.
 */
#include "src/shim/gate/gate.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/thread.h"

#define MS             1000000ull
#define LATER_LIMIT_NS (5 * MS)    /* a launch waits so much longer than predicted for room */
#define WANT_AGAIN_NS  (1000 * MS) /* WANT is idempotent; repeated in case it was lost */

void harp_gate_wait(struct harp_timegate *g, pthread_cond_t *on, uint64_t ns)
{
    harp_wait_ns(on, &g->lock, ns);
}

void harp_gate_settle(struct harp_timegate *g, int ms)
{
    for (int i = 0; i < ms && g->polling; i++)
        harp_gate_wait(g, &g->polled, MS);
}

static void wait_changed(struct harp_timegate *g, struct harp_gatelane *l, uint64_t ns)
{
    l->waiters++;
    harp_gate_wait(g, &g->changed, ns);
    l->waiters--;
}

static void want(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    if (l->want_sent && now - l->wanted_ns < WANT_AGAIN_NS)
        return;
    l->want_sent = true;
    l->wanted_ns = now;
    struct harp_msg msg = harp_gate_msg(g, lane, HARP_WANT_TIME);
    harp_session_tell(&msg);
}

/* Whether the queue has been too long for too long: the prediction is wrong. */
static bool impatient(const struct harp_gatelane *l, uint64_t now, uint64_t *until)
{
    if (*until == 0)
        *until = (l->q.queue_end_ns > now ? l->q.queue_end_ns : now) + LATER_LIMIT_NS;
    return now > *until;
}

/* Nobody gives turns: 0 if a launch of `ns` may go by our own bucket, else how long to wait. */
static uint64_t offline_wait(struct harp_gatelane *l, uint64_t now, uint64_t ns, bool measured,
                             uint64_t *later_until)
{
    uint64_t wait = harp_bucket_wait_ns(&l->bucket, now);
    if (wait != 0)
        return wait < 10 * MS ? wait : 10 * MS;
    if (harp_quantum_admit(&l->q, now, ns, measured) == HARP_LATER &&
        !impatient(l, now, later_until))
        return MS;
    harp_bucket_spend(&l->bucket, ns);
    return 0;
}

unsigned harp_gate_admit(struct harp_timegate *g, enum harp_work work, uint64_t ns, bool measured)
{
    uint64_t later_until = 0, wait;
    for (;;) {
        unsigned lane = harp_lane_of(g, work); /* another arbiter may schedule more of them */
        struct harp_gatelane *l = &g->lane[lane];
        uint64_t now = harp_now_ns();
        bool exiting = __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED);
        if (g->away && (!exiting || harp_session_live())) { /* even then: results may lie there */
            want(g, lane, now);
            wait_changed(g, l, 100 * MS);
            continue;
        }
        if (exiting)
            return lane;
        switch (l->state) {
        case GATE_FREE:
            return lane;
        case GATE_CLOSED:
            want(g, lane, now);
            wait_changed(g, l, 100 * MS);
            break;
        case GATE_CLOSING:
            if (l->extend > 0) { /* what runs may be waiting for what we hold back */
                l->extend--;
                return lane;
            }
            wait_changed(g, l, 100 * MS);
            break;
        case GATE_OFFLINE:
            wait = offline_wait(l, now, ns, measured, &later_until);
            if (wait == 0)
                return lane;
            wait_changed(g, l, wait);
            break;
        case GATE_QUANTUM:
            switch (harp_quantum_admit(&l->q, now, ns, measured)) {
            case HARP_GO:
                return lane;
            case HARP_SHUT:
                harp_gate_closing(g, lane, now, true, true);
                break;
            case HARP_LATER:
                if (impatient(l, now, &later_until))
                    return lane;
                wait_changed(g, l, MS);
                break;
            }
            break;
        }
    }
}

/* --- memory that can leave the device ----------------------------------------------------------
 */

static struct harp_timegate *gate_on(int dev)
{
    struct harp_timegate *g = dev >= 0 ? &harp_gates[dev] : NULL;
    return g != NULL && harp_gate_on(g) ? g : NULL;
}

void harp_gate_closable(int dev)
{
    struct harp_timegate *g = gate_on(dev);
    if (g == NULL || __atomic_load_n(&g->closable, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&g->lock);
    __atomic_store_n(&g->closable, true, __ATOMIC_RELAXED);
    for (unsigned lane = 0; lane < HARP_TIME_LANES; lane++)
        harp_gate_unsee(g, lane);
    pthread_mutex_unlock(&g->lock);
}

static bool shut(const struct harp_timegate *g)
{
    for (unsigned lane = 0; lane < g->lanes; lane++)
        if (g->lane[lane].state != GATE_CLOSED || g->lane[lane].inside != 0 ||
            g->lane[lane].brackets != 0)
            return false;
    return g->touching == 0;
}

bool harp_gate_away(int dev, uint64_t ns)
{
    struct harp_timegate *g = gate_on(dev);
    uint64_t until = harp_now_ns() + ns;
    if (g == NULL)
        return true;
    pthread_mutex_lock(&g->lock);
    g->away = true;
    for (unsigned lane = 0; lane < g->lanes; lane++) /* it may have been given up while stopped */
        harp_gate_closing(g, lane, harp_now_ns(), g->lane[lane].waiters != 0, true);
    while (!shut(g) && harp_now_ns() < until)
        harp_gate_wait(g, &g->changed, MS);
    bool good = shut(g);
    if (!good) {
        g->away = false;
        pthread_cond_broadcast(&g->changed);
    }
    pthread_mutex_unlock(&g->lock);
    return good;
}

void harp_gate_home(int dev)
{
    struct harp_timegate *g = gate_on(dev);
    if (g == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    g->away = false;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

struct harp_timegate *harp_touch_begin(CUcontext ctx)
{
    struct harp_timegate *g = ctx != NULL ? harp_gate_of(ctx) : NULL;
    if (g == NULL || !__atomic_load_n(&g->closable, __ATOMIC_RELAXED))
        return NULL;
    pthread_mutex_lock(&g->lock);
    while (g->away &&
           (!__atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED) || harp_session_live())) {
        want(g, 0, harp_now_ns());
        wait_changed(g, &g->lane[0], 100 * MS);
    }
    g->touching++;
    pthread_mutex_unlock(&g->lock);
    return g;
}

void harp_touch_end(struct harp_timegate *g)
{
    pthread_mutex_lock(&g->lock);
    g->touching--;
    pthread_mutex_unlock(&g->lock);
}
