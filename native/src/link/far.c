/* SPDX-License-Identifier: Apache-2.0
 *
 * The end beside the worker: a client of the ring, that gives out regions of its bulk area for the
 * bytes that come, and for those that are to come back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/bridge.h"

static void free_region(struct bridge *b, struct bridge_transfer **at)
{
    harp_bulk_give(&b->bulk, (*at)->region.offset, (*at)->region.bytes);
    bridge_forget(at);
}

/* A region of `bytes`. 0, -EAGAIN or -EPROTO. */
static int take_region(struct bridge *b, uint64_t bytes, uint64_t *offset)
{
    int err = bytes == 0 ? -EMSGSIZE : harp_bulk_take(&b->bulk, bytes, offset);
    if (err == -EAGAIN && (b->replay.keeps || b->others != 0)) {
        bridge_free_regions(b); /* an acknowledgement could be behind this frame */
        err = harp_bulk_take(&b->bulk, bytes, offset);
        b->cramped = err == -EAGAIN;
    }
    return err == 0 || err == -EAGAIN ? err : -EPROTO;
}

/* 0 or -EPROTO. */
static int new_transfer(struct bridge *b, const struct harp_frame *frame, uint64_t offset,
                        uint64_t bytes, struct bridge_transfer **out)
{
    struct bridge_transfer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -EPROTO;
    t->id = frame->ack;
    t->lane = frame->lane;
    t->region = (struct harp_ring_region){offset, bytes};
    t->next = b->transfers;
    *out = b->transfers = t;
    return 0;
}

/* A region of `bytes` for the transfer. 0, -EAGAIN or -EPROTO. */
static int make_room(struct bridge *b, const struct harp_frame *frame, uint64_t bytes,
                     struct bridge_transfer **out)
{
    uint64_t offset;
    int err = take_region(b, bytes, &offset);
    return err != 0 ? err : new_transfer(b, frame, offset, bytes, out);
}

static int far_place(struct bridge *b, uint64_t id, uint64_t bytes, uint64_t *offset)
{
    return *bridge_find(b, id) == NULL ? take_region(b, bytes, offset) : -EPROTO;
}

static void announce(struct bridge *b, const struct bridge_transfer *t, unsigned flags)
{
    struct harp_ring_record record = {
        .bytes = sizeof t->region, .flags = HARP_FRAME_BULK | flags, .lane = t->lane, .ack = t->id};
    bridge_put(b, &record, &t->region);
}

/* A size: of what is coming, or (END) is to come back. */
static int size_told(struct bridge *b, const struct harp_frame *frame)
{
    const bool fetch = (frame->flags & HARP_FRAME_END) != 0;
    struct bridge_transfer *t;
    uint64_t bytes;
    if (frame->bytes != sizeof bytes || *bridge_find(b, frame->ack) != NULL)
        return -EPROTO;
    memcpy(&bytes, frame->body, sizeof bytes);
    int err = make_room(b, frame, bytes, &t);
    if (err != 0)
        return err;
    t->fetch = fetch;
    t->coming = !fetch;
    if (fetch)
        announce(b, t, HARP_FRAME_END);
    return 0;
}

/* All has come that was spread. */
static int gathered(struct bridge *b, const struct harp_frame *frame)
{
    uint64_t offset;
    struct bridge_transfer *t;
    int err = bridge_gathered(b, frame, &offset);
    if (err == 0)
        err = new_transfer(b, frame, offset, frame->of, &t);
    if (err == 0)
        announce(b, t, HARP_FRAME_END);
    return err;
}

