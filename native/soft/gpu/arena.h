/* SPDX-License-Identifier: Apache-2.0
 *
 * A context's own memory: what it may reach, and what cuMemAlloc gave it. Small allocations share
 * granules ("slabs"), as with the driver.
 */
#ifndef HARP_SOFT_ARENA_H
#define HARP_SOFT_ARENA_H

#include "soft/gpu/space.h"

struct soft_block;

struct soft_arena { /* all guarded by space.lock */
    struct soft_ctx *ctx;
    uint8_t *map;             /* per granule of the space: SOFT_ACCESS_* */
    struct soft_area *areas;  /* that go with the context */
    struct soft_block *slabs; /* that have room */
    struct soft_arena *next;
};

/* What cuMemAlloc gave at `ptr`: its physical memory, and where in that it begins. NULL: not of it.
 * Locked. */
struct soft_phys *soft_block_at(uint64_t ptr, struct soft_span *span, uint64_t *offset);

/* May kernels of `ctx` use memory of `owner`'s? Itself, or peer access enabled. Locked. */
bool soft_ctx_reaches(const struct soft_ctx *ctx, const struct soft_ctx *owner);

#endif
