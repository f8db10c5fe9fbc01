/* SPDX-License-Identifier: Apache-2.0
 *
 * The end beside the program. A region says where bytes of a transfer lie, or belong: which of the
 * two, only the call that names it knows. So a region waits for the next call of its lane, and that
 * call is read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "src/link/bridge.h"

/* As many as a worker knows at a time. */
#define OPEN_MAX 4096

static struct bridge_transfer *add(struct bridge *b, const struct harp_ring_record *record,
                                   const struct harp_ring_region *region)
{
    unsigned count = 0;
    struct bridge_transfer **at = &b->transfers;
    for (; *at != NULL; at = &(*at)->next)
        if ((*at)->id == record->ack || ++count == OPEN_MAX)
            return NULL;
    *at = calloc(1, sizeof **at);
    if (*at == NULL)
        return NULL;
    (*at)->id = record->ack;
    (*at)->lane = record->lane;
    (*at)->region = *region;
    return *at;
}

static void tell(struct bridge *b, uint64_t id, unsigned flags,
                 const struct harp_ring_region *region)
{
    struct harp_ring_record record = {
        .flags = HARP_FRAME_BULK | flags, .ack = id, .bytes = region != NULL ? sizeof *region : 0};
    bridge_put(b, &record, region);
}

/* What the worker is to know of a transfer ahead of its bytes. */
static void send_size(struct bridge *b, const struct bridge_transfer *t, unsigned flags)
{
    uint64_t size = t->region.bytes;
    const struct harp_frame frame = {.flags = HARP_FRAME_BULK | HARP_FRAME_REVERSE | flags,
                                     .lane = t->lane,
                                     .ack = t->id,
                                     .body = (const uint8_t *)&size,
                                     .bytes = sizeof size};
    bridge_send(b, &frame);
}

static void send_bytes(struct bridge *b, const struct bridge_transfer *t)
{
    const struct harp_frame as = {.lane = t->lane, .ack = t->id};
    if (bridge_spread(b, &as, &t->region, NULL))
        return;
    if (t->region.bytes > BRIDGE_CHUNK_BYTES)
        send_size(b, t, 0);
    bridge_send_region(b, &as, &t->region, true, NULL);
}

/* A region. Parts of a transfer go at once, as bytes: they can be nothing else. They are copied, so
 * that the program has its region back. */
static int announced(struct bridge *b, const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_ring_region region;
    const bool end = (record->flags & HARP_FRAME_END) != 0;
    if (record->bytes != sizeof region || record->ack == 0 || record->ack >= BRIDGE_WORKER_ID)
        return -EPROTO;
    memcpy(&region, body, sizeof region);
    const uint8_t *from = harp_ring_region(&b->ring, region.offset, region.bytes);
    struct bridge_transfer **at = bridge_find(b, record->ack), *t = *at;
    if (from == NULL || region.bytes == 0 || (t != NULL && !t->parts))
        return -EPROTO;
    if (t == NULL && (t = add(b, record, &region)) == NULL)
        return -EPROTO;
    if (end && !t->parts)
        return 0; /* the next call of the lane says what it is */
    t->parts = true;
    for (uint64_t done = 0; done < region.bytes;) {
        uint64_t left = region.bytes - done;
        struct harp_frame frame = {.lane = record->lane, .ack = record->ack, .body = from + done};
        frame.bytes = left < BRIDGE_CHUNK_BYTES ? (uint32_t)left : BRIDGE_CHUNK_BYTES;
        frame.flags = HARP_FRAME_BULK | (end && frame.bytes == left ? HARP_FRAME_END : 0);
        bridge_send(b, &frame);
        done += frame.bytes;
    }
    tell(b, record->ack, 0, &region);
    if (end)
        bridge_forget(bridge_find(b, record->ack));
    return 0;
}

/* The codec's hook: this call names a transfer. */
struct reading {
    struct bridge *b;
    unsigned lane;
};

static int named(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    struct reading *r = ctx;
    static uint8_t nothing;
    struct bridge_transfer **at = bridge_find(r->b, *id), *t = *at;
    *data = &nothing;
    if (way == HARP_WIRE_LEND || t == NULL || t->lane != r->lane || t->parts || t->fetch)
        return 0; /* the worker judges it */
    if (way == HARP_WIRE_SEND) {
        send_bytes(r->b, t);
        bridge_forget(bridge_find(r->b, *id));
        return 0;
    }
    t->fetch = true;
    send_size(r->b, t, HARP_FRAME_END);
    return 0;
}

