/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that the session has: ranges of addresses, none over another. Pure, but for memory;
 * whoever has a set brings a lock.
 */
#ifndef HARP_SHIM_REMOTE_RANGES_H
#define HARP_SHIM_REMOTE_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct harp_range {
    uint64_t base, bytes;
    uint64_t ctx;   /* id of the context that was current; 0: none */
    uint64_t id;    /* of the allocation, never used twice */
    uint32_t flags; /* the caller's */
};

struct harp_ranges {
    struct harp_range *at; /* sorted by base */
    size_t count, room;
};

/* false: no memory, or over another. */
bool harp_ranges_add(struct harp_ranges *set, const struct harp_range *range);
/* The one that an address is in; NULL: none. Until the set changes. */
const struct harp_range *harp_ranges_find(const struct harp_ranges *set, uint64_t address);
/* Whether all of these bytes are in one. */
bool harp_ranges_hold(const struct harp_ranges *set, uint64_t address, uint64_t bytes);
/* The lowest address within `in` from which so many bytes are in none; 0: there is none. */
uint64_t harp_ranges_gap(const struct harp_ranges *set, const struct harp_range *in,
                         uint64_t bytes);
/* Takes out the one that begins there; false: none does. */
bool harp_ranges_remove(struct harp_ranges *set, uint64_t base);
/* And all of a context. */
void harp_ranges_remove_of(struct harp_ranges *set, uint64_t ctx);

#endif
