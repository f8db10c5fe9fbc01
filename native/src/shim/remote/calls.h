/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of the driver API over the session: what generated/shim_remote.c is made of.
 *
 * harp_sent_<symbol> there sends a call as its row says. A function harp_remote_<symbol>, written
 * by hand in this folder, goes before it; it exists by being written, as hooks do.
 */
#ifndef HARP_SHIM_REMOTE_CALLS_H
#define HARP_SHIM_REMOTE_CALLS_H

#include <string.h>

#include "generated/shim_remote.h"
#include "src/shim/remote/session.h"
#include "src/wire/ring.h"
#include "src/wire/table.h"

/* By symbol: what is written by hand, or NULL; what is generated; what the exported name leads to,
 * which is one of these between harp_remote_enter and harp_lane_leave. */
extern void *const harp_remote_own[];
extern void *const harp_remote_sent[];
extern void *const harp_remote_entered[]; /* NULL: needs no session */
extern const bool harp_remote_absent[];   /* never on the wire */

/* What a call does when the session is over. */
enum harp_remote_opens {
    HARP_REMOTE_STAYS, /* answers that */
    HARP_REMOTE_OPENS, /* opens another, if it is known */
    HARP_REMOTE_LOOKS, /* finds out first whether it is */
    HARP_REMOTE_BEGINS /* the same, and answers why there is none: cuInit */
};
/* A call of the program's begins, and ends by harp_lane_leave; unless CUDA_SUCCESS: then that is
 * all of it. In between what belongs to the session stays. */
CUresult harp_remote_enter(enum harp_remote_opens opens, struct harp_lane **lane);

/* Make a call: slots as the codec wants them. Told if its row is async, else asked. */
CUresult harp_remote_make(unsigned op, const uint64_t *args, unsigned count);
/* Whether calls of the lane with which nothing can be wrong are told. */
bool harp_remote_tells(const struct harp_lane *lane);
/* The next call of this thread is asked, whatever its row says. */
void harp_remote_doubt(void);
/* The next call of this thread is told, whatever its row says, if nobody minds. */
void harp_remote_hurry(void);
/* A capture has begun (1), or ended (-1); whether there is one. */
bool harp_remote_capturing(int more);
/* Whether there ever was one in this session. */
bool harp_remote_captured(void);
/* The two halves of a call whose slots name neither handles nor transfers: its body, of `size`
 * bytes at most, into `body` (0 or a negative errno); and what it answers, from the lane's scratch,
 * to where the same call's outputs say. */
struct harp_wire_call;
int harp_remote_encode(struct harp_wire_call *call, uint8_t *body, uint32_t size, uint32_t *bytes);
CUresult harp_remote_decode(struct harp_lane *lane, struct harp_wire_call *call, uint32_t bytes);
/* NULL streams of this thread's calls are its own one. Answers what was before. */
bool harp_remote_per_thread(bool on);

/* A thing has ended, and all that was made in it. */
void harp_remote_end(struct harp_thing *thing);

/* Some graph allocates (`has`); whether one does. */
bool harp_remote_graph_memory(bool has);
/* How many contexts have ended. */
uint32_t harp_remote_contexts_ended(void);

/* Not over the wire: logs why, once a symbol, and answers `fail`. */
CUresult harp_remote_refused(unsigned symbol, CUresult fail, const char *why);
CUresult harp_remote_failed(unsigned op, int err);

/* With `answers` held: a call of the worker's. -EPROTO. */
int harp_remote_said(const struct harp_ring_record *record, const uint8_t *body);

static inline uint64_t harp_remote_bits(float value)
{
    uint64_t slot = 0;
    memcpy(&slot, &value, sizeof value);
    return slot;
}

#endif
