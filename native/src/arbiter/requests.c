/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests for memory: granted or denied at once, or queued until it can be said.
 *
 * A request that does not fit is not denied before two things have happened: every live peer that
 * could hold unused lease has answered a recall sent after the request came (which is also a
 * barrier: whatever it gave back earlier has been read), and memory of the dead that would make
 * room has drained. Both waits are bounded by HARP_MEM_WAIT_NS, the first also by HARP_RECALL_NS.
 */
#include "state.h"

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
    int by_limit = mem_limit_stops(u, r, 0);
    int by_capacity = mem_room_alone(k, dev, tenant, r->cls, 0) < r->bytes ||
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
        mem_lease(k, c, dev, r->cls, r->bytes);
        core_send(k, c, &m);
        return 1;
    }
    int for_good_limit = mem_limit_stops(u, r, 1);
    int for_good = for_good_limit || mem_room_alone(k, dev, tenant, r->cls, 1) < r->bytes;
    uint32_t reason = !for_good        ? HARP_DENY_DRAINING
                      : for_good_limit ? HARP_DENY_LIMIT
                                       : HARP_DENY_CAPACITY;
    /* What the client holds itself is all in use, or it would not ask (for overhead it may still
     * have unused lease: that is another class, as DEVICE is for SWAP). */
    uint64_t own = mem_limited(r->cls) ? c->hold[dev].leased[HARP_MEM_SWAP] : 0;
    if (r->cls == HARP_MEM_DEVICE)
        own += c->hold[dev].leased[HARP_MEM_DEVICE];
    if (mem_limited(r->cls) && u->limit != 0 && below(own, u->limit) < r->bytes)
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

void request_settle(struct harp_core *k, uint32_t dev)
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

void request_new(struct harp_core *k, struct client *c, const struct harp_msg *m)
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

void request_moved(struct harp_core *k, struct client *c, uint32_t dev, uint32_t to)
{
    for (int32_t i = take_requests(k, c, &k->device[dev]), next; i >= 0; i = next) {
        next = k->request[i].next;
        begin(k, to, &k->request[i]);
        enqueue(k, to, i);
    }
    k->device[to].unsettled = 1;
}

void request_dead(struct harp_core *k, const struct client *c, uint32_t dev)
{
    for (int32_t i = take_requests(k, c, &k->device[dev]), next; i >= 0; i = next) {
        next = k->request[i].next;
        release_request(k, i);
    }
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

void request_tick(struct harp_core *k)
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

uint64_t request_next(const struct harp_core *k)
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
