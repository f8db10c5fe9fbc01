/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking, reading, putting.
 */
#include "src/shim/remote/session_state.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "src/shim/entry/api.h"
#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"

#define ROOM_MS 2 /* then answers are read, which the worker may have no room for */

struct harp_remote_session harp_remote_session = {.put = PTHREAD_MUTEX_INITIALIZER,
                                                  .answers = PTHREAD_MUTEX_INITIALIZER,
                                                  .changed = PTHREAD_COND_INITIALIZER};
static struct harp_remote_session *const s = &harp_remote_session;

/* --- reading ---------------------------------------------------------------------------------- */

int harp_remote_over(int err)
{
    int saved = errno;
    if (s->over)
        return err;
    __atomic_store_n(&s->over, true, __ATOMIC_RELAXED);
    for (struct harp_moving *m = s->moving; m != NULL; m = m->next)
        if (!m->done)
            m->to = NULL;
    shutdown(s->sock, SHUT_RDWR); /* who writes nonsense is not to wait for us */
    harp_log(
        "remote_session_over error=%d why=\"%s\" remedy=\"release its contexts and call cuInit "
        "again, or start the program again\"",
        -err,
        err == -EPROTO ? "what came is not of this protocol" : "the worker or the link is gone");
    errno = saved;
    return err;
}

static int reply_came(const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_waiting *w = record->lane <= HARP_REMOTE_LANES ? s->waiting[record->lane] : NULL;
    if (w == NULL || record->bytes > w->room)
        return -EPROTO;
    s->waiting[record->lane] = w->next;
    memcpy(w->body, body, record->bytes);
    w->bytes = record->bytes;
    w->done = true;
    return 0;
}

/* With `answers` held. */
static int came(const struct harp_ring_record *record, const uint8_t *body)
{
    if (record->seq != 0)
        __atomic_store_n(&s->taken, record->seq, __ATOMIC_RELAXED);
    if (!(record->flags & HARP_FRAME_REPLY) || record->lane != s->ahead_lane)
        s->events++;
    if (record->flags & HARP_FRAME_BULK)
        return harp_remote_bulk_came(record, body);
    if (record->flags & HARP_FRAME_REVERSE)
        return harp_remote_said(record, body);
    return record->flags & HARP_FRAME_REPLY ? reply_came(record, body) : -EPROTO;
}

/* What is there, and if `wait` what comes first. `answers` is held, and given up meanwhile. */
static int read_all(bool wait)
{
    struct harp_ring_record record;
    s->reading = true;
    pthread_mutex_unlock(&s->answers);
    int err = wait ? harp_ring_wait(&s->ring, HARP_RING_FIRST, -1) : 0;
    int got = err;
    if (err == 0)
        got = harp_ring_take(&s->ring, &record, s->in, HARP_REMOTE_SCRATCH);
    pthread_mutex_lock(&s->answers);
    while (got == 1) {
        err = came(&record, s->in);
        /* the body has been copied: the next may take its place, and others may get the lock */
        got = err != 0 ? err : harp_ring_take(&s->ring, &record, s->in, HARP_REMOTE_SCRATCH);
    }
    s->reading = false;
    if (got < 0)
        harp_remote_over(got);
    if (s->waiters > 0)
        pthread_cond_broadcast(&s->changed);
    return s->over ? -EPIPE : 0;
}

int harp_remote_wait(void)
{
    if (s->over)
        return -EPIPE;
    s->waiters++;
    pthread_cond_wait(&s->changed, &s->answers);
    s->waiters--;
    return s->over ? -EPIPE : 0;
}

int harp_remote_read(void)
{
    return s->over || s->reading ? harp_remote_wait() : read_all(true);
}

/* --- putting ---------------------------------------------------------------------------------- */

int harp_remote_put(struct harp_ring_record *record, const void *body)
{
    int err;
    if (!(record->flags & (HARP_FRAME_BULK | HARP_FRAME_REVERSE))) /* else it says another thing */
        record->ack = __atomic_load_n(&s->taken, __ATOMIC_RELAXED);
    while ((err = harp_ring_put(&s->ring, record, body)) == -EAGAIN) {
        err = harp_ring_wait_room(&s->ring, record->bytes, ROOM_MS);
        if (err != 0 && err != -ETIMEDOUT)
            break;
        pthread_mutex_lock(&s->answers);
        if (!s->reading)
            read_all(false);
        bool over = s->over;
        pthread_mutex_unlock(&s->answers);
        if (over)
            return -EPIPE;
    }
    __atomic_add_fetch(&s->puts, 1, __ATOMIC_RELAXED);
    if (err == -EPIPE || err == -EPROTO) {
        pthread_mutex_lock(&s->answers);
        harp_remote_over(err);
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->answers);
        err = -EPIPE;
    }
    return err;
}

