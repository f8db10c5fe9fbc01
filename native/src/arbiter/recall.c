/* SPDX-License-Identifier: Apache-2.0
 *
 * Recalls of unused lease, in numbered rounds: one at a time per tenant and device, shared by all
 * who wait, so that n waiters cost n messages a round and not n * n. Who does not answer in time is
 * mute and counts no more until it says something.
 */
#include "state.h"

static void finish_round(struct harp_core *k, struct use *u, uint32_t dev)
{
    u->round_done = u->round_started;
    k->device[dev].rounds--;
    k->device[dev].unsettled = 1;
}

/* Has every peer of that tenant that answers at all answered a recall newer than `mark`? Starts the
 * round that will, if none runs. `foreign`: it is another tenant that is short. */
int recall_settled(struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t mark, int foreign)
{
    struct device *d = &k->device[dev];
    struct use *u = &k->tenant[tenant].use[dev];
    if (u->leased[HARP_MEM_DEVICE] + u->leased[HARP_MEM_SWAP] == 0 || u->round_done > mark ||
        k->tenant[tenant].suspended)
        return 1;
    if (u->awaiting > 0 || (foreign && k->now < u->round_earliest))
        return 0;
    if (foreign)
        u->round_earliest = k->now + HARP_FOREIGN_NS;
    u->round_started = ++d->round_no;
    u->round_deadline = k->now + HARP_RECALL_NS;
    for (int32_t i = k->tenant[tenant].first; i >= 0; i = k->client[i].next) {
        struct client *c = &k->client[i];
        const uint64_t *leased = c->hold[dev].leased;
        if (c->state != HARP_CLIENT_LIVE || c->mute ||
            leased[HARP_MEM_DEVICE] + leased[HARP_MEM_SWAP] == 0)
            continue;
        struct harp_msg m = {
            .op = HARP_RECALL_MEM, .dev = dev, .seq = (uint32_t)d->round_no, .bytes = d->capacity};
        c->hold[dev].recall_no = d->round_no;
        u->awaiting++;
        core_send(k, c, &m);
    }
    if (u->awaiting > 0) {
        d->rounds++;
        return 0;
    }
    u->round_done = u->round_started;
    return 1;
}

int recall_all_settled(struct harp_core *k, uint32_t dev, uint32_t asker, uint64_t mark)
{
    int all = 1;
    for (uint32_t t = 0; t < k->n_tenants; t++)
        if (k->tenant[t].id != 0 && !recall_settled(k, dev, t, mark, t != asker))
            all = 0;
    return all;
}

static void one_less(struct harp_core *k, struct client *c, uint32_t dev)
{
    struct hold *h = &c->hold[dev];
    struct use *u = &k->tenant[c->tenant].use[dev];
    int counted = h->recall_no == u->round_started && u->awaiting > 0;
    h->recall_no = 0;
    if (counted && --u->awaiting == 0)
        finish_round(k, u, dev);
}

void recall_answered(struct harp_core *k, struct client *c, uint32_t dev, uint32_t seq)
{
    if (c->hold[dev].recall_no != 0 && (uint32_t)c->hold[dev].recall_no == seq)
        one_less(k, c, dev);
}

void recall_dead(struct harp_core *k, struct client *c, uint32_t dev)
{
    if (c->hold[dev].recall_no != 0)
        one_less(k, c, dev);
}

static void give_up(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct use *u = &k->tenant[tenant].use[dev];
    for (int32_t i = k->tenant[tenant].first; i >= 0; i = k->client[i].next) {
        struct client *c = &k->client[i];
        if (c->hold[dev].recall_no != u->round_started)
            continue;
        c->mute = 1;
        core_log(k, c, dev, 0, "recall_unanswered");
    }
    u->awaiting = 0;
    finish_round(k, u, dev);
}

void recall_tick(struct harp_core *k, uint32_t dev)
{
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        struct use *u = &k->tenant[t].use[dev];
        if (u->round_earliest != 0 && u->round_earliest <= k->now) {
            u->round_earliest = 0;
            k->device[dev].unsettled = 1;
        }
        if (u->awaiting > 0 && u->round_deadline <= k->now)
            give_up(k, dev, t);
    }
}

uint64_t recall_next(const struct harp_core *k, uint32_t dev)
{
    uint64_t next = HARP_NEVER;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (u->awaiting > 0 && u->round_deadline < next)
            next = u->round_deadline;
        if (u->round_earliest != 0 && u->round_earliest < next)
            next = u->round_earliest;
    }
    return next;
}
