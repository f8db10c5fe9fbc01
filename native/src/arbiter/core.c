/* SPDX-License-Identifier: Apache-2.0
 *
 * The step function: clients come and go (clients.c); what they say of memory goes to memory.c, of
 * time to time.c; what harpd says to admin_ops.c.
 */
#include <stdio.h>
#include <string.h>

#include "state.h"

static size_t aligned(size_t bytes)
{
    return (bytes + 15u) & ~(size_t)15u;
}

size_t harp_core_bytes(const struct harp_core_config *config)
{
    if (config->max_clients == 0 || config->max_clients > HARP_CLIENTS_MAX ||
        config->max_tenants == 0 || config->max_tenants > 4096 || config->max_tenant_clients == 0 ||
        config->quantum_ns < 1000000 || config->quantum_ns > 50000000 ||
        config->burst_ns > 1000000000 || config->policy > HARP_POLICY_FIFO)
        return 0;
    return aligned(sizeof(struct harp_core)) +
           aligned(config->max_tenants * sizeof(struct tenant)) +
           aligned(config->max_clients * sizeof(struct client));
}

struct harp_core *harp_core_init(void *memory, const struct harp_core_config *config)
{
    struct harp_core *k = memory;
    char *base = memory;
    k->config = *config;
    k->tenant = (struct tenant *)(void *)(base + aligned(sizeof *k));
    k->client = (struct client *)(void *)((char *)k->tenant +
                                          aligned(config->max_tenants * sizeof(struct tenant)));
    k->free_client = -1;
    for (uint32_t i = 0; i < HARP_REQUESTS; i++) {
        k->request[i].client = -1;
        k->request[i].next = i + 1 < HARP_REQUESTS ? (int32_t)i + 1 : -1;
    }
    k->free_request = 0;
    k->free_requests = HARP_REQUESTS;
    return k;
}

void core_emit(struct harp_core *k, uint32_t kind, uint32_t client, const struct harp_msg *msg)
{
    struct harp_action action = {.kind = kind, .client = client, .msg = *msg};
    action.msg.version = HARP_LEASE_VERSION;
    k->sink->emit(k->sink->ctx, &action);
}

void core_send(struct harp_core *k, const struct client *c, struct harp_msg *msg)
{
    struct harp_action action = {.kind = HARP_ACT_SEND, .client = c->id, .msg = *msg};
    if (wire_narrow(c->version, &action.msg))
        k->sink->emit(k->sink->ctx, &action);
}

void core_log(struct harp_core *k, const struct client *c, uint32_t dev, uint64_t bytes,
              const char *text)
{
    struct harp_msg m = {.dev = dev, .bytes = bytes};
    if (c != NULL) {
        m.client = c->id;
        m.pid = c->pid;
        m.tenant = k->tenant[c->tenant].id;
    }
    snprintf(m.text, sizeof m.text, "%s", text);
    core_emit(k, HARP_ACT_LOG, m.client, &m);
}

/* Tells the clients of a tenant what they may have on a device. */
void core_announce(struct harp_core *k, uint32_t tenant, uint32_t dev)
{
    const struct tenant *t = &k->tenant[tenant];
    for (int32_t i = t->first; i >= 0; i = k->client[i].next)
        if (k->client[i].state == HARP_CLIENT_LIVE)
            core_device(k, &k->client[i], dev);
}

static void say_device(struct harp_core *k, struct client *c, uint32_t dev, uint64_t was)
{
    const struct device *d = &k->device[dev];
    const struct use *u = &k->tenant[c->tenant].use[dev];
    if (!u->granted)
        return;
    struct harp_msg m = {.op = HARP_DEVICE,
                         .dev = dev,
                         .limit_bytes = u->limit,
                         .capacity_bytes = d->capacity,
                         .overhead_bytes = d->overhead,
                         .slack_bytes =
                             u->limit != 0 ? k->config.slack_bytes : k->config.slack_free_bytes,
                         .b = u->account[HARP_LANE_COMPUTE].share_ppm,
                         .c = u->account[HARP_LANE_COMPUTE].cap_ppm,
                         .a = use_flags(u),
                         .d = u->cls,
                         .free_bytes = k->tenant[c->tenant].host_quota,
                         .epoch = was};
    memcpy(m.uuid, d->uuid, sizeof m.uuid);
    core_send(k, c, &m);
}

void core_device(struct harp_core *k, struct client *c, uint32_t dev)
{
    say_device(k, c, dev, 0);
}

/* A client that was restored elsewhere: all that it has on `from` is on `to`. */
void core_moved(struct harp_core *k, struct client *c, uint32_t from, uint32_t to)
{
    say_device(k, c, to, from + 1);
}

static void hello(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct tenant *t = &k->tenant[c->tenant];
    c->state = HARP_CLIENT_LIVE;
    c->version = (uint8_t)wire_agreed(m);
    c->kind = m->a;
    c->inner_pid = m->pid;
    c->may_adopt = (m->b & HARP_HELLO_READOPT) != 0;
    c->ends = (m->b & HARP_HELLO_ENDS) != 0;
    memcpy(c->program, m->text, sizeof c->program);
    c->program[sizeof c->program - 1] = 0;
    t->live++;
    if (c->may_adopt && c->pid > 0)
        expect_back(k, c);
    struct harp_msg w = {.op = HARP_WELCOME,
                         .client = c->id,
                         .tenant = t->id,
                         .b = HARP_TIME_LANES,
                         .c = HARP_MEM_CLASSES};
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        w.a += t->use[dev].granted;
    memcpy(w.text, t->name, sizeof w.text);
    core_send(k, c, &w);
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        core_device(k, c, dev);
        time_company(k, dev);
    }
    core_client_event(k, c);
}

