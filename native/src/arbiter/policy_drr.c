/* SPDX-License-Identifier: Apache-2.0
 *
 * Weighted deficit round-robin in measured engine time, kept as virtual time: a tenant's vtime
 * grows by used * PPM / weight, the backlogged tenant with the least vtime runs next. Differences
 * of vtime are credit and debt; both are bounded (HARP_CREDIT_NS, HARP_DEBT_NS of own engine time).
 * Time used while nobody else wanted moves everybody along: it is nobody's debt.
 */
#include "state.h"

static uint64_t scaled(uint64_t ns, uint64_t weight)
{
    return ns / weight * HARP_PPM + ns % weight * HARP_PPM / weight;
}

static int active(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    const struct use *u = &k->tenant[tenant].use[dev];
    return u->wants > 0 || k->device[dev].turn.tenant == (int32_t)tenant ||
           (u->active_ns != 0 && k->now - u->active_ns < HARP_ACTIVE_NS);
}

/* Shares are guaranteed parts; who has none splits what the active ones leave, at least 1 % each;
 * shares of more than the whole scale down. */
uint64_t drr_weight(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    uint64_t sum = 0, without = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0 || !u->granted || (t != tenant && !active(k, dev, t)))
            continue;
        sum += u->share_ppm;
        without += u->share_ppm == 0;
    }
    uint64_t least = HARP_PPM / 100;
    uint64_t reserved = without * least < HARP_PPM / 2 ? without * least : HARP_PPM / 2;
    uint64_t share = k->tenant[tenant].use[dev].share_ppm;
    uint64_t weight;
    if (share != 0)
        weight = sum + reserved > HARP_PPM ? share * (HARP_PPM - reserved) / sum : share;
    else
        weight = (sum + reserved > HARP_PPM ? reserved : HARP_PPM - sum) / without;
    return weight < 1000 ? 1000 : weight;
}

void drr_refill(struct use *u, uint64_t now)
{
    if (u->cap_ppm == 0)
        return;
    uint64_t dt = now - u->tokens_ns;
    if (dt > 1000 * HARP_DEBT_NS)
        dt = 1000 * HARP_DEBT_NS;
    u->tokens_ns = now;
    u->tokens += (int64_t)(dt * u->cap_ppm);
    if (u->tokens > HARP_BUCKET_NS * HARP_PPM)
        u->tokens = HARP_BUCKET_NS * HARP_PPM;
}

/* A capped tenant starts again only when a whole quantum is saved up: not in crumbs. */
static int64_t threshold(const struct harp_core *k)
{
    int64_t ns = (int64_t)k->config.quantum_ns;
    return (ns > HARP_BUCKET_NS / 2 ? HARP_BUCKET_NS / 2 : ns) * HARP_PPM;
}

int drr_may_run(const struct harp_core *k, const struct use *u)
{
    return u->cap_ppm == 0 || u->tokens >= threshold(k);
}

uint64_t drr_ready_ns(const struct harp_core *k, const struct use *u)
{
    if (drr_may_run(k, u))
        return k->now;
    uint64_t missing = (uint64_t)(threshold(k) - u->tokens);
    return u->tokens_ns + (missing + u->cap_ppm - 1) / u->cap_ppm;
}

uint64_t drr_quantum_ns(const struct harp_core *k, const struct use *u)
{
    uint64_t ns = k->config.quantum_ns;
    if (u->cap_ppm != 0 && u->tokens / HARP_PPM < (int64_t)ns)
        ns = u->tokens > 0 ? (uint64_t)u->tokens / HARP_PPM : HARP_PREEMPT_NS;
    return ns < HARP_PREEMPT_NS ? HARP_PREEMPT_NS : ns;
}

/* Bounds what an idle tenant is owed. */
static void floor_vtime(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct use *u = &k->tenant[tenant].use[dev];
    uint64_t credit = scaled(HARP_CREDIT_NS, drr_weight(k, dev, tenant));
    uint64_t v = k->device[dev].vtime;
    if (v > credit && u->vtime < v - credit)
        u->vtime = v - credit;
}

void drr_arrive(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    floor_vtime(k, dev, tenant);
}

void drr_charge(struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t alone_ns,
                uint64_t beside_ns)
{
    struct device *d = &k->device[dev];
    struct use *u = &k->tenant[tenant].use[dev];
    uint64_t weight = drr_weight(k, dev, tenant);
    u->used_ns += alone_ns + beside_ns;
    d->charged_ns += alone_ns + beside_ns;
    if (u->cap_ppm != 0) {
        uint64_t ns = alone_ns + beside_ns;
        u->tokens -= (int64_t)((ns > HARP_DEBT_NS ? HARP_DEBT_NS : ns) * HARP_PPM);
        if (u->tokens < -(int64_t)HARP_DEBT_NS * HARP_PPM)
            u->tokens = -(int64_t)HARP_DEBT_NS * HARP_PPM;
    }
    if (alone_ns != 0) {
        u->vtime += scaled(alone_ns, weight);
        if (d->vtime < u->vtime)
            d->vtime = u->vtime;
        for (uint32_t t = 0; t < k->n_tenants; t++)
            if (k->tenant[t].id != 0 && k->tenant[t].use[dev].wants > 0)
                floor_vtime(k, dev, t);
    }
    u->vtime += scaled(beside_ns, weight);
    uint64_t most = d->vtime + scaled(HARP_DEBT_NS, weight);
    if (u->vtime > most)
        u->vtime = most;
}

/* The backlogged tenant that is owed most; -1 if nobody may run. `eligible`: how many could. An
 * idle device forgives: its virtual time jumps to the furthest tenant's. */
int32_t drr_pick(struct harp_core *k, uint32_t dev, uint32_t *eligible)
{
    struct device *d = &k->device[dev];
    int32_t best = -1;
    uint64_t furthest = d->vtime;
    int wanted = 0;
    *eligible = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0 || !u->granted)
            continue;
        if (u->vtime > furthest)
            furthest = u->vtime;
        if (u->wants == 0)
            continue;
        wanted = 1;
        drr_refill(u, k->now);
        if (!drr_may_run(k, u))
            continue;
        ++*eligible;
        if (best < 0 || u->vtime < k->tenant[best].use[dev].vtime)
            best = (int32_t)t;
    }
    if (!wanted)
        d->vtime = furthest;
    else if (best >= 0 && d->vtime < k->tenant[best].use[dev].vtime)
        d->vtime = k->tenant[best].use[dev].vtime;
    return best;
}

/* Is `tenant` owed so much that the holder should not keep the rest of its quantum? */
int drr_ahead(const struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t holder,
              uint64_t held_ns)
{
    uint64_t mine =
        k->tenant[tenant].use[dev].vtime + scaled(HARP_PREEMPT_NS, drr_weight(k, dev, tenant));
    uint64_t his = k->tenant[holder].use[dev].vtime + scaled(held_ns, drr_weight(k, dev, holder));
    return mine < his;
}
