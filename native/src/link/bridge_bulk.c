/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of Bulk: chunks of transfers that are spread over them, out and in (spread.h).
 *
 * Each has a few chunks at a time, and the next ones when those are written, in the loop's next
 * round, in which the others have their turn: so a fast one has more, and none has all because its
 * socket's buffer is large.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/bridge.h"

/* Chunks that a stream has at a time. */
#define LENT 2u

/* A transfer on its way out. */
struct out {
    struct harp_spread_item item;
    struct bridge *bridge;
    struct harp_ring_region region;
    void (*sent)(struct bridge *b, const struct harp_ring_region *region);
    uint8_t *copy; /* the region is free already */
};

/* A chunk that a stream has. */
struct chunk {
    struct harp_h2_message message;
    struct bridge *bridge;
    struct harp_spread_item *item;
    unsigned way, serial;
};

static void drop(struct harp_spread_item *item)
{
    struct out *o = HARP_AROUND(item, struct out, item);
    if (o->sent != NULL)
        o->sent(o->bridge, &o->region);
    free(o->copy);
    free(o);
}

static void released(struct harp_h2_message *message)
{
    struct chunk *c = HARP_AROUND(message, struct chunk, message);
    struct bridge *b = c->bridge;
    if (b->ways[c->way].serial == c->serial)
        b->ways[c->way].lent--;
    harp_spread_back(c->item);
    free(c);
    if (b->cramped) { /* what is written can be copied now */
        b->cramped = false;
        harp_timer_set(b->loop, &b->again, 0);
        harp_loop_wake(b->loop);
    }
    if (harp_spread_some(&b->spread)) {
        harp_timer_set(b->loop, &b->next, 0);
        harp_loop_wake(b->loop);
    }
}

/* What waits goes to the stream, as far as that takes it. */
static void pump(struct bridge *b, unsigned way)
{
    struct bridge_way *w = &b->ways[way];
    struct harp_spread_item *item;
    int n;
    while (w->stream != NULL && !b->ended && w->lent < LENT &&
           (n = harp_spread_next(&b->spread, way, &item)) >= 0) {
        const uint64_t at = (uint64_t)n * HARP_SPREAD_CHUNK_BYTES;
        const struct harp_frame frame = {.seq = item->number,
                                         .flags = HARP_FRAME_BULK,
                                         .ack = item->id,
                                         .at = at,
                                         .of = item->bytes,
                                         .body = item->data + at,
                                         .bytes = harp_spread_chunk_bytes(item, (unsigned)n)};
        struct chunk *c = malloc(sizeof *c);
        if (c != NULL) {
            *c = (struct chunk){.bridge = b, .item = item, .way = way, .serial = w->serial};
            harp_h2_frame(&c->message, &frame);
            c->message.release = released;
        }
        if (c == NULL || harp_h2_put(w->stream, &c->message) != 0) {
            harp_spread_refused(item, way, (unsigned)n); /* until there is room, or it ends */
            free(c);
            return;
        }
        w->lent++;
    }
}

static void pump_all(struct bridge *b)
{
    for (unsigned way = 0; way < HARP_SPREAD_WAYS; way++) {
        pump(b, way);
        if (b->ways[way].stream != NULL)
            harp_conn_kick(b->ways[way].conn);
    }
}

static void next(struct harp_timer *timer)
{
    pump_all(HARP_AROUND(timer, struct bridge, next));
}

bool bridge_spread(struct bridge *b, const struct harp_frame *as,
                   const struct harp_ring_region *region,
                   void (*sent)(struct bridge *b, const struct harp_ring_region *region))
{
    if (b->others == 0 || b->ended || bridge_ways(b) < 2 ||
        !harp_spread_can(&b->spread, region->bytes))
        return false;
    struct out *o = malloc(sizeof *o);
    if (o == NULL)
        return false;
    *o = (struct out){.bridge = b, .region = *region, .sent = sent};
    o->item.data = b->ring.bulk + region->offset;
    o->item.id = as->ack;
    o->item.bytes = region->bytes;
    o->item.drop = drop;
    harp_spread_add(&b->spread, &o->item);
    for (unsigned way = 0; way < HARP_SPREAD_WAYS; way++)
        pump(b, way);
    for (unsigned way = 0; way < HARP_SPREAD_WAYS; way++)
        if (b->ways[way].stream != NULL)
            harp_conn_write(b->ways[way].conn);
    const struct harp_frame frame = {.flags = HARP_FRAME_BULK | HARP_FRAME_END,
                                     .lane = as->lane,
                                     .ack = as->ack,
                                     .of = region->bytes};
    bridge_send(b, &frame);
    return true;
}

