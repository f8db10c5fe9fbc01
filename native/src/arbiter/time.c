/* SPDX-License-Identifier: Apache-2.0
 *
 * Gates. One turn per device: the interval in which the processes of one tenant may launch. While
 * one tenant wants, its turn lasts until somebody else wants; while several do, turns are quanta.
 * A turn ends when all its processes have yielded, is charged min(sum of used, wall), and the next
 * is picked by policy_drr.c.
 */
#include <string.h>

#include "state.h"

static void send_gate(struct harp_core *k, struct client *c, uint32_t dev, uint16_t op,
                      uint64_t quantum_ns, uint32_t change)
{
    struct harp_msg m = {.op = op, .dev = dev, .epoch = k->device[dev].turn.epoch, .a = change};
    if (op == HARP_OPEN_GATE) {
        m.quantum_ns = quantum_ns;
        m.window_ns = k->device[dev].turn.window_ns;
    }
    core_send(k, c, &m);
}

static void stop_waiting(struct harp_core *k, struct use *u)
{
    if (u->wait_since != 0)
        u->wait_ns += k->now - u->wait_since;
    u->wait_since = 0;
}

static void open_gate(struct harp_core *k, struct client *c, uint32_t dev, uint64_t quantum_ns)
{
    struct turn *turn = &k->device[dev].turn;
    struct hold *h = &c->hold[dev];
    h->want = 0;
    k->tenant[c->tenant].use[dev].wants--;
    h->gate = HARP_GATE_OPEN;
    h->epoch = turn->epoch;
    turn->open++;
    send_gate(k, c, dev, HARP_OPEN_GATE, quantum_ns, 0);
}

static void close_turn(struct harp_core *k, uint32_t dev)
{
    struct turn *turn = &k->device[dev].turn;
    if (turn->tenant < 0 || turn->close_ns != 0)
        return;
    turn->close_ns = k->now;
    turn->preempt_ns = 0;
    for (int32_t i = k->tenant[turn->tenant].first; i >= 0; i = k->client[i].next) {
        struct client *c = &k->client[i];
        if (c->hold[dev].gate == HARP_GATE_OPEN) {
            c->hold[dev].gate = HARP_GATE_CLOSING;
            send_gate(k, c, dev, HARP_CLOSE_GATE, 0, 0);
        }
    }
}

/* Charges what was reported of the running turn and not charged yet. */
static void account(struct harp_core *k, uint32_t dev)
{
    struct turn *turn = &k->device[dev].turn;
    uint64_t wall = k->now - turn->opened_ns;
    uint64_t total = turn->used_ns < wall ? turn->used_ns : wall;
    if (total <= turn->charged_ns)
        return;
    uint64_t delta = total - turn->charged_ns;
    uint64_t beside = delta;
    if (turn->quantum_ns == 0) {
        uint64_t tail = turn->close_ns != 0 ? k->now - turn->close_ns : 0;
        beside = delta < tail ? delta : tail;
    } else if (turn->sole) {
        beside = 0;
    }
    turn->charged_ns = total;
    drr_charge(k, dev, (uint32_t)turn->tenant, delta - beside, beside);
}

static void report(struct harp_core *k, uint32_t dev, uint64_t used_ns)
{
    struct turn *turn = &k->device[dev].turn;
    uint64_t wall = k->now - turn->opened_ns;
    turn->used_ns += used_ns < wall ? used_ns : wall;
    account(k, dev);
}

static void end_turn(struct harp_core *k, uint32_t dev)
{
    struct turn *turn = &k->device[dev].turn;
    struct use *u = &k->tenant[turn->tenant].use[dev];
    account(k, dev);
    u->active_ns = k->now;
    if (u->wants > 0)
        u->wait_since = k->now;
    memset(turn, 0, sizeof *turn);
    turn->tenant = -1;
}

static int has_company(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    for (uint32_t t = 0; t < k->n_tenants; t++)
        if (t != tenant && k->tenant[t].id != 0 && k->tenant[t].live > 0 &&
            k->tenant[t].use[dev].granted)
            return 1;
    return 0;
}

void time_pick(struct harp_core *k, uint32_t dev)
{
    struct device *d = &k->device[dev];
    if (d->turn.tenant >= 0)
        return;
    uint32_t eligible;
    int32_t best = drr_pick(k, dev, &eligible);
    if (best < 0)
        return;
    struct use *u = &k->tenant[best].use[dev];
    struct turn *turn = &d->turn;
    turn->tenant = best;
    turn->epoch = ++d->epoch;
    turn->opened_ns = turn->alive_ns = k->now;
    turn->sole = eligible == 1;
    turn->quantum_ns = eligible == 1 && u->cap_ppm == 0 ? 0 : drr_quantum_ns(k, u);
    turn->window_ns = turn->quantum_ns;
    if (turn->quantum_ns == 0 && has_company(k, dev, (uint32_t)best))
        turn->window_ns = HARP_WINDOW_NS;
    stop_waiting(k, u);
    for (int32_t i = k->tenant[best].first; i >= 0; i = k->client[i].next) {
        struct client *c = &k->client[i];
        if (c->hold[dev].want && c->hold[dev].gate == HARP_GATE_CLOSED)
            open_gate(k, c, dev, turn->quantum_ns);
    }
}

