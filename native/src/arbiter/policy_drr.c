/* SPDX-License-Identifier: Apache-2.0
 *
 * Weighted fair queueing in measured engine time. Quanta, and what is used beyond one carried over
 * as debt, are those of deficit round robin (Shreedhar & Varghese, SIGCOMM 1995); the order is that
 * of start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996): a tenant's virtual time grows by
 * used * PPM / weight, the least runs next, and the lane's is that of the tenant in service.
 * Differences are credit and debt, both bounded (config.burst_ns, HARP_DEBT_NS of own engine time).
 * Time used while nobody else wanted moves everybody along: it is nobody's debt.
 *
 * Classes go before that order, but not for ever: latency is ahead of others only by its burst,
 * best effort waits at most HARP_STARVE_NS.
 */
#include "policy.h"

static uint64_t scaled(uint64_t ns, uint64_t weight)
{
    return ns / weight * HARP_PPM + ns % weight * HARP_PPM / weight;
}

/* Shares are guaranteed parts; who has none splits what the active ones leave, at least 1 % each;
 * shares of more than the whole scale down. Best effort counts by itself: it has what others leave.
 */
static uint64_t weight_of(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    const struct account *a = account_of(k, l, tenant);
    uint32_t group = a->listed ? a->group : class_of(k, l, tenant) == HARP_CLASS_BEST_EFFORT;
    uint64_t sum = l->share_sum[group], without = l->without[group];
    if (!a->listed) {
        sum += a->share_ppm;
        without += a->share_ppm == 0;
    }
    uint64_t least = HARP_PPM / 100;
    uint64_t reserved = without * least < HARP_PPM / 2 ? without * least : HARP_PPM / 2;
    uint64_t weight;
    if (a->share_ppm != 0)
        weight =
            sum + reserved > HARP_PPM ? a->share_ppm * (HARP_PPM - reserved) / sum : a->share_ppm;
    else
        weight = (sum + reserved > HARP_PPM ? reserved : HARP_PPM - sum) / without;
    return weight < 100 ? 100 : weight;
}

/* Who is further ahead than its burst has lost the right to go first until half of it is back: not
 * in crumbs. */
static void judge_burst(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    struct account *a = account_of(k, l, tenant);
    uint64_t burst = scaled(k->config.burst_ns, weight_of(k, l, tenant));
    if (a->vtime > l->vtime + burst)
        a->spent = 1;
    else if (a->vtime <= l->vtime + burst / 2)
        a->spent = 0;
}

/* Bounds what an idle tenant is owed. */
static void bound_credit(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    struct account *a = account_of(k, l, tenant);
    if (a->spent)
        judge_burst(k, l, tenant);
    if (a->vtime >= l->vtime)
        return;
    uint64_t credit = scaled(k->config.burst_ns, weight_of(k, l, tenant));
    if (l->vtime > credit && a->vtime < l->vtime - credit)
        a->vtime = l->vtime - credit;
}

static void charge(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                   uint64_t beside_ns)
{
    struct account *a = account_of(k, l, tenant);
    uint64_t weight = weight_of(k, l, tenant), ns = alone_ns + beside_ns;
    a->owed_ns -= ns < a->owed_ns ? ns : a->owed_ns;
    if (alone_ns != 0) {
        a->vtime += scaled(alone_ns, weight);
        if (l->vtime < a->vtime)
            l->vtime = a->vtime;
        for (int32_t t = first_of(l); t >= 0; t = account_of(k, l, (uint32_t)t)->next)
            if (account_of(k, l, (uint32_t)t)->wants > 0)
                bound_credit(k, l, (uint32_t)t);
    }
    a->vtime += scaled(beside_ns, weight);
    uint64_t most = l->vtime + scaled(HARP_DEBT_NS, weight);
    if (a->vtime > most)
        a->vtime = most;
    if (l->furthest < a->vtime)
        l->furthest = a->vtime;
    judge_burst(k, l, tenant);
}

