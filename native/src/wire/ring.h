/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared-memory ring between a program and what stands for its GPU: harp-worker on the same
 * host, harp-link for others. SESSION.md says what goes through it.
 *
 * One memfd a session, made by the client and sealed, so that neither end can pull it away under
 * the other:
 *
 *   header page │ ring "calls" │ ring "answers" │ bulk area
 *                 to the worker   to the client   host bytes of transfers, both ways
 *
 * Nothing there is trusted by either end. Indices are read once and checked against the own ones,
 * records are copied out before they are looked at, own positions never come from shared memory.
 * What a peer writes there costs its own session only: -EPROTO, for good.
 *
 * libc only, no allocation, no thread; errno untouched. An end is used by one thread a direction at
 * a time: who has several brings a mutex for putting (reserve to commit, wait_room) and one for
 * taking (some, take, wait). wake, gone and region are free. Not usable in a child after fork.
 *
 * A client goes on taking while it waits for room: a worker that has no room for answers takes no
 * calls.
 *
 *   -EAGAIN     no room, no record        -ETIMEDOUT  not within the time
 *   -EPIPE      the peer is gone          -EPROTO     it wrote nonsense
 *   -EMSGSIZE   a record larger than half a ring, which the ring might never have room for
 */
#ifndef HARP_WIRE_RING_H
#define HARP_WIRE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/wire/frame.h"
#include "src/wire/ring_yield.h"

#define HARP_RING_MAGIC   0x676e697270726168ull /* "harpring" */
#define HARP_RING_VERSION 1u

/* Sizes of a new session. Rings: a power of two, 64 KiB to 64 MiB. Bulk: a multiple of 64 KiB, up
 * to 1 GiB. */
#define HARP_RING_BYTES      (1u << 20)
#define HARP_RING_BULK_BYTES (16u << 20)
/* Regions of the bulk area begin at multiples of this. */
#define HARP_RING_PAGE 4096u

struct harp_ring_sizes {
    uint64_t calls, answers, bulk; /* bytes */
};

enum harp_ring_end { HARP_RING_CLIENT, HARP_RING_WORKER };

/* Header of a record, little-endian, at a multiple of 8; `bytes` of body follow, then zeroes to a
 * multiple of 8. A record does not wrap: one with op HARP_RING_SKIP fills what is left up to the
 * end, and where not even a header has room there, nothing does. */
struct harp_ring_record {
    uint32_t bytes; /* of body */
    uint32_t op;    /* enum harp_own_op, enum harp_op; BULK: 0 */
    uint32_t flags; /* enum harp_frame_flags */
    uint32_t lane;
    uint64_t seq; /* of this direction, from 1 without gaps; BULK: 0 */
    uint64_t ack; /* of a reply: the seq of the record that it answers; BULK: the transfer */
};
#define HARP_RING_SKIP 0xffffffffu

/* Body of a BULK record that says where bytes of a transfer lie (or where they belong). */
struct harp_ring_region {
    uint64_t offset, bytes; /* in the bulk area; offset a multiple of HARP_RING_PAGE */
};

/* Who waits for records. Two threads of an end may (a second one stands by while the first is busy
 * with a call): a writer wakes the one that has said so last. */
enum harp_ring_waiter { HARP_RING_FIRST = 1, HARP_RING_SECOND = 2 };

/* In shared memory, one a direction: positions count bytes since the start, for good. A sleep word
 * says who of the other side is to be woken: bits of harp_ring_waiter, which are also the futex's
 * bitset. */
struct harp_ring_way {
    _Alignas(64) uint64_t tail; /* the writer's: bytes put */
    _Alignas(64) uint64_t head; /* the reader's: bytes taken */
    _Alignas(64) uint32_t data; /* futex, changed by the writer before it wakes */
    uint32_t reader_sleeps;
    _Alignas(64) uint32_t room; /* futex, changed by the reader before it wakes */
    uint32_t writer_sleeps;
};

/* The header page. calls at 4096, then answers, then bulk, without gaps. */
struct harp_ring_header {
    struct harp_ring_way calls, answers;
};

/* One end. Private: other files read `bulk` and `sizes` only. */
struct harp_ring {
    uint8_t *map;
    size_t mapped;
    struct harp_ring_sizes sizes;
    uint8_t *bulk;
    int sock; /* the session's; -1: liveness is not looked at. Not closed by harp_ring_close */
    struct harp_yield yield;
    bool broken, standing_by, summoned;
    struct {
        struct harp_ring_way *way;
        uint8_t *data;
        uint64_t size, tail, head; /* own position; the peer's as last read */
        uint64_t reserved, skipped, seq;
    } put;
    struct {
        struct harp_ring_way *way;
        uint8_t *data;
        uint64_t size, tail, head;
        uint64_t seq;
    } take;
};

/* --- opening --- */

