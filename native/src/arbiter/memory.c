/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory ledger: leases in granules, recalls of unused lease, draining of what the dead held.
 *
 * A request that does not fit is not denied before two things have happened: every live peer that
 * could hold unused lease has answered a recall sent after the request came (which is also a
 * barrier: whatever it gave back earlier has been read), and memory of the dead that would make
 * room has drained. Both waits are bounded by HARP_MEM_WAIT_NS, the first also by HARP_RECALL_NS.
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

static uint64_t below(uint64_t used, uint64_t limit)
{
    return used < limit ? limit - used : 0;
}

static uint64_t held(const struct use *u)
{
    return u->leased[HARP_MEM_DEVICE] + u->leased[HARP_MEM_SWAP];
}

static uint64_t charged(const struct use *u)
{
    return held(u) + u->draining[HARP_MEM_DEVICE] + u->draining[HARP_MEM_SWAP] + u->counted;
}

/* The same once the dead have drained. */
static uint64_t charged_then(const struct use *u)
{
    return held(u) + u->counted;
}

static int limited(uint32_t cls)
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
        uint64_t context = u->leased[HARP_MEM_OVERHEAD] + u->extra - u->counted;
        if (!when_drained)
            context += u->draining[HARP_MEM_OVERHEAD];
        if (!u->swaps)
            sum += below(when_drained ? charged_then(u) : charged(u), u->limit);
        sum += below(context, k->device[dev].overhead);
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
static uint64_t room_alone(const struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t cls,
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
    uint64_t free = room_alone(k, dev, tenant, u->swaps ? HARP_MEM_SWAP : HARP_MEM_DEVICE, 0);
    if (u->limit != 0 && below(charged(u), u->limit) < free)
        free = below(charged(u), u->limit);
    return free / HARP_GRANULE_BYTES * HARP_GRANULE_BYTES;
}

static int limit_stops(const struct use *u, const struct request *r, int when_drained)
{
    uint64_t used = when_drained ? charged_then(u) : charged(u);
    return limited(r->cls) && u->limit != 0 && below(used, u->limit) < r->bytes;
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

static void add_lease(struct harp_core *k, struct client *c, uint32_t dev, uint32_t cls,
                      uint64_t bytes)
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
    m->leased_bytes = charged(u);
    m->capacity_bytes = k->device[dev].capacity;
    m->free_bytes = mem_free(k, dev, tenant);
    if (m->op == HARP_MEM_STATE) {
        m->overhead_bytes = k->device[dev].overhead;
        m->a = use_flags(u);
    }
}

static void deny(struct harp_core *k, struct client *c, uint32_t dev, const struct request *r,
                 uint32_t reason)
{
    struct harp_msg m = {.op = HARP_MEM_DENY,
                         .dev = dev,
                         .seq = r->seq,
                         .cls = r->cls,
                         .bytes = r->bytes,
                         .a = reason};
    if (dev < k->n_devices && k->tenant[c->tenant].use[dev].granted) {
        mem_state(k, (uint32_t)c->tenant, dev, &m);
        k->tenant[c->tenant].use[dev].denials++;
    }
    core_send(k, c, &m);
    m.op = HARP_EVENT_DENY;
    m.seq = 0;
    m.client = c->id;
    m.tenant = k->tenant[c->tenant].id;
    core_emit(k, HARP_ACT_EVENT, 0, &m);
}

