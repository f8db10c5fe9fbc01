/* SPDX-License-Identifier: Apache-2.0
 *
 * One engine of a device as one context sees it.
 *
 * Machine-wide (engine_shared.c): the engine has one owner, a context, named by a word in the state
 * file. An owner with nothing to do keeps it until somebody takes it by one compare-and-swap, so a
 * process alone pays no system call. Who finds it busy sets his bit in `want`, rings the owner's
 * bell and sleeps on his own; the owner hands over round-robin when its slice is up, or when it
 * falls idle. An owner that died or stands stopped is taken the engine from by the waiters.
 *
 * In the process (engine.c, engine_slice.c): a `turn` keeps the owned clock, O(t) = time for which
 * this context has owned the engine until t. A command that starts at s is over when its execution
 * has ended and O = O(s) + modelled time. All instants are logical: they follow from the moments
 * before, not from when a thread woke, so a late wake-up delays the notice of an end, never the end
 * itself.
 */
#ifndef HARP_SOFT_ENGINE_H
#define HARP_SOFT_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "soft/gpu/shared.h"

#define SOFT_NEVER   UINT64_MAX
#define SOFT_ALL_SMS 1000000u
/* The ledger of a long command is never older than this. */
#define SOFT_LEDGER_NS 20000000ull

struct soft_use { /* one command on the engine; guarded by the turn's lock */
    struct soft_turn *turn;
    struct soft_use *next; /* of the turn's active ones */
    uint64_t start_ns;     /* logical */
    uint64_t start_owned;  /* O(start_ns) */
    uint64_t exec_ns;      /* execution so far, parked time left out */
    uint64_t segment_ns;   /* execution goes on since; good while threads > 0 */
    uint64_t target;       /* O at which it is over; good when has_target */
    uint64_t end_ns;       /* good when ended */
    uint32_t sm_ppm;
    int threads; /* that execute and are not parked */
    bool has_target, ended;
};

struct soft_waiter { /* a stream whose next command waits for room, or will at once */
    struct soft_waiter *next;
    int priority;
    bool queued;
};

struct soft_turn {
    struct soft_state *state;
    struct soft_shared_engine *engine;
    struct soft_shared_dev *device;
    int dev, client;
    enum soft_engine which;
    uint64_t slice_ns, switch_ns;
    bool preempts;    /* commands can be suspended at a slice end */
    soft_u64 poll_ns; /* a poll before this need not look, unless the bell rang */
    soft_u32 bell_seen;
    atomic_bool abandoned; /* kernels are to stop at their next poll */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    bool owned;
    bool busy;    /* owned, and the word says so; else anybody may take it */
    bool parking; /* the slice is over: executing threads park, then it is handed over */
    bool driving; /* one thread waits for the engine on behalf of all */
    uint32_t epoch;
    uint64_t grant_ns;     /* owned since */
    uint64_t owned_before; /* O(grant_ns) */
    uint64_t settled_ns;   /* when the last ownership ended */
    uint64_t slice_from_ns;
    uint64_t contended_ns; /* others want it since; 0: nobody does */
    uint64_t mark_ns;      /* the ledger is complete up to here */
    uint64_t last_ns;      /* latest logical start or end given out */
    uint64_t room_ns;      /* logical end of the command that left last */
    uint32_t resident_ppm;
    struct soft_waiter *waiting; /* in order of admission: by priority, then by arrival */
    int admitted;                /* commands on it, and streams about to bring the next */
    int executing;               /* threads, over all uses */
    struct soft_use *active;
};

int soft_turn_init(struct soft_turn *turn, struct soft_state *state, int dev, int client,
                   enum soft_engine which);
void soft_turn_destroy(struct soft_turn *turn); /* nothing is on it */

/* Waits for room (lower priorities first, then who came first) and for the engine; returns the
 * logical start, at or after `ready_ns`. `me` is the stream's own. `held`: the caller kept the
 * engine at its last finish. */
uint64_t soft_turn_begin(struct soft_turn *turn, struct soft_use *use, uint64_t ready_ns,
                         uint32_t sm_ppm, int priority, struct soft_waiter *me, bool held);
/* Waits for the logical end and returns it. `next`: another command follows at once, with the
 * priority set in it; it is in the queue from now on, though its thread is not there yet. Else
 * NULL. */
uint64_t soft_turn_finish(struct soft_turn *turn, struct soft_use *use, uint64_t modelled_ns,
                          struct soft_waiter *next);
/* What that kept: nothing follows at once after all. */
void soft_turn_let_go(struct soft_turn *turn, struct soft_waiter *me);
int soft_turn_poll(struct soft_use *use);
void soft_turn_enter(struct soft_use *use);
void soft_turn_leave(struct soft_use *use);

/* engine_slice.c: with the turn's lock held */
uint64_t soft_owned_at(const struct soft_turn *turn, uint64_t t); /* O(t) in this ownership */
uint64_t soft_planned_end(const struct soft_turn *turn, const struct soft_use *use);
uint64_t soft_slice_end(const struct soft_turn *turn);
/* Writes the time in which something was on the engine, up to `upto`. */
void soft_turn_account(struct soft_turn *turn, uint64_t upto);
/* The ownership ends at `free_ns`: what was over by then is over, the rest waits. */
void soft_turn_settle(struct soft_turn *turn, uint64_t free_ns);
void soft_turn_kick(struct soft_turn *turn); /* others in this process look again */
/* Looks whether the slice is over and hands the engine on if nothing executes. */
void soft_turn_look(struct soft_turn *turn, uint64_t now);
/* One step of waiting, at most until `until_ns`, with the lock open. */
void soft_turn_drive(struct soft_turn *turn, uint64_t until_ns);
/* Owned, and work may start: not when the slice is over. *fresh: it was idle. */
bool soft_turn_hold(struct soft_turn *turn, bool *fresh);

/* engine_shared.c: with the turn's lock held */
bool soft_engine_mine(const struct soft_turn *turn);
bool soft_engine_wanted(const struct soft_turn *turn); /* by others */
bool soft_engine_resume(struct soft_turn *turn);       /* idle and mine -> busy; false: lost */
/* Hands over to the next that wants it, from `free_ns` on. False: nobody wants it. */
bool soft_engine_hand_over(struct soft_turn *turn, uint64_t free_ns);
void soft_engine_idle(struct soft_turn *turn, uint64_t free_ns);
/* Tries to get it, and waits for the bell at most until `until_ns`, or 10 ms. True: got it, with
 * grant_ns and epoch set. Drops the lock while it waits. */
bool soft_engine_acquire(struct soft_turn *turn, uint64_t until_ns);
void soft_engine_ring(const struct soft_turn *turn, int client);
void soft_futex_wait(soft_u32 *word, uint32_t seen, uint64_t until_ns);

extern atomic_bool soft_ending; /* the process exits: nothing is started any more */

#endif
