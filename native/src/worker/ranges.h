/* SPDX-License-Identifier: Apache-2.0
 *
 * Device memory of the session: what its calls have been given. An address from outside is not
 * passed to a driver, which with unified addresses would take it for memory of the worker.
 * All functions: thread-safe.
 */
#ifndef HARP_WORKER_RANGES_H
#define HARP_WORKER_RANGES_H

#include <stdbool.h>
#include <stdint.h>

/* -ENOMEM: not kept, and so not usable. There are at most 262,144. */
int ranges_add(uint64_t base, uint64_t bytes);
/* Its size; 0: there is none, or it goes with something else. */
uint64_t ranges_drop(uint64_t base);
/* Just behind one there may be anybody's: a driver is not given that. */
enum ranges_place { RANGES_OUT, RANGES_END, RANGES_IN };
enum ranges_place ranges_place(uint64_t address);
/* Whether a call copies or fills nothing: programs do that at the end, too. */
bool ranges_nothing(unsigned op, const uint64_t *args);

/* The latest of all; what is added later is another call's. */
uint64_t ranges_now(void);
/* A module, library, graph or executable graph is no more; a context. */
void ranges_owner_ended(uint64_t owner, uint64_t then);
void ranges_context_ended(uint64_t generation);

/* Whether a call may add one; whether there is room for that. */
bool ranges_adds(unsigned op);
bool ranges_admit(unsigned op);
/* What a call takes away it takes before it is made: after it another lane may have been given the
 * same memory. Answers what ranges_failed puts back. `args`: as the driver is given them. */
struct ranges_dropped {
    uint64_t bytes, context; /* 0 bytes: nothing */
};
struct ranges_dropped ranges_before(unsigned op, const uint64_t *args);
void ranges_failed(const uint64_t *args, const struct ranges_dropped *dropped);
/* What a call that has succeeded added, in a context of that generation. */
void ranges_after(unsigned op, const uint64_t *args, uint64_t generation);

#endif
