/* SPDX-License-Identifier: Apache-2.0
 *
 * From one turn to the next without a gap. A turn's processes announce when their last work will
 * end; by then it is foreseen who is next. The same tenant: its turn is renewed and nothing drains.
 * Another: its gate is opened so long before (the lead) that its first work meets the last of this
 * one's. The lead is learnt from the gaps and overlaps seen: raised in small steps, cut by an
 * overlap, since early work may push the predecessor's last kernel behind a whole slice.
 *
 * Who arrives with a right to go first (class latency, a gang) closes the holder at once.
 */
#include "policy.h"

/* The current turn's clients have announced, yielded or died: is its end known? */
void handover_announced(struct harp_core *k, struct lane *l)
{
    struct turn *turn = &l->turn;
    uint64_t ends = 0, left = 0;
    if (turn->tenant < 0 || turn->open == 0)
        return;
    for (int32_t i = k->tenant[turn->tenant].first; i >= 0; i = k->client[i].next) {
        const struct gate *g = gate_of(l, &k->client[i]);
        if ((g->state != HARP_GATE_OPEN && g->state != HARP_GATE_CLOSING) ||
            g->epoch != turn->epoch)
            continue;
        if (g->ends_ns == 0)
            return;
        ends = g->ends_ns > ends ? g->ends_ns : ends;
        left += g->ends_ns > k->now ? g->ends_ns - k->now : 0;
    }
    /* Processes run one after the other, and none knows of the others' queues. */
    turn->ends_ns = k->now + left > ends ? k->now + left : ends;
    handover_decide(k, l);
}

void handover_decide(struct harp_core *k, struct lane *l)
{
    struct turn *turn = &l->turn;
    l->plan_ns = 0;
    if (turn->tenant < 0 || turn->ends_ns == 0 || l->before.open > 0 || gang_defers(k, l))
        return; /* decided again when the one before has drained, or the leader is decided */
    struct choice next = policy_foresee(k, l);
    if (next.tenant == turn->tenant && turn->ends_ns > k->now + k->config.quantum_ns) {
        l->plan_ns = turn->ends_ns - k->config.quantum_ns; /* enough is queued: not yet more */
    } else if (next.tenant == turn->tenant && turn->renewed_ns != 0 &&
               turn->ends_ns < turn->renewed_ns + HARP_REJOIN_NS) {
        return; /* the last renewal was too short for what it has: an OPEN allows one launch */
    } else if (next.tenant == turn->tenant) {
        turn->renewed_ns = turn->ends_ns;
        turn_renew(k, l, next.eligible, next.follows);
    } else if (next.tenant >= 0 && account_of(k, l, (uint32_t)turn->tenant)->distrust == 0 &&
               !gang_incomplete(k, l, (uint32_t)turn->tenant)) {
        uint64_t at =
            (uint64_t)((int64_t)turn->ends_ns - account_of(k, l, (uint32_t)turn->tenant)->lead_ns);
        if (at > k->now + HARP_TICK_NS)
            l->plan_ns = at;
        else
            handover_now(k, l, (uint32_t)next.tenant, next.eligible, next.follows);
    }
}

/* Opens another tenant's gate while the current turn still drains. A turn that leads closes those
 * which follow; what is decided there may come back to this lane, and is the same decision. */
void handover_now(struct harp_core *k, struct lane *l, uint32_t tenant, uint32_t eligible,
                  int follows)
{
    uint64_t epoch = l->turn.epoch;
    turn_close(k, l);
    if (l->turn.epoch != epoch)
        return;
    turn_promote(k, l);
    turn_open(k, l, tenant, eligible, follows);
}

/* Latency that wants does not wait for a drain, unless two would drain at once. */
void handover_urgent(struct harp_core *k, struct lane *l)
{
    if (l->turn.tenant < 0 || l->before.open > 0 || l->wanting == 0 ||
        policy_holder_rank(k, l) == RANK_LATENCY)
        return;
    struct choice next = policy_pick(k, l);
    if (next.tenant < 0 || next.rank != RANK_LATENCY || next.tenant == l->turn.tenant)
        return;
    handover_now(k, l, (uint32_t)next.tenant, next.eligible + 1, next.follows);
}

