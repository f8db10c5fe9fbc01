/* SPDX-License-Identifier: Apache-2.0
 *
 * Rounds of the service thread: when a turn ends, when it is over, and what is said then.
 */
#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/meter.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"
#include "src/shim/trace/trace.h"

#define US          1000ull
#define MS          1000000ull
#define POLL_NS     (100 * US)
#define DRAIN_NS    (20 * US)   /* between two looks while the end is near */
#define NEAR_NS     (60 * US)   /* ... as near as this to the expected one */
#define EXPECTED_NS (5000 * MS) /* an expected end later than this is not believed */
#define EXTENSIONS  6           /* doublings of the patience with a drain */

static int64_t sooner(int64_t a, uint64_t b)
{
    return a < 0 || (uint64_t)a > b ? (int64_t)b : a;
}

/* --- the end of a turn ----------------------------------------------------------------------- */

static bool drained(const struct harp_timegate *g, unsigned lane)
{
    if (g->lane[lane].inside != 0 || g->lane[lane].brackets != 0)
        return false;
    for (const struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->dirty[lane] && harp_meter_may_end(s, true))
            return false;
    for (const struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next)
        if (c->lane[lane].per_thread)
            return false;
    return true;
}

static void yield_turn(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    struct harp_msg msg = harp_gate_msg(g, lane, HARP_YIELD_TIME), used = msg;
    harp_gate_report(g, lane, now, &used);
    if (used.launches != 0) { /* YIELD tells none */
        struct harp_msg launches = harp_gate_msg(g, lane, HARP_USED_TIME);
        launches.launches = used.launches;
        harp_session_tell(&launches);
    }
    msg.used_ns = used.used_ns;
    msg.age_ns = used.age_ns;
    /* Who had so much queued when the turn ended is likely to want more: if not, its next turn is
     * handed over after HARP_IDLE_NS. Said the other way round, the device would be given away. */
    bool queued = l->touched_ns > l->closing_ns + HARP_IDLE_NS;
    msg.a = l->backlogged || queued || l->waiters != 0;
    l->state = GATE_CLOSED;
    l->want_sent = msg.a != 0;
    l->wanted_ns = now;
    harp_gate_turn_over(g, lane);
    harp_gate_update(g);
    harp_session_tell(&msg);
    pthread_cond_broadcast(&g->changed);
}

/* Draining may take as long as what was launched: the arbiter hears that somebody is there. */
static void still_alive(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_msg msg = harp_gate_msg(g, lane, HARP_USED_TIME);
    if (now - g->lane[lane].alive_ns < HARP_REPORT_NS)
        return;
    g->lane[lane].alive_ns = now;
    harp_session_tell(&msg);
}

/* The last progress of a drain, or when it was expected to be over. */
static uint64_t stuck_since(const struct harp_gatelane *l)
{
    uint64_t most = l->closing_ns + EXPECTED_NS;
    uint64_t since = l->q.queue_end_ns < most ? l->q.queue_end_ns : most;
    if (since < l->extended_ns)
        since = l->extended_ns;
    return since > l->touched_ns ? since : l->touched_ns;
}

static int64_t drain_round(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    if (drained(g, lane)) {
        yield_turn(g, lane, now);
        return -1;
    }
    still_alive(g, lane, now);
    if (l->waiters != 0 && now > stuck_since(l) + (HARP_EXTEND_NS << l->extensions)) {
        l->extended_ns = now;
        l->extend++;
        l->extensions += l->extensions < EXTENSIONS;
        harp_log("turn_extended dev=%u why=\"what runs may wait for what is held back\"", g->dev);
        pthread_cond_broadcast(&g->changed);
    }
    uint64_t end = l->q.queue_end_ns;
    if (end > now + NEAR_NS + DRAIN_NS)
        return sooner((int64_t)(end - now - NEAR_NS), MS);
    /* Late: the prediction was wrong, and nothing says by how much. */
    uint64_t late = now > end + MS ? (now - end) / 16 : 0;
    return late < DRAIN_NS ? (int64_t)DRAIN_NS : sooner((int64_t)late, MS);
}

/* --- one round ------------------------------------------------------------------------------- */

