/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory ledger: leases in granules, what the device says beyond them, draining of what the
 * dead held. Who is granted what: requests.c.
 *
 * Contexts are the device's, and no tenant's limit knows of them; unless a grant says how much of
 * them comes beside the limit (use.beside): what they cost beyond that counts against the limit, so
 * that a tenant never has more of the device than both together.
 *
 * Memory of class SWAP counts against the device as far as it is on it (stay.on). What is granted
 * must fit in the long run: everything that cannot leave, and beside it each tenant's SWAP memory
 * by itself. If only the moment is wrong, others leave for it (rotation.c) and the request waits.
 */
#include <string.h>

#include "state.h"

uint64_t mem_occupied(const struct device *d)
{
    return d->leased + d->extra + d->draining + d->reserved;
}

static uint64_t held(const struct use *u)
{
    return u->leased[HARP_MEM_DEVICE] + u->leased[HARP_MEM_SWAP];
}

static uint64_t charged_memory(const struct use *u, int when_drained)
{
    uint64_t bytes = held(u) + u->counted;
    return when_drained ? bytes : bytes + u->draining[HARP_MEM_DEVICE] + u->draining[HARP_MEM_SWAP];
}

/* What its contexts cost, with what harpd found beyond their leases and takes for no one's. */
static uint64_t contexts(const struct use *u, int when_drained)
{
    uint64_t bytes = u->leased[HARP_MEM_OVERHEAD] + u->extra - u->counted;
    return when_drained ? bytes : bytes + u->draining[HARP_MEM_OVERHEAD];
}

/* Of contexts that cost so much, what counts against the limit. */
static uint64_t beyond(const struct use *u, uint64_t bytes)
{
    return u->beside == 0 ? 0 : below(u->beside, bytes);
}

/* All that counts against the limit. `when_drained`: once the dead have. */
static uint64_t charged(const struct use *u, int when_drained)
{
    return charged_memory(u, when_drained) + beyond(u, contexts(u, when_drained));
}

int mem_limited(uint32_t cls)
{
    return cls == HARP_MEM_DEVICE || cls == HARP_MEM_SWAP;
}

/* What tenants with a limit may still come for, their first context included: who has no limit does
 * not get it, neither as memory nor as contexts. Who swaps does not get it either, and is himself
 * promised a context only. */
static uint64_t promised(const struct harp_core *k, uint32_t dev, uint32_t asker, int when_drained)
{
    uint64_t sum = 0;
    for (uint32_t t = 0; t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        if (k->tenant[t].id == 0 || k->tenant[t].deleted || !u->granted || t == asker || u->away ||
            (u->limit == 0 && !u->swaps))
            continue;
        if (!u->swaps)
            sum += below(charged(u, when_drained), u->limit);
        sum += below(contexts(u, when_drained), u->beside ? u->beside : k->device[dev].overhead);
    }
    return sum;
}

static uint64_t free_beside(const struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t used,
                            int when_drained)
{
    const struct device *d = &k->device[dev];
    const struct use *u = &k->tenant[tenant].use[dev];
    uint64_t free = below(used - (when_drained ? d->draining : 0), d->capacity);
    if (u->limit == 0 || u->swaps)
        free = below(promised(k, dev, tenant, when_drained), free);
    return free;
}

/* Room as the device is filled. */
uint64_t mem_room(const struct harp_core *k, uint32_t dev, uint32_t tenant, int when_drained)
{
    return free_beside(k, dev, tenant, mem_occupied(&k->device[dev]), when_drained);
}

/* Room for memory of that class if all had left for it that can leave. SWAP memory shares the
 * device with nobody else's SWAP memory; what stays must leave room for the largest of them. */
uint64_t mem_room_alone(const struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t cls,
                        int when_drained)
{
    const struct device *d = &k->device[dev];
    uint64_t most = 0;
    for (uint32_t t = 0; d->swap.used && t < k->n_tenants; t++) {
        const struct use *u = &k->tenant[t].use[dev];
        uint64_t movable = u->leased[HARP_MEM_SWAP] - u->swap.pinned;
        int waits = u->away || (k->tenant[t].suspended && u->swap.on == 0); /* for its resume */
        if (!waits && movable > most && (cls != HARP_MEM_SWAP || t == tenant))
            most = movable;
    }
    return free_beside(k, dev, tenant, mem_occupied(d) - d->swap.on + most, when_drained);
}

uint64_t mem_free(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    const struct use *u = &k->tenant[tenant].use[dev];
    uint64_t free = mem_room_alone(k, dev, tenant, u->swaps ? HARP_MEM_SWAP : HARP_MEM_DEVICE, 0);
    if (u->limit != 0 && below(charged(u, 0), u->limit) < free)
        free = below(charged(u, 0), u->limit);
    return free / HARP_GRANULE_BYTES * HARP_GRANULE_BYTES;
}

