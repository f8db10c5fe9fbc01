/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is on a device and who is away, where the memory of all does not fit together.
 *
 * While it fits, nobody leaves. Else tenants take turns of residency:
 *  - Who comes in: of those that are away and want time, who has been resident least for its
 *    weight; then who has been away longest. If there is room it comes in beside the others. No
 *    smaller one overtakes it.
 *  - Who leaves for it: who has not wanted for a while, longest idle first; then who has been
 *    resident most for its weight, and more than the one that comes. Of these, as few as make room.
 *  - Nobody leaves before its shortest stay, which is HARP_SWAP_PART times what its swaps take
 *    (times the number that stay together): so swapping costs at most that part of the time. Who is
 *    busy stays a few times that, if it is short.
 *  - Memory asked for goes before: for that others leave at once, and stay away until their
 *    shortest stay would have been over.
 * Time resident, while somebody waits outside, is split among those that are in and busy, and
 * weighted (start-time fair queueing, as policy_drr.c): so a share is one of residency, and what a
 * tenant leaves unused while it is in is not made up for. Within a residency, tenants that are
 * there together share the engine by the lane's policy.
 */
#include "policy.h"

#define MIB (1ull << 20)

static struct residency *of(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    return &k->tenant[tenant].use[dev].swap;
}

static uint64_t movable(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    return k->tenant[tenant].use[dev].leased[HARP_MEM_SWAP] - of(k, dev, tenant)->pinned;
}

static int wants(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint32_t n = 0;
    for (uint32_t lane = 0; lane < HARP_TIME_LANES; lane++)
        n += k->tenant[tenant].use[dev].account[lane].wants;
    return n > 0;
}

/* Since when it neither wants nor has a turn; HARP_NEVER: it does. */
static uint64_t idle_since_ns(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t since = 0;
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        const struct lane *l = &k->device[dev].lane[n];
        const struct account *a = account_of(k, l, tenant);
        if (a->wants > 0 || l->turn.tenant == (int32_t)tenant ||
            (l->before.tenant == (int32_t)tenant && l->before.open > 0))
            return HARP_NEVER;
        since = a->active_ns > since ? a->active_ns : since;
    }
    return since;
}

static int idle(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t since = idle_since_ns(k, dev, tenant);
    return since != HARP_NEVER && since + HARP_SWAP_IDLE_NS <= k->now;
}

/* Memory that would go with the tenant. Who does not answer takes nothing along. */
static uint64_t leaves_behind(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t bytes = 0;
    if (k->tenant[tenant].suspended)
        return 0; /* its processes are stopped in the driver, or their memory is gone already */
    for (int32_t i = k->tenant[tenant].first; i >= 0; i = k->client[i].next) {
        const struct stay *s = &k->client[i].hold[dev].stay;
        if (k->client[i].state == HARP_CLIENT_LIVE && !s->pinned && !s->late)
            bytes += s->on;
    }
    return bytes;
}

/* Room it needs to come back. */
static uint64_t to_bring(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t bytes = 0;
    for (int32_t i = k->tenant[tenant].first; i >= 0; i = k->client[i].next) {
        const struct hold *h = &k->client[i].hold[dev];
        if (k->client[i].state == HARP_CLIENT_LIVE && residency_to_bring(h))
            bytes += h->leased[HARP_MEM_SWAP] - h->stay.on;
    }
    return bytes;
}

static int lives(const struct harp_core *k, uint32_t tenant)
{
    return k->tenant[tenant].id != 0 && k->tenant[tenant].live > 0;
}

/* Best effort counts as little as anybody may. Policies without shares treat all alike. */
static uint64_t weight_of(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t sum = 0, without = 0, most = HARP_PPM / 100;
    if (k->config.policy != HARP_POLICY_DRR)
        return HARP_PPM;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        uint64_t share = k->tenant[t].use[dev].account[HARP_LANE_COMPUTE].share_ppm;
        if (!lives(k, t) || movable(k, dev, t) == 0)
            continue;
        sum += share;
        without += share == 0;
        most = share > most ? share : most;
    }
    uint64_t rest = sum < HARP_PPM && without > 0 ? (HARP_PPM - sum) / without : 0;
    most = rest > most ? rest : most;
    uint64_t own = k->tenant[tenant].use[dev].account[HARP_LANE_COMPUTE].share_ppm;
    own = own != 0 ? own : rest;
    if (own < most / HARP_SWAP_RATIO || k->tenant[tenant].use[dev].cls == HARP_CLASS_BEST_EFFORT)
        own = most / HARP_SWAP_RATIO;
    return own;
}

/* Tenants with something here that can leave, and busy. */
static uint32_t company(const struct harp_core *k, uint32_t dev)
{
    uint32_t n = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++)
        n += lives(k, t) && residency_in(k, dev, t) && movable(k, dev, t) != 0 && !idle(k, dev, t);
    return n;
}

static uint64_t estimate_ns(uint64_t bytes, uint64_t mib_ns)
{
    return bytes / MIB * (mib_ns != 0 ? mib_ns : HARP_SWAP_MIB_NS);
}

