/* SPDX-License-Identifier: Apache-2.0
 *
 * What harpd may ask: devices, tenants, limits, drained, overhead, snapshot. Every question is
 * answered by OK or ERR with its seq; a snapshot by its rows before the OK.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "policy.h"

static void ok(struct harp_core *k, const struct harp_msg *m, uint32_t dev, uint32_t tenant)
{
    struct harp_msg r = {
        .op = HARP_OK, .seq = m->seq, .dev = dev, .tenant = tenant, .client = m->client};
    core_emit(k, HARP_ACT_REPLY, 0, &r);
}

static void err(struct harp_core *k, const struct harp_msg *m, int number, const char *text)
{
    struct harp_msg r = {.op = HARP_ERR, .seq = m->seq, .a = (uint32_t)number};
    snprintf(r.text, sizeof r.text, "%s", text);
    core_emit(k, HARP_ACT_REPLY, 0, &r);
}

static struct tenant *find_tenant(struct harp_core *k, uint32_t id)
{
    for (uint32_t i = 0; i < k->n_tenants; i++)
        if (id != 0 && k->tenant[i].id == id && !k->tenant[i].deleted)
            return &k->tenant[i];
    return NULL;
}

static void add_device(struct harp_core *k, const struct harp_msg *m)
{
    uint32_t dev = 0;
    while (dev < k->n_devices && memcmp(k->device[dev].uuid, m->uuid, sizeof m->uuid) != 0)
        dev++;
    if (dev == HARP_MAX_DEVICES) {
        err(k, m, ENOSPC, "more devices than HARP_MAX_DEVICES (16)");
        return;
    }
    struct device *d = &k->device[dev];
    if (dev == k->n_devices) {
        memcpy(d->uuid, m->uuid, sizeof d->uuid);
        time_device(k, dev);
        d->first = d->last = -1;
        k->n_devices++;
    }
    int changed = d->capacity != m->capacity_bytes || d->overhead != m->overhead_bytes;
    d->capacity = m->capacity_bytes;
    d->overhead = m->overhead_bytes;
    d->unsettled = 1;
    for (uint32_t t = 0; changed && t < k->n_tenants; t++)
        if (k->tenant[t].id != 0)
            core_announce(k, t, dev);
    ok(k, m, dev, 0);
}

static void add_tenant(struct harp_core *k, const struct harp_msg *m)
{
    struct harp_msg named = *m;
    named.text[sizeof named.text - 1] = 0;
    struct tenant *t = find_tenant(k, m->tenant);
    if (t != NULL) {
        if (t->uid == m->uid && strcmp(t->name, named.text) == 0)
            ok(k, m, 0, t->id);
        else
            err(k, m, EEXIST, "tenant id belongs to another uid or name");
        return;
    }
    uint32_t slot = 0, id = m->tenant;
    uint32_t highest = 0;
    int leaving = 0;
    for (uint32_t i = 0; i < k->n_tenants; i++) {
        highest = k->tenant[i].id > highest ? k->tenant[i].id : highest;
        leaving |= id != 0 && k->tenant[i].id == id;
    }
    if (leaving) {
        err(k, m, EBUSY, "tenant is deleted and still drains; wait or take another id");
        return;
    }
    while (slot < k->n_tenants && k->tenant[slot].id != 0)
        slot++;
    if (slot == k->config.max_tenants || (id == 0 && highest == UINT32_MAX)) {
        err(k, m, ENOSPC, "too many tenants; delete one");
        return;
    }
    if (slot == k->n_tenants)
        k->n_tenants++;
    t = &k->tenant[slot];
    *t = (struct tenant){.id = id != 0 ? id : highest + 1, .uid = m->uid, .first = -1, .gang = -1};
    memcpy(t->name, named.text, sizeof t->name);
    ok(k, m, 0, t->id);
}

static void set_tenant(struct harp_core *k, const struct harp_msg *m)
{
    struct tenant *t = find_tenant(k, m->tenant);
    if (t == NULL || m->dev >= k->n_devices) {
        err(k, m, ENOENT, t == NULL ? "no such tenant" : "no such device; ADD_DEVICE first");
        return;
    }
    if (m->b > HARP_PPM || m->c > HARP_PPM || m->d > HARP_CLASS_BEST_EFFORT) {
        err(k, m, EINVAL, "share and limit are ppm, at most 1000000; class 0 to 2");
        return;
    }
    struct use *u = &t->use[m->dev];
    u->granted = 1;
    u->limit = m->limit_bytes;
    u->beside = m->overhead_bytes;
    t->host_quota = m->free_bytes;
    u->swaps = (m->a & HARP_GRANT_OVERSUBSCRIBE) != 0;
    k->device[m->dev].unsettled = 1;
    time_set(k, (uint32_t)(t - k->tenant), m->dev, m->b, m->c == HARP_PPM ? 0 : m->c, m->d,
             (m->a & HARP_GRANT_NO_GANG) != 0);
    core_announce(k, (uint32_t)(t - k->tenant), m->dev);
    struct harp_msg r = {
        .op = HARP_OK, .seq = m->seq, .dev = m->dev, .tenant = t->id, .overhead_bytes = u->beside};
    core_emit(k, HARP_ACT_REPLY, 0, &r);
}

static void del_tenant(struct harp_core *k, const struct harp_msg *m)
{
    struct tenant *t = find_tenant(k, m->tenant);
    struct harp_msg none = {.op = 0};
    if (t == NULL) {
        err(k, m, ENOENT, "no such tenant");
        return;
    }
    t->deleted = 1;
    suspend_forget(k, t);
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        k->device[dev].unsettled = 1; /* what it was promised is free */
    t->clients++;                     /* keeps the slot while its clients go */
    for (int32_t i = t->first, next; i >= 0; i = next) {
        next = k->client[i].next;
        if (k->client[i].state != HARP_CLIENT_DRAINING) {
            core_emit(k, HARP_ACT_CLOSE, k->client[i].id, &none);
            core_kill(k, &k->client[i]);
        }
    }
    if (--t->clients == 0) {
        time_forget(k, (uint32_t)(t - k->tenant));
        memset(t, 0, sizeof *t);
        t->first = -1;
    }
    ok(k, m, 0, m->tenant);
}