static int far_bulk(struct bridge *b, const struct harp_frame *frame)
{
    const unsigned end = frame->flags & HARP_FRAME_END;
    if (frame->ack == 0 || frame->ack >= BRIDGE_WORKER_ID)
        return -EPROTO;
    if (frame->of != 0)
        return gathered(b, frame);
    if ((frame->flags & HARP_FRAME_REVERSE) != 0)
        return size_told(b, frame);
    struct bridge_transfer *t = *bridge_find(b, frame->ack);
    const bool part = t == NULL || !t->coming;
    int err = part ? make_room(b, frame, frame->bytes, &t) : 0;
    if (err != 0)
        return err;
    if (frame->bytes > t->region.bytes - t->done)
        return -EPROTO;
    if (frame->bytes != 0)
        memcpy(b->ring.bulk + t->region.offset + t->done, frame->body, frame->bytes);
    t->done += frame->bytes;
    if (!part && end == 0)
        return 0;
    if (t->done != t->region.bytes)
        return -EPROTO;
    t->coming = false;
    announce(b, t, end);
    return 0;
}

/* A region whose bytes are on their way is free. */
static void sent(struct bridge *b, const struct harp_ring_region *region)
{
    harp_bulk_give(&b->bulk, region->offset, region->bytes);
    harp_timer_set(b->loop, &b->again, 0); /* what waits for one goes on: not from within a write */
    harp_loop_wake(b->loop);
}

/* The worker has taken a part in. */
static int part_done(struct bridge *b, const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_ring_region region;
    if (record->bytes != sizeof region)
        return -EPROTO;
    memcpy(&region, body, sizeof region);
    for (struct bridge_transfer **at = &b->transfers; *at != NULL; at = &(*at)->next)
        if ((*at)->id == record->ack && (*at)->region.offset == region.offset) {
            free_region(b, at);
            harp_timer_set(b->loop, &b->again, 0);
            harp_loop_wake(b->loop);
            return 0;
        }
    return -EPROTO;
}

/* The worker is done with a transfer: what came for it goes back. */
static int all_done(struct bridge *b, const struct harp_ring_record *record)
{
    struct harp_frame frame = {.flags = HARP_FRAME_BULK | HARP_FRAME_END, .ack = record->ack};
    bool fetched = false;
    for (struct bridge_transfer **at = bridge_find(b, record->ack); *at != NULL;
         at = bridge_find(b, record->ack)) {
        if ((*at)->fetch) {
            const struct harp_ring_region region = (*at)->region;
            bridge_forget(at);
            fetched = true;
            if (!bridge_spread(b, &frame, &region, sent))
                bridge_send_region(b, &frame, &region, true, sent);
        } else {
            free_region(b, at);
        }
    }
    if (!fetched)
        bridge_send(b, &frame);
    harp_timer_set(b->loop, &b->again, 0);
    harp_loop_wake(b->loop);
    return 0;
}

static int far_record(struct bridge *b, struct harp_ring_record *record, const uint8_t *body)
{
    const bool bulk = (record->flags & HARP_FRAME_BULK) != 0;
    if (bulk && record->ack < BRIDGE_WORKER_ID)
        return (record->flags & HARP_FRAME_END) != 0 ? all_done(b, record)
                                                     : part_done(b, record, body);
    const struct harp_frame frame = {.seq = record->seq,
                                     .ack = record->ack,
                                     .op = record->op,
                                     .flags = record->flags,
                                     .lane = record->lane,
                                     .body = body,
                                     .bytes = record->bytes};
    bridge_send(b, &frame);
    return 0;
}

/* The worker has ended, by itself or because the program has. */
static void worker_gone(struct bridge *b)
{
    bridge_finish(b, b->closed ? HARP_GRPC_OK : HARP_GRPC_UNAVAILABLE,
                  b->closed ? "" : "the worker has ended; remedy: attach again");
    bridge_ends(b, BRIDGE_LAST_MS);
}

/* A stock client may be at the other end: it is told. */
static void bad_frame(struct bridge *b, const char *why)
{
    b->ended = true;
    bridge_finish(b, HARP_GRPC_INVALID_ARGUMENT, why);
    bridge_ends(b, BRIDGE_LAST_MS);
}

const struct bridge_side bridge_far = {
    .record = far_record,
    .bulk = far_bulk,
    .peer_gone = worker_gone,
    .bad_frame = bad_frame,
    .place = far_place,
};
