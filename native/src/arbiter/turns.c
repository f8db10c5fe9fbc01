/* SPDX-License-Identifier: Apache-2.0
 *
 * Gates and turns. While one tenant wants, its turn lasts until somebody else wants; while several
 * do, turns are quanta. A turn is over when all its processes have yielded.
 */
#include <string.h>

#include "policy.h"

static int held(const struct gate *g)
{
    return g->state == HARP_GATE_OPEN || g->state == HARP_GATE_CLOSING;
}

static void send_gate(struct harp_core *k, struct client *c, struct lane *l, uint16_t op,
                      uint64_t quantum_ns, uint32_t change)
{
    struct harp_msg m = {
        .op = op, .dev = l->dev, .cls = l->number, .epoch = l->turn.epoch, .a = change};
    if (op == HARP_OPEN_GATE) {
        m.quantum_ns = quantum_ns;
        m.window_ns = l->turn.window_ns;
    }
    core_send(k, c, &m);
}

/* Notes that a client has work; true if its tenant was idle until now. */
int turn_want(struct harp_core *k, struct lane *l, struct client *c)
{
    struct account *a = account_of(k, l, (uint32_t)c->tenant);
    struct gate *g = gate_of(l, c);
    if (g->want)
        return 0;
    g->want = 1;
    a->active_ns = k->now;
    if (++a->wants > 1)
        return 0;
    l->wanting++;
    a->arrived = ++k->arrivals;
    active_enter(k, l, (uint32_t)c->tenant);
    if (l->turn.tenant == c->tenant)
        return 0;
    active_expire(k, l);
    policy_of(k)->arrive(k, l, (uint32_t)c->tenant);
    a->wait_since = k->now;
    return 1;
}

void turn_waits_no_more(struct harp_core *k, struct account *a)
{
    if (a->wait_since != 0)
        a->wait_ns += k->now - a->wait_since;
    a->wait_since = 0;
}

void turn_unwant(struct harp_core *k, struct lane *l, struct client *c)
{
    struct account *a = account_of(k, l, (uint32_t)c->tenant);
    struct gate *g = gate_of(l, c);
    if (!g->want)
        return;
    g->want = 0;
    if (--a->wants > 0)
        return;
    l->wanting--;
    turn_waits_no_more(k, a);
}

static void open_gate(struct harp_core *k, struct client *c, struct lane *l, uint64_t quantum_ns)
{
    struct account *a = account_of(k, l, (uint32_t)c->tenant);
    struct gate *g = gate_of(l, c);
    g->want = 0;
    if (--a->wants == 0)
        l->wanting--;
    g->state = HARP_GATE_OPEN;
    g->epoch = l->turn.epoch;
    g->ends_ns = 0;
    g->backlog = 0;
    l->turn.open++;
    send_gate(k, c, l, HARP_OPEN_GATE, quantum_ns, 0);
}

static void open_gates(struct harp_core *k, struct lane *l)
{
    for (int32_t i = k->tenant[l->turn.tenant].first; i >= 0; i = k->client[i].next) {
        const struct gate *g = gate_of(l, &k->client[i]);
        if (g->want && g->state == HARP_GATE_CLOSED)
            open_gate(k, &k->client[i], l, l->turn.quantum_ns);
    }
}

/* Starts a quantum of the current turn, or an open-ended one for who is alone. */
static void begin(struct harp_core *k, struct lane *l, uint32_t eligible)
{
    struct turn *turn = &l->turn;
    uint32_t tenant = (uint32_t)turn->tenant;
    const struct account *a = account_of(k, l, tenant);
    turn->began_ns = turn->alive_ns = k->now;
    turn->close_ns = turn->preempt_ns = turn->ends_ns = l->plan_ns = 0;
    turn->sole = eligible == 1;
    if (turn->follows)
        turn->quantum_ns = gang_quantum_ns(k, tenant);
    else if (turn->sole && a->cap_ppm == 0 && !gang_contended(k, l, tenant))
        turn->quantum_ns = 0;
    else
        turn->quantum_ns = cap_quantum_ns(k, a);
    turn->window_ns = class_window_ns(k, l, tenant, turn->quantum_ns);
}