static void set_overhead(struct harp_core *k, const struct harp_msg *m)
{
    struct client *c = core_client(k, m->client);
    if (c == NULL || c->state != HARP_CLIENT_LIVE || m->dev >= k->n_devices) {
        err(k, m, ENOENT, c == NULL ? "no such client" : "client is not live, or no such device");
        return;
    }
    struct device *d = &k->device[m->dev];
    mem_told(k, c, m->dev, m->bytes < d->capacity ? m->bytes : d->capacity, m->limit_bytes);
    ok(k, m, m->dev, 0);
}

static void drained(struct harp_core *k, const struct harp_msg *m)
{
    struct client *c = core_client(k, m->client);
    if (c != NULL && c->state != HARP_CLIENT_DRAINING) {
        err(k, m, EBUSY, "client is alive");
        return;
    }
    if (c != NULL && c->ghost && (k->now < c->dead_ns + HARP_RECALL_NS || expect_awaited(k, c))) {
        err(k, m, EBUSY, "its process is back and may still adopt; ask again in a second");
        return;
    }
    if (c != NULL) /* else it is gone already: said twice, or device by device */
        core_drained(k, c, m->dev);
    ok(k, m, m->dev, 0);
}

static void expect_client(struct harp_core *k, const struct harp_msg *m)
{
    struct tenant *t = find_tenant(k, m->tenant);
    if (t == NULL || m->dev >= k->n_devices || m->pid <= 0) {
        err(k, m, ENOENT, "no such tenant, device or process");
        return;
    }
    struct harp_msg named = *m;
    int number = expect(k, t, m, &named.client);
    if (number != 0)
        err(k, m, number, number == EEXIST ? "it is back already" : "too many clients");
    else
        ok(k, &named, m->dev, t->id);
}

static void suspend(struct harp_core *k, const struct harp_msg *m)
{
    struct tenant *t = find_tenant(k, m->tenant);
    char text[HARP_NAME_BYTES] = "no such tenant";
    int r = ENOENT;
    if (t != NULL && m->op == HARP_SUSPEND)
        r = suspend_step(k, t, m->dev, m->a, text);
    else if (t != NULL)
        r = resume_step(k, t, m->dev, m->b, m->a, text);
    if (r == 0)
        ok(k, m, m->dev, t->id);
    else
        err(k, m, r, text);
}

