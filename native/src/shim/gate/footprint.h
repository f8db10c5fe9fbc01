/* SPDX-License-Identifier: Apache-2.0
 *
 * The most that a graph's allocations may need at once. Pure.
 *
 * Their addresses are the graph's for good, and a driver puts two of them at the same addresses
 * where they are never alive together: so what lies behind the addresses is all there is.
 */
#ifndef HARP_SHIM_FOOTPRINT_H
#define HARP_SHIM_FOOTPRINT_H

#include <stddef.h>
#include <stdint.h>

struct harp_range {
    uint64_t start, bytes;
};

/* Bytes of the whole units that `ranges` are in. Units are counted from where ranges that lie
 * together begin: a driver gives a graph addresses by whole units, and from their start on without
 * gaps. Sorts them. */
uint64_t harp_footprint(struct harp_range *ranges, size_t count, uint64_t unit);

#endif
