/* SPDX-License-Identifier: Apache-2.0
 *
 * Recounts everything the core keeps as sums, and what must hold between two steps. For tests.
 */
#include "state.h"

struct count {
    uint64_t leased[HARP_MEM_CLASSES], draining[HARP_MEM_CLASSES], extra, counted;
    uint32_t awaiting;
};

static struct count count_use(const struct harp_core *k, uint32_t tenant, uint32_t dev)
{
    struct count n = {.extra = 0};
    const struct use *u = &k->tenant[tenant].use[dev];
    for (int32_t i = k->tenant[tenant].first; i >= 0; i = k->client[i].next) {
        const struct client *c = &k->client[i];
        const struct hold *h = &c->hold[dev];
        uint64_t *sum = c->state == HARP_CLIENT_DRAINING ? n.draining : n.leased;
        for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++)
            sum[cls] += h->leased[cls];
        n.extra += h->extra;
        n.counted += h->counted;
        n.awaiting += h->recall_no != 0 && h->recall_no == u->round_started && u->awaiting > 0;
    }
    return n;
}

static const char *check_tenant(const struct harp_core *k, uint32_t t)
{
    uint32_t clients = 0, live = 0, waiting = 0;
    for (int32_t i = k->tenant[t].first; i >= 0; i = k->client[i].next) {
        clients++;
        live += k->client[i].state == HARP_CLIENT_LIVE;
        waiting += k->client[i].waiting;
    }
    if (clients != k->tenant[t].clients || live != k->tenant[t].live)
        return "tenant's number of clients";
    const char *broken = host_check(k, &k->tenant[t]);
    if (broken != NULL)
        return broken;
    return waiting == k->tenant[t].waiting ? NULL : "tenant's number of requests";
}

/* What of a class counts against the device. */
static uint64_t on_device(const struct use *u, uint32_t cls)
{
    if (cls == HARP_MEM_HOST || u->away)
        return 0;
    return cls == HARP_MEM_SWAP ? u->swap.on : u->leased[cls];
}

static uint64_t reserved_for(const struct tenant *t, uint32_t dev)
{
    uint64_t bytes = 0;
    for (uint32_t from = 0; from < HARP_MAX_DEVICES; from++)
        if (t->use[from].reserved_on == dev + 1)
            bytes += t->use[from].reserved;
    return bytes;
}

static const char *check_device(const struct harp_core *k, uint32_t dev)
{
    const struct device *d = &k->device[dev];
    uint64_t leased = 0, draining = 0, extra = 0, reserved = 0;
    uint32_t rounds = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0)
            continue;
        struct count n = count_use(k, t, dev);
        for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++) {
            if (n.leased[cls] != u->leased[cls] || n.draining[cls] != u->draining[cls])
                return "use is not the sum of its holds";
            leased += on_device(u, cls);
            draining += n.draining[cls];
        }
        if (n.extra != u->extra || n.counted != u->counted || n.awaiting != u->awaiting)
            return "extra or awaited answers miscounted";
        extra += u->away ? 0 : n.extra;
        rounds += u->awaiting > 0;
        reserved += reserved_for(&k->tenant[t], dev);
    }
    if (leased != d->leased || draining != d->draining || extra != d->extra)
        return "device is not the sum of its uses";
    if (reserved != d->reserved)
        return "device is not the sum of its reservations";
    if (rounds != d->rounds)
        return "recall rounds that run miscounted";
    for (int32_t i = d->first; i >= 0; i = k->request[i].next)
        if (k->request[i].client < 0 || k->client[k->request[i].client].id == 0)
            return "a request without a client";
    return d->unsettled ? "requests left unsettled" : NULL;
}

const char *harp_core_check(const struct harp_core *k)
{
    const char *broken = NULL;
    for (uint32_t t = 0; t < k->n_tenants && broken == NULL; t++)
        broken = k->tenant[t].id != 0 ? check_tenant(k, t) : NULL;
    for (uint32_t dev = 0; dev < k->n_devices && broken == NULL; dev++)
        broken = check_device(k, dev);
    for (uint32_t dev = 0; dev < k->n_devices && broken == NULL; dev++)
        broken = check_residency(k, dev);
    for (uint32_t dev = 0; dev < k->n_devices && broken == NULL; dev++)
        for (uint32_t n = 0; n < HARP_TIME_LANES && broken == NULL; n++)
            broken = check_lane(k, &k->device[dev].lane[n]);
    return broken;
}
