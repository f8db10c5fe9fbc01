/* SPDX-License-Identifier: Apache-2.0
 *
 * What both ends of a session do: take, put, wait.
 */
#include "src/link/bridge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* How long until a full ring is looked at again. */
#define AGAIN_MS 1
/* Records taken before what they made is written. */
#define BATCH 64

struct bridge_late {
    struct bridge_late *next;
    struct harp_ring_record record;
    uint8_t body[];
};

void bridge_fail(struct bridge *b, const char *why)
{
    fprintf(stderr, "harp-link: %s: the session is over\n", why);
    b->ended = true;
    pthread_cond_broadcast(&b->room);
    if (b->conn != NULL)
        harp_conn_close(b->conn, why);
    else
        b->loop->stop = true;
    /* The call is taken back, ahead of all that waits: far, where a connection that only ends is a
     * broken one, would keep the session for another. */
    if (b->side == &bridge_near && b->stream != NULL)
        harp_h2_cancel(b->stream);
    harp_loop_wake(b->loop);
}

/* --- to the ring --- */

/* What came too early, as far as there is room. True: all of it. */
static bool put_late(struct bridge *b)
{
    int err = 0;
    while (b->late != NULL && err == 0) {
        struct bridge_late *late = b->late;
        err = harp_ring_put(&b->ring, &late->record, late->body);
        if (err == 0) {
            b->late = late->next;
            free(late);
        }
    }
    if (b->late == NULL)
        b->late_end = &b->late;
    else if (err == -EAGAIN)
        harp_timer_set(b->loop, &b->again, AGAIN_MS);
    else
        bridge_fail(b, "a record does not go into the ring");
    harp_ring_wake(&b->ring);
    return b->late == NULL;
}

/* True: it lies in the ring, and its peer is to be woken; else later, or never. */
static bool put(struct bridge *b, struct harp_ring_record *record, const void *body)
{
    int err = b->late == NULL ? harp_ring_put(&b->ring, record, body) : -EAGAIN;
    if (err == 0)
        return true;
    struct bridge_late *late = err == -EAGAIN ? malloc(sizeof *late + record->bytes) : NULL;
    if (late == NULL) {
        bridge_fail(b, err == -EMSGSIZE ? "a frame is larger than what the ring here takes"
                                        : "a record does not go into the ring");
        return false;
    }
    *late = (struct bridge_late){.record = *record};
    if (record->bytes != 0)
        memcpy(late->body, body, record->bytes);
    *b->late_end = late;
    b->late_end = &late->next;
    harp_timer_set(b->loop, &b->again, AGAIN_MS);
    harp_loop_wake(b->loop);
    return false;
}

void bridge_put(struct bridge *b, struct harp_ring_record *record, const void *body)
{
    if (put(b, record, body))
        harp_ring_wake(&b->ring);
}

/* By the loop, when it has done all and holds nothing: on a CPU that both share, who is woken runs
 * at once, and its answer would find the lock taken. */
static void wake_told(void *ctx)
{
    struct bridge *b = ctx;
    if (b->told)
        harp_ring_wake(&b->ring);
    b->told = false;
}

static void again(struct harp_timer *timer)
{
    struct bridge *b = HARP_AROUND(timer, struct bridge, again);
    if (!b->ended && put_late(b))
        bridge_go_on(b);
}

static void go_on(struct harp_h2_stream *stream, struct harp_conn *conn)
{
    if (stream == NULL)
        return;
    harp_h2_resume(stream);
    harp_conn_kick(conn); /* windows have opened */
}

void bridge_go_on(struct bridge *b)
{
    if (b->ended)
        return;
    for (unsigned i = 0; i < HARP_SPREAD_WAYS; i++)
        go_on(b->ways[i].stream, b->ways[i].conn);
    go_on(b->stream, b->conn);
    harp_loop_wake(b->loop);
}

/* What is spread, and has to be there by now. */
static bool stands_for_bytes(const struct bridge *b, const struct harp_frame *frame)
{
    return b->others != 0 && frame->flags == (HARP_FRAME_BULK | HARP_FRAME_END) &&
           frame->bytes == 0 && frame->ack != 0 && frame->ack < BRIDGE_WORKER_ID;
}

