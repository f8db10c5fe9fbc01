/* SPDX-License-Identifier: Apache-2.0
 *
 * Engine time: what clients say of it, what harpd sets, and what is due when.
 */
#include <string.h>

#include "policy.h"

void time_want(struct harp_core *k, struct lane *l, struct client *c)
{
    struct gate *g = gate_of(l, c);
    if (g->state == HARP_GATE_OVERDUE)
        g->state = HARP_GATE_CLOSED; /* it says that its gate is closed: believe it */
    if (residency_want(k, c, l->dev, l->number))
        return;
    if (g->state != HARP_GATE_CLOSED || !k->tenant[c->tenant].use[l->dev].granted)
        return; /* WANT and OPEN crossed */
    if (k->tenant[c->tenant].suspended) {
        g->later = 1;
        return;
    }
    turn_want(k, l, c);
    if (l->turn.tenant == c->tenant)
        turn_join(k, l, c);
    else
        handover_consider(k, l, (uint32_t)c->tenant);
}

static void yield(struct harp_core *k, struct lane *l, struct client *c, const struct harp_msg *m)
{
    struct gate *g = gate_of(l, c);
    if (g->state == HARP_GATE_CLOSED || g->epoch != m->epoch)
        return; /* fenced: speaks of a turn that is over */
    if (g->state == HARP_GATE_OVERDUE) {
        charge_late(k, l, (uint32_t)c->tenant, g->epoch, m->used_ns, m->age_ns);
        g->state = HARP_GATE_CLOSED;
    } else {
        struct turn *turn = turn_of(l, g->epoch);
        g->state = HARP_GATE_CLOSED;
        g->ends_ns = 0;
        turn->open--;
        charge_report(k, l, turn, m->used_ns, m->age_ns, 0);
        if (m->a && !k->tenant[c->tenant].suspended)
            turn_want(k, l, c);
        if (turn->open == 0)
            turn_left(k, l, turn);
        else if (turn == &l->turn)
            handover_announced(k, l);
    }
    if (m->a)
        time_want(k, l, c);
}

static void used(struct harp_core *k, struct lane *l, struct client *c, const struct harp_msg *m)
{
    struct gate *g = gate_of(l, c);
    if ((g->state != HARP_GATE_OPEN && g->state != HARP_GATE_CLOSING) || g->epoch != m->epoch)
        return;
    struct turn *turn = turn_of(l, g->epoch);
    charge_report(k, l, turn, m->used_ns, m->age_ns, m->b == 1);
    turn->alive_ns = k->now;
    if (m->a != 1)
        return;
    uint64_t rest = m->window_ns < HARP_HUNG_NS ? m->window_ns : HARP_HUNG_NS;
    g->ends_ns = k->now + rest;
    g->backlog = m->c == 1 && !k->tenant[c->tenant].suspended;
    if (turn == &l->turn)
        handover_announced(k, l);
}

void time_message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct use *u = &k->tenant[c->tenant].use[m->dev];
    struct lane *l = &k->device[m->dev].lane[m->cls];
    switch (m->op) {
    case HARP_WANT_TIME:
        time_want(k, l, c);
        break;
    case HARP_YIELD_TIME:
        yield(k, l, c, m);
        break;
    default:
        u->copy_ns += m->copy_ns;
        u->launches += m->launches;
        used(k, l, c, m);
        break;
    }
}

static void leave(struct harp_core *k, struct lane *l, struct client *c)
{
    struct gate *g = gate_of(l, c);
    turn_unwant(k, l, c);
    int held = g->state == HARP_GATE_OPEN || g->state == HARP_GATE_CLOSING;
    g->state = HARP_GATE_CLOSED;
    if (!held)
        return;
    struct turn *turn = turn_of(l, g->epoch);
    if (--turn->open > 0) {
        if (turn == &l->turn)
            handover_announced(k, l);
        return;
    }
    if (turn->quantum_ns != 0) /* what it did not report, it cannot deny any more */
        charge_report(k, l, turn, k->now - turn->opened_ns, 0, 1);
    turn_left(k, l, turn);
}

void time_dead(struct harp_core *k, struct client *c)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
            leave(k, &k->device[dev].lane[n], c);
}

void time_device(struct harp_core *k, uint32_t dev)
{
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        struct lane *l = &k->device[dev].lane[n];
        l->dev = dev;
        l->number = n;
        l->epoch = k->config.first_epoch;
        l->turn.tenant = l->before.tenant = l->late.tenant = -1;
        l->best_window_ns = HARP_BEST_FIRST_NS;
    }
}

/* Shares and limits are of compute; copies are a fair queue with the same classes. */
void time_set(struct harp_core *k, uint32_t tenant, uint32_t dev, uint32_t share_ppm,
              uint32_t cap_ppm, uint32_t cls, int alone)
{
    struct use *u = &k->tenant[tenant].use[dev];
    int listed[HARP_TIME_LANES];
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        listed[n] = u->account[n].listed;
        active_leave(k, &k->device[dev].lane[n], tenant);
    }
    struct account *a = &u->account[HARP_LANE_COMPUTE];
    if (cap_ppm != a->cap_ppm) {
        a->tokens = HARP_BUCKET_NS * HARP_PPM;
        a->tokens_ns = k->now;
    }
    a->share_ppm = share_ppm;
    a->cap_ppm = cap_ppm;
    u->cls = cls;
    u->alone = alone != 0;
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
        if (listed[n])
            active_enter(k, &k->device[dev].lane[n], tenant);
    time_company(k, dev);
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
        handover_consider(k, &k->device[dev].lane[n], tenant);
}

