/* SPDX-License-Identifier: Apache-2.0
 *
 * What libharp offers to its NVML twin in the same process: one exported function, one table.
 */
#ifndef HARP_SHIM_API_H
#define HARP_SHIM_API_H

#include <stdint.h>

struct harp_shim_memory {
    uint64_t limit_bytes; /* 0: none */
    uint64_t used_bytes;  /* leased by the whole tenant */
    uint64_t free_bytes;  /* what the tenant could still have */
};

struct harp_shim_api {
    /* 0, or -1: no such device for this tenant, or nobody to ask. */
    int (*memory)(const uint8_t uuid[16], struct harp_shim_memory *out);
};

const struct harp_shim_api *harp_shim_v1(void);

#endif