void turn_open(struct harp_core *k, struct lane *l, uint32_t tenant, uint32_t eligible, int follows)
{
    const struct policy *p = policy_of(k);
    struct account *a = account_of(k, l, tenant);
    struct turn *turn = &l->turn;
    *turn = (struct turn){.tenant = (int32_t)tenant,
                          .tenant_id = k->tenant[tenant].id,
                          .epoch = ++l->epoch,
                          .opened_ns = k->now,
                          .floor_ns = k->now,
                          .wanted_ns = a->wait_since,
                          .starved = p->rank(k, l, tenant) == RANK_STARVED,
                          .follows = follows != 0,
                          .after = -1};
    if (l->before.open > 0 && l->before.ends_ns != 0) {
        turn->after = l->before.tenant;
    } else if (l->last_over_ns == k->now) {
        turn->after = l->last_tenant;
        turn->before = l->last;
    }
    if (turn->after >= 0)
        turn->after_id = k->tenant[turn->after].id;
    p->serve(k, l, tenant);
    turn_waits_no_more(k, a);
    begin(k, l, eligible);
    open_gates(k, l);
    if (!follows)
        gang_opened(k, l, tenant);
    else if (l->wanting > 0 || l->before.open > 0)
        gang_bound(k, l);
}

/* One more process of the tenant whose turn it is: for what is left of the quantum. */
void turn_join(struct harp_core *k, struct lane *l, struct client *c)
{
    struct turn *turn = &l->turn;
    uint64_t since = k->now - turn->began_ns;
    const struct gate *g = gate_of(l, c);
    if (!g->want || g->state != HARP_GATE_CLOSED || turn->close_ns != 0 || turn->ends_ns != 0)
        return;
    if (turn->quantum_ns == 0)
        open_gate(k, c, l, 0);
    else if (since + HARP_REJOIN_NS < turn->quantum_ns)
        open_gate(k, c, l, turn->quantum_ns - since);
}

/* The announced turn goes on: the same epoch, a new quantum, for those of its processes that have
 * more to do and those that wait. */
void turn_renew(struct harp_core *k, struct lane *l, uint32_t eligible, int follows)
{
    l->turn.starved = 0;
    l->turn.follows = follows != 0;
    policy_of(k)->serve(k, l, (uint32_t)l->turn.tenant);
    /* What it has queued is paid for already: the new quantum is for what it has not. */
    uint64_t rest = l->turn.ends_ns > k->now ? l->turn.ends_ns - k->now : 0;
    begin(k, l, eligible);
    if (l->turn.quantum_ns != 0 && !follows)
        l->turn.quantum_ns += rest;
    for (int32_t i = k->tenant[l->turn.tenant].first; i >= 0; i = k->client[i].next) {
        struct gate *g = gate_of(l, &k->client[i]);
        if (!held(g) || g->epoch != l->turn.epoch || !g->backlog)
            continue;
        g->state = HARP_GATE_OPEN;
        g->ends_ns = 0;
        g->backlog = 0;
        send_gate(k, &k->client[i], l, HARP_OPEN_GATE, l->turn.quantum_ns, 1);
    }
    open_gates(k, l);
    if (!follows)
        gang_opened(k, l, (uint32_t)l->turn.tenant);
    else if (l->wanting > 0 || l->before.open > 0)
        gang_bound(k, l);
}

static void tell_change(struct harp_core *k, struct lane *l)
{
    for (int32_t i = k->tenant[l->turn.tenant].first; i >= 0; i = k->client[i].next)
        if (gate_of(l, &k->client[i])->state == HARP_GATE_OPEN)
            send_gate(k, &k->client[i], l, HARP_OPEN_GATE, l->turn.quantum_ns, 1);
}

void turn_bound(struct harp_core *k, struct lane *l)
{
    struct turn *turn = &l->turn;
    if (turn->quantum_ns != 0 || turn->close_ns != 0)
        return;
    turn->sole = 0;
    turn->began_ns = k->now;
    turn->quantum_ns = cap_quantum_ns(k, account_of(k, l, (uint32_t)turn->tenant));
    turn->window_ns = class_window_ns(k, l, (uint32_t)turn->tenant, turn->quantum_ns);
    tell_change(k, l);
}

