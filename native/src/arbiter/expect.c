/* SPDX-License-Identifier: Apache-2.0
 *
 * After another arbiter: what its clients held is on the device still, and they come back one by
 * one. Until they have, others may not be given it. So harpd says beforehand who is expected with
 * how much; that is charged as what the dead left, and goes over to the process that adopts it.
 */
#include <errno.h>
#include <string.h>

#include "state.h"

/* The client that stands for a process that has not come back; NULL: there is none. */
static struct client *expected(struct harp_core *k, const struct tenant *t, int32_t pid)
{
    for (int32_t i = t->first; i >= 0; i = k->client[i].next)
        if (k->client[i].expected && k->client[i].pid == pid)
            return &k->client[i];
    return NULL;
}

static uint64_t granules(uint64_t bytes, uint64_t most)
{
    bytes = bytes < most ? bytes : most;
    return (bytes + HARP_GRANULE_BYTES - 1) / HARP_GRANULE_BYTES * HARP_GRANULE_BYTES;
}

/* 0 and the client in `id`, or an errno. */
int expect(struct harp_core *k, struct tenant *t, const struct harp_msg *m, uint32_t *id)
{
    for (int32_t i = t->first; i >= 0; i = k->client[i].next)
        if (k->client[i].state == HARP_CLIENT_LIVE && k->client[i].pid == m->pid)
            return EEXIST; /* it was faster than harpd */
    struct client *c = expected(k, t, m->pid);
    if (c == NULL) {
        c = core_new_client(k, t, m->pid, t->uid);
        if (c == NULL)
            return ENOSPC;
        c->state = HARP_CLIENT_DRAINING;
        c->expected = 1;
        c->dead_ns = k->now;
        memcpy(c->program, m->text, sizeof c->program);
        c->program[sizeof c->program - 1] = 0;
        k->draining++;
    }
    struct hold *h = &c->hold[m->dev];
    struct device *d = &k->device[m->dev];
    mem_drained(k, c, m->dev); /* what was said of it before */
    h->leased[HARP_MEM_DEVICE] = granules(m->bytes, d->capacity);
    h->leased[HARP_MEM_OVERHEAD] = granules(m->overhead_bytes, d->capacity);
    h->claimable = m->a == 1;
    h->claim = granules(m->limit_bytes, d->capacity);
    for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++) {
        t->use[m->dev].draining[cls] += h->leased[cls];
        d->draining += h->leased[cls];
    }
    *id = c->id;
    return 0;
}

/* A process is back: its dead connections are its own, and what it may adopt is known. */
void expect_back(struct harp_core *k, struct client *c)
{
    for (int32_t i = k->tenant[c->tenant].first; i >= 0; i = k->client[i].next) {
        struct client *old = &k->client[i];
        if (old->state != HARP_CLIENT_DRAINING || old->pid != c->pid)
            continue;
        old->ghost = 1;
        old->dead_ns = k->now;
        c->returning |= old->expected || c->ends;
        for (uint32_t dev = 0; old->expected && dev < k->n_devices; dev++) {
            c->hold[dev].claimable = old->hold[dev].claimable;
            c->hold[dev].claim = old->hold[dev].claim;
        }
    }
}

/* How much of `bytes` it may adopt, by what device and ledger said it held. */
uint64_t expect_claim(struct harp_core *k, struct client *c, uint32_t dev, uint64_t bytes)
{
    const struct hold *h = &c->hold[dev];
    if (!h->claimable)
        return bytes;
    uint64_t most = below(h->leased[HARP_MEM_DEVICE], h->claim);
    if (bytes <= most)
        return bytes;
    core_log(k, c, dev, bytes - most, "adoption_beyond_device");
    return most;
}

/* It has adopted all it holds: what is left of its dead connections was given back meanwhile. */
void expect_done(struct harp_core *k, struct client *c)
{
    c->returning = 0;
    for (int32_t i = k->tenant[c->tenant].first, next; i >= 0; i = next) {
        struct client *old = &k->client[i];
        next = old->next;
        if (old->ghost && old->expected && old->pid == c->pid)
            core_drained(k, old, HARP_ALL_DEVICES);
    }
}

int expect_awaited(const struct harp_core *k, const struct client *ghost)
{
    for (int32_t i = k->tenant[ghost->tenant].first; i >= 0; i = k->client[i].next) {
        const struct client *c = &k->client[i];
        if (c->state == HARP_CLIENT_LIVE && c->pid == ghost->pid && c->returning && c->ends)
            return 1;
    }
    return 0;
}
