/* SPDX-License-Identifier: Apache-2.0
 *
 * What must hold of a lane between two steps. For tests.
 */
#include "policy.h"

/* Open gates of the turn, recounted; -1 if one of its tenant's gates speaks of no turn. */
static int open_gates(const struct harp_core *k, const struct lane *l, const struct turn *turn)
{
    int open = 0;
    for (int32_t i = turn->tenant < 0 ? -1 : k->tenant[turn->tenant].first; i >= 0;
         i = k->client[i].next) {
        const struct gate *g = gate_of(l, &k->client[i]);
        open += (g->state == HARP_GATE_OPEN || g->state == HARP_GATE_CLOSING) &&
                g->epoch == turn->epoch;
    }
    return open;
}

static const char *check_turn(const struct harp_core *k, const struct lane *l,
                              const struct turn *turn)
{
    if (turn->tenant < 0)
        return NULL;
    if ((turn == &l->turn || turn->open > 0) && open_gates(k, l, turn) != (int)turn->open)
        return "open gates of a turn miscounted";
    if (turn == &l->turn && turn->open == 0)
        return "a turn without an open gate";
    if (turn->work.hi > k->now || (turn->work.hi > 0 && turn->work.lo < turn->opened_ns))
        return "work outside its turn";
    return turn->charged_ns > turn->work.hi - turn->work.lo ? "a turn charged more than its work"
                                                            : NULL;
}

static const char *check_account(const struct harp_core *k, const struct lane *l, uint32_t t,
                                 uint32_t *open)
{
    const struct account *a = account_of(k, l, t);
    uint32_t wants = 0;
    for (int32_t i = k->tenant[t].first; i >= 0; i = k->client[i].next) {
        const struct gate *g = gate_of(l, &k->client[i]);
        wants += g->want;
        *open += g->state == HARP_GATE_OPEN || g->state == HARP_GATE_CLOSING;
        if (g->want && g->state != HARP_GATE_CLOSED)
            return "a gate that is open and wanted";
        if (k->tenant[t].suspended && (g->want || g->state == HARP_GATE_OPEN))
            return "a gate of who is suspended is open or wanted";
    }
    if (wants != a->wants)
        return "wants miscounted";
    if (!a->listed && (wants > 0 || l->turn.tenant == (int32_t)t))
        return "weight of a tenant that wants or runs does not count";
    if (a->estimated_ns > a->used_ns)
        return "more estimated than used";
    return NULL;
}

static const char *check_sums(const struct harp_core *k, const struct lane *l, uint32_t wanting)
{
    uint64_t shares[2] = {0}, without[2] = {0};
    uint32_t listed = 0, capped = 0;
    for (int32_t i = first_of(l); i >= 0; i = account_of(k, l, (uint32_t)i)->next) {
        const struct account *a = account_of(k, l, (uint32_t)i);
        if (!a->listed || k->tenant[i].id == 0 || ++listed > l->listed)
            return "list of active tenants";
        shares[a->group] += a->share_ppm;
        without[a->group] += a->share_ppm == 0;
        capped += a->cap_ppm != 0;
    }
    if (listed != l->listed || capped != l->capped || wanting != l->wanting)
        return "active tenants miscounted";
    for (int g = 0; g < 2; g++)
        if (shares[g] != l->share_sum[g] || without[g] != l->without[g])
            return "weights miscounted";
    return NULL;
}

/* Somebody who wants, may run and waits for nobody. */
static int may_run(const struct harp_core *k, const struct lane *l)
{
    for (int32_t i = first_of(l); i >= 0; i = account_of(k, l, (uint32_t)i)->next)
        if (account_of(k, l, (uint32_t)i)->wants > 0 && residency_in(k, l->dev, (uint32_t)i) &&
            cap_allows(k, account_of(k, l, (uint32_t)i)) &&
            gang_role(k, l, (uint32_t)i) != GANG_WAIT)
            return 1;
    return 0;
}

const char *check_lane(const struct harp_core *k, const struct lane *l)
{
    uint32_t open = 0, wanting = 0;
    const char *broken = NULL;
    for (uint32_t t = 0; t < k->n_tenants && broken == NULL; t++) {
        if (k->tenant[t].id == 0)
            continue;
        broken = check_account(k, l, t, &open);
        wanting += account_of(k, l, t)->wants > 0;
    }
    if (broken == NULL)
        broken = check_sums(k, l, wanting);
    if (broken == NULL)
        broken = check_turn(k, l, &l->turn);
    if (broken == NULL)
        broken = check_turn(k, l, &l->before);
    if (broken != NULL)
        return broken;
    if (open !=
        (l->turn.tenant >= 0 ? l->turn.open : 0) + (l->before.tenant >= 0 ? l->before.open : 0))
        return "a gate is open outside its tenant's turn";
    if (l->turn.tenant >= 0 && l->before.open > 0 && l->turn.tenant == l->before.tenant)
        return "a tenant has two turns at once";
    if (l->turn.tenant < 0 && l->before.open == 0 && may_run(k, l))
        return "the lane idles though somebody wants";
    for (int32_t i = first_of(l); i >= 0; i = account_of(k, l, (uint32_t)i)->next) {
        int64_t lead = account_of(k, l, (uint32_t)i)->lead_ns;
        if (lead > HARP_LEAD_NS || lead < -HARP_LAG_NS)
            return "a lead is out of bounds";
    }
    return NULL;
}
