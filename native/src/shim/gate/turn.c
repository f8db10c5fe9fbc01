/* SPDX-License-Identifier: Apache-2.0
 *
 * What the arbiter says of turns, and what is done when it is gone. The session's lock is held.
 */
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"

#define WINDOW_NS 4000000ull /* offline: predicted work queued at once */

/* NULL: not ours, or of a lane that this arbiter said it had not. */
static struct harp_timegate *gate_at(const struct harp_msg *msg)
{
    if (msg->dev >= HARP_MAX_DEVICES || harp_env()->gate_off)
        return NULL;
    struct harp_timegate *g = &harp_gates[msg->dev];
    return harp_gate_on(g) && msg->cls < harp_session_lanes() ? g : NULL;
}

static void open_lane(struct harp_timegate *g, unsigned lane, const struct harp_msg *msg)
{
    struct harp_gatelane *l = &g->lane[lane];
    uint64_t now = harp_now_ns();
    bool fresh = msg->epoch != l->epoch || l->state == GATE_CLOSED;
    if (fresh && msg->a == 1) /* a change for the turn that we have just yielded */
        return;
    if (fresh) {
        harp_gate_turn_over(g, lane);
        l->epoch = msg->epoch;
        l->open_ns = l->touched_ns = now;
        memset(&l->q, 0, sizeof l->q);
    }
    /* Until told otherwise, but in company: who comes waits until the queue is empty, so only so
     * much is queued at once; and what was used is told now and then. */
    enum harp_gate_state next =
        msg->quantum_ns == 0 && msg->window_ns == 0 ? GATE_FREE : GATE_QUANTUM;
    if (!fresh && l->state == GATE_FREE && next != GATE_FREE)
        l->free_ns = l->touched_ns = now; /* launched unseen, it may be long */
    if (!fresh && l->state != GATE_FREE && next == GATE_FREE) {
        struct harp_msg used = harp_gate_msg(g, lane, HARP_USED_TIME);
        harp_gate_report(g, lane, now, &used);             /* from here on it is sampled ... */
        l->sampled_launches -= harp_gate_unended(g, lane); /* ... and so is what is left of it */
        harp_session_tell(&used);
        harp_gate_turn_over(g, lane);
    }
    if (fresh || l->state != next)
        l->reported_ns = l->sample_ns = now;
    l->state = next;
    l->open_ended = msg->quantum_ns == 0;
    l->q.deadline_ns = l->open_ended ? UINT64_MAX : now + msg->quantum_ns;
    l->q.window_ns = msg->window_ns;
    l->want_sent = l->announced = false;
    harp_gate_update(g);
    pthread_cond_broadcast(&g->changed);
}

void harp_time_open_gate(const struct harp_msg *msg)
{
    struct harp_timegate *g = gate_at(msg);
    if (g == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    open_lane(g, msg->cls, msg);
    bool away = g->away;
    pthread_mutex_unlock(&g->lock);
    if (away)
        harp_swap_move((int)msg->dev, 0, 0);
}

static bool backlogged(const struct harp_gatelane *l, uint64_t now)
{
    return l->waiters != 0 || l->inside != 0 || l->brackets != 0 ||
           now - l->touched_ns < HARP_IDLE_NS;
}

void harp_time_close_gate(const struct harp_msg *msg)
{
    struct harp_timegate *g = gate_at(msg);
    if (g == NULL)
        return;
    uint64_t now = harp_now_ns();
    pthread_mutex_lock(&g->lock);
    if (msg->epoch == g->lane[msg->cls].epoch)
        harp_gate_closing(g, msg->cls, now, backlogged(&g->lane[msg->cls], now), false);
    pthread_mutex_unlock(&g->lock);
}

/* Without an arbiter: who has a share or a limit keeps to it by itself for a while (copies have
 * none), all others are free. */
static void set_out(struct harp_timegate *g, unsigned lane, uint32_t rate_ppm, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    l->state = GATE_FREE;
    if (lane != HARP_LANE_COMPUTE || rate_ppm == 0)
        return;
    l->state = GATE_OFFLINE;
    l->offline_until_ns = now + HARP_OFFLINE_NS;
    l->q.deadline_ns = UINT64_MAX;
    l->q.window_ns = WINDOW_NS;
    harp_bucket_start(&l->bucket, now, rate_ppm);
    harp_log("time_offline dev=%u share_ppm=%u for_ms=%llu then=\"no gate\"", g->dev, rate_ppm,
             HARP_OFFLINE_NS / 1000000ull);
}

void harp_time_connection(bool up, unsigned lanes)
{
    uint64_t now = harp_now_ns();
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (!harp_gate_on(g) || harp_env()->gate_off)
            continue;
        pthread_mutex_lock(&g->lock);
        g->lanes = lanes;
        for (unsigned lane = 0; lane < HARP_TIME_LANES; lane++) {
            struct harp_gatelane *l = &g->lane[lane];
            harp_gate_turn_over(g, lane);
            l->want_sent = l->sample_due = false;
            if (up)
                l->state = GATE_CLOSED;
            else
                set_out(g, lane, harp_session_rate(dev), now);
        }
        harp_gate_update(g);
        pthread_cond_broadcast(&g->changed);
        pthread_mutex_unlock(&g->lock);
    }
}