/* Notes that a client has work; true if its tenant was idle until now. */
static int mark_want(struct harp_core *k, struct client *c, uint32_t dev)
{
    struct use *u = &k->tenant[c->tenant].use[dev];
    struct hold *h = &c->hold[dev];
    if (h->want)
        return 0;
    h->want = 1;
    u->wants++;
    u->active_ns = k->now;
    if (u->wants > 1 || k->device[dev].turn.tenant == c->tenant)
        return 0;
    drr_arrive(k, dev, (uint32_t)c->tenant);
    u->wait_since = k->now;
    return 1;
}

static void want(struct harp_core *k, struct client *c, uint32_t dev)
{
    struct turn *turn = &k->device[dev].turn;
    struct use *u = &k->tenant[c->tenant].use[dev];
    struct hold *h = &c->hold[dev];
    if (h->gate == HARP_GATE_OVERDUE)
        h->gate = HARP_GATE_CLOSED; /* it says that its gate is closed: believe it */
    if (h->gate != HARP_GATE_CLOSED || !u->granted)
        return; /* WANT and OPEN crossed */
    mark_want(k, c, dev);
    if (turn->tenant < 0) {
        time_pick(k, dev);
    } else if (turn->tenant == c->tenant) {
        uint64_t held = k->now - turn->opened_ns;
        if (turn->close_ns != 0)
            return;
        if (turn->quantum_ns == 0)
            open_gate(k, c, dev, 0);
        else if (held + HARP_REJOIN_NS < turn->quantum_ns)
            open_gate(k, c, dev, turn->quantum_ns - held);
    } else if (turn->close_ns == 0) {
        drr_refill(u, k->now);
        if (!drr_may_run(k, u))
            return;
        uint64_t held = k->now - turn->opened_ns;
        if (turn->quantum_ns == 0)
            close_turn(k, dev);
        else if (drr_ahead(k, dev, (uint32_t)c->tenant, (uint32_t)turn->tenant,
                           held < HARP_PREEMPT_NS ? HARP_PREEMPT_NS : held)) {
            turn->preempt_ns = turn->opened_ns + HARP_PREEMPT_NS;
            if (turn->preempt_ns <= k->now)
                close_turn(k, dev);
        }
    }
}

/* A holder given up earlier says at last what it used: charge what nobody else used meanwhile. */
static void late_yield(struct harp_core *k, struct client *c, uint32_t dev, uint64_t used_ns)
{
    struct device *d = &k->device[dev];
    struct late *late = &d->late;
    if (late->epoch != c->hold[dev].epoch || late->tenant != c->tenant)
        return;
    uint64_t wall = k->now - late->opened_ns;
    uint64_t known = late->charged_ns + (d->charged_ns - late->others_ns);
    uint64_t total = used_ns < wall ? used_ns : wall;
    if (total <= known)
        return;
    late->charged_ns += total - known;
    drr_charge(k, dev, (uint32_t)c->tenant, 0, total - known);
    late->others_ns += total - known;
}

static void yield(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct turn *turn = &k->device[m->dev].turn;
    struct hold *h = &c->hold[m->dev];
    if (h->gate == HARP_GATE_CLOSED || h->epoch != m->epoch)
        return; /* fenced: speaks of a turn that is over */
    if (h->gate == HARP_GATE_OVERDUE) {
        late_yield(k, c, m->dev, m->used_ns);
        h->gate = HARP_GATE_CLOSED;
        if (m->a)
            want(k, c, m->dev);
        return;
    }
    h->gate = HARP_GATE_CLOSED;
    turn->open--;
    report(k, m->dev, m->used_ns);
    if (m->a)
        mark_want(k, c, m->dev);
    if (turn->open == 0) {
        end_turn(k, m->dev);
        time_pick(k, m->dev);
    } else if (m->a && turn->quantum_ns == 0 && turn->close_ns == 0) {
        open_gate(k, c, m->dev, 0);
    }
}

void time_message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct hold *h = &c->hold[m->dev];
    struct use *u = &k->tenant[c->tenant].use[m->dev];
    switch (m->op) {
    case HARP_WANT_TIME:
        want(k, c, m->dev);
        break;
    case HARP_YIELD_TIME:
        yield(k, c, m);
        break;
    case HARP_USED_TIME:
        u->copy_ns += m->copy_ns;
        u->launches += m->launches;
        if ((h->gate == HARP_GATE_OPEN || h->gate == HARP_GATE_CLOSING) && h->epoch == m->epoch) {
            report(k, m->dev, m->used_ns);
            k->device[m->dev].turn.alive_ns = k->now;
        }
        break;
    default:
        break;
    }
}

