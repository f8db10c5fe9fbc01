/* SPDX-License-Identifier: Apache-2.0
 *
 * Suspended tenants: their processes live, locked in the driver, and what they hold lies on the
 * host. harpd moves it and says how far it is; here it is only counted. What is away is still held
 * against the tenant's limit, and no longer against the device; before it comes back, room for it
 * is reserved, for a driver that finds none spoils the process.
 */
#include <errno.h>
#include <stdio.h>

#include "policy.h"

enum { CLOSE = 1, AWAY = 2, EVICT = 3 };
enum { RESERVE = 1, BACK = 2, GIVE_UP = 3 };

static void say(char *text, const char *what)
{
    snprintf(text, HARP_NAME_BYTES, "%s", what);
}

/* What of its leases stands on the device, or stood there when it was put away: SWAP memory that
 * was off it before lies in its processes, and returns as its tenant's turn comes. */
static uint64_t stands(const struct use *u)
{
    return u->leased[HARP_MEM_DEVICE] + u->leased[HARP_MEM_OVERHEAD] + u->swap.on;
}

static uint64_t held(const struct use *u)
{
    return stands(u) + u->extra;
}

static void give_back(struct harp_core *k, struct use *u)
{
    if (u->reserved_on != 0) {
        k->device[u->reserved_on - 1].reserved -= u->reserved;
        k->device[u->reserved_on - 1].unsettled = 1;
    }
    u->reserved = u->reserved_on = 0;
    u->return_mark = 0;
}

/* What its clients want they want later; a turn of theirs ends as turns do. */
static void close_gates(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    for (int32_t i = k->tenant[tenant].first; i >= 0; i = k->client[i].next) {
        struct gate *g = gate_of(l, &k->client[i]);
        g->later |= g->want;
        g->backlog = 0;
        turn_unwant(k, l, &k->client[i]);
    }
    if (l->turn.tenant == (int32_t)tenant)
        turn_close(k, l);
}

static void close_tenant(struct harp_core *k, struct tenant *t)
{
    uint32_t tenant = (uint32_t)(t - k->tenant);
    t->suspended = 1;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
            close_gates(k, &k->device[dev].lane[n], tenant);
        for (int32_t i = t->first; i >= 0; i = k->client[i].next)
            recall_dead(k, &k->client[i], dev);
        k->device[dev].unsettled = 1;
    }
}

/* Nothing of it runs there, whatever its clients can still say. */
static void end_turns(struct harp_core *k, struct lane *l, uint32_t tenant)
{
    if (l->before.open > 0 && l->before.tenant == (int32_t)tenant)
        turn_give_up(k, l, &l->before);
    if (l->turn.tenant == (int32_t)tenant && l->turn.open > 0)
        turn_give_up(k, l, &l->turn);
}

static void put_away(struct harp_core *k, struct tenant *t, uint32_t dev)
{
    struct use *u = &t->use[dev];
    struct device *d = &k->device[dev];
    if (!u->granted || u->away)
        return;
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
        end_turns(k, &d->lane[n], (uint32_t)(t - k->tenant));
    u->away = 1;
    d->leased -= stands(u);
    d->swap.on -= u->swap.on - u->swap.pinned;
    d->extra -= u->extra;
    d->unsettled = 1;
}

static void land(struct harp_core *k, struct use *u, uint32_t dev)
{
    if (!u->away)
        return;
    u->away = 0;
    k->device[dev].leased += stands(u);
    k->device[dev].swap.on += u->swap.on - u->swap.pinned;
    k->device[dev].extra += u->extra;
    k->device[dev].unsettled = 1;
}

/* Its processes are not stopped in a driver: contexts stay, and what can leave is told to. */
static void evict(struct harp_core *k, struct tenant *t, uint32_t dev)
{
    uint32_t tenant = (uint32_t)(t - k->tenant);
    land(k, &t->use[dev], dev);
    if (k->device[dev].swap.used && t->use[dev].swap.state != HARP_AWAY)
        residency_evict(k, dev, tenant);
}

int suspend_step(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t phase, char *text)
{
    say(text, "phase is 1 (close), 2 (away), 3 (evict); known device, or all");
    if (phase < CLOSE || phase > EVICT || (phase != CLOSE && !t->suspended) ||
        (dev >= k->n_devices && dev != HARP_ALL_DEVICES))
        return EINVAL;
    if (phase == CLOSE)
        close_tenant(k, t);
    for (uint32_t i = 0; phase != CLOSE && i < k->n_devices; i++) {
        if (dev != i && dev != HARP_ALL_DEVICES)
            continue;
        give_back(k, &t->use[i]); /* of a return that came to nothing */
        (phase == AWAY ? put_away : evict)(k, t, i);
    }
    return 0;
}

static int reserve(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t to, char *text)
{
    uint32_t tenant = (uint32_t)(t - k->tenant);
    struct use *u = &t->use[dev];
    struct device *d = &k->device[to];
    if (!u->away || u->reserved_on == to + 1)
        return 0;
    if (u->reserved_on != 0)
        give_back(k, u);
    if (mem_room(k, to, tenant, 0) >= held(u)) {
        u->reserved = held(u);
        u->reserved_on = to + 1;
        d->reserved += u->reserved;
        return 0;
    }
    if (u->return_mark == 0)
        u->return_mark = d->round_no + 1;
    uint64_t mark = u->return_mark - 1;
    say(text, "peers are asked for what they do not use");
    if (!recall_all_settled(k, to, tenant, mark))
        return EAGAIN;
    say(text, "memory of others leaves for it");
    if (rotation_clear(k, to, tenant, HARP_MEM_DEVICE, held(u)))
        return EAGAIN;
    say(text, "memory of the dead is awaited");
    if (mem_room(k, to, tenant, 1) >= held(u))
        return EAGAIN;
    u->return_mark = 0;
    snprintf(text, HARP_NAME_BYTES, "%llu MiB to come back, %llu MiB free",
             (unsigned long long)(held(u) >> 20),
             (unsigned long long)(mem_room(k, to, tenant, 0) >> 20));
    return ENOMEM;
}