/* The worker's thread shall have the lane's context current. A stack of its own grows with the
 * contexts that are made there: to have none current, all of them are taken away. */
int harp_remote_tell_context(const struct harp_lane *lane)
{
    uint64_t want = harp_lane_current(lane), *told = &s->told[lane->number - 1];
    uint32_t *contexts = &s->contexts[lane->number - 1];
    if (*told == want)
        return 0;
    if (want != 0 && harp_thing_by_id(HARP_HANDLE_CUcontext, want, false) == NULL)
        return -ESTALE;
    uint32_t times = want != 0 ? 1 : *contexts;
    for (uint32_t i = 0; i < times; i++) {
        struct harp_ring_record record = {
            .bytes = sizeof want, .op = HARP_OP_cuCtxSetCurrent, .lane = lane->number};
        int err = harp_remote_put(&record, &want);
        if (err != 0)
            return err;
    }
    *contexts = want == 0 ? 0 : *contexts == 0 ? 1 : *contexts;
    *told = want;
    return 0;
}

/* With `put` held. */
static int put_call(struct harp_lane *lane, const struct harp_remote_call *call, uint32_t flags)
{
    int err = harp_remote_tell_context(lane);
    if (err == -ESTALE && call->anywhere)
        err = 0;
    for (unsigned i = 0; i < call->n_moves && err == 0; i++)
        err = harp_remote_announce(lane->number, call->moves[i]);
    if (err != 0)
        return err;
    struct harp_ring_record record = {
        .bytes = call->bytes, .op = call->op, .flags = call->flags | flags, .lane = lane->number};
    err = harp_remote_put(&record, call->body);
    if (err == 0)
        harp_ring_wake(&s->ring);
    return err;
}

int harp_remote_tell(struct harp_lane *lane, const struct harp_remote_call *call)
{
    int saved = errno;
    pthread_mutex_lock(&s->put);
    int err = put_call(lane, call, 0);
    pthread_mutex_unlock(&s->put);
    errno = saved;
    return err;
}

static uint64_t trips;

uint64_t harp_remote_trips(void)
{
    return __atomic_load_n(&trips, __ATOMIC_RELAXED);
}

int harp_remote_want(struct harp_lane *lane, const struct harp_remote_call *call,
                     struct harp_waiting *waiting)
{
    struct harp_waiting **last;
    pthread_mutex_lock(&s->answers);
    for (last = &s->waiting[lane->number]; *last != NULL; last = &(*last)->next)
        ;
    *last = waiting;
    pthread_mutex_unlock(&s->answers);
    return put_call(lane, call, HARP_FRAME_WANTED);
}

void harp_remote_unwant(const struct harp_lane *lane, const struct harp_waiting *waiting)
{
    struct harp_waiting **at = &s->waiting[lane->number];
    while (*at != NULL && *at != waiting)
        at = &(*at)->next;
    if (*at == waiting)
        *at = waiting->next;
}

int harp_remote_ask(struct harp_lane *lane, const struct harp_remote_call *call, uint8_t *answer,
                    uint32_t *bytes)
{
    int saved = errno;
    struct harp_waiting own = {.body = answer, .room = HARP_REMOTE_SCRATCH};
    __atomic_add_fetch(&trips, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&s->put); /* threads that share a lane wait in the order they ask */
    int err = harp_remote_want(lane, call, &own);
    if (err == 0 && lane->ahead)
        harp_remote_ahead_put(lane);
    lane->ahead = false;
    pthread_mutex_unlock(&s->put);

    pthread_mutex_lock(&s->answers);
    while (err == 0 && !own.done)
        err = harp_remote_read();
    if (own.done)
        err = 0; /* even if it was the last that came */
    else
        harp_remote_unwant(lane, &own);
    pthread_mutex_unlock(&s->answers);
    *bytes = own.bytes;
    errno = saved;
    return err;
}

void harp_remote_moved(struct harp_lane *lane)
{
    pthread_mutex_lock(&s->put);
    s->told[lane->number - 1] = HARP_REMOTE_ANOTHER;
    s->contexts[lane->number - 1]++;
    pthread_mutex_unlock(&s->put);
}
