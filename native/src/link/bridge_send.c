/* SPDX-License-Identifier: Apache-2.0
 *
 * From a bridge to its stream, whichever that is at a time: messages, kept until they are
 * acknowledged, and acknowledgements.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/bridge.h"

/* A message; `region`: the bytes of the bulk area that its end sets free. */
struct kept {
    struct harp_replay_item item;
    struct harp_h2_message message;
    struct bridge *bridge;
    struct harp_ring_region region;
    void (*sent)(struct bridge *b, const struct harp_ring_region *region);
    bool inside; /* the bytes are in the bulk area */
    uint8_t *copy;
    uint8_t body[];
};

/* How long until what was taken in is told, if nothing says so sooner. */
#define TELL_MS 50

static void drop(struct harp_replay_item *item)
{
    struct kept *k = HARP_AROUND(item, struct kept, item);
    if (k->sent != NULL && k->region.bytes != 0)
        k->sent(k->bridge, &k->region);
    free(k->copy);
    free(k);
}

static void released(struct harp_h2_message *message)
{
    struct kept *k = HARP_AROUND(message, struct kept, message);
    struct bridge *b = k->bridge;
    harp_replay_back(&k->item);
    if (b->cramped) { /* what is written can be copied now */
        b->cramped = false;
        harp_timer_set(b->loop, &b->again, 0);
        harp_loop_wake(b->loop);
    }
}

static struct kept *keep(struct bridge *b, const struct harp_frame *frame, bool inside)
{
    struct kept *k = malloc(sizeof *k + (inside ? 0 : frame->bytes));
    if (k == NULL) {
        bridge_fail(b, "no memory for a frame");
        return NULL;
    }
    *k = (struct kept){.item.drop = drop, .bridge = b, .inside = inside};
    struct harp_frame own = *frame;
    if (!inside && frame->bytes != 0)
        memcpy(k->body, frame->body, frame->bytes);
    own.body = inside ? frame->body : k->body;
    harp_h2_frame(&k->message, &own);
    k->message.release = released;
    return k;
}

/* What waits goes to the connection, as far as that takes it. The taker writes to make room; the
 * loop may be in a write already. */
static void pump(struct bridge *b, bool taker)
{
    struct harp_replay_item *item;
    bool tried = !taker;
    while (b->stream != NULL && !b->ended && (item = harp_replay_next(&b->replay)) != NULL) {
        int err = harp_h2_put(b->stream, &HARP_AROUND(item, struct kept, item)->message);
        if (err == -EAGAIN && !tried) {
            tried = true;
            harp_conn_write(b->conn); /* which may come here again, and put this one */
            continue;
        }
        if (err == -EAGAIN || (err != 0 && b->replay.keeps))
            return;
        harp_replay_give(&b->replay);
        if (err != 0) /* the stream ends: nobody will hear it */
            harp_replay_back(item);
    }
    if (b->stream == NULL || !b->last_words)
        return;
    if (b->side == &bridge_near)
        harp_h2_close(b->stream);
    else
        harp_h2_finish(b->stream, b->status, b->text);
}

void bridge_finish(struct bridge *b, enum harp_grpc_status status, const char *text)
{
    if (b->last_words)
        return;
    b->last_words = true;
    b->status = status;
    snprintf(b->text, sizeof b->text, "%s", text);
    pump(b, false);
}

/* Hand it over. By the taker alone: while too much waits already, it waits, and the loop, which
 * makes room, does not. */
static void hand(struct bridge *b, struct kept *k)
{
    while (!b->ended && b->stream == NULL && harp_replay_full(&b->replay))
        pthread_cond_wait(&b->room, b->loop->lock);
    if (b->ended) {
        drop(&k->item);
        return;
    }
    harp_replay_add(&b->replay, &k->item, (uint32_t)sizeof *k + k->message.bytes);
    for (pump(b, true); !b->ended && b->stream != NULL && harp_replay_next(&b->replay) != NULL;
         pump(b, true))
        pthread_cond_wait(&b->room, b->loop->lock);
    if (b->stream != NULL)
        harp_replay_trim(&b->replay);
}

void bridge_send(struct bridge *b, const struct harp_frame *frame)
{
    struct kept *k = keep(b, frame, false);
    if (k != NULL)
        hand(b, k);
}