/* Client: make a session over the connected unix socket `sock`: the memfd, the hello with `table`
 * (harp_table_put), the peer's answer. -ECONNREFUSED, -EPROTO: `text` says why, for the user.
 * `sizes` NULL: the default. */
int harp_ring_dial(struct harp_ring *ring, int sock, const struct harp_ring_sizes *sizes,
                   const char *table, int timeout_ms, char *text, size_t text_size);

/* Other end: take in a hello and what comes with it. 0, then harp_ring_answer; else an errno and
 * `text`, which harp_ring_refuse tells the client. `own` is compared (harp_table_compare). */
int harp_ring_accept(struct harp_ring *ring, int sock, const struct harp_table_id *own,
                     int timeout_ms, char *text, size_t text_size);
int harp_ring_answer(const struct harp_ring *ring);
void harp_ring_refuse(int sock, const char *text);

/* For tests and tools: a segment without socket, and the other end of one. */
int harp_ring_make(struct harp_ring *ring, const struct harp_ring_sizes *sizes, int *memfd);
int harp_ring_join(struct harp_ring *ring, enum harp_ring_end end,
                   const struct harp_ring_sizes *sizes, int memfd);

void harp_ring_close(struct harp_ring *ring);

/* Whether the peer's end of the socket is closed, or says what no peer does. One syscall. */
bool harp_ring_gone(const struct harp_ring *ring);

/* --- putting --- */

/* Largest body that this end can put. Of the other's, HARP_WIRE_BODY_BYTES is the bound. */
uint32_t harp_ring_largest(const struct harp_ring *ring);

/* Room for a record of up to `bytes` of body, to be written at *body (never read: the peer sees it)
 * and committed with what it has become. -EAGAIN: none now. Replaces an earlier reservation. */
int harp_ring_reserve(struct harp_ring *ring, uint32_t bytes, uint8_t **body);

/* The reserved record, with record->bytes of body, can be taken from now on. Sets record->seq
 * unless BULK. Wakes nobody: a batch ends with harp_ring_wake. */
void harp_ring_commit(struct harp_ring *ring, struct harp_ring_record *record);

/* reserve, copy, commit. */
int harp_ring_put(struct harp_ring *ring, struct harp_ring_record *record, const void *body);

/* Wake the peer's reader if it sleeps. No syscall if it does not. */
void harp_ring_wake(struct harp_ring *ring);

/* Until a record of `bytes` may have room. Wakes the reader first. 0, -ETIMEDOUT, -EPIPE, -EPROTO.
 * timeout_ms < 0: for ever. */
int harp_ring_wait_room(struct harp_ring *ring, uint32_t bytes, int timeout_ms);

/* --- taking --- */

/* Whether a record is there, as far as the indices say. */
bool harp_ring_some(struct harp_ring *ring);

/* The next record: header, and up to `size` bytes of body, copied out. 1; 0: none; -EPROTO, also
 * for a gap in seq, a body beyond `size`, or unknown flags. */
int harp_ring_take(struct harp_ring *ring, struct harp_ring_record *record, uint8_t *body,
                   uint32_t size);

/* FIRST: until a record is there; yields (ring_yield.h), then sleeps. The peer's death is seen
 * within 50 ms, where `sock` is; what it has put before is still to be taken. SECOND: until a
 * writer has seen stand_by. 0, -ETIMEDOUT, -EPIPE, -EPROTO. */
int harp_ring_wait(struct harp_ring *ring, enum harp_ring_waiter who, int timeout_ms);

/* By who takes, before and after a time in which it does not: SECOND is to be woken by the next
 * record, or by one that is there; and no more. No syscall if there is none. It may have been woken
 * without a record, and when `down` returns: who takes is agreed upon by the two themselves. */
void harp_ring_stand_by(struct harp_ring *ring);
void harp_ring_stand_down(struct harp_ring *ring);
/* Wake SECOND, whatever is there. */
void harp_ring_summon(struct harp_ring *ring);

/* --- bulk --- */

/* Where a region lies; NULL: not in the bulk area. */
uint8_t *harp_ring_region(const struct harp_ring *ring, uint64_t offset, uint64_t bytes);

/* What the client has given out of the bulk area: a bit a page, first fit. Guarded by the caller.
 */
#define HARP_BULK_PAGES_MAX ((1u << 30) / HARP_RING_PAGE)
struct harp_bulk {
    uint64_t *taken; /* (pages + 63) / 64 words, the caller's, zeroed */
    uint32_t pages, from;
};
/* Largest region: a fourth of the area, so that four copies can be under way. */
uint64_t harp_bulk_largest(const struct harp_bulk *bulk);
/* 0, -EAGAIN, or -EMSGSIZE. */
int harp_bulk_take(struct harp_bulk *bulk, uint64_t bytes, uint64_t *offset);
void harp_bulk_give(struct harp_bulk *bulk, uint64_t offset, uint64_t bytes);

#endif