/* Grants or denies if it can be decided now; 0 if it has to wait. */
static int decide(struct harp_core *k, uint32_t dev, struct client *c, struct request *r)
{
    struct device *d = &k->device[dev];
    struct use *u = &k->tenant[c->tenant].use[dev];
    uint32_t tenant = (uint32_t)c->tenant;
    int away = r->cls == HARP_MEM_SWAP && residency_away(k, c, dev);
    int by_limit = limit_stops(u, r, 0);
    int by_capacity = room_alone(k, dev, tenant, r->cls, 0) < r->bytes ||
                      (!away && mem_room(k, dev, tenant, 0) < r->bytes);
    if (u->away) {
        /* Who holds something is suspended and comes to the driver when it is back; another would
         * take what is not the tenant's now. While room is being made for the return, all wait. */
        by_capacity = u->reserved_on != 0 || c->hold[dev].leased[HARP_MEM_OVERHEAD] == 0;
        if (by_capacity && !by_limit && k->now < r->deadline)
            return 0;
    }
    if (!by_limit && !by_capacity) {
        struct harp_msg m = {
            .op = HARP_MEM_GRANT, .dev = dev, .seq = r->seq, .cls = r->cls, .bytes = r->bytes};
        add_lease(k, c, dev, r->cls, r->bytes);
        core_send(k, c, &m);
        return 1;
    }
    int for_good_limit = limit_stops(u, r, 1);
    int for_good = for_good_limit || room_alone(k, dev, tenant, r->cls, 1) < r->bytes;
    uint32_t reason = !for_good        ? HARP_DENY_DRAINING
                      : for_good_limit ? HARP_DENY_LIMIT
                                       : HARP_DENY_CAPACITY;
    /* What the client holds itself is all in use, or it would not ask (for overhead it may still
     * have unused lease: that is another class, as DEVICE is for SWAP). */
    uint64_t own = limited(r->cls) ? c->hold[dev].leased[HARP_MEM_SWAP] : 0;
    if (r->cls == HARP_MEM_DEVICE)
        own += c->hold[dev].leased[HARP_MEM_DEVICE];
    if (limited(r->cls) && u->limit != 0 && below(own, u->limit) < r->bytes)
        reason = HARP_DENY_LIMIT;
    else if (below(own, d->capacity) < r->bytes)
        reason = HARP_DENY_CAPACITY;
    else if (k->now < r->latest_ns) {
        int in_time = k->now < r->deadline;
        if (in_time && by_limit && !recall_settled(k, dev, tenant, r->mark, 0))
            return 0;
        if (in_time && by_capacity && !recall_all_settled(k, dev, tenant, r->mark))
            return 0;
        if (!for_good && !away && !u->away && mem_room(k, dev, tenant, 1) < r->bytes &&
            rotation_clear(k, dev, tenant, r->cls, r->bytes)) {
            r->deadline = k->now + HARP_MEM_WAIT_NS;
            if (r->deadline > r->latest_ns)
                r->deadline = r->latest_ns;
            return 0;
        }
        if (!for_good && in_time)
            return 0;
    }
    deny(k, c, dev, r, reason);
    return 1;
}

static void release_request(struct harp_core *k, int32_t index)
{
    struct request *r = &k->request[index];
    k->client[r->client].waiting--;
    k->tenant[k->client[r->client].tenant].waiting--;
    r->client = -1;
    r->next = k->free_request;
    k->free_request = index;
    k->free_requests++;
}

void mem_settle(struct harp_core *k, uint32_t dev)
{
    struct device *d = &k->device[dev];
    d->unsettled = 0;
    int32_t previous = -1;
    for (int32_t i = d->first; i >= 0;) {
        struct request *r = &k->request[i];
        int32_t next = r->next;
        if (decide(k, dev, &k->client[r->client], r)) {
            *(previous < 0 ? &d->first : &k->request[previous].next) = next;
            if (d->last == i)
                d->last = previous;
            release_request(k, i);
        } else {
            previous = i;
        }
        i = next;
    }
}

/* From now on, and for recalls and the dead of that device. */
static void begin(struct harp_core *k, uint32_t dev, struct request *r)
{
    r->deadline = k->now + HARP_MEM_WAIT_NS;
    r->latest_ns = k->now + HARP_SWAP_WAIT_NS;
    r->mark = k->device[dev].round_no;
    k->device[dev].swap.used |= r->cls == HARP_MEM_SWAP;
}

static void enqueue(struct harp_core *k, uint32_t dev, int32_t i)
{
    struct device *d = &k->device[dev];
    k->request[i].next = -1;
    *(d->last < 0 ? &d->first : &k->request[d->last].next) = i;
    d->last = i;
}

