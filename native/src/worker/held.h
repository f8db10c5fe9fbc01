/* SPDX-License-Identifier: Apache-2.0
 *
 * What of the device the session holds, as far as it has to be wiped: a table by kind and key. What
 * is answered is a copy, and stays what it was; `serial` tells a thing from the next one that is
 * given its key. All functions: thread-safe.
 */
#ifndef HARP_WORKER_HELD_H
#define HARP_WORKER_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum held_kind {
    HELD_NONE,
    HELD_CONTEXT,   /* key: itself; uses; stream */
    HELD_LINEAR,    /* key: address; bytes, context */
    HELD_POOL,      /* the same, and no context's */
    HELD_ARRAY,     /* key: itself; context */
    HELD_MIPMAPPED, /* and uses: its levels */
    HELD_PHYSICAL,  /* key: a number of ours; bytes, uses: of its handles, maps */
    HELD_HANDLE,    /* key: itself; uses, physical */
    HELD_MAPPING,   /* key: address; bytes, physical */
    HELD_CAPTURE    /* key: its stream; context, lane; uses: its mode. Nothing to wipe */
};

struct held {
    enum held_kind kind;
    uint64_t key, serial;
    uint64_t bytes, context, stream, physical;
    int device;
    bool primary;
    unsigned uses, maps, lane;
};

/* In place of what had the key. -ENOMEM. Sets serial. */
int held_put(struct held *h);
/* Unless it is there: then its uses are one more. */
int held_put_or_use(struct held *h);
bool held_get(enum held_kind kind, uint64_t key, struct held *to);
/* The latest serial. */
uint64_t held_now(void);
/* Unless it is another one by now. */
void held_drop(const struct held *h);
/* Add to its counts; `to` is what it is then, and it is dropped when both are 0. */
bool held_count(enum held_kind kind, uint64_t key, int uses, int maps, struct held *to);
/* A context of a device, or (`primary`) its primary one. */
bool held_context(int device, bool primary, struct held *to);
/* Which of all contexts that ever had this handle is there; 0: none. */
uint64_t held_generation(uint64_t context);
/* A context's stream, unless it has one; answers the one that it has then. */
uint64_t held_stream(uint64_t context, uint64_t stream);
/* Whether something captures; whether that keeps a lane whose thread is in that mode from freeing:
 * what a driver then refuses. */
bool held_captures(void);
bool held_forbids(unsigned lane, unsigned mode);
/* A copy of the mappings of a range, for free(). */
struct held *held_mappings(uint64_t at, uint64_t end, size_t *count);
/* A copy of all that is there, for free(); NULL: there is nothing, or no memory. */
struct held *held_all(size_t *count);
/* What goes with a context, as far as it was there at `serial`. */
void held_drop_context(uint64_t context, uint64_t serial);

#endif
