/* SPDX-License-Identifier: Apache-2.0
 *
 * Regions of the bulk area: where they lie, and which are taken.
 */
#include <errno.h>

#include "src/wire/ring.h"

uint8_t *harp_ring_region(const struct harp_ring *ring, uint64_t offset, uint64_t bytes)
{
    if (offset % HARP_RING_PAGE != 0 || offset > ring->sizes.bulk ||
        bytes > ring->sizes.bulk - offset)
        return NULL;
    return ring->bulk + offset;
}

uint64_t harp_bulk_largest(const struct harp_bulk *bulk)
{
    return bulk->pages / 4 * (uint64_t)HARP_RING_PAGE;
}

static bool page_taken(const struct harp_bulk *bulk, uint32_t page)
{
    return (bulk->taken[page / 64] >> page % 64 & 1) != 0;
}

static void mark(struct harp_bulk *bulk, uint64_t offset, uint64_t bytes, bool taken)
{
    uint64_t first = offset / HARP_RING_PAGE,
             end = first + (bytes + HARP_RING_PAGE - 1) / HARP_RING_PAGE;
    for (uint64_t page = first; page < end && page < bulk->pages; page++)
        if (taken)
            bulk->taken[page / 64] |= 1ull << page % 64;
        else
            bulk->taken[page / 64] &= ~(1ull << page % 64);
}

/* Next fit: regions are given back about in the order in which they were taken. */
int harp_bulk_take(struct harp_bulk *bulk, uint64_t bytes, uint64_t *offset)
{
    if (bytes == 0 || bytes > harp_bulk_largest(bulk))
        return -EMSGSIZE;
    uint32_t want = (uint32_t)((bytes + HARP_RING_PAGE - 1) / HARP_RING_PAGE), run = 0;
    uint32_t start = bulk->from < bulk->pages ? bulk->from : 0;
    for (uint32_t i = 0; i < bulk->pages + want - 1; i++) {
        uint32_t page = (start + i) % bulk->pages;
        if (page == 0)
            run = 0;
        run = page_taken(bulk, page) ? 0 : run + 1;
        if (run < want)
            continue;
        *offset = (uint64_t)(page + 1 - want) * HARP_RING_PAGE;
        mark(bulk, *offset, bytes, true);
        bulk->from = page + 1;
        return 0;
    }
    return -EAGAIN;
}

void harp_bulk_give(struct harp_bulk *bulk, uint64_t offset, uint64_t bytes)
{
    mark(bulk, offset, bytes, false);
}