int mem_limit_stops(const struct use *u, const struct request *r, int when_drained)
{
    if (u->limit == 0)
        return 0;
    if (r->cls == HARP_MEM_OVERHEAD) {
        uint64_t more = beyond(u, contexts(u, when_drained) + r->bytes);
        return more != 0 && below(charged_memory(u, when_drained), u->limit) < more;
    }
    return mem_limited(r->cls) && below(charged(u, when_drained), u->limit) < r->bytes;
}

/* Overhead that the leases of its class do not cover is charged on top: against the device, and
 * what of it is the tenant's doing against its limit as well. */
void mem_cover(struct harp_core *k, struct client *c, uint32_t dev)
{
    struct hold *h = &c->hold[dev];
    uint64_t extra = below(h->leased[HARP_MEM_OVERHEAD], h->told);
    struct use *u = &k->tenant[c->tenant].use[dev];
    u->extra += extra - h->extra;
    if (!u->away)
        k->device[dev].extra += extra - h->extra;
    h->extra = extra;
    uint64_t counted = h->told_counted < extra ? h->told_counted : extra;
    u->counted += counted - h->counted;
    h->counted = counted;
}

void mem_told(struct harp_core *k, struct client *c, uint32_t dev, uint64_t bytes, uint64_t counted)
{
    c->hold[dev].told = bytes;
    c->hold[dev].told_counted = counted;
    mem_cover(k, c, dev);
    k->device[dev].unsettled = 1;
}

/* So much of a client's SWAP memory counts against the device from now on. */
void mem_stay(struct harp_core *k, struct client *c, uint32_t dev, uint64_t on)
{
    struct hold *h = &c->hold[dev];
    struct use *u = &k->tenant[c->tenant].use[dev];
    uint64_t more = on - h->stay.on;
    if (on < h->stay.on)
        k->device[dev].unsettled = 1;
    h->stay.on = on;
    h->changes++;
    u->swap.on += more;
    if (h->stay.pinned)
        u->swap.pinned += more;
    if (u->away)
        return;
    k->device[dev].leased += more;
    if (!h->stay.pinned)
        k->device[dev].swap.on += more;
}

void mem_lease(struct harp_core *k, struct client *c, uint32_t dev, uint32_t cls, uint64_t bytes)
{
    struct use *u = &k->tenant[c->tenant].use[dev];
    c->hold[dev].leased[cls] += bytes;
    c->hold[dev].changes++;
    u->leased[cls] += bytes;
    if (cls == HARP_MEM_SWAP) {
        if (residency_leased(k, c, dev))
            mem_stay(k, c, dev, c->hold[dev].stay.on + bytes);
    } else if (!u->away) {
        k->device[dev].leased += bytes;
    }
    if (held(u) > u->peak)
        u->peak = held(u);
    mem_cover(k, c, dev);
}

static void take_lease(struct harp_core *k, struct client *c, uint32_t dev, uint32_t cls,
                       uint64_t bytes)
{
    struct hold *h = &c->hold[dev];
    struct use *u = &k->tenant[c->tenant].use[dev];
    if (bytes > h->leased[cls]) {
        core_log(k, c, dev, bytes - h->leased[cls], "returned_more_than_leased");
        bytes = h->leased[cls];
    }
    h->leased[cls] -= bytes;
    h->changes++;
    u->leased[cls] -= bytes;
    if (cls == HARP_MEM_SWAP) {
        if (h->stay.on > h->leased[cls])
            mem_stay(k, c, dev, h->leased[cls]);
    } else if (!u->away) {
        k->device[dev].leased -= bytes;
    }
    mem_cover(k, c, dev);
    if (bytes != 0)
        k->device[dev].unsettled = 1;
}

void mem_state(const struct harp_core *k, uint32_t tenant, uint32_t dev, struct harp_msg *m)
{
    const struct use *u = &k->tenant[tenant].use[dev];
    if (!u->granted)
        return;
    m->limit_bytes = u->limit;
    m->leased_bytes = charged(u, 0);
    m->capacity_bytes = k->device[dev].capacity;
    m->free_bytes = mem_free(k, dev, tenant);
    if (m->op == HARP_MEM_STATE) {
        m->overhead_bytes = k->device[dev].overhead;
        m->a = use_flags(u);
    }
}

/* What a client says it holds after its connection or the arbiter was lost. It is there, so it is
 * charged even where others have filled the device meanwhile; never beyond the tenant's limit or
 * the device's size, which nobody can hold honestly. */
