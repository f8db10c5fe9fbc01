/* SPDX-License-Identifier: Apache-2.0
 *
 * One tenant off a device and back: its turns are closed and drain, each of its clients there is
 * told to take its SWAP memory off the device, and later to bring it back. A client that dies is
 * waited for no more; one that is stopped neither, after its time: what it holds on the device
 * stays counted, and its gates stay shut until it has answered.
 *
 * Until all have answered an EVICT (or their time is over) everything counts as it was. From the
 * RESTORE on, everything counts as if it were there.
 */
#include "residency.h"

#include "policy.h"

static struct residency *of(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    return &k->tenant[tenant].use[dev].swap;
}

int residency_in(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    return of(k, dev, tenant)->state <= HARP_RESIDENT;
}

/* Has the client been told to be away, and not yet to come back? */
static int told_away(const struct stay *s)
{
    return !s->restoring && (s->away || s->asked != 0);
}

/* Is it to be told to come back when its tenant does? What stays for good may have been granted
 * more while the rest was away. */
int residency_to_bring(const struct hold *h)
{
    return told_away(&h->stay) || (h->stay.pinned && h->stay.on < h->leased[HARP_MEM_SWAP]);
}

/* Would memory granted to the client now stay off the device? */
int residency_away(const struct harp_core *k, const struct client *c, uint32_t dev)
{
    const struct stay *s = &c->hold[dev].stay;
    return told_away(s) || (of(k, dev, (uint32_t)c->tenant)->state == HARP_AWAY && !s->pinned);
}

static void ask(struct harp_core *k, struct client *c, uint32_t dev, uint16_t op)
{
    struct rotation *r = &k->device[dev].swap;
    struct stay *s = &c->hold[dev].stay;
    r->seq = r->seq + 1 != 0 ? r->seq + 1 : 1;
    s->asked = r->seq;
    s->restoring = op == HARP_RESTORE;
    s->sent_ns = k->now;
    struct harp_msg m = {.op = op, .dev = dev, .seq = s->asked};
    core_send(k, c, &m);
}

/* The client leases SWAP memory. True if that is on the device. */
int residency_leased(struct harp_core *k, struct client *c, uint32_t dev)
{
    if (!residency_away(k, c, dev)) {
        struct residency *r = of(k, dev, (uint32_t)c->tenant);
        if (r->since_ns == 0)
            r->since_ns = k->now;
        return 1;
    }
    if (!told_away(&c->hold[dev].stay))
        ask(k, c, dev, HARP_EVICT);
    return 0;
}

/* A client of an arbiter that is gone says where its memory is; its tenant's others may have said
 * something else. */
void residency_adopt(struct harp_core *k, struct client *c, uint32_t dev, int away)
{
    struct stay *s = &c->hold[dev].stay;
    k->device[dev].swap.used = 1;
    if (away && s->asked == 0)
        s->away = 1;
    if (s->away || !residency_in(k, dev, (uint32_t)c->tenant))
        residency_evict(k, dev, (uint32_t)c->tenant);
}

void residency_evict(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    if (r->state == HARP_EVICTING)
        return;
    if (r->state <= HARP_RESIDENT) {
        r->left_ns = k->now;
        r->not_before_ns = r->since_ns + rotation_quantum_ns(k, dev, tenant);
    }
    r->state = HARP_EVICTING;
    r->asked = 0;
    r->deadline_ns = HARP_NEVER;
    r->phase_ns = r->phase_bytes = r->lasting_ns = 0;
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++)
        if (k->device[dev].lane[n].turn.tenant == (int32_t)tenant)
            turn_close(k, &k->device[dev].lane[n]);
}

static int drained(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        const struct lane *l = &k->device[dev].lane[n];
        if (l->turn.tenant == (int32_t)tenant ||
            (l->before.tenant == (int32_t)tenant && l->before.open > 0))
            return 0;
    }
    return 1;
}

static struct client *next_live(const struct harp_core *k, int32_t *i)
{
    while (*i >= 0) {
        struct client *c = &k->client[*i];
        *i = c->next;
        if (c->state == HARP_CLIENT_LIVE)
            return c;
    }
    return NULL;
}

static void tell_evict(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    uint64_t bytes = 0;
    int32_t i = k->tenant[tenant].first;
    for (struct client *c; (c = next_live(k, &i)) != NULL;) {
        struct hold *h = &c->hold[dev];
        if (h->leased[HARP_MEM_SWAP] == 0 || h->stay.pinned || told_away(&h->stay))
            continue;
        bytes += h->stay.on;
        ask(k, c, dev, HARP_EVICT);
    }
    r->asked = 1;
    r->deadline_ns = k->now + HARP_SWAP_LATE_NS + bytes;
    k->device[dev].unsettled = 1; /* what they are granted from now on is not for the device */
}