/* Where its SWAP memory is goes along, with the answers that are missing. */
static void move_stay(struct harp_core *k, struct client *c, uint32_t dev, uint32_t to)
{
    struct hold *h = &c->hold[dev], *goal = &c->hold[to];
    uint64_t on = h->stay.on;
    mem_stay(k, c, dev, 0);
    goal->stay = h->stay;
    h->stay = (struct stay){0};
    mem_stay(k, c, to, on);
}

static void move_residency(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t to)
{
    struct residency *from = &t->use[dev].swap, *into = &t->use[to].swap;
    uint32_t seq = k->device[dev].swap.seq;
    *into = *from;
    into->on = into->pinned = 0;
    k->device[to].swap.used = 1;
    if (k->device[to].swap.seq < seq)
        k->device[to].swap.seq = seq;
    for (int32_t i = t->first; i >= 0; i = k->client[i].next)
        if (k->client[i].state == HARP_CLIENT_LIVE)
            move_stay(k, &k->client[i], dev, to);
    *from = (struct residency){0};
}

/* What it wants there it wants here; of its turns there nothing is left. */
static void move_gates(struct hold *from, struct hold *into)
{
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        into->gate[n].later |= from->gate[n].later;
        from->gate[n] = (struct gate){.state = HARP_GATE_CLOSED};
    }
}

/* All that a client holds on `dev` lies on `to` from now on, and there is what it waits for. */
static void move(struct harp_core *k, struct client *c, uint32_t dev, uint32_t to)
{
    struct use *from = &k->tenant[c->tenant].use[dev], *into = &k->tenant[c->tenant].use[to];
    struct hold *h = &c->hold[dev], *goal = &c->hold[to];
    for (uint32_t cls = 0; cls < HARP_MEM_CLASSES; cls++) {
        from->leased[cls] -= h->leased[cls];
        goal->leased[cls] += h->leased[cls];
        into->leased[cls] += h->leased[cls];
        if (cls != HARP_MEM_SWAP)
            k->device[to].leased += h->leased[cls];
        h->leased[cls] = 0;
    }
    goal->told += h->told;
    goal->told_counted += h->told_counted;
    h->told = h->told_counted = 0;
    goal->changes++;
    h->changes++;
    mem_cover(k, c, dev);
    mem_cover(k, c, to);
    request_moved(k, c, dev, to);
    move_gates(h, goal);
    c->moved[dev] = (uint8_t)(to + 1);
    c->moved[to] = 0;
    core_moved(k, c, dev, to);
}

static void bring_back(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t to)
{
    struct use *u = &t->use[dev];
    if (!u->away)
        return;
    give_back(k, u);
    if (dev != to) {
        land(k, &t->use[to], to); /* nothing of it may be there yet */
        if (u->leased[HARP_MEM_SWAP] != 0)
            move_residency(k, t, dev, to);
        for (int32_t i = t->first; i >= 0; i = k->client[i].next)
            if (k->client[i].state == HARP_CLIENT_LIVE)
                move(k, &k->client[i], dev, to);
        uint64_t now = t->use[to].leased[HARP_MEM_DEVICE] + t->use[to].leased[HARP_MEM_SWAP];
        if (now > t->use[to].peak)
            t->use[to].peak = now;
    }
    land(k, u, dev);
}

static void open_tenant(struct harp_core *k, struct tenant *t)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        if (t->use[dev].away && held(&t->use[dev]) != 0)
            return; /* more is to come back */
    t->suspended = 0;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        land(k, &t->use[dev], dev);
        k->device[dev].unsettled = 1;
        for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
            for (int32_t i = t->first; i >= 0; i = k->client[i].next) {
                struct gate *g = gate_of(&k->device[dev].lane[n], &k->client[i]);
                int later = g->later;
                g->later = 0;
                if (later && k->client[i].state == HARP_CLIENT_LIVE)
                    time_want(k, &k->device[dev].lane[n], &k->client[i]);
            }
    }
}

int resume_step(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t to, uint32_t phase,
                char *text)
{
    say(text, "phase is 1 (reserve), 2 (back), 3 (give up); known devices");
    if (phase < RESERVE || phase > GIVE_UP || dev >= k->n_devices || to >= k->n_devices)
        return EINVAL;
    say(text, "not granted to the tenant; SET_TENANT first");
    if (!t->use[to].granted)
        return ENOENT;
    if (!t->suspended)
        return 0;
    say(text, "it has memory that can leave on both devices; not to that one");
    if (dev != to && t->use[dev].leased[HARP_MEM_SWAP] != 0 &&
        t->use[to].leased[HARP_MEM_SWAP] != 0)
        return EBUSY;
    if (phase == RESERVE)
        return reserve(k, t, dev, to, text);
    if (phase == GIVE_UP) {
        give_back(k, &t->use[dev]);
        return 0;
    }
    bring_back(k, t, dev, to);
    open_tenant(k, t);
    return 0;
}

void suspend_forget(struct harp_core *k, struct tenant *t)
{
    for (uint32_t dev = 0; dev < k->n_devices; dev++)
        give_back(k, &t->use[dev]);
}