static void read_call(struct bridge *b, unsigned lane, unsigned op, const uint8_t *body,
                      uint32_t bytes)
{
    struct reading reading = {.b = b, .lane = lane};
    const struct harp_wire_side side = {.ctx = &reading, .transfer = named};
    struct harp_wire_call call = {.op = (uint16_t)op};
    struct harp_wire_buffer in = {.data = (uint8_t *)(uintptr_t)body, .size = bytes};
    struct harp_wire_buffer arena = {.data = b->arena, .size = HARP_WIRE_ARENA_BYTES};
    if (op <= UINT16_MAX && harp_wire_op(op) != NULL)
        (void)harp_wire_get_request(&call, &side, &in, &arena);
}

/* What the lane has announced: as its call says; what that does not name is done with. */
static void settle(struct bridge *b, const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_frame call;
    if (record->op == HARP_OP_PACK)
        for (size_t used = 0; harp_pack_get(&call, body, record->bytes, &used) == 1;)
            read_call(b, record->lane, call.op, call.body, call.bytes);
    else
        read_call(b, record->lane, record->op, body, record->bytes);
    for (struct bridge_transfer **at = &b->transfers; *at != NULL;) {
        struct bridge_transfer *t = *at;
        if (t->lane != record->lane || t->parts || t->fetch) {
            at = &t->next;
            continue;
        }
        uint64_t id = t->id;
        bridge_forget(at);
        tell(b, id, HARP_FRAME_END, NULL);
    }
}

static int near_record(struct bridge *b, struct harp_ring_record *record, const uint8_t *body)
{
    if ((record->flags & HARP_FRAME_BULK) != 0)
        return announced(b, record, body);
    if (b->transfers != NULL && (record->flags & HARP_FRAME_REPLY) == 0)
        settle(b, record, body);
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

static int near_place(struct bridge *b, uint64_t id, uint64_t bytes, uint64_t *offset)
{
    const struct bridge_transfer *t = *bridge_find(b, id);
    if (t == NULL || !t->fetch || t->done != 0 || t->region.bytes != bytes)
        return -EPROTO; /* nobody has asked for it */
    *offset = t->region.offset;
    return 0;
}

/* Bytes that were asked for, bytes that are lent, or the word that a transfer is done. */
static int near_bulk(struct bridge *b, const struct harp_frame *frame)
{
    const bool end = (frame->flags & HARP_FRAME_END) != 0;
    if (frame->ack >= BRIDGE_WORKER_ID) {
        struct harp_ring_record record = {
            .bytes = frame->bytes, .flags = frame->flags, .lane = frame->lane, .ack = frame->ack};
        bridge_put(b, &record, frame->body);
        return 0;
    }
    struct bridge_transfer **at = bridge_find(b, frame->ack), *t = *at;
    if (t != NULL && !t->fetch)
        return -EPROTO; /* not even announced there */
    if (frame->of != 0) {
        uint64_t offset;
        int err = t != NULL && t->done == 0 ? bridge_gathered(b, frame, &offset) : -EPROTO;
        if (err != 0)
            return err;
        bridge_forget(at);
        tell(b, frame->ack, HARP_FRAME_END, NULL);
        return 0;
    }
    if (frame->bytes != 0) {
        if (t == NULL || frame->bytes > t->region.bytes - t->done)
            return -EPROTO;
        memcpy(b->ring.bulk + t->region.offset + t->done, frame->body, frame->bytes);
        t->done += frame->bytes;
    }
    if (!end)
        return frame->bytes != 0 ? 0 : -EPROTO;
    if (t != NULL && frame->bytes != 0 && t->done != t->region.bytes)
        return -EPROTO;
    if (t != NULL)
        bridge_forget(at);
    tell(b, frame->ack, HARP_FRAME_END, NULL);
    return 0;
}

/* The program has ended, or wants no GPU any more. */
static void program_gone(struct bridge *b)
{
    bridge_finish(b, HARP_GRPC_OK, "");
    bridge_ends(b, BRIDGE_LAST_GONE_MS);
}

const struct bridge_side bridge_near = {
    .record = near_record,
    .bulk = near_bulk,
    .peer_gone = program_gone,
    .bad_frame = bridge_fail,
    .place = near_place,
};