void turn_close(struct harp_core *k, struct lane *l)
{
    struct turn *turn = &l->turn;
    if (turn->tenant < 0 || turn->close_ns != 0)
        return;
    turn->close_ns = k->now;
    turn->preempt_ns = 0;
    for (int32_t i = k->tenant[turn->tenant].first; i >= 0; i = k->client[i].next) {
        struct gate *g = gate_of(l, &k->client[i]);
        if (g->state != HARP_GATE_OPEN)
            continue;
        g->state = HARP_GATE_CLOSING;
        if (g->ends_ns == 0) /* else it has closed by itself and said so */
            send_gate(k, &k->client[i], l, HARP_CLOSE_GATE, 0, 0);
    }
    gang_closing(k, l, (uint32_t)turn->tenant);
}

void turn_promote(struct harp_core *k, struct lane *l)
{
    charge_before(k, l);
    l->before = l->turn;
    memset(&l->turn, 0, sizeof l->turn);
    l->turn.tenant = -1;
    l->plan_ns = 0;
}

void turn_left(struct harp_core *k, struct lane *l, struct turn *turn)
{
    uint32_t tenant = (uint32_t)turn->tenant;
    struct account *a = account_of(k, l, tenant);
    a->active_ns = k->now;
    if (a->wants > 0 && a->wait_since == 0)
        a->wait_since = k->now;
    handover_judge(k, l, turn);
    handover_learn(k, l, turn);
    if (turn == &l->turn) {
        charge_over(k, l, turn);
        l->last = turn->work;
        l->last_tenant = turn->tenant;
        l->last_over_ns = turn->ends_ns != 0 ? k->now : 0;
        if (a->wants > 0)
            gang_closing(k, l, tenant);
        memset(turn, 0, sizeof *turn);
        turn->tenant = -1;
        l->plan_ns = 0;
    } else {
        charge_over(k, l, turn);
        class_observe(k, l, turn);
        if (l->turn.tenant >= 0)
            l->turn.before = turn->work;
        else
            charge_before(k, l);
    }
    gang_ended(k, l, tenant);
    if (l->turn.ends_ns != 0)
        handover_decide(k, l);
    else
        handover_urgent(k, l);
}

void turn_give_up(struct harp_core *k, struct lane *l, struct turn *turn)
{
    for (int32_t i = k->tenant[turn->tenant].first; i >= 0; i = k->client[i].next) {
        struct gate *g = gate_of(l, &k->client[i]);
        if (held(g) && g->epoch == turn->epoch) {
            g->state = HARP_GATE_OVERDUE;
            g->ends_ns = 0;
            core_log(k, &k->client[i], l->dev, 0, "gate_overdue");
        }
    }
    turn->open = 0;
    charge_report(k, l, turn, k->now - turn->opened_ns, 0, 1);
    l->late = (struct late){.tenant = turn->tenant,
                            .epoch = turn->epoch,
                            .opened_ns = turn->opened_ns,
                            .charged_ns = k->now - turn->opened_ns,
                            .others_ns = l->charged_ns};
    turn_left(k, l, turn);
}

void turn_window(struct harp_core *k, struct lane *l)
{
    struct turn *turn = &l->turn;
    if (turn->tenant < 0 || turn->quantum_ns != 0 || turn->close_ns != 0)
        return;
    uint64_t window = class_window_ns(k, l, (uint32_t)turn->tenant, 0);
    if (window == turn->window_ns)
        return;
    turn->window_ns = window;
    tell_change(k, l);
}

struct turn *turn_of(struct lane *l, uint64_t epoch)
{
    if (l->turn.tenant >= 0 && l->turn.epoch == epoch)
        return &l->turn;
    if (l->before.tenant >= 0 && l->before.open > 0 && l->before.epoch == epoch)
        return &l->before;
    return NULL;
}

uint64_t turn_end_ns(const struct turn *turn)
{
    uint64_t end = turn->quantum_ns != 0 ? turn->began_ns + turn->quantum_ns : HARP_NEVER;
    return turn->close_ns != 0 && turn->close_ns < end ? turn->close_ns : end;
}

/* A holder whose kernel is long says now and then that it still drains; one that is stopped does
 * not. Neither holds the device for ever. */
uint64_t turn_overdue_ns(const struct turn *turn)
{
    uint64_t end = turn_end_ns(turn);
    if (end == HARP_NEVER)
        return end;
    uint64_t heard = turn->alive_ns > end ? turn->alive_ns : end;
    uint64_t at = heard + HARP_OVERDUE_NS, most = end + HARP_HUNG_NS;
    return at < most ? at : most;
}
