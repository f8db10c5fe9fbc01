/* SPDX-License-Identifier: Apache-2.0
 *
 * Who reads the ring. SESSION.md ("Lanes", "Order") is what comes out of it.
 *
 * One thread leads: it takes records. If it is a lane's and the record is that lane's, it makes the
 * call itself: a program with one thread costs no hand-over. A record of another lane goes to that
 * lane's thread, and the lead with it. The deputy, the main thread, is no lane's: it leads while
 * the leader is away in a call that may last.
 *
 * (1) lead is the leader's lane (0: the deputy) and what it does: HERE, at the ring; BUSY, in a
 * call that nobody waits for; AWAY, in one that somebody does. The leader alone goes from HERE;
 *     BUSY and AWAY end by a compare-and-swap, which fails for who has been relieved.
 * (2) A lane is `holding` while it makes calls that nobody waits for: until then no other call may
 *     begin. Only a leader that has been relieved in BUSY, for the sake of a host function's
 * answer, is not seen to by reading on: the deputy then holds calls back (`held`), and takes what
 * is the session's. (3) `busy` lanes are not at rest in their own queue. A call that is waited for
 * may be queued behind another one of the same lane; one that is not holds everything up, so it
 * waits in `held`.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/worker/worker.h"

enum doing { HERE, BUSY, AWAY, COMING };
#define LEAD(lane, doing) ((uint32_t)(lane) << 2 | (uint32_t)(doing))

/* What may be held back before reading stops. If a host function has not been answered, it may be
 * what everything waits for, and lie behind in the ring: then reading goes on, but slowly, so that
 * a program which does not wait is slowed down as well; until there is too much. */
#define HELD_MAX   (16u << 20)
#define HELD_LIMIT (256u << 20)
/* What may wait in queues, all together. A thread has one call at a time that it waits for: more in
 * a lane are of threads that share it. */
#define QUEUED_MAX (16u << 20)
/* How often it is looked whether what is held back may go on. */
#define HELD_MS 1

struct order {
    struct harp_ring_record record;
    struct order *next;
    uint8_t body[];
};

void session_end(const char *why)
{
    fprintf(stderr, "harp-worker: %s: the session is over\n", why);
    session_over(2);
}

void session_over(int status)
{
    static atomic_flag begun = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&begun))
        pause();
    wipe_all();
    _exit(status);
}

void session_put(struct session *s, struct harp_ring_record *record, const void *body)
{
    pthread_mutex_lock(&s->put);
    int err;
    while ((err = harp_ring_put(&s->ring, record, body)) == -EAGAIN)
        if (harp_ring_wait_room(&s->ring, record->bytes, -1) != 0)
            break;
    pthread_mutex_unlock(&s->put);
    if (err != 0)
        session_end("the client has written what cannot be in its ring");
}

static bool leads(const struct session *s, unsigned id)
{
    return atomic_load(&s->lead) == LEAD(id, HERE);
}

/* --- away and back --- */

void session_away(struct session *s, struct lane *lane, bool wanted)
{
    atomic_store(&lane->active, true);
    atomic_store(&lane->holding, !wanted);
    if (!leads(s, lane->id))
        return; /* somebody else reads already */
    /* While it leads, and nobody can take that from it (1): a deputy that led already would sleep
     * as FIRST, and this would have writers wake SECOND only. */
    if (wanted)
        harp_ring_stand_by(&s->ring);
    atomic_store(&s->lead, LEAD(lane->id, wanted ? AWAY : BUSY));
    if (!wanted && atomic_load(&s->host_calls) != 0)
        session_attend(s);
}

void session_back(struct session *s, struct lane *lane, bool wanted)
{
    uint32_t was = LEAD(lane->id, wanted ? AWAY : BUSY);
    bool leads = atomic_compare_exchange_strong(&s->lead, &was, LEAD(lane->id, HERE));
    if (leads && wanted) /* by who leads: or another's would be taken back */
        harp_ring_stand_down(&s->ring);
    if (wanted)
        atomic_store(&lane->active, false);
}

void session_ended(struct lane *lane)
{
    atomic_store(&lane->holding, false);
    atomic_store(&lane->active, false);
}

