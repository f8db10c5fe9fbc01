/* SPDX-License-Identifier: Apache-2.0
 *
 * Gangs: a tenant that computes on several devices has its turns there at the same time, so that a
 * kernel which waits for its fellow on another device does not spin through a turn in vain
 * (coscheduling: Ousterhout, ICDCS 1982).
 *
 * The tenant is picked by the policy on the lowest device where it wants; that turn leads. On its
 * other devices it is next: holders are closed at once, and the leading turn's end closes all. On a
 * device where others are owed time more than the gang is, the gang waits before it is picked at
 * all; such a claim counts only from those for whom that device is the lowest, so waiting goes from
 * lower devices to higher ones and never in a ring. What drains on one device may itself wait for
 * what is held up on another: after HARP_GANG_NS the gang opens beside it.
 */
#include "policy.h"

static struct lane *compute_lane(const struct harp_core *k, uint32_t dev)
{
    return (struct lane *)&k->device[dev].lane[HARP_LANE_COMPUTE];
}

static int wants_on(const struct harp_core *k, uint32_t tenant, uint32_t dev)
{
    const struct use *u = &k->tenant[tenant].use[dev];
    const struct account *a = &u->account[HARP_LANE_COMPUTE];
    return u->granted && !u->alone && a->wants > 0 && residency_in(k, dev, tenant) &&
           cap_ready_ns(k, a) <= k->now;
}

/* Its turn there has not drained. */
static int holds(const struct lane *l, uint32_t tenant)
{
    return l->turn.tenant == (int32_t)tenant ||
           (l->before.tenant == (int32_t)tenant && l->before.open > 0);
}

static int lowest_wanted(const struct harp_core *k, uint32_t tenant)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        if (wants_on(k, tenant, dev))
            return (int)dev;
    return -1;
}

/* Is somebody on a higher device owed time before this gang takes it? */
static int held_back(const struct harp_core *k, uint32_t tenant, uint32_t dev)
{
    const struct lane *l = compute_lane(k, dev);
    for (int32_t i = first_of(l); i >= 0; i = account_of(k, l, (uint32_t)i)->next) {
        uint32_t t = (uint32_t)i;
        const struct account *a = account_of(k, l, t);
        if (t == tenant)
            continue;
        int runs = l->turn.tenant == i && l->turn.close_ns == 0 && !l->turn.follows;
        if (!runs && (a->wants == 0 || !residency_in(k, dev, t) || cap_ready_ns(k, a) > k->now))
            continue;
        if (!runs && !k->tenant[t].use[dev].alone && lowest_wanted(k, t) != (int)dev)
            continue;
        if (policy_of(k)->behind(k, l, t, tenant))
            return 1;
    }
    return 0;
}

enum gang_role gang_role(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    const struct tenant *t = &k->tenant[tenant];
    if (l->number != HARP_LANE_COMPUTE || k->n_devices < 2 || t->use[l->dev].alone)
        return GANG_NONE;
    if (t->gang >= 0 && t->gang != (int32_t)l->dev) {
        const struct lane *lead = compute_lane(k, (uint32_t)t->gang);
        int runs = lead->turn.tenant == (int32_t)tenant && lead->turn.close_ns == 0;
        if (runs || (holds(lead, tenant) && l->turn.tenant != (int32_t)tenant))
            return GANG_FOLLOW;
    }
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        if (dev == l->dev || t->use[dev].alone ||
            (!wants_on(k, tenant, dev) && !holds(compute_lane(k, dev), tenant)))
            continue;
        if (dev < l->dev || held_back(k, tenant, dev))
            return GANG_WAIT;
    }
    return GANG_NONE;
}

/* Does somebody else want one of the devices that it holds or wants? */
int gang_contended(const struct harp_core *k, const struct lane *lead, uint32_t tenant)
{
    if (lead->number != HARP_LANE_COMPUTE || k->tenant[tenant].use[lead->dev].alone)
        return 0;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        const struct lane *l = compute_lane(k, dev);
        int own = account_of(k, l, tenant)->wants > 0;
        if (l == lead || k->tenant[tenant].use[dev].alone || (!own && !holds(l, tenant)))
            continue;
        if (l->wanting > (uint32_t)own ||
            (l->turn.tenant >= 0 && l->turn.tenant != (int32_t)tenant) ||
            (l->before.open > 0 && l->before.tenant != (int32_t)tenant))
            return 1;
    }
    return 0;
}

/* The policy has picked the tenant here: its other devices are to follow, or go on. */
void gang_opened(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    if (l->number != HARP_LANE_COMPUTE || k->tenant[tenant].use[l->dev].alone)
        return;
    k->tenant[tenant].gang = (int32_t)l->dev;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct lane *other = compute_lane(k, dev);
        if (dev == l->dev)
            continue;
        if (other->turn.tenant == (int32_t)tenant)
            handover_decide(k, other);
        else if (wants_on(k, tenant, dev))
            handover_consider(k, other, tenant);
    }
}

/* A follower that ends when its leader does goes on only if that does, which is not known yet. */
int gang_defers(const struct harp_core *k, const struct lane *l)
{
    if (!l->turn.follows || k->tenant[l->turn.tenant].gang < 0)
        return 0;
    const struct turn *lead = &compute_lane(k, (uint32_t)k->tenant[l->turn.tenant].gang)->turn;
    return lead != &l->turn && lead->tenant == l->turn.tenant && lead->close_ns == 0 &&
           (lead->ends_ns != 0 || turn_end_ns(lead) <= turn_end_ns(&l->turn) + HARP_REJOIN_NS);
}