static void lease(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct tenant *t = &k->tenant[c->tenant];
    struct request wish = {.seq = m->seq, .cls = m->cls, .bytes = m->bytes};
    c->may_adopt = 0;
    if (m->dev >= k->n_devices || !t->use[m->dev].granted ||
        (m->cls == HARP_MEM_SWAP && !t->use[m->dev].swaps)) {
        deny(k, c, m->dev, &wish, HARP_DENY_UNKNOWN);
        return;
    }
    wish.client = (int32_t)core_slot(k, c);
    begin(k, m->dev, &wish);
    /* Nobody may take more places in the queue than he leaves to others. */
    int full = c->waiting >= HARP_MAX_WAITING || t->waiting >= k->free_requests;
    if (full) {
        deny(k, c, m->dev, &wish, HARP_DENY_BUSY);
        return;
    }
    if (decide(k, m->dev, c, &wish))
        return;
    int32_t i = k->free_request;
    k->free_request = k->request[i].next;
    k->free_requests--;
    c->waiting++;
    t->waiting++;
    k->request[i] = wish;
    enqueue(k, m->dev, i);
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
        uint32_t cls = old->expected && limited(m->cls) ? HARP_MEM_DEVICE : m->cls;
        uint64_t part = old->hold[m->dev].leased[cls];
        part = part < bytes ? part : bytes;
        old->hold[m->dev].leased[cls] -= part;
        u->draining[cls] -= part;
        d->draining -= part;
        add_lease(k, c, m->dev, m->cls, part);
        bytes -= part;
    }
    uint64_t most = below(held(u) + u->leased[HARP_MEM_OVERHEAD], d->capacity);
    if (limited(m->cls) && u->limit != 0 && below(charged(u), u->limit) < most)
        most = below(charged(u), u->limit);
    if (bytes > most)
        core_log(k, c, m->dev, bytes - most, "adoption_beyond_limit");
    bytes = bytes < most ? bytes : most;
    if (bytes > below(mem_occupied(d), d->capacity) && !c->hold[m->dev].stay.away && !u->away)
        core_log(k, c, m->dev, bytes, "adoption_overfills_device");
    add_lease(k, c, m->dev, m->cls, bytes);
    d->unsettled = 1; /* what drained may have been waited for */
}

void mem_message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct harp_msg answer = {.op = HARP_MEM_STATE, .dev = m->dev, .seq = m->seq};
    if (host_message(k, c, m))
        return;
    switch (m->op) {
    case HARP_LEASE_MEM:
        lease(k, c, m);
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

/* Takes what a client waits for out of the queue; -1, or the first of a list. */
static int32_t take_requests(struct harp_core *k, const struct client *c, struct device *d)
{
    int32_t previous = -1, slot = (int32_t)core_slot(k, c), taken = -1, last = -1;
    for (int32_t i = c->waiting > 0 ? d->first : -1; i >= 0;) {
        int32_t next = k->request[i].next;
        if (k->request[i].client == slot) {
            *(previous < 0 ? &d->first : &k->request[previous].next) = next;
            if (d->last == i)
                d->last = previous;
            k->request[i].next = -1;
            *(last < 0 ? &taken : &k->request[last].next) = i;
            last = i;
        } else {
            previous = i;
        }
        i = next;
    }
    return taken;
}

void mem_moved(struct harp_core *k, struct client *c, uint32_t dev, uint32_t to)
{
    for (int32_t i = take_requests(k, c, &k->device[dev]), next; i >= 0; i = next) {
        next = k->request[i].next;
        begin(k, to, &k->request[i]);
        enqueue(k, to, i);
    }
    k->device[to].unsettled = 1;
}

void mem_dead(struct harp_core *k, struct client *c)
{
    host_dead(k, c);
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct device *d = &k->device[dev];
        struct use *u = &k->tenant[c->tenant].use[dev];
        struct hold *h = &c->hold[dev];
        for (int32_t i = take_requests(k, c, d), next; i >= 0; i = next) {
            next = k->request[i].next;
            release_request(k, i);
        }
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

/* Nobody waits for an answer there, and nothing has a deadline. */
static int quiet(const struct device *d)
{
    return d->first < 0 && !d->swap.used && d->rounds == 0;
}

/* Requests stand in the order of their deadlines, unless some were put off. */
static uint64_t first_deadline(const struct harp_core *k, const struct device *d)
{
    uint64_t first = HARP_NEVER;
    for (int32_t i = d->first; i >= 0; i = d->swap.used ? k->request[i].next : -1)
        if (k->request[i].deadline < first)
            first = k->request[i].deadline;
    return first;
}

void mem_tick(struct harp_core *k)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        struct device *d = &k->device[dev];
        if (quiet(d))
            continue;
        if (first_deadline(k, d) <= k->now)
            d->unsettled = 1;
        recall_tick(k, dev);
    }
}

uint64_t mem_next(const struct harp_core *k)
{
    uint64_t next = HARP_NEVER;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        const struct device *d = &k->device[dev];
        if (quiet(d))
            continue;
        uint64_t at = recall_next(k, dev), first = first_deadline(k, d);
        at = first < at ? first : at;
        next = at < next ? at : next;
    }
    return next;
}