void session_attend(struct session *s)
{
    uint32_t lead = atomic_load(&s->lead);
    while ((lead & 3u) != HERE)
        if (atomic_compare_exchange_weak(&s->lead, &lead, LEAD(0, HERE))) {
            harp_ring_summon(&s->ring);
            return;
        }
}

/* --- lanes --- */

static void *lane_main(void *arg);

static void *memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static struct lane *lane_of(struct session *s, unsigned id)
{
    struct lane *lane = s->lanes[id];
    if (lane != NULL)
        return lane;
    lane = calloc(1, sizeof *lane);
    uint8_t *all = memory(2 * (size_t)HARP_WIRE_BODY_BYTES + HARP_WIRE_ARENA_BYTES);
    if (lane == NULL || all == NULL)
        session_end("no memory for another thread of the program");
    lane->session = s;
    lane->id = id;
    lane->body = all;
    lane->reply = all + HARP_WIRE_BODY_BYTES;
    lane->arena = all + 2 * HARP_WIRE_BODY_BYTES;
    lane->end = &lane->first;
    pthread_cond_init(&lane->go, NULL);
    s->lanes[id] = lane;
    if (pthread_create(&lane->thread, NULL, lane_main, lane) != 0)
        session_end("no thread for another thread of the program");
    return lane;
}

static struct order *order_of(const struct harp_ring_record *record, const uint8_t *body)
{
    struct order *o = malloc(sizeof *o + record->bytes);
    if (o == NULL)
        session_end("no memory for a call");
    o->record = *record;
    o->next = NULL;
    memcpy(o->body, body, record->bytes);
    return o;
}

/* With s->lock held. */
static void queue(struct session *s, struct lane *lane, struct order *o)
{
    *lane->end = o;
    lane->end = &o->next;
    s->queued_bytes += sizeof *o + o->record.bytes;
    if (s->queued_bytes > QUEUED_MAX)
        session_end("more than 16 MiB of calls wait for others of their lanes");
    pthread_cond_signal(&lane->go);
}

static bool anyone_holding(const struct session *s)
{
    for (unsigned i = 1; i <= LANES; i++)
        if (s->lanes[i] != NULL && atomic_load(&s->lanes[i]->holding))
            return true;
    return false;
}

static bool is_wanted(const struct harp_ring_record *record)
{
    return (record->flags & HARP_FRAME_WANTED) != 0;
}

/* --- reading --- */

/* Hand a call to its lane, by the leader; the lead as well if nothing is held back. Answers whether
 * that could be done: see (2) and (3). */
static bool hand_over(struct session *s, struct order *o)
{
    pthread_mutex_lock(&s->lock);
    struct lane *to = lane_of(s, o->record.lane);
    bool pure = is_wanted(&o->record) && o->record.op != HARP_OP_PACK;
    bool busy = atomic_load(&to->active) || to->first != NULL;
    bool can = !anyone_holding(s) && (pure || !busy);
    if (can) {
        if (!pure)
            atomic_store(&to->holding, true);
        if (!busy && s->held == NULL)
            atomic_store(&s->lead, LEAD(to->id, COMING));
        queue(s, to, o);
    }
    pthread_mutex_unlock(&s->lock);
    return can;
}

static void hold_back(struct session *s, struct order *o)
{
    *s->held_end = o;
    s->held_end = &o->next;
    s->held_bytes += sizeof *o + o->record.bytes;
    if (s->held_bytes > HELD_LIMIT)
        session_end("more than 256 MiB of calls wait for a function of the program's");
    if (s->held_bytes > HELD_MAX)
        usleep((useconds_t)(sizeof o->record + o->record.bytes)); /* a ring, of a MiB, in 1 s */
}

/* By the deputy: what is held back goes to its lanes, as far as it may; with the last one, the lead
 * and all of this may go. */