static void quantum_end(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    bool busy =
        l->waiters != 0 || l->inside != 0 || l->brackets != 0 || now - l->touched_ns < HARP_IDLE_NS;
    if (now >= l->q.deadline_ns && l->q.launched != 0)
        harp_gate_closing(g, lane, now, busy, true);
    else if (!busy && now - l->open_ns > HARP_IDLE_NS)
        harp_gate_closing(g, lane, now, false, false);
}

static int64_t quantum_round(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    int64_t sleep = l->brackets != 0 ? (int64_t)POLL_NS : (int64_t)HARP_IDLE_NS / 2;
    if (l->open_ended && now - l->reported_ns >= HARP_REPORT_NS) {
        struct harp_msg msg = harp_gate_msg(g, lane, HARP_USED_TIME);
        harp_gate_report(g, lane, now, &msg);
        harp_session_tell(&msg);
    }
    if (l->q.launched != 0 && l->q.deadline_ns > now)
        sleep = sooner(sleep, l->q.deadline_ns - now);
    return sleep;
}

/* A launch is to be measured now and then. Who does not come by costs nothing meanwhile: a program
 * that launches in bursts is measured at its next one. */
static int64_t free_round(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    int64_t look = l->brackets != 0 ? (int64_t)MS : -1;
    /* one sample at a time; those of a trace are none, and may never end */
    if (look >= 0 && !harp_trace_measures())
        return look;
    if (l->sample_due || l->sample_ns == 0 || !harp_session_live() || harp_env()->gate_off)
        return look;
    if (now < l->sample_ns)
        return look >= 0 ? sooner(look, l->sample_ns - now) : (int64_t)(l->sample_ns - now);
    l->sample_due = true;
    harp_gate_unsee(g, lane);
    return look;
}

static int64_t offline_round(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    if (now < l->offline_until_ns) {
        uint64_t left = l->offline_until_ns - now;
        return l->brackets != 0 ? (int64_t)POLL_NS : (int64_t)(left < MS ? left : MS);
    }
    l->state = GATE_FREE;
    l->sample_ns = 0;
    harp_gate_turn_over(g, lane);
    harp_log("time_unshared dev=%u why=\"no arbiter for %llu ms\"", g->dev, HARP_OFFLINE_NS / MS);
    harp_gate_update(g);
    pthread_cond_broadcast(&g->changed);
    return -1;
}

static int64_t lane_round(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    switch (g->lane[lane].state) {
    case GATE_CLOSING:
        return drain_round(g, lane, now);
    case GATE_QUANTUM:
        return quantum_round(g, lane, now);
    case GATE_FREE:
        return free_round(g, lane, now);
    case GATE_OFFLINE:
        return offline_round(g, lane, now);
    case GATE_CLOSED:
        break;
    }
    return g->lane[lane].brackets != 0 ? (int64_t)MS : -1;
}

static int64_t gate_round(struct harp_timegate *g)
{
    uint64_t now = harp_now_ns();
    int64_t sleep = -1;
    for (unsigned lane = 0; lane < g->lanes; lane++)
        if (g->lane[lane].state == GATE_QUANTUM)
            quantum_end(g, lane, now);
    g->polling = true;
    while (harp_meter_end_one(g, now))
        continue;
    for (unsigned lane = 0; lane < g->lanes; lane++)
        if (g->lane[lane].state == GATE_CLOSING && g->lane[lane].inside == 0)
            harp_meter_sync_per_thread(g, lane);
    if (g->pending != NULL)
        harp_meter_collect(g);
    g->polling = false;
    pthread_cond_broadcast(&g->polled);
    now = harp_now_ns();
    for (unsigned lane = 0; lane < g->lanes; lane++) {
        int64_t mine = lane_round(g, lane, now);
        if (mine >= 0)
            sleep = sooner(sleep, (uint64_t)mine);
    }
    return sleep;
}

int64_t harp_time_round(void)
{
    int64_t sleep = -1;
    harp_enter();
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (!harp_gate_on(g) || __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED))
            continue;
        pthread_mutex_lock(&g->lock);
        int64_t mine = gate_round(g);
        pthread_mutex_unlock(&g->lock);
        if (mine >= 0)
            sleep = sooner(sleep, (uint64_t)mine);
    }
    int64_t pools = harp_order_round();
    if (pools >= 0)
        sleep = sooner(sleep, (uint64_t)pools);
    harp_leave();
    return sleep;
}