void time_dead(struct harp_core *k, struct client *c)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct turn *turn = &k->device[dev].turn;
        struct hold *h = &c->hold[dev];
        struct use *u = &k->tenant[c->tenant].use[dev];
        if (h->want) {
            h->want = 0;
            if (--u->wants == 0)
                stop_waiting(k, u);
        }
        int held = h->gate == HARP_GATE_OPEN || h->gate == HARP_GATE_CLOSING;
        h->gate = HARP_GATE_CLOSED;
        if (held && --turn->open == 0) {
            if (turn->quantum_ns != 0) /* what it did not report, it cannot deny any more */
                report(k, dev, k->now - turn->opened_ns);
            end_turn(k, dev);
        }
        time_pick(k, dev);
    }
}

/* Re-announces the window of an open-ended turn when company comes or goes, and ends it when its
 * tenant has got a cap. */
void time_company(struct harp_core *k, uint32_t dev)
{
    struct turn *turn = &k->device[dev].turn;
    if (turn->tenant < 0 || turn->quantum_ns != 0 || turn->close_ns != 0)
        return;
    if (k->tenant[turn->tenant].use[dev].cap_ppm != 0) {
        close_turn(k, dev);
        return;
    }
    uint64_t window = has_company(k, dev, (uint32_t)turn->tenant) ? HARP_WINDOW_NS : 0;
    if (window == turn->window_ns)
        return;
    turn->window_ns = window;
    for (int32_t i = k->tenant[turn->tenant].first; i >= 0; i = k->client[i].next)
        if (k->client[i].hold[dev].gate == HARP_GATE_OPEN)
            send_gate(k, &k->client[i], dev, HARP_OPEN_GATE, 0, 1);
}

/* A holder whose kernel is long says now and then that it still drains; one that is stopped does
 * not. Neither holds the device for ever. */
static uint64_t overdue_ns(const struct turn *turn)
{
    uint64_t end = turn->opened_ns + turn->quantum_ns;
    if (turn->quantum_ns == 0 && turn->close_ns == 0)
        return HARP_NEVER;
    if (turn->quantum_ns == 0 || (turn->close_ns != 0 && turn->close_ns < end))
        end = turn->close_ns;
    uint64_t heard = turn->alive_ns > end ? turn->alive_ns : end;
    uint64_t at = heard + HARP_OVERDUE_NS, most = end + HARP_HUNG_NS;
    return at < most ? at : most;
}

static void give_up(struct harp_core *k, uint32_t dev)
{
    struct device *d = &k->device[dev];
    struct turn *turn = &d->turn;
    for (int32_t i = k->tenant[turn->tenant].first; i >= 0; i = k->client[i].next) {
        struct client *c = &k->client[i];
        if (c->hold[dev].gate == HARP_GATE_OPEN || c->hold[dev].gate == HARP_GATE_CLOSING) {
            c->hold[dev].gate = HARP_GATE_OVERDUE;
            core_log(k, c, dev, 0, "gate_overdue");
        }
    }
    turn->open = 0;
    report(k, dev, k->now - turn->opened_ns);
    d->late = (struct late){.tenant = turn->tenant,
                            .epoch = turn->epoch,
                            .opened_ns = turn->opened_ns,
                            .charged_ns = turn->charged_ns,
                            .others_ns = d->charged_ns};
    end_turn(k, dev);
    time_pick(k, dev);
}

/* Is there, beside the open-ended turn, a capped tenant that wants and may run again? Its time; the
 * earliest of several. */
static uint64_t capped_ready_ns(const struct harp_core *k, uint32_t dev)
{
    const struct turn *turn = &k->device[dev].turn;
    uint64_t ready = HARP_NEVER;
    if (turn->tenant >= 0 && (turn->quantum_ns != 0 || turn->close_ns != 0))
        return ready;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0 || (int32_t)t == turn->tenant || u->wants == 0 || u->cap_ppm == 0)
            continue;
        uint64_t at = drr_ready_ns(k, u);
        ready = at < ready ? at : ready;
    }
    return ready;
}

void time_tick(struct harp_core *k)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct turn *turn = &k->device[dev].turn;
        if (turn->tenant >= 0 && overdue_ns(turn) <= k->now)
            give_up(k, dev);
        if (turn->tenant >= 0 && turn->preempt_ns != 0 && turn->preempt_ns <= k->now)
            close_turn(k, dev);
        if (capped_ready_ns(k, dev) > k->now)
            continue;
        for (uint32_t t = 0; t < k->n_tenants; t++)
            drr_refill(&k->tenant[t].use[dev], k->now);
        if (turn->tenant >= 0)
            close_turn(k, dev);
        else
            time_pick(k, dev);
    }
}

uint64_t time_next(const struct harp_core *k)
{
    uint64_t next = HARP_NEVER;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        const struct turn *turn = &k->device[dev].turn;
        if (turn->tenant >= 0) {
            uint64_t at = overdue_ns(turn);
            next = at < next ? at : next;
            if (turn->preempt_ns != 0 && turn->preempt_ns < next)
                next = turn->preempt_ns;
        }
        uint64_t ready = capped_ready_ns(k, dev);
        next = ready < next ? ready : next;
    }
    return next;
}
