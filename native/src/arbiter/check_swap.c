/* SPDX-License-Identifier: Apache-2.0
 *
 * What must hold of SWAP memory on a device between two steps. For tests.
 */
#include "policy.h"

static const char *check_client(const struct harp_core *k, const struct client *c, uint32_t dev,
                                const struct residency *r)
{
    const struct hold *h = &c->hold[dev];
    if (c->state != HARP_CLIENT_LIVE)
        return h->stay.on != 0 || h->stay.asked != 0 ? "the dead stay on the device" : NULL;
    if (h->stay.on > h->leased[HARP_MEM_SWAP])
        return "more on the device than leased";
    if (h->stay.away && h->stay.on != 0 && !h->stay.restoring && r->state != HARP_EVICTING)
        return "memory that is away counts";
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        const struct gate *g = &h->gate[n];
        int draining = r->state == HARP_EVICTING && !r->asked;
        if (r->state > HARP_RESIDENT &&
            (g->state == HARP_GATE_OPEN || (g->state == HARP_GATE_CLOSING && !draining)))
            return "a gate is open of a tenant that is not resident";
        if (h->stay.restoring && h->stay.asked != 0 &&
            (g->state == HARP_GATE_OPEN || g->state == HARP_GATE_CLOSING))
            return "a gate is open before its memory is back";
    }
    return NULL;
}

static const char *check_tenant(const struct harp_core *k, uint32_t t, uint32_t dev)
{
    const struct residency *r = &k->tenant[t].use[dev].swap;
    const char *broken = NULL;
    uint64_t on = 0, pinned = 0;
    int owed = 0;
    for (int32_t i = k->tenant[t].first; i >= 0 && broken == NULL; i = k->client[i].next) {
        const struct stay *s = &k->client[i].hold[dev].stay;
        broken = check_client(k, &k->client[i], dev, r);
        on += s->on;
        pinned += s->pinned ? s->on : 0;
        owed += s->asked != 0 && !s->late;
    }
    if (broken != NULL)
        return broken;
    if (on != r->on || pinned != r->pinned)
        return "SWAP memory on the device miscounted";
    int waits = r->state == HARP_RESTORING || (r->state == HARP_EVICTING && r->asked);
    return waits && owed == 0 ? "waits for nobody's answer" : NULL;
}

const char *check_residency(const struct harp_core *k, uint32_t dev)
{
    const char *broken = NULL;
    uint64_t on = 0;
    for (uint32_t t = 0; t < k->n_tenants && broken == NULL; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0)
            continue;
        broken = check_tenant(k, t, dev);
        on += u->away ? 0 : u->swap.on - u->swap.pinned;
    }
    if (broken == NULL && on != k->device[dev].swap.on)
        return "SWAP memory that can leave miscounted";
    return broken;
}