static void snap_use(struct harp_core *k, const struct tenant *t, uint32_t dev)
{
    const struct use *u = &t->use[dev];
    const struct account *a = &u->account[HARP_LANE_COMPUTE];
    const struct account *copies = &u->account[HARP_LANE_COPY];
    struct harp_msg r = {.op = HARP_SNAP_USE,
                         .tenant = t->id,
                         .dev = dev,
                         .limit_bytes = u->limit,
                         .a = a->wants > 0,
                         .b = a->share_ppm,
                         .c = a->cap_ppm,
                         .d = u->cls,
                         .leased_bytes = u->leased[HARP_MEM_DEVICE] + u->leased[HARP_MEM_SWAP],
                         .bytes = u->draining[HARP_MEM_DEVICE] + u->draining[HARP_MEM_SWAP],
                         .overhead_bytes = u->leased[HARP_MEM_OVERHEAD] + u->extra,
                         .slack_bytes = u->beside,
                         .peak_bytes = u->peak,
                         .used_ns = a->used_ns,
                         .copy_ns = u->copy_ns + copies->used_ns,
                         .wait_ns = a->wait_ns + (a->wait_since ? k->now - a->wait_since : 0),
                         .estimated_ns = a->estimated_ns,
                         .launches = u->launches,
                         .denials = u->denials,
                         .capacity_bytes = t->host_quota,
                         .free_bytes = t->host};
    core_emit(k, HARP_ACT_REPLY, 0, &r);
}

/* How a tenant stands in the order of turns, and what of its work may be on the device. */
static void snap_time(struct harp_core *k, const struct tenant *t, uint32_t dev)
{
    const struct policy *p = policy_of(k);
    const struct lane *l = &k->device[dev].lane[HARP_LANE_COMPUTE];
    const uint32_t slot = (uint32_t)(t - k->tenant);
    struct account a = *account_of(k, l, slot);
    struct harp_msg m = {.op = HARP_SNAP_TIME, .tenant = t->id, .dev = dev};
    if (p->weight != NULL) {
        int64_t credit = p->credit_ns(k, l, slot);
        m.a = (uint32_t)p->weight(k, l, slot);
        m.c |= HARP_STANDING_CREDIT;
        m.used_ns = credit > 0 ? (uint64_t)credit : 0;
        m.copy_ns = credit < 0 ? (uint64_t)-credit : 0;
    }
    if (a.cap_ppm != 0) {
        cap_refill(k, &a);
        m.c |= HARP_STANDING_LIMIT;
        m.wait_ns = a.tokens > 0 ? (uint64_t)a.tokens / HARP_PPM : 0;
        m.quantum_ns = a.tokens < 0 ? (uint64_t)-a.tokens / HARP_PPM : 0;
    }
    for (int32_t i = t->first; i >= 0; i = k->client[i].next) {
        const struct gate *g = &k->client[i].hold[dev].gate[HARP_LANE_COMPUTE];
        m.b += g->state != HARP_GATE_CLOSED;
        if (g->ends_ns > k->now + m.window_ns)
            m.window_ns = g->ends_ns - k->now;
    }
    core_emit(k, HARP_ACT_REPLY, 0, &m);
}

/* Where a tenant's SWAP memory is. */
static void snap_residency(struct harp_core *k, const struct tenant *t, uint32_t dev)
{
    const struct use *u = &t->use[dev];
    const struct residency *r = &u->swap;
    if (!u->swaps && u->leased[HARP_MEM_SWAP] == 0)
        return;
    uint64_t away = r->state > HARP_RESIDENT ? k->now - r->left_ns : 0;
    uint32_t state = r->state != 0 ? r->state : HARP_RESIDENT;
    if (u->away || (t->suspended && r->state == HARP_AWAY))
        state = HARP_SUSPENDED;
    struct harp_msg m = {.op = HARP_SNAP_RESIDENCY,
                         .tenant = t->id,
                         .dev = dev,
                         .a = state,
                         .b = r->pinned != 0,
                         .c = use_flags(u),
                         .leased_bytes = u->leased[HARP_MEM_SWAP],
                         .bytes = u->away ? 0 : r->on,
                         .wait_ns = r->away_ns + away,
                         .window_ns = away,
                         .used_ns = r->swap_ns,
                         .launches = r->swaps,
                         .quantum_ns = rotation_quantum_ns(k, dev, (uint32_t)(t - k->tenant))};
    core_emit(k, HARP_ACT_REPLY, 0, &m);
}

