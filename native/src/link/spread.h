/* SPDX-License-Identifier: Apache-2.0
 *
 * Transfers whose chunks go over several streams at a time: `harp_spread` of the side that sends,
 * `harp_gather` of the one they come to. Pure: no I/O, no allocation, no clock, and of the bytes
 * only where they lie. session.proto says the rules.
 *
 * The sender keeps a transfer until the other side has taken it in, and remembers which stream each
 * chunk was given to. One that breaks leaves its chunks in doubt, until the other side has said
 * which of them are there; the rest is given again. So a chunk may come twice, and never not at
 * all, as long as there is a stream; and each stream that lasts for a chunk brings the transfer on.
 *
 * What may be under way at a time is bounded such that whatever is given out first, there is room
 * for all of it in a far side's bulk area of four times that: HARP_SPREAD_ALL_BYTES in pieces of
 * HARP_SPREAD_LEAST_BYTES leave a gap for the rest wherever they lie. Else a transfer that waits
 * for room, and others that have it and wait for their turn behind that one, would wait for ever.
 */
#ifndef HARP_LINK_SPREAD_H
#define HARP_LINK_SPREAD_H

#include <stdbool.h>
#include <stdint.h>

#define HARP_SPREAD_CHUNK_BYTES (256u << 10)
#define HARP_SPREAD_LEAST_BYTES (2u << 20)
/* Of one transfer, and of all together: a bit a chunk, in one word. */
#define HARP_SPREAD_ALL_BYTES (16u << 20)
#define HARP_SPREAD_OPEN      (HARP_SPREAD_ALL_BYTES / HARP_SPREAD_LEAST_BYTES)
/* Streams: that beside Session, and others. */
#define HARP_SPREAD_OTHERS 8u
#define HARP_SPREAD_WAYS   (HARP_SPREAD_OTHERS + 1)

/* --- out --- */

/* Lies in what it belongs to. */
struct harp_spread_item {
    struct harp_spread_item *next;
    const uint8_t *data;
    uint64_t id, bytes;
    uint64_t number;               /* from 1, in the order of their frames on Session */
    uint64_t todo;                 /* chunks to be given */
    uint64_t on[HARP_SPREAD_WAYS]; /* given to each stream */
    uint64_t doubt;                /* given to streams that are no more */
    uint64_t there;                /* said to be */
    unsigned lent;                 /* times that a stream has bytes of it */
    bool taken;
    void (*drop)(struct harp_spread_item *item); /* it is needed no more */
};

struct harp_spread {
    struct harp_spread_item *first, **last;
    uint64_t bytes; /* of those not taken in */
    uint64_t added, taken;
};

void harp_spread_open(struct harp_spread *spread);
/* Whether one of `bytes` may be added now. */
bool harp_spread_can(const struct harp_spread *spread, uint64_t bytes);
/* In that order. Sets all but data, id, bytes and drop. */
void harp_spread_add(struct harp_spread *spread, struct harp_spread_item *item);
/* The next chunk, to be given to stream `way`: its number, or -1: there is none. It is lent. */
int harp_spread_next(struct harp_spread *spread, unsigned way, struct harp_spread_item **item);
/* Whether there is one. */
bool harp_spread_some(const struct harp_spread *spread);
uint32_t harp_spread_chunk_bytes(const struct harp_spread_item *item, unsigned chunk);
/* The stream would not have it. */
void harp_spread_refused(struct harp_spread_item *item, unsigned way, unsigned chunk);
/* The stream is done with a chunk: it was written, or never will be. */
void harp_spread_back(struct harp_spread_item *item);
/* The stream is no more: what it was given is in doubt. */
void harp_spread_lost(struct harp_spread *spread, unsigned way);
/* The other side has these chunks of a transfer. 1: more than was known; 0; -EPROTO: there was no
 * such transfer. */
int harp_spread_there(struct harp_spread *spread, uint64_t number, uint64_t chunks);
/* And it has said so of all: what is in doubt still is to be given again. */
void harp_spread_settle(struct harp_spread *spread);
/* The other side has taken in as many. -EPROTO: that many were never added. */
int harp_spread_acked(struct harp_spread *spread, uint64_t count);

/* --- in --- */

struct harp_gather_item {
    uint64_t number, id, bytes;
    uint64_t missing; /* chunks */
    uint64_t offset;  /* where they belong; the user's */
};

struct harp_gather {
    struct harp_gather_item open[HARP_SPREAD_OPEN];
    unsigned count;
    uint64_t bytes;
    uint64_t taken; /* the number of the last one; what comes of those up to it comes again */
};

/* Its chunks that are there. */
uint64_t harp_gather_there(const struct harp_gather_item *item);
/* What is known of a transfer; NULL: nothing. */
struct harp_gather_item *harp_gather_find(struct harp_gather *gather, uint64_t number);
/* 0; -EPROTO: none with this number and id that is not known yet can have so many bytes, beside the
 * others. */
int harp_gather_can(const struct harp_gather *gather, uint64_t number, uint64_t id, uint64_t bytes);
/* After that. */
struct harp_gather_item *harp_gather_add(struct harp_gather *gather, uint64_t number, uint64_t id,
                                         uint64_t bytes, uint64_t offset);
/* A chunk: 1: its bytes are new, and to be copied now; 0: they are there; -EPROTO: it is none. */
int harp_gather_chunk(struct harp_gather_item *item, uint64_t at, uint64_t of, uint32_t bytes);
/* It is whole and the next one, and its frame on Session has come: it is known no more. */
void harp_gather_take(struct harp_gather *gather, struct harp_gather_item *item);

#endif
