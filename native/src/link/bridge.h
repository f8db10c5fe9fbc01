/* SPDX-License-Identifier: Apache-2.0
 *
 * One session between a ring and a stream: records become frames and frames records, one to one,
 * with the same seq. Two ends are alike but for host bytes: near.c is beside the program, far.c
 * beside the worker.
 *
 * Two threads. The taker waits at the ring, takes records and writes them to the connection; the
 * loop reads the connection and puts records. Neither hands over to the other, so a call costs no
 * wake but the peers'. All of a bridge is guarded by the loop's lock.
 *
 * Host bytes on the stream (session.proto, BULK):
 *
 *   BULK [END], bytes            of transfer `ack`, either way
 *   BULK | REVERSE, u64          to the worker: so many bytes of `ack` are coming, and belong into
 *                                one region; else each frame is a part, which the worker gathers
 *   BULK | END | REVERSE, u64    to the worker: so many bytes of `ack` are to come back
 *   BULK | END, nothing          from the worker: it is done with `ack`
 *
 * Of ids with bit 63 (what a call lends) bytes go as they are.
 */
#ifndef HARP_LINK_BRIDGE_H
#define HARP_LINK_BRIDGE_H

#include <pthread.h>

#include "src/link/conn.h"
#include "src/wire/ring.h"

#define BRIDGE_WORKER_ID (1ull << 63)
/* Bytes of a transfer in one frame: several are under way at a time. */
#define BRIDGE_CHUNK_BYTES (256u << 10)

struct bridge;

struct bridge_side {
    /* By the taker: a record, body copied out. 0, or -EPROTO: the session is over. */
    int (*record)(struct bridge *b, struct harp_ring_record *record, const uint8_t *body);
    /* By the loop: a frame with BULK. 0, -EAGAIN: not now (bridge_go_on), or -EPROTO. */
    int (*bulk)(struct bridge *b, const struct harp_frame *frame);
    /* By the taker: the ring's peer has closed it, and all it said is taken. */
    void (*peer_gone)(struct bridge *b);
    /* By the loop: the other side has sent what is no frame, or not the next one. */
    void (*bad_frame)(struct bridge *b, const char *why);
};

/* A record that had no room in the ring. */
struct bridge_late;
/* What is known of a transfer. */
struct bridge_transfer {
    struct bridge_transfer *next;
    uint64_t id, done; /* bytes that have come */
    unsigned lane;
    bool parts, fetch, coming;
    struct harp_ring_region region;
};

struct bridge {
    struct harp_loop *loop;
    const struct bridge_side *side;
    struct harp_ring ring;
    int sock; /* of the ring */
    struct harp_conn *conn;
    struct harp_h2_stream *stream; /* NULL: over */
    bool taking, ended;
    bool told;   /* by the loop's thread alone: the ring's peer has yet to be woken */
    bool closed; /* far: the program has said that it sends no more */
    pthread_cond_t room;
    struct harp_timer again, last;
    uint64_t seq; /* of the last frame */
    struct bridge_late *late, **late_end;
    struct bridge_transfer *transfers;
    struct harp_bulk bulk; /* far */
    uint8_t *scratch, *arena;
};

/* Memory, timers. 0 or -ENOMEM. The ring, sock, conn and stream are set by whoever opened them. */
int bridge_open(struct bridge *b, struct harp_loop *loop, const struct bridge_side *side);
/* The ring is open, and so is the stream: begin to take. 0 or an errno. */
int bridge_start(struct bridge *b);

/* The stream's handler, but for its beginning and its end. */
int bridge_message(struct bridge *b, const uint8_t *data, uint32_t bytes);
void bridge_room(struct bridge *b);
/* What made -EAGAIN may be over. */
void bridge_go_on(struct bridge *b);
/* The stream is no more: whoever waits for it goes on. */
void bridge_stream_over(struct bridge *b);

/* Nothing can go on: the connection ends as it must, and with it the process. */
void bridge_fail(struct bridge *b, const char *why);
/* The stream has been told to end: it has this long for it. A program that has gone keeps its GPU
 * memory meanwhile. */
#define BRIDGE_LAST_MS      5000u
#define BRIDGE_LAST_GONE_MS 2000u
void bridge_ends(struct bridge *b, unsigned ms);

/* To the peer, body copied. By the taker: waits for room. */
void bridge_send(struct bridge *b, const struct harp_frame *frame);
/* So many bytes of the bulk area, in chunks, from where they lie; the last one with END if `end`.
 * `sent` (may be NULL) is called when all have been written, or never will be. */
void bridge_send_region(struct bridge *b, const struct harp_frame *as,
                        const struct harp_ring_region *region, bool end,
                        void (*sent)(struct bridge *b, const struct harp_ring_region *region));
/* Into the ring, now or as soon as there is room. */
void bridge_put(struct bridge *b, struct harp_ring_record *record, const void *body);

/* The transfer `id`; NULL: none. */
struct bridge_transfer **bridge_find(struct bridge *b, uint64_t id);
/* Forget it. */
void bridge_forget(struct bridge_transfer **at);

extern const struct bridge_side bridge_near, bridge_far;

#endif