/* Its gates stay shut when those of its tenant's other clients open. */
static void shut(struct harp_core *k, struct client *c, uint32_t dev)
{
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        struct lane *l = &k->device[dev].lane[n];
        if (gate_of(l, c)->want)
            c->hold[dev].stay.wanted |= (uint8_t)(1u << n);
        turn_unwant(k, l, c);
    }
}

void residency_restore(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    struct rotation *d = &k->device[dev].swap;
    uint64_t bytes = 0;
    int32_t i = k->tenant[tenant].first;
    r->state = HARP_RESTORING;
    r->failed = 0;
    r->phase_ns = r->phase_bytes = r->lasting_ns = 0;
    if (d->vtime < r->vtime)
        d->vtime = r->vtime;
    for (struct client *c; (c = next_live(k, &i)) != NULL;) {
        struct hold *h = &c->hold[dev];
        if (!residency_to_bring(h))
            continue;
        mem_stay(k, c, dev, h->leased[HARP_MEM_SWAP]);
        bytes += h->stay.on;
        ask(k, c, dev, HARP_RESTORE);
        if (h->stay.late)
            shut(k, c, dev);
    }
    r->deadline_ns = k->now + HARP_SWAP_LATE_NS + bytes;
}

static void moved(struct harp_core *k, struct residency *r, const struct stay *s,
                  const struct harp_msg *m)
{
    uint64_t wall = k->now - s->sent_ns;
    uint64_t ns = m->used_ns != 0 && m->used_ns < wall ? m->used_ns : wall;
    uint64_t lasting = m->wait_ns < ns ? ns - m->wait_ns : 0;
    r->phase_ns = ns > r->phase_ns ? ns : r->phase_ns;
    r->lasting_ns = lasting > r->lasting_ns ? lasting : r->lasting_ns;
    r->phase_bytes += s->on;
}

/* What it wanted while it was waited for no more, it wants now. */
static void wants_again(struct harp_core *k, struct client *c, uint32_t dev)
{
    struct stay *s = &c->hold[dev].stay;
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        struct lane *l = &k->device[dev].lane[n];
        if ((s->wanted & 1u << n) == 0 || gate_of(l, c)->state != HARP_GATE_CLOSED)
            continue;
        if (k->tenant[c->tenant].suspended) {
            gate_of(l, c)->later = 1;
            continue;
        }
        turn_want(k, l, c);
        if (l->turn.tenant == c->tenant)
            turn_join(k, l, c);
        else
            handover_consider(k, l, (uint32_t)c->tenant);
    }
    s->wanted = 0;
}

static void evicted(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct hold *h = &c->hold[m->dev];
    struct rotation *d = &k->device[m->dev].swap;
    struct residency *r = of(k, m->dev, (uint32_t)c->tenant);
    if (m->b == 1) {
        struct harp_msg why = *m;
        why.text[sizeof why.text - 1] = 0;
        core_log(k, c, m->dev, h->stay.on, "evict_failed");
        core_log(k, c, m->dev, 0, why.text);
        if (!k->tenant[c->tenant].use[m->dev].away)
            d->on -= h->stay.on;
        r->pinned += h->stay.on;
        h->stay.pinned = 1;
        return;
    }
    h->stay.away = 1;
    moved(k, r, &h->stay, m);
    if (r->state != HARP_EVICTING)
        mem_stay(k, c, m->dev, 0); /* nobody waits for it any more */
}

static void could_not_return(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    r->failed = 0;
    r->again_ns = r->again_ns == 0 ? HARP_SWAP_AGAIN_NS : 2 * r->again_ns;
    if (r->again_ns > HARP_SWAP_MOST_NS)
        r->again_ns = HARP_SWAP_MOST_NS;
    residency_evict(k, dev, tenant);
    r->not_before_ns = k->now + r->again_ns;
}

static void restored(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct hold *h = &c->hold[m->dev];
    struct residency *r = of(k, m->dev, (uint32_t)c->tenant);
    h->stay.restoring = 0;
    if (m->b == 1) {
        core_log(k, c, m->dev, h->stay.on, "restore_failed");
        h->stay.away = 1;
        mem_stay(k, c, m->dev, 0);
        r->failed = 1;
        if (r->state <= HARP_RESIDENT)
            could_not_return(k, m->dev, (uint32_t)c->tenant);
    } else {
        h->stay.away = 0;
        moved(k, r, &h->stay, m);
    }
    wants_again(k, c, m->dev);
}

void residency_message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct stay *s = &c->hold[m->dev].stay;
    s->late = 0;
    if (s->asked == 0 || s->asked != m->seq || s->restoring != (m->op == HARP_RESTORED))
        return; /* of an older question: a newer one is on its way */
    s->asked = 0;
    if (m->op == HARP_EVICTED)
        evicted(k, c, m);
    else
        restored(k, c, m);
}

