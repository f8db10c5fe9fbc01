/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned host memory where a context's memory lies while it is off the device: pieces that are made
 * once, as large as is needed, and used again for every eviction.
 */
#ifndef HARP_SHIM_ARENA_H
#define HARP_SHIM_ARENA_H

#include <stdint.h>

#include "generated/shim_symbols.h"

struct harp_arena {
    struct harp_piece *first;
    uint64_t bytes; /* leased as the tenant's pinned host memory */
};

/* Grows it to at least `bytes`, with the context current. */
CUresult harp_arena_grow(struct harp_arena *arena, int dev, uint64_t bytes);
/* Host memory at `offset`; *run gets how much lies there in one piece. */
void *harp_arena_at(const struct harp_arena *arena, uint64_t offset, uint64_t *run);
/* Its context is gone, and the pieces with it. */
void harp_arena_forget(struct harp_arena *arena, int dev);

#endif
