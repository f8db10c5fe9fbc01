/* SPDX-License-Identifier: Apache-2.0
 *
 * What libharp offers to its NVML twin in the same process, and to tests: one exported function,
 * one table.
 */
#ifndef HARP_SHIM_API_H
#define HARP_SHIM_API_H

#include <stdint.h>

struct harp_shim_memory {
    uint64_t limit_bytes;    /* 0: none */
    uint64_t overhead_bytes; /* what one context is expected to cost; not the tenant's to see */
};

struct harp_shim_api {
    /* Turns the sizes that NVML says of a device into what the tenant shall see (gate/view.h).
     * 0, or -1: no such device for this tenant, or nobody to ask. */
    int (*memory)(const uint8_t uuid[16], uint64_t *free, uint64_t *total,
                  struct harp_shim_memory *out);
    /* Of a remote session: how often a call has waited for an answer. */
    uint64_t (*remote_trips)(void);
};

const struct harp_shim_api *harp_shim_v1(void);

uint64_t harp_remote_trips(void); /* remote/session.c, whose headers and the lease's do not mix */

#endif
