/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients come, live, die and drain. A slot's number is in the id, with a count that tells whom the
 * slot was given to.
 */
#include <stdio.h>
#include <string.h>

#include "state.h"

void core_fill_client(const struct harp_core *k, const struct client *c, struct harp_msg *m)
{
    m->client = c->id;
    m->tenant = k->tenant[c->tenant].id;
    m->uid = c->uid;
    m->pid = c->pid;
    m->a = c->kind;
    m->b = (uint32_t)c->inner_pid;
    m->d = c->state;
    memcpy(m->text, c->program, sizeof m->text);
}

void core_client_event(struct harp_core *k, const struct client *c)
{
    struct harp_msg m = {.op = HARP_EVENT_CLIENT};
    core_fill_client(k, c, &m);
    core_emit(k, HARP_ACT_EVENT, 0, &m);
}

struct client *core_client(struct harp_core *k, uint32_t id)
{
    uint32_t slot = (id & ((1u << HARP_SLOT_BITS) - 1u)) - 1u;
    if (slot >= k->n_clients || k->client[slot].id != id || id == 0)
        return NULL;
    return &k->client[slot];
}

void core_join(struct harp_core *k, const struct harp_msg *m)
{
    struct harp_msg none = {.op = 0};
    struct tenant *t = NULL;
    for (uint32_t i = 0; i < k->n_tenants && t == NULL; i++)
        if (m->tenant != 0 && k->tenant[i].id == m->tenant)
            t = &k->tenant[i];
    const char *refusal = NULL;
    struct client *c = NULL;
    if (t == NULL || t->deleted)
        refusal = "join_refused_no_tenant";
    else if (t->uid != HARP_ANY_UID && m->uid != t->uid && m->uid != 0)
        refusal = "join_refused_uid";
    else if ((c = core_new_client(k, t, m->pid, m->uid)) == NULL)
        refusal = "join_refused_too_many_clients";
    if (refusal != NULL) {
        struct harp_msg log = {.tenant = m->tenant, .pid = m->pid, .uid = m->uid};
        snprintf(log.text, sizeof log.text, "%s", refusal);
        core_emit(k, HARP_ACT_LOG, 0, &log);
        core_emit(k, HARP_ACT_JOINED, 0, &none);
        return;
    }
    core_emit(k, HARP_ACT_JOINED, c->id, &none);
}

struct client *core_new_client(struct harp_core *k, struct tenant *t, int32_t pid, uint32_t uid)
{
    uint32_t slot, free_slots = k->config.max_clients - k->used_clients;
    if (t->clients >= k->config.max_tenant_clients || t->clients >= free_slots)
        return NULL; /* nobody takes more than he leaves to others */
    if (k->free_client >= 0) {
        slot = (uint32_t)k->free_client;
        k->free_client = k->client[slot].next;
    } else {
        slot = k->n_clients++;
    }
    struct client *c = &k->client[slot];
    k->generation = (k->generation + 1) & ((1u << (32 - HARP_SLOT_BITS)) - 1u);
    *c = (struct client){.id = k->generation << HARP_SLOT_BITS | (slot + 1),
                         .uid = uid,
                         .pid = pid,
                         .version = HARP_LEASE_OLDEST,
                         .tenant = (int32_t)(t - k->tenant),
                         .prev = -1,
                         .next = t->first};
    if (t->first >= 0)
        k->client[t->first].prev = (int32_t)slot;
    t->first = (int32_t)slot;
    t->clients++;
    k->used_clients++;
    return c;
}

/* Forgets a client that holds nothing any more, and its tenant if that was to go. */
static void forget(struct harp_core *k, struct client *c)
{
    struct tenant *t = &k->tenant[c->tenant];
    uint32_t slot = core_slot(k, c);
    if (c->state == HARP_CLIENT_DRAINING)
        k->draining--;
    if (c->state != 0) {
        c->state = HARP_CLIENT_GONE;
        core_client_event(k, c);
    }
    *(c->prev < 0 ? &t->first : &k->client[c->prev].next) = c->next;
    if (c->next >= 0)
        k->client[c->next].prev = c->prev;
    c->id = 0;
    c->next = k->free_client;
    k->free_client = (int32_t)slot;
    k->used_clients--;
    if (--t->clients == 0 && t->deleted) {
        time_forget(k, (uint32_t)(t - k->tenant));
        memset(t, 0, sizeof *t);
        t->first = -1;
    }
}

static int holds_nothing(const struct harp_core *k, const struct client *c)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++)
            if (c->hold[dev].leased[cls] != 0)
                return 0;
    return 1;
}

void core_kill(struct harp_core *k, struct client *c)
{
    if (c->state == HARP_CLIENT_DRAINING)
        return;
    c->dead_ns = k->now;
    if (c->state == HARP_CLIENT_LIVE) {
        k->tenant[c->tenant].live--;
        time_dead(k, c);
        mem_dead(k, c);
        for (uint32_t dev = 0; dev < k->n_devices; dev++)
            time_company(k, dev);
        if (!holds_nothing(k, c)) {
            c->state = HARP_CLIENT_DRAINING;
            k->draining++;
            core_client_event(k, c);
            return;
        }
    }
    forget(k, c);
}

void core_drained(struct harp_core *k, struct client *c, uint32_t dev)
{
    for (uint32_t i = 0; i < k->n_devices; i++)
        if (dev == i || dev == HARP_ALL_DEVICES)
            mem_drained(k, c, i);
    if (holds_nothing(k, c))
        forget(k, c);
}

/* When the leases of a dead client go back by themselves. */
static uint64_t alone_ns(const struct harp_core *k, const struct client *c)
{
    if (c->ghost && expect_awaited(k, c))
        return HARP_NEVER;
    if (c->ghost)
        return c->dead_ns + HARP_DRAIN_ALONE_NS;
    if (k->watchers > 0)
        return HARP_NEVER;
    return (c->dead_ns > k->unwatched_ns ? c->dead_ns : k->unwatched_ns) + HARP_DRAIN_ALONE_NS;
}

void core_drain_tick(struct harp_core *k)
{
    for (uint32_t i = 0; k->draining > 0 && i < k->n_clients; i++) {
        struct client *c = &k->client[i];
        if (c->id == 0 || c->state != HARP_CLIENT_DRAINING || alone_ns(k, c) > k->now)
            continue;
        core_log(k, c, HARP_ALL_DEVICES, 0,
                 c->ghost ? "drained_after_return" : "drained_unwatched");
        core_drained(k, c, HARP_ALL_DEVICES);
    }
}

uint64_t core_drain_next(const struct harp_core *k)
{
    uint64_t next = HARP_NEVER;
    uint32_t seen = 0;
    for (uint32_t i = 0; seen < k->draining && i < k->n_clients; i++) {
        const struct client *c = &k->client[i];
        if (c->id == 0 || c->state != HARP_CLIENT_DRAINING)
            continue;
        seen++;
        uint64_t at = alone_ns(k, c);
        next = at < next ? at : next;
    }
    return next;
}