static void adopt(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct device *d = &k->device[m->dev];
    struct use *u = &k->tenant[c->tenant].use[m->dev];
    if (!c->may_adopt || !u->granted) {
        core_log(k, c, m->dev, m->bytes, "adoption_refused");
        return;
    }
    uint64_t bytes = m->bytes;
    if (m->cls == HARP_MEM_DEVICE)
        bytes = expect_claim(k, c, m->dev, bytes);
    if (m->cls == HARP_MEM_SWAP)
        residency_adopt(k, c, m->dev, m->a == 1);
    for (int32_t i = k->tenant[c->tenant].first; i >= 0; i = k->client[i].next) {
        struct client *old = &k->client[i];
        if (old->state != HARP_CLIENT_DRAINING || !old->ghost || old->pid != c->pid)
            continue;
        /* Of who is expected, memory of both classes that are limited is kept as one. */
        uint32_t cls = old->expected && mem_limited(m->cls) ? HARP_MEM_DEVICE : m->cls;
        uint64_t part = old->hold[m->dev].leased[cls];
        part = part < bytes ? part : bytes;
        old->hold[m->dev].leased[cls] -= part;
        u->draining[cls] -= part;
        d->draining -= part;
        mem_lease(k, c, m->dev, m->cls, part);
        bytes -= part;
    }
    uint64_t most = below(held(u) + u->leased[HARP_MEM_OVERHEAD], d->capacity);
    if (mem_limited(m->cls) && u->limit != 0 && below(charged_memory(u, 0), u->limit) < most)
        most = below(charged_memory(u, 0), u->limit);
    if (bytes > most)
        core_log(k, c, m->dev, bytes - most, "adoption_beyond_limit");
    bytes = bytes < most ? bytes : most;
    if (bytes > below(mem_occupied(d), d->capacity) && !c->hold[m->dev].stay.away && !u->away)
        core_log(k, c, m->dev, bytes, "adoption_overfills_device");
    mem_lease(k, c, m->dev, m->cls, bytes);
    d->unsettled = 1; /* what drained may have been waited for */
}

void mem_message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct harp_msg answer = {.op = HARP_MEM_STATE, .dev = m->dev, .seq = m->seq};
    if (host_message(k, c, m))
        return;
    switch (m->op) {
    case HARP_LEASE_MEM:
        request_new(k, c, m);
        break;
    case HARP_RETURN_MEM:
        take_lease(k, c, m->dev, m->cls, m->bytes);
        break;
    case HARP_RECALLED:
        take_lease(k, c, m->dev, HARP_MEM_DEVICE, m->bytes);
        recall_answered(k, c, m->dev, m->seq);
        break;
    case HARP_ADOPT_MEM:
        adopt(k, c, m);
        break;
    case HARP_MEM_INFO:
        if (m->dev < k->n_devices)
            mem_state(k, (uint32_t)c->tenant, m->dev, &answer);
        core_send(k, c, &answer);
        break;
    default:
        break;
    }
}

void mem_dead(struct harp_core *k, struct client *c)
{
    host_dead(k, c);
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct device *d = &k->device[dev];
        struct use *u = &k->tenant[c->tenant].use[dev];
        struct hold *h = &c->hold[dev];
        request_dead(k, c, dev);
        recall_dead(k, c, dev);
        if (!u->away) {
            d->leased -= h->leased[HARP_MEM_DEVICE] + h->leased[HARP_MEM_OVERHEAD];
            d->extra -= h->extra;
        }
        u->extra -= h->extra;
        u->counted -= h->counted;
        for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++)
            u->leased[cls] -= h->leased[cls];
        uint64_t on = h->stay.on;
        mem_stay(k, c, dev, 0);
        h->leased[HARP_MEM_SWAP] = on; /* the rest is gone with the process */
        h->stay = (struct stay){0};
        /* The dead's overhead is one sum; what counted against the limit goes on to. */
        h->leased[HARP_MEM_DEVICE] += h->counted;
        h->leased[HARP_MEM_OVERHEAD] += h->extra - h->counted;
        h->told = h->told_counted = h->extra = h->counted = 0;
        if (u->away) /* the device has nothing of it */
            memset(h->leased, 0, sizeof h->leased);
        for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++) {
            u->draining[cls] += h->leased[cls];
            d->draining += h->leased[cls];
        }
    }
}

void mem_drained(struct harp_core *k, struct client *c, uint32_t dev)
{
    struct hold *h = &c->hold[dev];
    struct use *u = &k->tenant[c->tenant].use[dev];
    for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++) {
        u->draining[cls] -= h->leased[cls];
        k->device[dev].draining -= h->leased[cls];
        h->leased[cls] = 0;
    }
    k->device[dev].unsettled = 1;
}
