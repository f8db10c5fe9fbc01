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
 * the question's own, and keeps neither that nor a thread. A device that is not this tenant's: all
 * 0. -1: nobody to ask. */
int harp_view(const uint8_t uuid[16], struct harp_msg *state);

/* The sizes that the driver or NVML says, as the tenant shall see them. */
static inline void harp_view_fit(const struct harp_msg *state, uint64_t *free, uint64_t *total)
{
    uint64_t device = *total;
    if (state->limit_bytes != 0 && state->limit_bytes < *total)
        *total = state->limit_bytes;
    /* what others have on the device now does not matter to memory that can leave it */
    uint64_t room = (state->a & HARP_GRANT_OVERSUBSCRIBE) != 0 ? device : *free;
    *free = state->free_bytes < room ? state->free_bytes : room;
    *free &= ~(uint64_t)(HARP_GRANULE_BYTES - 1);
}

#endif
