/* SPDX-License-Identifier: Apache-2.0
 *
 * What session.c and bulk.c share. Lock order: put > answers; neither is held while one waits, but
 * for `put` while the ring is full.
 */
#ifndef HARP_SHIM_REMOTE_SESSION_STATE_H
#define HARP_SHIM_REMOTE_SESSION_STATE_H

#include <pthread.h>

#include "src/shim/remote/session.h"
#include "src/wire/ring.h"

#define HARP_REMOTE_ANOTHER UINT64_MAX /* told: nobody knows which context */

struct harp_waiting { /* for an answer; on its thread's stack */
    struct harp_waiting *next;
    uint8_t *body;
    uint32_t room, bytes;
    bool done;
};

struct harp_moving { /* a region, until the worker says that it is done with it */
    struct harp_moving *next;
    uint64_t id, offset, bytes;
    uint8_t *to; /* where fetched bytes belong; NULL: sent ones */
    bool held, done;
    bool announced; /* the worker has been told of it, and may say that it is done */
    bool piece;     /* one of several; the last of these has no bytes, and stands for all */
};

struct harp_gift { /* lent bytes, as they come in */
    struct harp_gift *next;
    uint64_t id, bytes;
    uint8_t *data;
};

struct harp_remote_session {
    struct harp_ring ring; /* set by open, before `state` is OPEN */
    int sock;              /* the same */

    pthread_mutex_t put;                  /* guards putting, and the next three */
    uint64_t puts;                        /* records so far; atomic, for others read it, too */
    uint64_t told[HARP_REMOTE_LANES];     /* id of the context that the worker's thread has */
    uint32_t contexts[HARP_REMOTE_LANES]; /* on that thread's stack, at most */

    pthread_mutex_t answers; /* guards all that follows */
    struct harp_bulk bulk;
    pthread_cond_t changed;
    bool reading;     /* a thread reads, without the lock */
    unsigned waiters; /* for `changed`: the one who reads, or who has room to give back */
    struct harp_waiting *waiting[HARP_REMOTE_LANES + 1]; /* first asked, first answered */
    uint32_t ahead_lane; /* whose answers are not counted in the next */
    uint64_t events;     /* what came so far, of which the program may have learned something */
    struct harp_moving *moving;
    struct harp_gift *gifts;
    uint64_t taken; /* last seq of an answer; atomic, for who puts reads it */
    uint8_t *in;    /* one body; the reader's */
    bool over;
};
extern struct harp_remote_session harp_remote_session;

/* With `put` held: a record, however long it takes. */
int harp_remote_put(struct harp_ring_record *record, const void *body);
/* The same: the worker's thread shall have the lane's context. -ESTALE: it has been destroyed. */
int harp_remote_tell_context(const struct harp_lane *lane);
/* The same: the lane's next call names this transfer. */
int harp_remote_announce(uint32_t lane, uint64_t id);
/* With `answers` held, which is given up meanwhile: something comes, and is taken in by this thread
 * or by the one that reads. The caller looks whether it was what it waits for. -EPIPE. */
int harp_remote_read(void);
/* The same, but never by this thread: what it waits for is another's to do. */
int harp_remote_wait(void);
/* With `answers` held: the session has ended. Nothing is written to the program's memory any more
 * but what was there before. Answers `err`. */
int harp_remote_over(int err);
/* With `put` held: a call to be answered. `waiting` is the caller's until it is done. */
int harp_remote_want(struct harp_lane *lane, const struct harp_remote_call *call,
                     struct harp_waiting *waiting);
/* With `answers` held: nobody waits for it any more. */
void harp_remote_unwant(const struct harp_lane *lane, const struct harp_waiting *waiting);
/* With `put` held, behind a call that waits for the device: what the program is likely to read then
 * (ahead.c). */
void harp_remote_ahead_put(struct harp_lane *lane);
/* With `answers` held: a record of bulk bytes. -EPROTO, -ENOMEM. */
int harp_remote_bulk_came(const struct harp_ring_record *record, const uint8_t *body);

#endif