static void let_go(struct session *s)
{
    for (bool more = s->held != NULL; more;) {
        struct order *o = s->held, *next = o->next;
        const uint64_t bytes = sizeof *o + o->record.bytes;
        more = next != NULL;
        s->held = next;
        s->held_end = more ? s->held_end : &s->held;
        s->held_bytes -= bytes;
        o->next = NULL;
        if (!hand_over(s, o)) {
            o->next = next;
            s->held = o;
            s->held_end = more ? s->held_end : &o->next;
            s->held_bytes += bytes;
            more = false;
        }
    }
}

/* What is the session's own. True: it was. */
static bool session_record(struct session *s, const struct harp_ring_record *r, const uint8_t *body)
{
    if (r->flags & HARP_FRAME_BULK) {
        if (transfer_announced(s, r, body) != 0)
            session_end("a transfer that is none, or more than there is room for");
        return true;
    }
    if ((r->flags & (HARP_FRAME_REVERSE | HARP_FRAME_REPLY)) ==
        (HARP_FRAME_REVERSE | HARP_FRAME_REPLY)) {
        host_answered(s, r->ack);
        return true;
    }
    if (r->flags & (HARP_FRAME_REVERSE | HARP_FRAME_REPLY))
        session_end("a record that no client says");
    if (r->lane == 0 || r->lane > LANES)
        session_end("a call of no lane");
    return false;
}

/* Take records as long as `self` (NULL: the deputy) leads. */
static void lead(struct session *s, struct lane *self, uint8_t *body)
{
    const unsigned id = self == NULL ? 0 : self->id;
    struct harp_ring_record r;
    while (leads(s, id)) {
        if (self == NULL && s->held != NULL) {
            let_go(s);
            if (!leads(s, 0))
                return;
        }
        if (s->held_bytes > HELD_MAX && atomic_load(&s->host_calls) == 0) {
            usleep(HELD_MS * 1000);
            continue;
        }
        int n = harp_ring_take(&s->ring, &r, body, HARP_WIRE_BODY_BYTES);
        if (n == 0) {
            n = harp_ring_wait(&s->ring, HARP_RING_FIRST, s->held != NULL ? HELD_MS : -1);
            n = n == -ETIMEDOUT ? 0 : n;
        }
        if (n < 0)
            session_end("the client has written what cannot be in its ring");
        if (n == 0 || session_record(s, &r, body))
            continue;
        if (self != NULL && r.lane == self->id) {
            call_record(self, &r, body);
            continue;
        }
        struct order *o = order_of(&r, body);
        if (s->held == NULL && hand_over(s, o))
            continue;
        hold_back(s, o);
        if (self != NULL) { /* the deputy sees to what is held back */
            atomic_store(&s->lead, LEAD(0, HERE));
            harp_ring_summon(&s->ring);
        }
    }
}

static void *lane_main(void *arg)
{
    struct lane *lane = arg;
    struct session *s = lane->session;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (lane->first == NULL)
            pthread_cond_wait(&lane->go, &s->lock);
        struct order *o = lane->first;
        uint32_t coming = LEAD(lane->id, COMING);
        atomic_store(&lane->active, true);
        atomic_compare_exchange_strong(&s->lead, &coming, LEAD(lane->id, HERE));
        lane->first = o->next;
        if (lane->first == NULL)
            lane->end = &lane->first;
        s->queued_bytes -= sizeof *o + o->record.bytes;
        pthread_mutex_unlock(&s->lock);
        call_record(lane, &o->record, o->body);
        free(o);
        lead(s, lane, lane->body);
    }
    return NULL;
}

void session_run(struct session *s)
{
    uint8_t *body = memory(HARP_WIRE_BODY_BYTES);
    if (body == NULL)
        session_end("no memory");
    s->held_end = &s->held;
    atomic_store(&s->lead, LEAD(0, HERE));
    for (;;) {
        lead(s, NULL, body);
        if (harp_ring_wait(&s->ring, HARP_RING_SECOND, -1) != 0)
            session_end("the ring is broken");
        /* Woken for a leader that is away; it may be about to go, or have come back. */
        uint32_t away = atomic_load(&s->lead);
        if ((away & 3u) == AWAY)
            atomic_compare_exchange_strong(&s->lead, &away, LEAD(0, HERE));
        if (leads(s, 0))
            harp_ring_stand_down(&s->ring);
        else
            sched_yield();
    }
}
