/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program sees of a device's size, the same by every road: cuMemGetInfo, cuDeviceTotalMem
 * and the NVML twin. Free and used make the total; free is what can be had in one piece now.
 */
#ifndef HARP_SHIM_VIEW_H
#define HARP_SHIM_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "harp/lease.h"

/* The arbiter's MEM_STATE of the device with this uuid. Own unused lease is given back first, so
 * that it counts as free for whoever asks. A process that uses no device asks on a connection of
 * the question's own, and keeps neither that nor a thread. -1: not this tenant's device, or nobody
 * to ask. */
int harp_view(const uint8_t uuid[16], struct harp_msg *state);

/* The sizes that the driver or NVML says, as the tenant shall see them. */
static inline void harp_view_fit(const struct harp_msg *state, uint64_t *free, uint64_t *total)
{
    if (state->limit_bytes != 0 && state->limit_bytes < *total)
        *total = state->limit_bytes;
    if (state->free_bytes < *free)
        *free = state->free_bytes;
    *free &= ~(uint64_t)(HARP_GRANULE_BYTES - 1);
}

#endif
