/* SPDX-License-Identifier: Apache-2.0
 *
 * Caps: a token bucket of engine time per account (rate: the limit, depth HARP_BUCKET_NS, debt at
 * most HARP_DEBT_NS). And the list of a lane's tenants whose weight counts: those that want, run,
 * or did so within HARP_ACTIVE_NS. Its sums make a weight O(1), its length bounds every walk.
 */
#include "policy.h"

void cap_refill(const struct harp_core *k, struct account *a)
{
    if (a->cap_ppm == 0)
        return;
    uint64_t dt = k->now - a->tokens_ns;
    if (dt > 1000 * HARP_DEBT_NS)
        dt = 1000 * HARP_DEBT_NS;
    a->tokens_ns = k->now;
    a->tokens += (int64_t)(dt * a->cap_ppm);
    if (a->tokens > HARP_BUCKET_NS * HARP_PPM)
        a->tokens = HARP_BUCKET_NS * HARP_PPM;
}

/* A capped tenant starts again only when a whole quantum is saved up: not in crumbs. */
static int64_t threshold(const struct harp_core *k)
{
    int64_t ns = (int64_t)k->config.quantum_ns;
    return (ns > HARP_BUCKET_NS / 2 ? HARP_BUCKET_NS / 2 : ns) * HARP_PPM;
}

int cap_allows(const struct harp_core *k, const struct account *a)
{
    return a->cap_ppm == 0 || a->tokens >= threshold(k);
}

uint64_t cap_ready_ns(const struct harp_core *k, const struct account *a)
{
    if (cap_allows(k, a))
        return k->now;
    uint64_t missing = (uint64_t)(threshold(k) - a->tokens);
    return a->tokens_ns + (missing + a->cap_ppm - 1) / a->cap_ppm;
}

uint64_t cap_quantum_ns(const struct harp_core *k, const struct account *a)
{
    uint64_t ns = k->config.quantum_ns;
    if (a->cap_ppm != 0 && a->tokens / HARP_PPM < (int64_t)ns)
        ns = a->tokens > 0 ? (uint64_t)a->tokens / HARP_PPM : HARP_PREEMPT_NS;
    return ns < HARP_PREEMPT_NS ? HARP_PREEMPT_NS : ns;
}

void cap_charge(struct account *a, uint64_t ns)
{
    if (a->cap_ppm == 0)
        return;
    a->tokens -= (int64_t)((ns > HARP_DEBT_NS ? HARP_DEBT_NS : ns) * HARP_PPM);
    if (a->tokens < -(int64_t)HARP_DEBT_NS * HARP_PPM)
        a->tokens = -(int64_t)HARP_DEBT_NS * HARP_PPM;
}

void active_enter(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    struct account *a = account_of(k, l, tenant);
    if (a->listed)
        return;
    a->listed = 1;
    a->group = class_of(k, l, tenant) == HARP_CLASS_BEST_EFFORT;
    a->prev = -1;
    a->next = first_of(l);
    if (a->next >= 0)
        account_of(k, l, (uint32_t)a->next)->prev = (int32_t)tenant;
    l->first = tenant + 1;
    l->listed++;
    l->share_sum[a->group] += a->share_ppm;
    l->without[a->group] += a->share_ppm == 0;
    l->capped += a->cap_ppm != 0;
}

void active_leave(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    struct account *a = account_of(k, l, tenant);
    if (!a->listed)
        return;
    a->listed = 0;
    if (a->prev >= 0)
        account_of(k, l, (uint32_t)a->prev)->next = a->next;
    else
        l->first = (uint32_t)(a->next + 1);
    if (a->next >= 0)
        account_of(k, l, (uint32_t)a->next)->prev = a->prev;
    l->listed--;
    l->share_sum[a->group] -= a->share_ppm;
    l->without[a->group] -= a->share_ppm == 0;
    l->capped -= a->cap_ppm != 0;
}

/* Drops who has been idle too long. Once per instant: time does not pass within one. */
void active_expire(struct harp_core *k, struct lane *l)
{
    if (l->expired_ns == k->now)
        return;
    l->expired_ns = k->now;
    for (int32_t t = first_of(l), next; t >= 0; t = next) {
        const struct account *a = account_of(k, l, (uint32_t)t);
        next = a->next;
        if (a->wants == 0 && l->turn.tenant != t && !(l->before.tenant == t && l->before.open) &&
            k->now - a->active_ns >= HARP_ACTIVE_NS)
            active_leave(k, l, (uint32_t)t);
    }
}