void bridge_spread_free(struct bridge *b)
{
    for (struct harp_spread_item *item = b->spread.first; item != NULL; item = item->next) {
        struct out *o = HARP_AROUND(item, struct out, item);
        if (o->sent == NULL || item->lent != 0)
            continue;
        o->copy = malloc(item->bytes);
        if (o->copy == NULL)
            return; /* later, then */
        memcpy(o->copy, item->data, item->bytes);
        item->data = o->copy;
        o->sent(b, &o->region);
        o->sent = NULL;
    }
}

/* --- in --- */

static void free_told(struct harp_h2_message *message)
{
    free(message);
}

/* Whether it goes on a stream. */
static bool put(struct bridge_way *w, const struct harp_frame *frame)
{
    struct harp_h2_message *message = calloc(1, sizeof *message);
    if (message == NULL)
        return false;
    harp_h2_frame(message, frame);
    message->release = free_told;
    if (harp_h2_put(w->stream, message) == 0)
        return true;
    free(message);
    return false;
}

/* What is there of those that are not whole. */
static bool state(const struct bridge *b, struct bridge_way *w)
{
    for (unsigned i = 0; i < b->gather.count; i++) {
        const struct harp_gather_item *item = &b->gather.open[i];
        const struct harp_frame frame = {.op = HARP_OP_TAKEN,
                                         .flags = HARP_FRAME_BULK,
                                         .seq = item->number,
                                         .ack = harp_gather_there(item)};
        if (!put(w, &frame))
            return false;
    }
    return true;
}

/* How many have been taken in, and which streams are no more: the other side may not hear of it by
 * itself. What does not go now goes when there is room, or a stream. */
static void tell(struct bridge *b)
{
    const struct harp_frame frame = {.op = HARP_OP_TAKEN,
                                     .flags = b->restate ? HARP_FRAME_END : 0,
                                     .ack = b->gather.taken,
                                     .at = b->lost};
    for (unsigned way = 0; way < HARP_SPREAD_WAYS && b->untold; way++) {
        struct bridge_way *w = &b->ways[way];
        if (w->stream == NULL || (b->restate && !state(b, w)) || !put(w, &frame))
            continue;
        b->untold = b->restate = false;
        harp_conn_kick(w->conn);
    }
}

/* What is known of a transfer, or made known. 0, -EAGAIN or -EPROTO. */
static int find(struct bridge *b, uint64_t number, const struct harp_frame *frame,
                struct harp_gather_item **item)
{
    *item = harp_gather_find(&b->gather, number);
    if (*item != NULL)
        return (*item)->id == frame->ack && (*item)->bytes == frame->of ? 0 : -EPROTO;
    uint64_t offset;
    int err = harp_gather_can(&b->gather, number, frame->ack, frame->of);
    if (err == 0)
        err = b->side->place(b, frame->ack, frame->of, &offset);
    if (err == 0)
        *item = harp_gather_add(&b->gather, number, frame->ack, frame->of, offset);
    return err;
}

static int chunk_came(struct bridge *b, const struct harp_frame *frame)
{
    struct harp_gather_item *item;
    if (frame->op != 0 || frame->flags != HARP_FRAME_BULK || frame->seq == 0 || frame->ack == 0 ||
        frame->ack >= BRIDGE_WORKER_ID)
        return -EPROTO;
    if (frame->seq <= b->gather.taken)
        return 0; /* again, by a stream that was given up */
    int err = find(b, frame->seq, frame, &item);
    if (err != 0)
        return err;
    int fresh = harp_gather_chunk(item, frame->at, frame->of, frame->bytes);
    if (fresh <= 0)
        return fresh;
    memcpy(b->ring.bulk + item->offset + frame->at, frame->body, frame->bytes);
    b->moved++;
    if (item->missing == 0)
        harp_timer_set(b->loop, &b->again, 0); /* Session may wait for it */
    return 0;
}

int bridge_gathered(struct bridge *b, const struct harp_frame *frame, uint64_t *offset)
{
    struct harp_gather_item *item;
    int err = find(b, b->gather.taken + 1, frame, &item);
    if (err != 0)
        return err;
    if (item->missing != 0)
        return -EAGAIN;
    *offset = item->offset;
    harp_gather_take(&b->gather, item);
    b->untold = true;
    tell(b);
    return 0;
}

/* --- the streams --- */

static struct bridge_way *way_of(struct bridge *b, const struct harp_h2_stream *stream)
{
    for (unsigned way = 0; stream != NULL && way < HARP_SPREAD_WAYS; way++)
        if (b->ways[way].stream == stream)
            return &b->ways[way];
    return NULL;
}