static void snap_client(struct harp_core *k, const struct client *c)
{
    struct harp_msg r = {.op = HARP_SNAP_CLIENT};
    core_fill_client(k, c, &r);
    core_emit(k, HARP_ACT_REPLY, 0, &r);
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        const struct hold *h = &c->hold[dev];
        const struct gate *g = &h->gate[HARP_LANE_COMPUTE];
        uint64_t on = c->state == HARP_CLIENT_LIVE ? h->stay.on : h->leased[HARP_MEM_SWAP];
        struct harp_msg l = {.op = HARP_SNAP_LEASE,
                             .client = c->id,
                             .tenant = r.tenant,
                             .dev = dev,
                             .leased_bytes = h->leased[HARP_MEM_DEVICE] + on,
                             .overhead_bytes = h->leased[HARP_MEM_OVERHEAD] + h->extra,
                             .bytes = h->leased[HARP_MEM_OVERHEAD],
                             .limit_bytes = h->counted,
                             .epoch = h->changes,
                             .a = g->want,
                             .b = g->state};
        if (l.leased_bytes || l.overhead_bytes || l.a || l.b)
            core_emit(k, HARP_ACT_REPLY, 0, &l);
    }
}

static void snapshot(struct harp_core *k, const struct harp_msg *m)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        const struct device *d = &k->device[dev];
        const struct lane *l = &d->lane[HARP_LANE_COMPUTE];
        uint64_t leased = 0, occupied = mem_occupied(d);
        for (uint32_t t = 0; t < k->n_tenants; t++)
            if (!k->tenant[t].use[dev].away)
                leased +=
                    k->tenant[t].use[dev].leased[HARP_MEM_DEVICE] + k->tenant[t].use[dev].swap.on;
        struct harp_msg r = {.op = HARP_SNAP_DEVICE,
                             .dev = dev,
                             .capacity_bytes = d->capacity,
                             .leased_bytes = leased,
                             .bytes = d->draining,
                             .overhead_bytes = d->leased - leased + d->extra,
                             .free_bytes = occupied < d->capacity ? d->capacity - occupied : 0,
                             .tenant = l->turn.tenant < 0 ? 0 : k->tenant[l->turn.tenant].id,
                             .epoch = l->epoch};
        memcpy(r.uuid, d->uuid, sizeof r.uuid);
        core_emit(k, HARP_ACT_REPLY, 0, &r);
    }
    for (uint32_t i = 0; i < k->n_tenants; i++) {
        const struct tenant *t = &k->tenant[i];
        if (t->id == 0)
            continue;
        struct harp_msg r = {
            .op = HARP_SNAP_TENANT, .tenant = t->id, .uid = t->uid, .a = t->clients, .b = m->a};
        memcpy(r.text, t->name, sizeof r.text);
        core_emit(k, HARP_ACT_REPLY, 0, &r);
        for (uint32_t dev = 0; dev < k->n_devices; dev++)
            if (t->use[dev].granted) {
                snap_use(k, t, dev);
                snap_residency(k, t, dev);
                snap_time(k, t, dev);
            }
        for (int32_t c = t->first; c >= 0; c = k->client[c].next)
            if (k->client[c].state != 0)
                snap_client(k, &k->client[c]);
    }
    ok(k, m, 0, 0);
}

void core_admin(struct harp_core *k, const struct harp_msg *m)
{
    switch (m->op) {
    case HARP_ADD_DEVICE:
        add_device(k, m);
        break;
    case HARP_ADD_TENANT:
        add_tenant(k, m);
        break;
    case HARP_SET_TENANT:
        set_tenant(k, m);
        break;
    case HARP_DEL_TENANT:
        del_tenant(k, m);
        break;
    case HARP_DRAINED:
        drained(k, m);
        break;
    case HARP_SET_OVERHEAD:
        set_overhead(k, m);
        break;
    case HARP_EXPECT:
        expect_client(k, m);
        break;
    case HARP_SUSPEND:
    case HARP_RESUME:
        suspend(k, m);
        break;
    case HARP_SNAPSHOT:
        snapshot(k, m);
        break;
    default:
        err(k, m, ENOSYS, "not an operation of the admin socket");
        break;
    }
}
