/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses of the device that both ends have free. A driver's own choice may be taken here each
 * time it is asked; where it is told a place, it is one that was looked for here.
 */
#ifndef HARP_SHIM_REMOTE_ARENA_H
#define HARP_SHIM_REMOTE_ARENA_H

#include "generated/cuda_abi.h"
#include "src/shim/remote/ranges.h"

/* Whether one has been agreed on: then the driver's own choice is tried once, not eight times. */
bool harp_remote_has_arena(void);
/* Memory of the current context's device in it; an arena is agreed on if there is no room in any.
 * `near`: where the driver would have had it. CUDA_ERROR_OUT_OF_MEMORY also if none can be. */
CUresult harp_remote_arena_alloc(CUdeviceptr *at, uint64_t bytes, uint64_t near);
/* What the memory's context has begun is over, as before a cuMemFree. */
CUresult harp_remote_arena_wait(const struct harp_range *memory);
/* The memory goes back; its addresses are kept for another. */
CUresult harp_remote_arena_give(const struct harp_range *memory);

#endif
