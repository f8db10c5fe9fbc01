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
 * Of ids with bit 63 (what a call lends) bytes go as they are. Larger transfers are spread over
 * streams of Bulk, where there are some (bridge_bulk.c): BULK | END with `of` stands for the bytes.
 *
 * Where both ends resume (replay.keeps), connections come and go under a session: bridge_lost,
 * bridge_resume. What is to be sent waits meanwhile, up to BRIDGE_KEEP_BYTES. With a connection
 * nobody waits for an acknowledgement: it could be behind what waits for just that. Then the oldest
 * is let go, and the session does not outlive this connection.
 */
#ifndef HARP_LINK_BRIDGE_H
#define HARP_LINK_BRIDGE_H

#include <pthread.h>

#include "src/link/conn.h"
#include "src/link/replay.h"
#include "src/link/spread.h"
#include "src/wire/ring.h"

#define BRIDGE_WORKER_ID (1ull << 63)
/* Bytes of a transfer in one frame: several are under way at a time. */
#define BRIDGE_CHUNK_BYTES (256u << 10)
/* What is kept until it is acknowledged: several times what windows and queues let be under way. */
#define BRIDGE_KEEP_BYTES (32u << 20)

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
    /* By the loop: where in the bulk area the chunks of transfer `id` belong, which is not known
     * yet. 0, -EAGAIN or -EPROTO, as for bulk. */
    int (*place)(struct bridge *b, uint64_t id, uint64_t bytes, uint64_t *offset);
};

/* A stream of Bulk. */
struct bridge_way {
    struct harp_conn *conn;
    struct harp_h2_stream *stream; /* NULL: none */
    unsigned lent, serial;         /* chunks that it has; which one this is of those here */
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
    struct harp_h2_stream *stream; /* NULL: none now */
    bool taking, ended;
    bool told;       /* by the loop's thread alone: the ring's peer has yet to be woken */
    bool cramped;    /* far: a region is waited for, and what was written may hold one */
    bool last_words; /* behind all that was put: end the stream */
    enum harp_grpc_status status;
    char text[HARP_GRPC_TEXT_BYTES];
    bool closed; /* far: the program has said that it sends no more */
    pthread_cond_t room;
    struct harp_timer again, last, tell;
    struct harp_replay replay;
    uint64_t seq; /* of the last frame */
    struct bridge_late *late, **late_end;
    struct bridge_transfer *transfers;
    struct harp_bulk bulk; /* far */
    unsigned others;       /* connections that were agreed, beside this one; 0: nothing is spread */
    struct bridge_way ways[HARP_SPREAD_WAYS]; /* by number; 0: that on Session's connection */
    struct harp_spread spread;
    struct harp_gather gather;
    uint64_t lost, lost_there; /* numbers of those that have ended here, and at the other side */
    bool untold;               /* that, or how many transfers are taken in */
    bool restate;              /* and which chunks of the others are there */
    uint64_t moved;            /* chunks that have come, and news of those that have gone */
    struct harp_timer next;    /* chunks, for streams that have written theirs */
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
/* The stream is no more, and the session with it: whoever waits goes on. */
void bridge_stream_over(struct bridge *b);

/* End the stream behind all that was put: near half-closes, far has a status. */
void bridge_finish(struct bridge *b, enum harp_grpc_status status, const char *text);

/* The connection broke, and its end has given everything back: the session waits for another. */
void bridge_lost(struct bridge *b);
/* There it is; the other end has taken `taken` messages in. 0, or what harp_replay_from answers:
 * then nothing is changed. */
int bridge_resume(struct bridge *b, struct harp_conn *conn, struct harp_h2_stream *stream,
                  uint64_t taken);
/* The user's words for what that answers. */
const char *bridge_no_resume(int err);

/* Nothing can go on: the connection ends as it must, and with it the process. */
void bridge_fail(struct bridge *b, const char *why);
/* The stream has been told to end: it has this long for it. A program that has gone keeps its GPU
 * memory meanwhile. */
#define BRIDGE_LAST_MS      5000u
#define BRIDGE_LAST_GONE_MS 2000u
void bridge_ends(struct bridge *b, unsigned ms);

/* A message of so many bytes has come and is taken in. */
void bridge_took(struct bridge *b, uint32_t bytes);
/* By bridge_open. */
void bridge_send_open(struct bridge *b);
void bridge_bulk_open(struct bridge *b);

/* To the peer, body copied. By the taker: waits for room. */
void bridge_send(struct bridge *b, const struct harp_frame *frame);
/* So many bytes of the bulk area, in chunks, from where they lie; the last one with END if `end`.
 * `sent` (may be NULL) is called when all have been written, or never will be. */
void bridge_send_region(struct bridge *b, const struct harp_frame *as,
                        const struct harp_ring_region *region, bool end,
                        void (*sent)(struct bridge *b, const struct harp_ring_region *region));
/* Nothing waits for an acknowledgement in regions of the bulk area: what is written is copied. */
void bridge_free_regions(struct bridge *b);
/* Into the ring, now or as soon as there is room. */
void bridge_put(struct bridge *b, struct harp_ring_record *record, const void *body);

/* The transfer `id`; NULL: none. */
struct bridge_transfer **bridge_find(struct bridge *b, uint64_t id);
/* Forget it. */
void bridge_forget(struct bridge_transfer **at);

/* --- streams of Bulk (bridge_bulk.c) --- */

/* One more; what waits goes there, too. False: no such number was agreed, or it was used before. */
bool bridge_way_add(struct bridge *b, struct harp_conn *conn, struct harp_h2_stream *stream,
                    unsigned number);
unsigned bridge_ways(const struct bridge *b);
/* Its handler's. False: it is none. */
bool bridge_way_ended(struct bridge *b, const struct harp_h2_stream *stream);
/* A connection for one is no more; the other side may have taken it for one. */
void bridge_way_failed(struct bridge *b, unsigned number);
/* Whether a connection that is gone had a stream of Bulk, and was not Session's. */
bool bridge_way_had(const struct bridge *b, const struct harp_conn *conn);
bool bridge_way_room(struct bridge *b, const struct harp_h2_stream *stream);
int bridge_way_message(struct bridge *b, struct harp_h2_stream *stream, const uint8_t *data,
                       uint32_t bytes);

/* By the taker: the bytes of a region, and the frame that stands for them. False: they are to go on
 * Session. `sent` as above, when the other side has taken them in. */
bool bridge_spread(struct bridge *b, const struct harp_frame *as,
                   const struct harp_ring_region *region,
                   void (*sent)(struct bridge *b, const struct harp_ring_region *region));
/* As bridge_free_regions. */
void bridge_spread_free(struct bridge *b);
/* By the loop: that frame has come. 0: they are all there, at *offset; -EAGAIN or -EPROTO. */
int bridge_gathered(struct bridge *b, const struct harp_frame *frame, uint64_t *offset);

extern const struct bridge_side bridge_near, bridge_far;

#endif