int bridge_message(struct bridge *b, const uint8_t *data, uint32_t bytes)
{
    struct harp_frame frame;
    if (b->ended)
        return 0;
    if (!b->taking || (b->late != NULL && !put_late(b)))
        return -EAGAIN;
    int err = harp_frame_get(&frame, data, bytes);
    /* What means something else in a ring (HARP_RING_SKIP), or nothing, does not get there. */
    if (err == 0 && (frame.op > UINT16_MAX || frame.flags >= 2 * HARP_FRAME_END))
        err = -EPROTO;
    if (err == 0 && (frame.at != 0 || (frame.of != 0 && !stands_for_bytes(b, &frame))))
        err = -EPROTO;
    if (err == 0 && (frame.flags & HARP_FRAME_BULK) != 0) {
        err = b->side->bulk(b, &frame);
        if (err == -EAGAIN)
            return err;
    } else if (err == 0 && b->replay.keeps && frame.op == HARP_OP_TAKEN && frame.seq == 0) {
        if (harp_replay_acked(&b->replay, frame.ack) == 0) {
            pthread_cond_signal(&b->room);
            return 0;
        }
        err = -EPROTO;
    } else if (err == 0 && frame.seq == b->seq + 1) {
        struct harp_ring_record record = {.bytes = frame.bytes,
                                          .op = frame.op,
                                          .flags = frame.flags,
                                          .lane = frame.lane,
                                          .ack = frame.ack};
        b->seq = frame.seq;
        b->told |= put(b, &record, frame.body);
    } else {
        err = -EPROTO;
    }
    if (err != 0)
        b->side->bad_frame(b, "what came is no frame, or not the next one");
    else
        bridge_took(b, bytes);
    return 0;
}

/* --- from the ring --- */

/* Records that are there, up to a batch. Answers how many, or -EPROTO. */
static int take_batch(struct bridge *b)
{
    int taken = 0, n = 1;
    while (taken < BATCH && !b->ended) {
        struct harp_ring_record record;
        n = harp_ring_take(&b->ring, &record, b->scratch, HARP_WIRE_BODY_BYTES);
        if (n == 1 && b->side->record(b, &record, b->scratch) != 0)
            n = -EPROTO;
        if (n != 1)
            break;
        taken++;
    }
    return n < 0 ? n : taken;
}

static void *take(void *arg)
{
    struct bridge *b = arg;
    for (bool on = true; on;) {
        int err = harp_ring_wait(&b->ring, HARP_RING_FIRST, -1);
        pthread_mutex_lock(b->loop->lock);
        int n = err == 0 || err == -EPIPE ? take_batch(b) : err;
        on = n >= 0 && !b->ended;
        if (n < 0)
            bridge_fail(b, "nonsense in the ring");
        else if (on && err == -EPIPE && n < BATCH)
            b->side->peer_gone(b);
        if (on && b->conn != NULL)
            harp_conn_write(b->conn);
        on &= err != -EPIPE || n == BATCH;
        pthread_mutex_unlock(b->loop->lock);
    }
    return NULL;
}

/* --- opening --- */

static void give_up(struct harp_timer *timer)
{
    struct bridge *b = HARP_AROUND(timer, struct bridge, last);
    bridge_fail(b, "the other side does not end the session");
}

void bridge_ends(struct bridge *b, unsigned ms)
{
    harp_timer_set(b->loop, &b->last, ms);
    harp_loop_wake(b->loop);
}

int bridge_open(struct bridge *b, struct harp_loop *loop, const struct bridge_side *side)
{
    *b = (struct bridge){.loop = loop, .side = side, .sock = -1, .ring.sock = -1};
    b->late_end = &b->late;
    b->again.fire = again;
    b->last.fire = give_up;
    loop->unlocked = wake_told;
    loop->unlocked_ctx = b;
    bridge_send_open(b);
    bridge_bulk_open(b);
    b->scratch = malloc(HARP_WIRE_BODY_BYTES);
    b->arena = malloc(HARP_WIRE_ARENA_BYTES);
    return b->scratch == NULL || b->arena == NULL ? -ENOMEM : -pthread_cond_init(&b->room, NULL);
}

int bridge_start(struct bridge *b)
{
    pthread_t taker;
    int err = pthread_create(&taker, NULL, take, b);
    if (err != 0)
        return -err;
    b->taking = true;
    return -pthread_detach(taker); /* it ends with the process, at the latest */
}

struct bridge_transfer **bridge_find(struct bridge *b, uint64_t id)
{
    struct bridge_transfer **at = &b->transfers;
    while (*at != NULL && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

void bridge_forget(struct bridge_transfer **at)
{
    struct bridge_transfer *t = *at;
    *at = t->next;
    free(t);
}