static enum rank rank(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    const struct account *a = account_of(k, l, tenant);
    switch (class_of(k, l, tenant)) {
    case HARP_CLASS_LATENCY:
        return a->spent ? RANK_STANDARD : RANK_LATENCY;
    case HARP_CLASS_BEST_EFFORT:
        return a->owed_ns > 0 || (a->wait_since != 0 && k->now - a->wait_since >= HARP_STARVE_NS)
                   ? RANK_STARVED
                   : RANK_BEST;
    default:
        return RANK_STANDARD;
    }
}

static int runs_before(const struct harp_core *k, const struct lane *l, uint32_t a, uint32_t b)
{
    uint64_t mine = account_of(k, l, a)->vtime, other = account_of(k, l, b)->vtime;
    return mine < other || (mine == other && a < b);
}

/* The lane's virtual time is that of the tenant which is owed most. Who goes before its turn by
 * class does not move it; nor does best effort that waits behind others. */
static void serve(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    int best_only = class_of(k, l, tenant) == HARP_CLASS_BEST_EFFORT;
    uint64_t least = account_of(k, l, tenant)->vtime;
    if (rank(k, l, tenant) == RANK_STARVED) {
        struct account *a = account_of(k, l, tenant);
        if (a->owed_ns == 0)
            a->owed_ns = k->config.quantum_ns;
        return;
    }
    for (int32_t t = first_of(l); t >= 0; t = account_of(k, l, (uint32_t)t)->next) {
        const struct account *a = account_of(k, l, (uint32_t)t);
        int drains = l->before.open > 0 && l->before.tenant == t; /* likely to want again */
        if ((a->wants == 0 && !drains) || !cap_allows(k, a) || a->vtime >= least ||
            !residency_in(k, l->dev, (uint32_t)t) || (!best_only && a->group == 1))
            continue;
        least = a->vtime;
    }
    if (l->vtime >= least)
        return;
    l->vtime = least;
    for (int32_t t = first_of(l); t >= 0; t = account_of(k, l, (uint32_t)t)->next)
        if (account_of(k, l, (uint32_t)t)->spent)
            judge_burst(k, l, (uint32_t)t);
}

/* An idle lane forgives. */
static void idle(struct harp_core *k, struct lane *l)
{
    if (l->vtime < l->furthest)
        l->vtime = l->furthest;
}

static int ahead(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t holder,
                 uint64_t held_ns)
{
    uint64_t mine =
        account_of(k, l, tenant)->vtime + scaled(HARP_PREEMPT_NS, weight_of(k, l, tenant));
    uint64_t his = account_of(k, l, holder)->vtime + scaled(held_ns, weight_of(k, l, holder));
    return mine < his;
}

/* As its next arrival would find it: credit that is not used in time is none. */
static int64_t credit_ns(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    uint64_t mine = account_of(k, l, tenant)->vtime, weight = weight_of(k, l, tenant);
    if (mine >= l->vtime)
        return -(int64_t)((mine - l->vtime) * weight / HARP_PPM);
    uint64_t behind_by = l->vtime - mine, most = scaled(k->config.burst_ns, weight);
    return (int64_t)((behind_by < most ? behind_by : most) * weight / HARP_PPM);
}

static int behind(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t other)
{
    uint64_t mine =
        account_of(k, l, tenant)->vtime + scaled(k->config.quantum_ns, weight_of(k, l, tenant));
    return mine < account_of(k, l, other)->vtime;
}

const struct policy policy_drr = {.name = "drr",
                                  .arrive = bound_credit,
                                  .rank = rank,
                                  .runs_before = runs_before,
                                  .serve = serve,
                                  .idle = idle,
                                  .charge = charge,
                                  .ahead = ahead,
                                  .weight = weight_of,
                                  .credit_ns = credit_ns,
                                  .behind = behind};
