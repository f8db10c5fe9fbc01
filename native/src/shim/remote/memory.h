/* SPDX-License-Identifier: Apache-2.0
 *
 * Which memory the program has: the device's, and this machine's that it has pinned.
 */
#ifndef HARP_SHIM_REMOTE_MEMORY_H
#define HARP_SHIM_REMOTE_MEMORY_H

#include "src/shim/remote/ranges.h"

/* Whether all these bytes lie in one allocation of the device. */
bool harp_remote_on_device(uint64_t address, uint64_t bytes);
/* The same of pinned memory. */
bool harp_remote_pinned(const void *data, uint64_t bytes);
bool harp_remote_pinned_range(uint64_t address, struct harp_range *out);
/* Of an allocation of either kind: never used twice. */
uint64_t harp_remote_memory_id(void);
/* A copy of the allocation's range; false: there is none. */
bool harp_remote_range(uint64_t address, bool *device, struct harp_range *out);

/* The context is about to end. What is mapped in an arena would outlast it, and without a context
 * the worker could not wipe it. */
void harp_remote_leave_arena(uint64_t ctx);
/* All that was allocated in a context is gone with it. */
void harp_remote_forget_memory(uint64_t ctx);

#endif
