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
/* Whether it lies in one, or just at its end. */
bool ranges_have(uint64_t address);

struct harp_wire_call;
/* Whether there is room for what the call would add. */
bool ranges_admit(unsigned op);
/* What a call takes away it takes before it is made: after it another lane may have been given the
 * same memory. Answers what ranges_failed puts back. `args`: as the driver is given them. */
uint64_t ranges_before(unsigned op, const uint64_t *args);
void ranges_failed(const uint64_t *args, uint64_t dropped);
/* What a call that has succeeded added. */
void ranges_after(unsigned op, const uint64_t *args);

#endif
