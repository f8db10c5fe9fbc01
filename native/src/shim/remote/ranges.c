/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/remote/ranges.h"

#include <stdlib.h>
#include <string.h>

/* Of the first that begins behind an address. */
static size_t behind(const struct harp_ranges *set, uint64_t address)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (set->at[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool harp_ranges_add(struct harp_ranges *set, const struct harp_range *range)
{
    size_t at = behind(set, range->base);
    if (range->bytes == 0 || range->bytes > UINT64_MAX - range->base)
        return false;
    if (at > 0 && range->base - set->at[at - 1].base < set->at[at - 1].bytes)
        return false;
    if (at < set->count && set->at[at].base - range->base < range->bytes)
        return false;
    if (set->count == set->room) {
        size_t room = set->room == 0 ? 64 : 2 * set->room;
        struct harp_range *more = realloc(set->at, room * sizeof *more);
        if (more == NULL)
            return false;
        set->at = more;
        set->room = room;
    }
    memmove(set->at + at + 1, set->at + at, (set->count - at) * sizeof *set->at);
    set->at[at] = *range;
    set->count++;
    return true;
}

const struct harp_range *harp_ranges_find(const struct harp_ranges *set, uint64_t address)
{
    size_t at = behind(set, address);
    if (at == 0 || address - set->at[at - 1].base >= set->at[at - 1].bytes)
        return NULL;
    return &set->at[at - 1];
}

bool harp_ranges_hold(const struct harp_ranges *set, uint64_t address, uint64_t bytes)
{
    const struct harp_range *r = harp_ranges_find(set, address);
    return r != NULL && bytes <= r->bytes - (address - r->base);
}

uint64_t harp_ranges_gap(const struct harp_ranges *set, const struct harp_range *in, uint64_t bytes)
{
    uint64_t at = in->base, end = in->base + in->bytes;
    size_t i = behind(set, at);
    if (i > 0 && at - set->at[i - 1].base < set->at[i - 1].bytes)
        at = set->at[i - 1].base + set->at[i - 1].bytes;
    for (; i < set->count && at < end && set->at[i].base - at < bytes; i++)
        at = set->at[i].base + set->at[i].bytes;
    return at < end && bytes <= end - at ? at : 0;
}

bool harp_ranges_remove(struct harp_ranges *set, uint64_t base)
{
    size_t at = behind(set, base);
    if (at == 0 || set->at[at - 1].base != base)
        return false;
    at--;
    set->count--;
    memmove(set->at + at, set->at + at + 1, (set->count - at) * sizeof *set->at);
    return true;
}

void harp_ranges_remove_of(struct harp_ranges *set, uint64_t ctx)
{
    size_t kept = 0;
    for (size_t i = 0; i < set->count; i++)
        if (set->at[i].ctx != ctx)
            set->at[kept++] = set->at[i];
    set->count = kept;
}