/* The tenant's slot becomes free. */
void time_forget(struct harp_core *k, uint32_t tenant)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
            active_leave(k, &k->device[dev].lane[n], tenant);
}

/* Counts who is on the device. Tells the window of an open-ended turn when that changes it, and
 * ends such a turn when its tenant has got a cap. */
void time_company(struct harp_core *k, uint32_t dev)
{
    struct device *d = &k->device[dev];
    d->tenants = d->latency = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0 || k->tenant[t].live == 0 || !u->granted)
            continue;
        d->tenants++;
        d->latency += u->cls == HARP_CLASS_LATENCY;
    }
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        struct lane *l = &d->lane[n];
        if (l->turn.tenant >= 0 && l->turn.quantum_ns == 0 &&
            account_of(k, l, (uint32_t)l->turn.tenant)->cap_ppm != 0)
            turn_close(k, l);
        turn_window(k, l);
    }
}

static int settle(struct harp_core *k, struct lane *l)
{
    if (gang_patience_ns(k, l) <= k->now) {
        gang_impatient(k, l);
        return 1;
    }
    if (l->turn.tenant >= 0)
        return 0;
    if (l->wanting == 0 && l->before.tenant < 0) {
        policy_of(k)->idle(k, l);
        return 0;
    }
    struct choice next = policy_pick(k, l);
    if (next.tenant < 0)
        return 0;
    turn_open(k, l, (uint32_t)next.tenant, next.eligible, next.follows);
    return 1;
}

void time_settle(struct harp_core *k)
{
    for (int opened = 1; opened;) { /* a gang's turn may let another device go on */
        opened = 0;
        for (uint32_t dev = 0; dev < k->n_devices; dev++)
            for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
                opened |= settle(k, &k->device[dev].lane[n]);
        opened &= k->n_devices > 1;
    }
}

/* When a capped tenant that wants may run again, the earliest of several: beside an open-ended
 * turn, or where nobody runs. */
static uint64_t capped_ready_ns(const struct harp_core *k, const struct lane *l)
{
    const struct turn *turn = &l->turn;
    uint64_t ready = HARP_NEVER;
    if (l->capped == 0 || l->wanting == 0 ||
        (turn->tenant >= 0 ? turn->quantum_ns != 0 || turn->close_ns != 0 : l->before.open > 0))
        return ready;
    for (int32_t i = first_of(l); i >= 0; i = account_of(k, l, (uint32_t)i)->next) {
        const struct account *a = account_of(k, l, (uint32_t)i);
        if (i == turn->tenant || a->wants == 0 || a->cap_ppm == 0 ||
            !residency_in(k, l->dev, (uint32_t)i) || (turn->tenant < 0 && cap_allows(k, a)))
            continue;
        uint64_t at = cap_ready_ns(k, a);
        ready = at < ready ? at : ready;
    }
    return ready;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t lane_next(const struct harp_core *k, const struct lane *l)
{
    uint64_t next = capped_ready_ns(k, l);
    if (l->turn.tenant >= 0) {
        next = least(next, turn_overdue_ns(&l->turn));
        if (l->turn.preempt_ns != 0)
            next = least(next, l->turn.preempt_ns);
        if (l->plan_ns != 0)
            next = least(next, l->plan_ns);
    }
    if (l->before.open > 0)
        next = least(next, turn_overdue_ns(&l->before));
    return least(next, gang_patience_ns(k, l));
}

static void lane_tick(struct harp_core *k, struct lane *l)
{
    if (l->before.open > 0 && turn_overdue_ns(&l->before) <= k->now)
        turn_give_up(k, l, &l->before);
    if (l->turn.tenant >= 0 && turn_overdue_ns(&l->turn) <= k->now)
        turn_give_up(k, l, &l->turn);
    if (l->turn.tenant >= 0 && l->turn.preempt_ns != 0 && l->turn.preempt_ns <= k->now)
        turn_close(k, l);
    if (l->plan_ns != 0 && l->plan_ns <= k->now)
        handover_decide(k, l);
    if (capped_ready_ns(k, l) > k->now)
        return;
    for (int32_t i = first_of(l); i >= 0; i = account_of(k, l, (uint32_t)i)->next)
        cap_refill(k, account_of(k, l, (uint32_t)i));
    if (l->turn.tenant >= 0 && !gang_bound(k, l))
        turn_close(k, l);
}

void time_tick(struct harp_core *k)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
            lane_tick(k, &k->device[dev].lane[n]);
}

uint64_t time_next(const struct harp_core *k)
{
    uint64_t next = HARP_NEVER;
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
            next = least(next, lane_next(k, &k->device[dev].lane[n]));
    return next;
}
