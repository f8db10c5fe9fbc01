/* SPDX-License-Identifier: Apache-2.0
 *
 * What one end of a session knows so that the session outlives its connection: the messages it has
 * sent and the other has not acknowledged, and how many it has taken in itself. Pure: no I/O, no
 * allocation, no clock.
 *
 * Messages of a direction are counted from 1; the count is not on the wire. A new connection begins
 * with both ends saying how many they have taken in, and each goes on behind that: so none is done
 * twice, lost or overtaken, wherever the old one broke. That needs three things of the caller: a
 * message is counted when it has been taken in and not before; the old connection has given
 * everything back before the new one begins; one connection is newer than another (attempt).
 *
 *   add ─► [ first .. next ) [ next .. last ]      acknowledged ones leave at the front
 *            given, kept       to be given
 *
 * Where nothing is kept (`keeps` false), a message leaves when it is given.
 */
#ifndef HARP_LINK_REPLAY_H
#define HARP_LINK_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

/* Lies in what it belongs to. */
struct harp_replay_item {
    struct harp_replay_item *next;
    uint64_t number;
    uint32_t cost; /* bytes of memory */
    bool lent;     /* a connection has it */
    bool listed;
    void (*drop)(struct harp_replay_item *item); /* it is needed no more */
};

struct harp_replay {
    bool keeps;
    struct harp_replay_item *first, **last, *next;
    uint64_t added, given; /* numbers of the last ones; given: to any connection */
    uint64_t gone;         /* of the last one that is kept no more, acknowledged or not */
    uint64_t acked;
    uint64_t bytes, most; /* cost of what is listed; beyond `most` nothing is to be added */
    /* the other direction */
    uint64_t taken, told;
    uint64_t untold_bytes;
};

void harp_replay_open(struct harp_replay *replay, uint64_t most);

bool harp_replay_full(const struct harp_replay *replay);
void harp_replay_add(struct harp_replay *replay, struct harp_replay_item *item, uint32_t cost);
/* The one to be given next, or NULL. */
struct harp_replay_item *harp_replay_next(const struct harp_replay *replay);
/* The next one is given: a connection has it, until back. */
void harp_replay_give(struct harp_replay *replay);
/* The connection is done with it: it was written, or never will be. */
void harp_replay_back(struct harp_replay_item *item);

/* The other end has taken in as many. -EPROTO: that many were never given. */
int harp_replay_acked(struct harp_replay *replay, uint64_t count);
/* Keep no more than `most`: the oldest are let go, and a connection that asks for them is too late.
 * Those lent stay. */
void harp_replay_trim(struct harp_replay *replay);

/* A new connection, at whose other end `count` were taken in. 0; -EPROTO as above; -ENODATA: what
 * is behind them is kept no more. Nothing may be lent. */
int harp_replay_from(struct harp_replay *replay, uint64_t count);
/* What that would answer. */
int harp_replay_can(const struct harp_replay *replay, uint64_t count);

/* A message of `bytes` has been taken in. True: so much has, that it is to be told now. */
#define HARP_REPLAY_TELL_BYTES (64u << 10)
bool harp_replay_took(struct harp_replay *replay, uint32_t bytes);
/* Whether there is something to tell. */
bool harp_replay_untold(const struct harp_replay *replay);
/* It is told. */
void harp_replay_tell(struct harp_replay *replay);

#endif
