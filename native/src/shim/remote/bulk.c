/* SPDX-License-Identifier: Apache-2.0
 *
 * Regions of the bulk area: given out here, the worker's from its announcement until it says that
 * it is done. Fetched bytes go to the program's memory when that is read, which is before the reply
 * of whatever call the program has waited with.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/shim/remote/forget.h"
#include "src/shim/remote/session_state.h"

#define GIFT_MOST (256u << 20)

static struct harp_remote_session *const s = &harp_remote_session;

uint64_t harp_remote_piece(void)
{
    return harp_bulk_largest(&s->bulk);
}

static struct harp_moving **find(uint64_t id)
{
    struct harp_moving **at = &s->moving;
    while (*at != NULL && ((*at)->id != id || (*at)->piece))
        at = &(*at)->next;
    return at;
}

static void drop(struct harp_moving **at)
{
    struct harp_moving *gone = *at;
    *at = gone->next;
    if (gone->bytes != 0)
        harp_bulk_give(&s->bulk, gone->offset, gone->bytes);
    free(gone);
}

static void deliver(const struct harp_moving *m)
{
    uint8_t *from = harp_ring_region(&s->ring, m->offset, m->bytes);
    if (m->to != NULL && from != NULL)
        memcpy(m->to, from, m->bytes);
}

/* With `answers` held: there may be room now, or soon. */
static void tell_changed(void)
{
    if (s->waiters > 0)
        pthread_cond_broadcast(&s->changed);
}

/* With `answers` held, and no room: something changes. Not by reading while the next move is that
 * of a thread of this process, which has what it waited for or has not begun: nothing may come. */
static int wait_for_room(void)
{
    bool owed = false;
    for (const struct harp_moving *m = s->moving; m != NULL; m = m->next) {
        if (m->held && m->done)
            return harp_remote_wait();
        owed |= m->announced;
    }
    return owed ? harp_remote_read() : harp_remote_wait();
}

/* Waits for room if others have it all. Until it is announced, it is its caller's. */
static struct harp_moving *begin(const struct harp_moving *as, int *err)
{
    struct harp_moving *m = malloc(sizeof *m);
    *err = m == NULL ? -ENOMEM : 0;
    if (m == NULL)
        return NULL;
    *m = *as;
    pthread_mutex_lock(&s->answers);
    while (m->bytes != 0 && (*err = harp_bulk_take(&s->bulk, m->bytes, &m->offset)) == -EAGAIN)
        if ((*err = wait_for_room()) != 0)
            break;
    if (*err == 0) {
        m->next = s->moving;
        s->moving = m;
    }
    pthread_mutex_unlock(&s->answers);
    if (*err == 0)
        return m;
    free(m);
    return NULL;
}

int harp_remote_send(const void *data, uint64_t bytes, uint64_t *id)
{
    int err;
    *id = harp_thing_mint();
    struct harp_moving *m = begin(&(struct harp_moving){.id = *id, .bytes = bytes}, &err);
    if (m != NULL)
        memcpy(harp_ring_region(&s->ring, m->offset, bytes), data, bytes);
    return err;
}

int harp_remote_fetch(void *data, uint64_t bytes, bool held, uint64_t *id)
{
    int err;
    *id = harp_thing_mint();
    begin(&(struct harp_moving){.id = *id, .bytes = bytes, .to = data, .held = held}, &err);
    return err;
}

/* With `put` held. It is the worker's from now on: this thread must not look at it any more. */
static int announce(uint32_t lane, struct harp_moving *m, uint32_t flags)
{
    struct harp_ring_region region = {m->offset, m->bytes};
    struct harp_ring_record record = {
        .bytes = sizeof region, .flags = HARP_FRAME_BULK | flags, .lane = lane, .ack = m->id};
    pthread_mutex_lock(&s->answers);
    m->announced = true;
    struct harp_moving *all = m->piece && (flags & HARP_FRAME_END) ? *find(m->id) : NULL;
    if (all != NULL)
        all->announced = true;
    tell_changed();
    pthread_mutex_unlock(&s->answers);
    return harp_remote_put(&record, &region);
}

int harp_remote_announce(uint32_t lane, uint64_t id)
{
    pthread_mutex_lock(&s->answers);
    struct harp_moving *m = *find(id);
    pthread_mutex_unlock(&s->answers);
    return m == NULL ? -EPIPE : announce(lane, m, HARP_FRAME_END); /* nobody else's before that */
}

void harp_remote_cancel(uint64_t id)
{
    pthread_mutex_lock(&s->answers);
    struct harp_moving **at = find(id);
    if (*at != NULL)
        drop(at);
    tell_changed();
    pthread_mutex_unlock(&s->answers);
}