/* What a newer client says, and we do not know. */
static int later(const struct harp_msg *m)
{
    return m->version >= 2 && m->op > HARP_RESTORED && m->op < HARP_WELCOME;
}

static int whole(const struct harp_msg *m)
{
    return m->bytes % (m->cls == HARP_MEM_HOST ? HARP_PAGE_BYTES : HARP_GRANULE_BYTES) == 0;
}

/* Is the message one that a client in this state may send, with operands that can be meant? */
static int acceptable(const struct harp_core *k, const struct client *c, const struct harp_msg *m)
{
    int known = m->dev < k->n_devices;
    if (!wire_understood(m) || !wire_consistent(m))
        return 0;
    if ((c->state == 0) != (m->op == HARP_HELLO) || (c->state != 0 && m->version != c->version))
        return 0;
    switch (m->op) {
    case HARP_HELLO:
    case HARP_MEM_INFO:
        return 1;
    case HARP_LEASE_MEM:
        return m->cls < HARP_MEM_CLASSES && m->bytes != 0 && whole(m);
    case HARP_RETURN_MEM:
    case HARP_ADOPT_MEM:
        return known && m->cls < HARP_MEM_CLASSES && whole(m);
    case HARP_EVICTED:
    case HARP_RESTORED:
        return known;
    case HARP_RECALLED:
        return known && m->bytes % HARP_GRANULE_BYTES == 0;
    case HARP_WANT_TIME:
    case HARP_YIELD_TIME:
    case HARP_USED_TIME:
        return known && m->cls < HARP_TIME_LANES;
    default:
        return later(m);
    }
}

static void message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    if (c->state == HARP_CLIENT_DRAINING)
        return;
    if (!acceptable(k, c, m)) {
        struct harp_msg none = {.op = 0};
        core_log(k, c, m->dev, m->op, "protocol_error");
        core_emit(k, HARP_ACT_CLOSE, c->id, &none);
        core_kill(k, c);
        return;
    }
    if (c->state != 0 && later(m)) {
        if (!c->odd)
            core_log(k, c, m->dev, m->op, "unknown_message_ignored");
        c->odd = 1;
        return;
    }
    c->mute = 0;
    if (c->returning && m->op != HARP_ADOPT_MEM)
        expect_done(k, c);
    struct harp_msg here = *m;
    if (m->dev < k->n_devices && c->moved[m->dev] != 0) /* it may not have heard of it yet */
        here.dev = c->moved[m->dev] - 1u;
    m = &here;
    if (m->op == HARP_HELLO && (m->b & HARP_HELLO_LOOK) != 0) {
        core_look(k, c, m);
    } else if (m->op == HARP_HELLO) {
        hello(k, c, m);
    } else {
        mem_message(k, c, m);
        if (m->op == HARP_WANT_TIME || m->op == HARP_YIELD_TIME || m->op == HARP_USED_TIME)
            time_message(k, c, m);
        if (m->op == HARP_EVICTED || m->op == HARP_RESTORED)
            residency_message(k, c, m);
    }
}

void harp_core_step(struct harp_core *k, const struct harp_event *event, uint64_t now_ns,
                    const struct harp_sink *sink)
{
    struct client *c = core_client(k, event->client);
    k->sink = sink;
    k->now = now_ns > k->now ? now_ns : k->now;
    rotation_account(k);
    switch (event->kind) {
    case HARP_EV_JOIN:
        core_join(k, &event->msg);
        break;
    case HARP_EV_MESSAGE:
        if (c != NULL)
            message(k, c, &event->msg);
        break;
    case HARP_EV_DEAD:
        if (c != NULL)
            core_kill(k, c);
        break;
    case HARP_EV_ADMIN:
        core_admin(k, &event->msg);
        break;
    case HARP_EV_WATCHED:
        if (k->watchers > 0 && event->msg.a == 0)
            k->unwatched_ns = k->now;
        k->watchers = event->msg.a;
        break;
    case HARP_EV_TICK:
        time_tick(k);
        request_tick(k);
        core_drain_tick(k);
        break;
    default:
        break;
    }
    time_settle(k);
    int moved = 0;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        int again = k->device[dev].unsettled || k->device[dev].swap.used;
        while (again) {
            if (k->device[dev].unsettled)
                request_settle(k, dev);
            again = residency_settle(k, dev);
            moved |= again;
        }
    }
    if (moved)
        time_settle(k);
    k->sink = NULL;
}

uint32_t harp_core_clients(const struct harp_core *k)
{
    return k->used_clients;
}

uint64_t harp_core_next(const struct harp_core *k)
{
    uint64_t next = time_next(k), other = request_next(k);
    next = other < next ? other : next;
    other = residency_next(k);
    next = other < next ? other : next;
    other = core_drain_next(k);
    next = other < next ? other : next;
    return next;
}