/* A follower's quantum is what is left of the leader's. */
uint64_t gang_quantum_ns(const struct harp_core *k, uint32_t tenant)
{
    const struct turn *lead = &compute_lane(k, (uint32_t)k->tenant[tenant].gang)->turn;
    uint64_t end = lead->tenant == (int32_t)tenant ? turn_end_ns(lead) : k->now;
    if (end == HARP_NEVER)
        return 0;
    return end > k->now + HARP_PREEMPT_NS ? end - k->now : HARP_PREEMPT_NS;
}

/* The leading turn is to end: so are those that follow. */
void gang_closing(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    if (l->number != HARP_LANE_COMPUTE || k->tenant[tenant].gang != (int32_t)l->dev)
        return;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct lane *other = compute_lane(k, dev);
        if (dev == l->dev || other->turn.tenant != (int32_t)tenant || !other->turn.follows)
            continue;
        turn_close(k, other);
        handover_decide(k, other);
    }
}

/* A turn has drained. If it led, another one does from now on: one that runs on, or one on a lower
 * device whose work may wait for more on this. */
void gang_ended(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    struct tenant *t = &k->tenant[tenant];
    if (l->number != HARP_LANE_COMPUTE || t->gang != (int32_t)l->dev || holds(l, tenant))
        return;
    t->gang = -1;
    for (uint32_t dev = 0; dev < k->n_devices && t->gang < 0; dev++) {
        struct lane *other = compute_lane(k, dev);
        int runs = other->turn.tenant == (int32_t)tenant && other->turn.close_ns == 0;
        if (t->use[dev].alone || (!runs && !(dev < l->dev && holds(other, tenant))))
            continue;
        if (runs)
            other->turn.follows = 0;
        t->gang = (int32_t)dev;
    }
}

/* Somebody wants the device of an open-ended turn that follows: the whole gang goes on in a
 * quantum, or it would follow for ever. True if that was the case. */
int gang_bound(struct harp_core *k, struct lane *l)
{
    int32_t tenant = l->turn.tenant;
    if (tenant < 0 || !l->turn.follows || l->turn.quantum_ns != 0)
        return 0;
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        if (compute_lane(k, dev)->turn.tenant == tenant &&
            (compute_lane(k, dev)->turn.follows || (int32_t)dev == k->tenant[tenant].gang))
            turn_bound(k, compute_lane(k, dev));
    return 1;
}

/* Does it hold the lane, and want a device that it does not hold? Its work may wait for that. */
int gang_incomplete(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    const struct tenant *t = &k->tenant[tenant];
    if (l->number != HARP_LANE_COMPUTE || t->use[l->dev].alone || !holds(l, tenant))
        return 0;
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        if (dev != l->dev && !t->use[dev].alone && !holds(compute_lane(k, dev), tenant) &&
            residency_in(k, dev, tenant) && account_of(k, compute_lane(k, dev), tenant)->wants > 0)
            return 1;
    return 0;
}

/* Is `tenant` one of two that keep `first` off a device? Then it is to get done before. */
static int is_in_the_way(const struct harp_core *k, uint32_t tenant, uint32_t first)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        const struct lane *l = compute_lane(k, dev);
        if (account_of(k, l, first)->wants > 0 && !holds(l, first) && l->turn.tenant >= 0 &&
            l->before.open > 0 && holds(l, tenant))
            return 1;
    }
    return 0;
}

/* One gang at a time is opened beside drains, until it has all of its devices: each device has one
 * place beside, and two gangs could take one each of what both need. */
static int may_go_beside(const struct harp_core *k, uint32_t tenant)
{
    if (k->tenant[tenant].id == k->beside)
        return 1;
    for (uint32_t t = 0; t < k->n_tenants && k->beside != 0; t++)
        for (uint32_t dev = 0; k->tenant[t].id == k->beside && dev < k->n_devices; dev++)
            if (gang_incomplete(k, compute_lane(k, dev), t))
                return is_in_the_way(k, tenant, t);
    return 1;
}

static int32_t waiting_follower(const struct harp_core *k, const struct lane *l)
{
    int32_t oldest = -1;
    for (int32_t i = l->wanting > 0 ? first_of(l) : -1; i >= 0;
         i = account_of(k, l, (uint32_t)i)->next) {
        const struct account *a = account_of(k, l, (uint32_t)i);
        if (a->wants > 0 && residency_in(k, l->dev, (uint32_t)i) && i != l->turn.tenant &&
            !(l->before.open > 0 && l->before.tenant == i) &&
            gang_role(k, l, (uint32_t)i) == GANG_FOLLOW && may_go_beside(k, (uint32_t)i) &&
            (oldest < 0 || a->arrived < account_of(k, l, (uint32_t)oldest)->arrived))
            oldest = i;
    }
    return oldest;
}

/* When a gang that is to be opened here next has waited long enough for a drain. */
uint64_t gang_patience_ns(const struct harp_core *k, const struct lane *l)
{
    if (l->number != HARP_LANE_COMPUTE || k->n_devices < 2 ||
        (l->turn.tenant < 0) == (l->before.open == 0))
        return HARP_NEVER;
    uint64_t end = turn_end_ns(l->turn.tenant >= 0 ? &l->turn : &l->before);
    if (end == HARP_NEVER || waiting_follower(k, l) < 0)
        return HARP_NEVER;
    return end + HARP_GANG_NS;
}

void gang_impatient(struct harp_core *k, struct lane *l)
{
    int32_t tenant = waiting_follower(k, l);
    if (tenant < 0)
        return;
    k->beside = k->tenant[tenant].id;
    if (l->turn.tenant >= 0)
        handover_now(k, l, (uint32_t)tenant, 2, 1);
    else
        turn_open(k, l, (uint32_t)tenant, 2, 1);
}