int harp_remote_send_all(struct harp_lane *lane, const void *data, uint64_t bytes, uint64_t *id)
{
    uint64_t most = harp_remote_piece(), at = 0;
    *id = harp_thing_mint();
    pthread_mutex_lock(&s->put);
    int err = harp_remote_tell_context(lane); /* not between the bytes and the call */
    pthread_mutex_unlock(&s->put);
    if (err == 0 || err == -ESTALE)
        begin(&(struct harp_moving){.id = *id}, &err);
    while (err == 0 && at < bytes) {
        uint64_t piece = bytes - at < most ? bytes - at : most;
        struct harp_moving *m =
            begin(&(struct harp_moving){.id = *id, .bytes = piece, .piece = true}, &err);
        if (m == NULL)
            break;
        memcpy(harp_ring_region(&s->ring, m->offset, piece), (const uint8_t *)data + at, piece);
        at += piece;
        pthread_mutex_lock(&s->put);
        err = announce(lane->number, m, at == bytes ? HARP_FRAME_END : 0);
        if (err == 0)
            harp_ring_wake(&s->ring);
        pthread_mutex_unlock(&s->put);
    }
    return err;
}

int harp_remote_collect(uint64_t id, bool succeeded, bool now)
{
    int err = 0;
    pthread_mutex_lock(&s->answers);
    struct harp_moving **at = find(id), *m = *at;
    if (m != NULL && m->done) {
        if (succeeded)
            deliver(m);
        drop(at);
    } else if (m != NULL) {
        bool lied = succeeded && now && m->held;
        m->held = false; /* the worker has not said so: it may still write there */
        if (lied || !succeeded)
            m->to = NULL;
        if (lied)
            err = harp_remote_over(-EPROTO);
    }
    tell_changed();
    pthread_mutex_unlock(&s->answers);
    return err;
}

int harp_remote_await(uint64_t id)
{
    int err = 0;
    pthread_mutex_lock(&s->answers);
    while (err == 0 && *find(id) != NULL)
        err = harp_remote_read();
    pthread_mutex_unlock(&s->answers);
    return err;
}

static bool over_these(const struct harp_moving *m, const void *data, uint64_t bytes)
{
    uintptr_t from = (uintptr_t)data, at = (uintptr_t)m->to;
    return m->to != NULL && at < from + bytes && from < at + m->bytes;
}

static bool fetched_to(const void *data, uint64_t bytes)
{
    for (const struct harp_moving *m = s->moving; m != NULL; m = m->next)
        if (over_these(m, data, bytes))
            return true;
    return false;
}

int harp_remote_settle(const void *data, uint64_t bytes)
{
    int err = 0;
    pthread_mutex_lock(&s->answers);
    while (err == 0 && fetched_to(data, bytes))
        err = harp_remote_read();
    if (s->over)
        err = -EPIPE; /* what had not come by then, never will */
    pthread_mutex_unlock(&s->answers);
    return err;
}

void harp_remote_forget(const void *data, uint64_t bytes)
{
    pthread_mutex_lock(&s->answers);
    for (struct harp_moving *m = s->moving; m != NULL; m = m->next)
        if (over_these(m, data, bytes))
            m->to = NULL;
    pthread_mutex_unlock(&s->answers);
}

void harp_remote_forget_bulk(void)
{
    while (s->moving != NULL)
        drop(&s->moving);
    while (s->gifts != NULL) {
        struct harp_gift *g = s->gifts;
        s->gifts = g->next;
        free(g->data);
        free(g);
    }
}

/* --- what comes ------------------------------------------------------------------------------- */

static int gift_came(const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_gift *g = s->gifts;
    while (g != NULL && g->id != record->ack)
        g = g->next;
    if (g == NULL) {
        g = calloc(1, sizeof *g);
        if (g == NULL)
            return -ENOMEM;
        g->id = record->ack;
        g->next = s->gifts;
        s->gifts = g;
    }
    if (record->bytes > GIFT_MOST - g->bytes)
        return -EPROTO;
    uint8_t *more = realloc(g->data, g->bytes + record->bytes + 1);
    if (more == NULL)
        return -ENOMEM;
    memcpy(more + g->bytes, body, record->bytes);
    g->data = more;
    g->bytes += record->bytes;
    return 0;
}

uint8_t *harp_remote_lent(uint64_t id, uint64_t bytes)
{
    uint8_t *data = NULL;
    pthread_mutex_lock(&s->answers);
    for (struct harp_gift **at = &s->gifts; *at != NULL; at = &(*at)->next) {
        struct harp_gift *g = *at;
        if (g->id != id || g->bytes != bytes)
            continue;
        data = g->data;
        *at = g->next;
        free(g);
        break;
    }
    pthread_mutex_unlock(&s->answers);
    return data;
}

int harp_remote_bulk_came(const struct harp_ring_record *record, const uint8_t *body)
{
    if (record->ack >> 63 != 0)
        return gift_came(record, body);
    struct harp_moving **at = find(record->ack);
    if (!(record->flags & HARP_FRAME_END)) { /* of one piece among several */
        struct harp_ring_region region;
        if (record->bytes != sizeof region)
            return -EPROTO;
        memcpy(&region, body, sizeof region);
        for (at = &s->moving; *at != NULL; at = &(*at)->next)
            if ((*at)->piece && (*at)->id == record->ack && (*at)->offset == region.offset)
                break;
    }
    if (*at == NULL || !(*at)->announced)
        return -EPROTO;
    if ((*at)->held) {
        (*at)->done = true;
        return 0;
    }
    deliver(*at);
    drop(at);
    return 0;
}