uint64_t rotation_quantum_ns(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    const struct rotation *d = &k->device[dev].swap;
    const struct residency *r = of(k, dev, tenant);
    uint64_t bytes = movable(k, dev, tenant);
    uint64_t out = estimate_ns(bytes, d->out_mib), in = estimate_ns(bytes, d->in_mib);
    out = r->out_ns > out ? r->out_ns : out;
    in = r->in_ns > in ? r->in_ns : in;
    uint32_t together = company(k, dev);
    uint64_t ns = HARP_SWAP_PART * (out + in) * (together > 1 ? together : 1);
    return ns > k->config.quantum_ns ? ns : k->config.quantum_ns;
}

/* What a move has shown of the device's speed. Small ones show what a message takes. */
void rotation_learn(struct rotation *d, const struct residency *r, int out)
{
    uint64_t *mib_ns = out ? &d->out_mib : &d->in_mib;
    if (r->phase_bytes < 8 * MIB)
        return;
    uint64_t seen = r->lasting_ns / (r->phase_bytes / MIB);
    seen = seen > 0 ? seen : 1;
    *mib_ns = *mib_ns == 0 ? seen : (*mib_ns + seen) / 2;
}

/* Charges the time since the last step to those that were in while somebody waited. */
void rotation_account(struct harp_core *k)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct rotation *d = &k->device[dev].swap;
        uint64_t passed = k->now - d->charged_ns;
        d->charged_ns = k->now;
        uint32_t n = d->contended ? company(k, dev) : 0;
        for (uint32_t t = 0; d->used && t < k->n_tenants; t++) {
            struct residency *r = of(k, dev, t);
            if (!lives(k, t))
                continue;
            int quiet = idle(k, dev, t);
            if (n > 0 && !quiet && residency_in(k, dev, t) && movable(k, dev, t) != 0)
                r->vtime += passed / n * HARP_PPM / weight_of(k, dev, t);
            if (r->vtime < d->vtime && quiet)
                r->vtime = d->vtime; /* who did not want is owed nothing */
        }
    }
}

/* When the tenant may leave so that `next` comes in. */
static uint64_t may_leave_ns(const struct harp_core *k, uint32_t dev, uint32_t tenant,
                             uint32_t next)
{
    const struct residency *r = of(k, dev, tenant);
    uint64_t stay = rotation_quantum_ns(k, dev, tenant);
    uint64_t longer = HARP_SWAP_STAYS * stay;
    if (longer > HARP_SWAP_BUSY_NS)
        longer = stay > HARP_SWAP_BUSY_NS ? stay : HARP_SWAP_BUSY_NS;
    uint64_t idle_ns = idle_since_ns(k, dev, tenant);
    if (idle_ns != HARP_NEVER)
        idle_ns += HARP_SWAP_IDLE_NS;
    uint64_t behind = of(k, dev, next)->vtime, ahead_ns = k->now;
    uint32_t n = company(k, dev);
    if (behind > r->vtime)
        ahead_ns += (behind - r->vtime) / HARP_PPM * weight_of(k, dev, tenant) * (n > 0 ? n : 1) +
                    HARP_TICK_NS;
    if (ahead_ns < r->since_ns + longer)
        ahead_ns = r->since_ns + longer;
    uint64_t at = idle_ns < ahead_ns ? idle_ns : ahead_ns;
    return r->since_ns + stay > at ? r->since_ns + stay : at;
}

static int may_be_moved(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    return k->tenant[tenant].id != 0 && residency_in(k, dev, tenant) &&
           leaves_behind(k, dev, tenant) != 0;
}

/* Should `a` leave rather than `b`? */
static int leaves_before(const struct harp_core *k, uint32_t dev, uint32_t a, uint32_t b)
{
    int quiet = idle(k, dev, a);
    if (quiet != idle(k, dev, b))
        return quiet;
    if (quiet)
        return idle_since_ns(k, dev, a) < idle_since_ns(k, dev, b);
    return of(k, dev, a)->vtime > of(k, dev, b)->vtime;
}

/* Bytes on their way off the device. */
static uint64_t on_the_way(const struct harp_core *k, uint32_t dev)
{
    uint64_t bytes = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++)
        if (k->tenant[t].id != 0 && of(k, dev, t)->state == HARP_EVICTING)
            bytes += leaves_behind(k, dev, t);
    return bytes;
}

/* Makes as few leave as it takes. `spare`: nobody that may not leave for it yet; its own memory
 * only if `itself`. True if room is on its way. */