/* The client has work. True if its gates stay shut because its memory is not back. */
int residency_want(const struct harp_core *k, struct client *c, uint32_t dev, uint32_t lane)
{
    struct stay *s = &c->hold[dev].stay;
    if (s->asked == 0 || !s->restoring || !(s->late || residency_in(k, dev, (uint32_t)c->tenant)))
        return 0;
    s->wanted |= (uint8_t)(1u << lane);
    return 1;
}

static int owed(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    int n = 0;
    int32_t i = k->tenant[tenant].first;
    for (const struct client *c; (c = next_live(k, &i)) != NULL;)
        n += c->hold[dev].stay.asked != 0 && !c->hold[dev].stay.late;
    return n;
}

/* Time is over: who has not answered is waited for no more. */
static void give_up(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    int32_t i = k->tenant[tenant].first;
    for (struct client *c; (c = next_live(k, &i)) != NULL;) {
        struct stay *s = &c->hold[dev].stay;
        if (s->asked == 0 || s->late)
            continue;
        s->late = 1;
        core_log(k, c, dev, s->on, s->restoring ? "restore_unanswered" : "evict_unanswered");
        if (s->restoring)
            shut(k, c, dev);
    }
}

static void is_away(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    int32_t i = k->tenant[tenant].first;
    for (struct client *c; (c = next_live(k, &i)) != NULL;)
        if (c->hold[dev].stay.away)
            mem_stay(k, c, dev, 0);
    r->state = HARP_AWAY;
    r->deadline_ns = HARP_NEVER;
    if (r->phase_bytes != 0) {
        r->swaps++;
        r->out_ns = r->lasting_ns;
        r->swap_ns += r->phase_ns;
        rotation_learn(&k->device[dev].swap, r, 1);
    }
    k->device[dev].unsettled = 1;
}

static void is_back(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    r->state = HARP_RESIDENT;
    r->since_ns = k->now;
    r->deadline_ns = HARP_NEVER;
    r->away_ns += k->now - r->left_ns;
    r->again_ns = 0;
    if (r->phase_bytes != 0) {
        r->in_ns = r->lasting_ns;
        r->swap_ns += r->phase_ns;
        rotation_learn(&k->device[dev].swap, r, 0);
    }
    for (uint32_t n = 0; n < HARP_TIME_LANES; n++) {
        struct lane *l = &k->device[dev].lane[n];
        if (account_of(k, l, tenant)->wants == 0)
            continue;
        policy_of(k)->arrive(k, l, tenant); /* as one that was idle: others ran meanwhile */
        handover_consider(k, l, tenant);
    }
}

/* Nobody is left who has anything off the device. */
static int nothing_away(const struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    int32_t i = k->tenant[tenant].first;
    for (const struct client *c; (c = next_live(k, &i)) != NULL;)
        if (told_away(&c->hold[dev].stay))
            return 0;
    return 1;
}

static int settle(struct harp_core *k, uint32_t dev, uint32_t tenant)
{
    struct residency *r = of(k, dev, tenant);
    uint8_t state = r->state;
    if (state <= HARP_RESIDENT)
        return 0;
    if (state == HARP_EVICTING && !r->asked) {
        if (!drained(k, dev, tenant))
            return 0;
        tell_evict(k, dev, tenant);
        (void)settle(k, dev, tenant);
        return 1;
    }
    if (state != HARP_AWAY && r->deadline_ns <= k->now)
        give_up(k, dev, tenant);
    if (state == HARP_EVICTING && owed(k, dev, tenant) == 0)
        is_away(k, dev, tenant);
    else if (state == HARP_RESTORING && owed(k, dev, tenant) == 0 && r->failed)
        could_not_return(k, dev, tenant);
    else if (state == HARP_RESTORING && owed(k, dev, tenant) == 0)
        is_back(k, dev, tenant);
    else if (state == HARP_AWAY && nothing_away(k, dev, tenant) && k->tenant[tenant].live == 0)
        is_back(k, dev, tenant);
    return r->state != state;
}

int residency_settle(struct harp_core *k, uint32_t dev)
{
    int changed = 0;
    if (!k->device[dev].swap.used)
        return 0;
    for (uint32_t t = 0; t < k->n_tenants; t++)
        if (k->tenant[t].id != 0)
            changed |= settle(k, dev, t);
    if (!k->device[dev].unsettled) /* else requests go first: they wait longer */
        changed |= rotation_settle(k, dev);
    return changed || k->device[dev].unsettled;
}

uint64_t residency_next(const struct harp_core *k)
{
    uint64_t next = HARP_NEVER;
    for (uint32_t dev = 0; dev < k->n_devices; dev++) {
        if (!k->device[dev].swap.used)
            continue;
        for (uint32_t t = 0; t < k->n_tenants; t++) {
            const struct residency *r = of(k, dev, t);
            if (k->tenant[t].id != 0 && (r->state == HARP_EVICTING || r->state == HARP_RESTORING) &&
                r->deadline_ns < next)
                next = r->deadline_ns;
        }
        uint64_t at = rotation_next(k, dev);
        next = at < next ? at : next;
    }
    return next;
}
