/* SPDX-License-Identifier: Apache-2.0
 *
 * The other end of a client's session, in the same process: a thread that notes what it is told and
 * answers as a worker would. What it answers of a call is the test's.
 */
#ifndef HARP_TESTS_CLIENT_PEER_H
#define HARP_TESTS_CLIENT_PEER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "src/wire/codec.h"
#include "src/wire/ring.h"

#define PEER_NOTES 4096

struct peer_note {
    uint32_t op, flags, lane;
    uint64_t args[HARP_WIRE_SLOTS]; /* handles are ids; pointers are dead */
    uint64_t made;
};

struct peer {
    struct harp_ring ring;
    char path[108];
    int listener, sock;
    pthread_t thread;
    pthread_mutex_t lock; /* guards all that follows */
    struct peer_note note[PEER_NOTES];
    unsigned notes, wanted, pieces;
    /* Of the next call with that op: what it answers. */
    uint32_t fail_op, fail_result;
    bool leave;    /* at the next record: as if killed */
    bool nonsense; /* the next reply is none */
    bool silent;   /* it never says that it is done with a region */
    bool late;     /* it says so after the reply, as of a copy that its stream has not reached */
    uint64_t said; /* seq of what was said last */
    struct {
        uint64_t id, offset, bytes;
        bool end, used;
    } region[64];
    uint8_t *gathered; /* what came in several pieces */
    uint64_t gathered_bytes, gathered_id;
    /* The test's: fills outputs; answers a CUresult. */
    uint32_t (*answer)(struct peer *peer, struct harp_wire_call *call);
};

/* Listens at a path in a folder of its own, and sets HARP_REMOTE. */
void peer_start(struct peer *peer, uint32_t (*answer)(struct peer *, struct harp_wire_call *));
/* Another one at the path of one whose client has come. */
void peer_start_at(struct peer *peer, const char *path,
                   uint32_t (*answer)(struct peer *, struct harp_wire_call *));
/* Takes the path away; by itself, once a client has come. */
void peer_end(struct peer *peer);

/* How many notes of that op there are; the last one is put to *last if that is not NULL. */
unsigned peer_count(struct peer *peer, uint32_t op, struct peer_note *last);
/* Calls that a reply was wanted of, since the start. */
unsigned peer_wanted(struct peer *peer);
void peer_fail(struct peer *peer, uint32_t op, uint32_t result);
/* Say something that nobody asked for; from `answer` only. */
void peer_say(struct peer *peer, uint32_t op, uint32_t lane, const uint64_t *args, unsigned count);

/* Each in a process of its own, which does not outlive two minutes: all, or the one that argv
 * names. How many have failed. */
struct peer_scenario {
    const char *name;
    void (*run)(void);
};
int peer_scenarios(const struct peer_scenario *all, size_t count, int argc, char **argv);

#endif