static int clear(struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t bytes, int spare,
                 int itself)
{
    uint64_t room = mem_room(k, dev, tenant, 0) + on_the_way(k, dev);
    if (room >= bytes)
        return 1;
    for (uint32_t t = 0; t < k->n_tenants; t++)
        of(k, dev, t)->leaving = 0;
    int32_t last = -1;
    do {
        last = -1;
        for (uint32_t t = 0; t < k->n_tenants; t++)
            if (!of(k, dev, t)->leaving && may_be_moved(k, dev, t) && t != tenant &&
                (!spare || may_leave_ns(k, dev, t, tenant) <= k->now) &&
                (last < 0 || leaves_before(k, dev, t, (uint32_t)last)))
                last = (int32_t)t;
        if (last < 0 && itself && !of(k, dev, tenant)->leaving && may_be_moved(k, dev, tenant))
            last = (int32_t)tenant;
        if (last < 0)
            return 0;
        of(k, dev, (uint32_t)last)->leaving = 1;
        room += leaves_behind(k, dev, (uint32_t)last);
    } while (room < bytes);
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        if (!of(k, dev, t)->leaving)
            continue;
        if (room - leaves_behind(k, dev, t) >= bytes)
            room -= leaves_behind(k, dev, t);
        else
            residency_evict(k, dev, t);
    }
    return 1;
}

/* A request would fit if others left. Who has nothing here yet goes away instead: that costs
 * nothing, and its turn comes. True if the request is to wait. */
int rotation_clear(struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t cls, uint64_t bytes)
{
    if (!k->device[dev].swap.used)
        return 0;
    if (cls == HARP_MEM_SWAP && of(k, dev, tenant)->state == HARP_EVICTING)
        return 1; /* granted as soon as its clients are told */
    if (cls == HARP_MEM_SWAP && residency_in(k, dev, tenant) && of(k, dev, tenant)->on == 0) {
        residency_evict(k, dev, tenant);
        return 1;
    }
    return clear(k, dev, tenant, bytes, 0, cls != HARP_MEM_SWAP);
}

static int waits_outside(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    return lives(k, tenant) && !k->tenant[tenant].suspended &&
           of(k, dev, tenant)->state == HARP_AWAY && wants(k, dev, tenant);
}

/* Does no SWAP memory, and nothing that drains, stand in its way? Then it may as well try: leases
 * that are not used may make it look too large. */
static int is_alone(const struct harp_core *k, uint32_t dev)
{
    uint64_t others = k->device[dev].draining;
    for (uint32_t t = 0; t < k->n_tenants; t++)
        others += k->tenant[t].use[dev].away ? 0 : of(k, dev, t)->on;
    return others == 0;
}

/* Could there be room for it? Not while somebody who does not answer, or cannot leave, has it. */
static int could_fit(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t room = mem_room(k, dev, tenant, 1);
    for (uint32_t t = 0; t < k->n_tenants; t++)
        room += k->tenant[t].id != 0 ? leaves_behind(k, dev, t) : 0;
    return to_bring(k, dev, tenant) <= room || is_alone(k, dev);
}

/* Who comes in next. That remains: others left for it, and smaller ones might overtake it for ever.
 * But for those that need no room at all. */
static int32_t candidate(const struct harp_core *k, uint32_t dev)
{
    int32_t best = -1, before = -1;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct residency *r = of(k, dev, t);
        if (!waits_outside(k, dev, t) || r->not_before_ns > k->now || !could_fit(k, dev, t))
            continue;
        if (to_bring(k, dev, t) == 0)
            return (int32_t)t;
        if (k->tenant[t].id == k->device[dev].swap.candidate)
            before = (int32_t)t;
        const struct residency *b = of(k, dev, best < 0 ? t : (uint32_t)best);
        if (best < 0 || r->vtime < b->vtime || (r->vtime == b->vtime && r->left_ns < b->left_ns))
            best = (int32_t)t;
    }
    return before >= 0 ? before : best;
}

int rotation_settle(struct harp_core *k, uint32_t dev)
{
    struct rotation *d = &k->device[dev].swap;
    int32_t next = candidate(k, dev);
    d->contended = next >= 0;
    if (next < 0) {
        d->candidate = 0;
        return 0;
    }
    uint32_t tenant = (uint32_t)next;
    uint64_t bytes = to_bring(k, dev, tenant);
    if (mem_room(k, dev, tenant, 0) >= bytes) {
        if (d->candidate == k->tenant[tenant].id)
            d->candidate = 0;
        residency_restore(k, dev, tenant);
        return 1;
    }
    if (d->candidate != k->tenant[tenant].id) {
        d->candidate = k->tenant[tenant].id;
        d->mark = k->device[dev].round_no;
    }
    if (!recall_all_settled(k, dev, tenant, d->mark))
        return 0;
    uint64_t leaving = on_the_way(k, dev);
    if (clear(k, dev, tenant, bytes, 1, 0))
        return on_the_way(k, dev) != leaving;
    if (!is_alone(k, dev))
        return 0;
    core_log(k, NULL, dev, bytes, "restore_overfills_device");
    d->candidate = 0;
    residency_restore(k, dev, tenant);
    return 1;
}

/* When somebody may leave, or come back. */
uint64_t rotation_next(const struct harp_core *k, uint32_t dev)
{
    uint64_t next = HARP_NEVER;
    int32_t in = candidate(k, dev);
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        uint64_t at = HARP_NEVER;
        if (waits_outside(k, dev, t))
            at = of(k, dev, t)->not_before_ns;
        else if (in >= 0 && may_be_moved(k, dev, t))
            at = may_leave_ns(k, dev, t, (uint32_t)in);
        if (at > k->now && at < next)
            next = at;
    }
    return next;
}