/* A tenant has come to want while another holds the lane. */
void handover_consider(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    struct turn *turn = &l->turn;
    struct account *a = account_of(k, l, tenant);
    if (turn->tenant < 0 || turn->tenant == (int32_t)tenant || a->wants == 0 ||
        !residency_in(k, l->dev, tenant))
        return;
    enum gang_role role = gang_role(k, l, tenant);
    cap_refill(k, a);
    if (role != GANG_FOLLOW && !cap_allows(k, a))
        return;
    if (role == GANG_WAIT) { /* for another device; but from now on this one is shared */
        if (!gang_bound(k, l))
            turn_bound(k, l);
        return;
    }
    enum rank mine = role == GANG_FOLLOW ? RANK_GANG : policy_of(k)->rank(k, l, tenant);
    enum rank his = policy_holder_rank(k, l);
    if (mine < his && mine <= RANK_GANG) {
        turn_close(k, l);
        if (mine == RANK_LATENCY)
            handover_urgent(k, l);
        return;
    }
    if (turn->close_ns != 0)
        return;
    uint64_t held = k->now - turn->began_ns;
    if (held < HARP_PREEMPT_NS)
        held = HARP_PREEMPT_NS;
    if (turn->quantum_ns == 0) {
        if (!gang_bound(k, l))
            turn_close(k, l);
    } else if (turn->ends_ns == 0 &&
               (mine < his ||
                (mine == his && policy_of(k)->ahead(k, l, tenant, (uint32_t)turn->tenant, held)))) {
        turn->preempt_ns = turn->began_ns + HARP_PREEMPT_NS;
        if (turn->preempt_ns <= k->now)
            turn_close(k, l);
    }
}

static void distrust(struct account *a)
{
    a->distrust = a->distrust > 16 ? 32 : (uint8_t)(2 * a->distrust + 2);
}

/* A turn is over that followed an announced end. Was its gate opened too early, or too late? What
 * is aimed at is neither a gap (a context switch of the device is part of it, and not known) but
 * the edge: a lead that is too early one time in twenty (HARP_LEAD_UP_NS : HARP_LEAD_DOWN_NS). It
 * is the predecessor's: how well its end is foretold varies more than how fast successors are. */
void handover_learn(struct harp_core *k, struct lane *l, const struct turn *turn)
{
    if (turn->after < 0 || k->tenant[turn->after].id != turn->after_id || turn->first_ns == 0)
        return;
    struct account *a = account_of(k, l, (uint32_t)turn->after);
    /* Over before its predecessor is: the device put that behind a whole slice. */
    int pushed = turn == &l->turn && l->before.open > 0 && l->before.tenant == turn->after;
    if (!pushed && turn->before.hi == 0)
        return;
    if (pushed || turn->first_ns < turn->before.hi) {
        a->led = 1;
        a->lead_ns -= pushed ? HARP_LEAD_PUSHED_NS : HARP_LEAD_DOWN_NS;
        if (++a->missed >= HARP_MISSES) { /* not chance: what it announces is wrong */
            a->missed = 0;
            distrust(a);
        }
    } else {
        a->missed = 0;
        if (turn->first_ns - turn->before.hi <= 4 * HARP_LEAD_NS) /* else not the hand-over's */
            a->lead_ns += a->led ? HARP_LEAD_UP_NS : HARP_LEAD_FIRST_NS;
    }
    if (a->lead_ns > HARP_LEAD_NS)
        a->lead_ns = HARP_LEAD_NS;
    if (a->lead_ns < -HARP_LAG_NS)
        a->lead_ns = -HARP_LAG_NS;
}

/* Was the end announced about right? If not, the tenant's next turns end with their last word. */
void handover_judge(struct harp_core *k, struct lane *l, const struct turn *ended)
{
    struct account *a = account_of(k, l, (uint32_t)ended->tenant);
    if (ended == &l->before)
        return; /* may have been pushed behind its successor's work */
    int64_t late = ended->ends_ns != 0 ? (int64_t)(ended->work.hi - ended->ends_ns) : 0;
    if (late > (int64_t)HARP_MISSED_NS - (a->lead_ns < 0 ? a->lead_ns : 0))
        distrust(a);
    else if (a->distrust > 0)
        a->distrust--;
}
