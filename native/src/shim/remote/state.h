/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program of a remote session holds in its hands: handles, and each thread's contexts.
 *
 * A handle is the address of a small record of ours; on the wire it is an id, never used twice in a
 * session. Handles that a program makes up, or uses after their end, are found out without being
 * followed. Pure, but for memory and threads; all functions are callable from any thread.
 */
#ifndef HARP_SHIM_REMOTE_STATE_H
#define HARP_SHIM_REMOTE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/cuda_abi.h"
#include "generated/wire_ops.h"

#define HARP_REMOTE_SLABS 16u /* of 1024 << 0 to 15 records */

struct harp_thing {
    uint32_t magic, kind; /* kind 0: ended, or not used yet */
    uint64_t id;
    uint64_t owner; /* id of the context, module or library it was made in; 0: none */
    int32_t device; /* of a context; -1: not known */
    uint32_t uses; /* of a context: cuCtxAttach, retained if a primary one; of a graph: when it ran;
                    * of an event: it was recorded while something captured */
    void *facts;   /* what the client knows of a function, a module, ...; freed with it */
};

/* A record for `id`, whose address is the program's handle. NULL: no memory. */
struct harp_thing *harp_thing_add(enum harp_handle kind, uint64_t id, uint64_t owner);
/* The record of a program's handle; NULL: there is none of that kind. A function may be a kernel.
 */
struct harp_thing *harp_thing_of(enum harp_handle kind, uint64_t value);
/* The record of an id, made if `make`; NULL: none, or no memory. */
struct harp_thing *harp_thing_by_id(enum harp_handle kind, uint64_t id, bool make);
/* It has ended: its handle is nobody's, its memory will be another's later. */
void harp_thing_end(struct harp_thing *thing);
/* And so have all that were made in it, and in those. It looks at every record. */
void harp_thing_end_owned(uint64_t owner);
/* Whether others can be made in one of this kind. */
bool harp_handle_owns(enum harp_handle kind);
/* Whether a context lives, of whatever kind. */
bool harp_things_hold(void);
/* All have ended: their session has, and another comes. */
void harp_things_forget(void);
/* What a driver answers of a handle that is none of this kind. */
CUresult harp_thing_missing(enum harp_handle kind);
/* A new id: 3 to 2^63 - 1, in order. */
uint64_t harp_thing_mint(void);

#define HARP_REMOTE_LANES   64u
#define HARP_REMOTE_STACK   64u
#define HARP_REMOTE_SCRATCH (1u << 20) /* as large as any body */
#define HARP_REMOTE_LENT    (64u << 10)

/* A thread of the program. */
struct harp_lane {
    uint32_t number; /* on the wire: 1 to HARP_REMOTE_LANES; beyond that threads share */
    unsigned depth;  /* of its stack of contexts */
    struct {
        CUcontext ctx;
        uint64_t id;
    } stack[HARP_REMOTE_STACK];
    bool inside;      /* in a host function: no calls are allowed */
    bool per_thread;  /* the call is a _ptsz or _ptds one */
    bool doubt;       /* the next call is asked, not told: the worker may say no */
    bool hurry;       /* the next call is told, not asked: another after it will be */
    bool ahead;       /* the next call waits for the device, and what is read then may go along */
    bool gives;       /* leased memory goes back, in between */
    unsigned calls;   /* that are under way: one in another's function of the program's, too */
    uint32_t session; /* whose contexts are on its stack */
    uint8_t *scratch; /* of the call that is being made */
    uint8_t *lent;    /* what drivers lend for good */
    uint64_t lent_size, lent_used;
};

/* This thread's; NULL: no memory. It ends with its thread. */
struct harp_lane *harp_lane(void);
/* A call of this thread begins. false: none may now, for a session takes another's place. What is
 * left of an earlier session on its stack is gone. */
bool harp_lane_enter(struct harp_lane *lane);
void harp_lane_leave(struct harp_lane *lane);
/* No call begins any more, or they may again. */
void harp_lanes_close(bool close);
/* Stacks are of a session that has ended: each thread sees to its own. */
void harp_lanes_forget(void);
/* Whether none is under way: only lasting while closed. */
bool harp_lanes_idle(void);
/* Makes room for so much more to be lent, at lent + lent_used. false: no memory. */
bool harp_lane_lends(struct harp_lane *lane, uint64_t bytes);
/* The id of the current context, 0: there is none. */
uint64_t harp_lane_current(const struct harp_lane *lane);
CUresult harp_lane_push(struct harp_lane *lane, CUcontext ctx);
CUresult harp_lane_pop(struct harp_lane *lane, CUcontext *ctx);
/* As cuCtxSetCurrent: replaces the top; NULL takes it away. */
CUresult harp_lane_set(struct harp_lane *lane, CUcontext ctx);
/* The top is gone if it is this one: what cuCtxDestroy does to its caller. */
void harp_lane_lost(struct harp_lane *lane, uint64_t id);

#endif