unsigned bridge_ways(const struct bridge *b)
{
    unsigned count = 0;
    for (unsigned way = 0; way < HARP_SPREAD_WAYS; way++)
        count += b->ways[way].stream != NULL;
    return count;
}

/* Streams have changed: what was told of it may be lost with one. */
static void changed(struct bridge *b)
{
    b->untold = b->restate = true;
    tell(b);
    pump_all(b);
}

static void lose(struct bridge *b, struct bridge_way *w)
{
    const unsigned number = (unsigned)(w - b->ways);
    w->stream = NULL;
    if (number != 0) /* else Session's connection is lost, as both see */
        b->lost |= 1ull << number;
    harp_spread_lost(&b->spread, number);
}

bool bridge_way_add(struct bridge *b, struct harp_conn *conn, struct harp_h2_stream *stream,
                    unsigned number)
{
    struct bridge_way *w = &b->ways[number];
    if (number > b->others || b->others == 0 || w->stream != NULL ||
        ((b->lost | b->lost_there) >> number & 1) != 0)
        return false;
    *w = (struct bridge_way){.conn = conn, .stream = stream, .serial = w->serial + 1};
    changed(b);
    return true;
}

bool bridge_way_ended(struct bridge *b, const struct harp_h2_stream *stream)
{
    struct bridge_way *w = way_of(b, stream);
    if (w == NULL)
        return false;
    lose(b, w);
    if (!b->ended)
        changed(b);
    return true;
}

void bridge_way_failed(struct bridge *b, unsigned number)
{
    if (b->ended || b->ways[number].stream != NULL || (b->lost >> number & 1) != 0)
        return;
    b->lost |= 1ull << number;
    changed(b);
}

/* The other side has lost these, of which this one may not have heard. */
static void give_up(struct bridge *b, uint64_t numbers)
{
    for (unsigned way = 1; way < HARP_SPREAD_WAYS; way++) {
        struct bridge_way *w = &b->ways[way];
        if (w->stream == NULL || (numbers >> way & 1) == 0)
            continue;
        struct harp_h2_stream *stream = w->stream;
        lose(b, w);
        harp_h2_cancel(stream);
        harp_conn_close(w->conn, "");
    }
}

/* News of what was sent. */
static int heard(struct bridge *b, const struct harp_frame *frame)
{
    if (frame->flags == HARP_FRAME_BULK) {
        int more = harp_spread_there(&b->spread, frame->seq, frame->ack);
        b->moved += more > 0;
        return more < 0 ? more : 0;
    }
    if (frame->flags != 0 && frame->flags != HARP_FRAME_END)
        return -EPROTO;
    if (frame->flags == HARP_FRAME_END) {
        harp_spread_settle(&b->spread);
        harp_timer_set(b->loop, &b->next, 0);
    }
    if ((frame->at & ~b->lost_there) != 0) {
        b->lost_there |= frame->at;
        give_up(b, frame->at);
        changed(b); /* of the chunks that went there it wants to know */
    }
    return harp_spread_acked(&b->spread, frame->ack);
}

int bridge_way_message(struct bridge *b, struct harp_h2_stream *stream, const uint8_t *data,
                       uint32_t bytes)
{
    struct harp_frame frame;
    if (b->ended || way_of(b, stream) == NULL)
        return 0;
    if (!b->taking)
        return -EAGAIN;
    int err = harp_frame_get(&frame, data, bytes);
    if (err == 0 && frame.op == HARP_OP_TAKEN)
        err = heard(b, &frame);
    else if (err == 0)
        err = chunk_came(b, &frame);
    if (err == -EAGAIN)
        return err;
    if (err == 0)
        return 0;
    b->side->bad_frame(b, "what came on a stream of Bulk is no chunk of a transfer that there can "
                          "be, or one too many");
    if (b->conn != NULL) /* on which that is said */
        harp_conn_kick(b->conn);
    return 0;
}

bool bridge_way_had(const struct bridge *b, const struct harp_conn *conn)
{
    for (unsigned way = 0; way < HARP_SPREAD_WAYS && conn != b->conn; way++)
        if (b->ways[way].conn == conn)
            return true;
    return false;
}

bool bridge_way_room(struct bridge *b, const struct harp_h2_stream *stream)
{
    struct bridge_way *w = way_of(b, stream);
    if (w == NULL)
        return false;
    tell(b);
    pump(b, (unsigned)(w - b->ways));
    return true;
}

void bridge_bulk_open(struct bridge *b)
{
    b->next.fire = next;
    harp_spread_open(&b->spread);
}