void bridge_send_region(struct bridge *b, const struct harp_frame *as,
                        const struct harp_ring_region *region, bool end,
                        void (*sent)(struct bridge *b, const struct harp_ring_region *region))
{
    for (uint64_t at = 0; at < region->bytes;) {
        uint64_t left = region->bytes - at;
        struct harp_frame frame = *as;
        frame.bytes = left < BRIDGE_CHUNK_BYTES ? (uint32_t)left : BRIDGE_CHUNK_BYTES;
        frame.body = b->ring.bulk + region->offset + at;
        frame.flags = HARP_FRAME_BULK | (frame.bytes == left && end ? HARP_FRAME_END : 0);
        struct kept *k = keep(b, &frame, true);
        if (k == NULL)
            return;
        k->sent = sent;
        if (frame.bytes == left)
            k->region = *region;
        at += frame.bytes;
        hand(b, k);
    }
}

void bridge_free_regions(struct bridge *b)
{
    bridge_spread_free(b);
    for (struct harp_replay_item *item = b->replay.first; item != b->replay.next && !item->lent;
         item = item->next) {
        struct kept *k = HARP_AROUND(item, struct kept, item);
        if (!k->inside)
            continue;
        k->copy = malloc(k->message.bytes);
        if (k->copy == NULL)
            return; /* later, then */
        memcpy(k->copy, k->message.body, k->message.bytes);
        k->message.body = k->copy;
        k->inside = false;
        if (k->sent != NULL && k->region.bytes != 0)
            k->sent(b, &k->region);
        k->sent = NULL;
    }
}

void bridge_room(struct bridge *b)
{
    pump(b, false);
    pthread_cond_signal(&b->room);
}

void bridge_stream_over(struct bridge *b)
{
    b->stream = NULL;
    b->ended = true;
    pthread_cond_broadcast(&b->room);
}

/* --- the other connection --- */

static void free_told(struct harp_h2_message *message)
{
    free(message);
}

/* How many messages have been taken in. By the loop; what does not go now goes later. */
static void tell(struct bridge *b)
{
    const struct harp_frame frame = {.op = HARP_OP_TAKEN, .ack = b->replay.taken};
    if (b->stream == NULL || b->ended || !harp_replay_untold(&b->replay))
        return;
    struct harp_h2_message *message = calloc(1, sizeof *message);
    if (message != NULL) {
        harp_h2_frame(message, &frame);
        message->release = free_told;
    }
    if (message != NULL && harp_h2_put(b->stream, message) == 0) {
        harp_replay_tell(&b->replay);
        return;
    }
    free(message);
    harp_timer_set(b->loop, &b->tell, TELL_MS);
}

static void tell_late(struct harp_timer *timer)
{
    struct bridge *b = HARP_AROUND(timer, struct bridge, tell);
    tell(b);
    if (b->conn != NULL)
        harp_conn_kick(b->conn);
}

void bridge_took(struct bridge *b, uint32_t bytes)
{
    const bool much = harp_replay_took(&b->replay, bytes);
    if (!b->replay.keeps)
        return;
    if (much)
        tell(b);
    else if (b->tell.link == NULL)
        harp_timer_set(b->loop, &b->tell, TELL_MS);
}

void bridge_lost(struct bridge *b)
{
    b->stream = NULL;
    pthread_cond_broadcast(&b->room);
}

int bridge_resume(struct bridge *b, struct harp_conn *conn, struct harp_h2_stream *stream,
                  uint64_t taken)
{
    int err = harp_replay_from(&b->replay, taken);
    if (err != 0)
        return err;
    b->conn = conn;
    b->stream = stream;
    pump(b, false);
    harp_conn_kick(conn);
    pthread_cond_broadcast(&b->room);
    return 0;
}

const char *bridge_no_resume(int err)
{
    return err == -ENODATA ? "what was sent last is no longer kept here, and the other side asks "
                             "for it again; remedy: attach again"
                           : "the other side has taken in more than was sent; remedy: attach again";
}

void bridge_send_open(struct bridge *b)
{
    b->tell.fire = tell_late;
    harp_replay_open(&b->replay, BRIDGE_KEEP_BYTES);
}
