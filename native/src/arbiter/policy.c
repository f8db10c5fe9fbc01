/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is next on a lane: the policy's order over those that want, may run and do not wait for their
 * gang. Foreseeing asks the same before a turn has ended, with what it is expected to cost.
 */
#include "policy.h"

const struct policy *policy_of(const struct harp_core *k)
{
    switch (k->config.policy) {
    case HARP_POLICY_PRIORITY:
        return &policy_priority;
    case HARP_POLICY_FIFO:
        return &policy_fifo;
    default:
        return &policy_drr;
    }
}

void policy_no_event(struct harp_core *k, struct lane *l, uint32_t tenant)
{
}

void policy_no_idle(struct harp_core *k, struct lane *l)
{
}

void policy_no_charge(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                      uint64_t beside_ns)
{
}

int policy_came_before(const struct harp_core *k, const struct lane *l, uint32_t a, uint32_t b)
{
    return account_of(k, l, a)->arrived < account_of(k, l, b)->arrived;
}

int policy_never_ahead(const struct harp_core *k, const struct lane *l, uint32_t tenant,
                       uint32_t holder, uint64_t held_ns)
{
    return 0;
}

/* While the turn before drains and no other is open the device is busy; only latency goes beside.
 */
static int waits_for_drain(const struct lane *l, uint32_t tenant, enum rank rank)
{
    return l->before.open > 0 && (l->before.tenant == (int32_t)tenant || rank != RANK_LATENCY);
}

struct choice policy_pick(struct harp_core *k, struct lane *l)
{
    const struct policy *p = policy_of(k);
    /* Who drains is likely to want again. */
    struct choice best = {.tenant = -1, .rank = RANK_BEST, .eligible = l->before.open > 0};
    active_expire(k, l);
    for (int32_t i = l->wanting > 0 ? first_of(l) : -1; i >= 0;
         i = account_of(k, l, (uint32_t)i)->next) {
        uint32_t t = (uint32_t)i;
        struct account *a = account_of(k, l, t);
        if (a->wants == 0 || !residency_in(k, l->dev, t))
            continue;
        cap_refill(k, a);
        enum gang_role role = gang_role(k, l, t);
        if (role != GANG_FOLLOW && !cap_allows(k, a))
            continue;
        best.eligible++;
        enum rank rank = role == GANG_FOLLOW ? RANK_GANG : p->rank(k, l, t);
        if (role == GANG_WAIT || waits_for_drain(l, t, rank))
            continue;
        if (best.tenant < 0 || rank < best.rank ||
            (rank == best.rank && p->runs_before(k, l, t, (uint32_t)best.tenant))) {
            best.tenant = i;
            best.rank = rank;
            best.follows = role == GANG_FOLLOW;
        }
    }
    return best;
}

struct choice policy_foresee(struct harp_core *k, struct lane *l)
{
    uint32_t holder = (uint32_t)l->turn.tenant, more = 0;
    struct account *a = account_of(k, l, holder);
    for (int32_t i = k->tenant[holder].first; i >= 0; i = k->client[i].next) {
        const struct gate *g = gate_of(l, &k->client[i]);
        more += (g->state == HARP_GATE_OPEN || g->state == HARP_GATE_CLOSING) &&
                g->epoch == l->turn.epoch && g->backlog;
    }
    cap_refill(k, a);
    const struct account now = *a;
    uint32_t wanting = l->wanting;
    uint64_t furthest = l->furthest, predicted = charge_predicted(&l->turn, l->turn.ends_ns);
    a->wants += more;
    l->wanting += now.wants == 0 && more > 0;
    if (now.wants == 0)
        a->arrived = k->arrivals + 1;
    cap_charge(a, predicted);
    policy_of(k)->charge(k, l, holder, 0, predicted);
    struct choice next = policy_pick(k, l);
    struct account later = *a; /* the list may have changed, not the holder's place in it */
    *a = now;
    a->prev = later.prev;
    a->next = later.next;
    a->listed = later.listed;
    l->wanting = wanting;
    l->furthest = furthest;
    return next;
}

enum rank policy_holder_rank(const struct harp_core *k, const struct lane *l)
{
    if (l->turn.follows)
        return RANK_GANG;
    if (l->turn.starved)
        return RANK_STARVED;
    return policy_of(k)->rank(k, l, (uint32_t)l->turn.tenant);
}
