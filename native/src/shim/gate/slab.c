/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/slab.h"

#include <stdlib.h>
#include <string.h>

#define WORDS (HARP_SLAB_UNITS / 64)

uint64_t harp_slab_bytes(uint64_t bytes)
{
    return bytes <= HARP_SMALL_BYTES ? HARP_GRANULE_BYTES
           : bytes > (1ull << 50)    ? 0
                                     : harp_granules(bytes);
}

static unsigned units_of(uint64_t bytes)
{
    return (unsigned)((bytes + HARP_UNIT_BYTES - 1) / HARP_UNIT_BYTES);
}

/* --- bits of a slab -------------------------------------------------------------------------- */

static bool bit(const uint64_t *bits, unsigned i)
{
    return (bits[i / 64] >> (i % 64) & 1) != 0;
}

/* The first unit from `i` on whose bit is `on`; all of them if there is none. */
static unsigned next(const uint64_t *bits, unsigned i, bool on)
{
    while (i < HARP_SLAB_UNITS) {
        uint64_t word = (on ? bits[i / 64] : ~bits[i / 64]) >> (i % 64);
        if (word != 0)
            return i + (unsigned)__builtin_ctzll(word);
        i = (i / 64 + 1) * 64;
    }
    return HARP_SLAB_UNITS;
}

static void set(uint64_t *bits, unsigned from, unsigned count, bool on)
{
    for (unsigned i = from; i < from + count;) {
        unsigned in = i % 64, n = 64 - in < from + count - i ? 64 - in : from + count - i;
        uint64_t mask = (n == 64 ? ~0ull : (1ull << n) - 1) << in;
        bits[i / 64] = on ? bits[i / 64] | mask : bits[i / 64] & ~mask;
        i += n;
    }
}

/* Where the first run of `units` free ones begins; -1: there is none, and *longest is the longest.
 */
static int fit(const struct harp_cells *cells, unsigned units, unsigned *longest)
{
    unsigned most = 0;
    for (unsigned at = next(cells->used, 0, false); at < HARP_SLAB_UNITS;) {
        unsigned end = next(cells->used, at, true);
        if (end - at >= units)
            return (int)at;
        most = end - at > most ? end - at : most;
        at = next(cells->used, end, false);
    }
    *longest = most;
    return -1;
}

/* The unit after the block that begins at `at`. */
static unsigned end_of(const struct harp_cells *cells, unsigned at)
{
    unsigned gap = next(cells->used, at + 1, false), other = next(cells->first, at + 1, true);
    return gap < other ? gap : other;
}

/* --- bins ------------------------------------------------------------------------------------ */

static void unbin(struct harp_heap *h, struct harp_slab *slab)
{
    if (slab->bin < 0)
        return;
    if (slab->prev != NULL)
        slab->prev->next = slab->next;
    else
        h->bins[slab->bin] = slab->next;
    if (slab->next != NULL)
        slab->next->prev = slab->prev;
    slab->bin = -1;
}

static void rebin(struct harp_heap *h, struct harp_slab *slab, unsigned longest)
{
    int bin = longest == 0 ? -1 : 31 - __builtin_clz(longest);
    slab->longest = longest;
    if (bin == slab->bin)
        return;
    unbin(h, slab);
    if (bin < 0)
        return;
    slab->bin = bin;
    slab->prev = NULL;
    slab->next = h->bins[bin];
    if (slab->next != NULL)
        slab->next->prev = slab;
    h->bins[bin] = slab;
}

/* --- blocks ---------------------------------------------------------------------------------- */

static uint64_t block_in(struct harp_heap *h, struct harp_slab *slab, unsigned at, uint64_t bytes)
{
    uint64_t ptr = slab->base + (uint64_t)at * HARP_UNIT_BYTES;
    struct harp_block *b = harp_map_add(&h->blocks, ptr);
    if (b == NULL)
        return 0;
    b->bytes = bytes;
    b->owner = slab->owner;
    b->dev = slab->dev;
    b->refs = ++h->ids;
    if (slab->cells != NULL) {
        set(slab->cells->used, at, units_of(bytes), true);
        set(slab->cells->first, at, 1, true);
    }
    slab->live++;
    return ptr;
}

uint64_t harp_heap_take(struct harp_heap *h, uint64_t owner, uint64_t bytes)
{
    unsigned units = units_of(bytes);
    if (bytes == 0 || bytes > HARP_SMALL_BYTES)
        return 0;
    for (int bin = 31 - __builtin_clz(units); bin < HARP_SLAB_BINS; bin++) {
        for (struct harp_slab *slab = h->bins[bin], *after; slab != NULL; slab = after) {
            after = slab->next;
            if (slab->owner != owner || slab->longest < units)
                continue;
            unsigned longest;
            int at = fit(slab->cells, units, &longest);
            if (at >= 0)
                return block_in(h, slab, (unsigned)at, bytes);
            rebin(h, slab, longest);
        }
    }
    return 0;
}

uint64_t harp_heap_place(struct harp_heap *h, struct harp_slab *slab, uint64_t bytes)
{
    return block_in(h, slab, 0, bytes);
}

/* --- slabs ----------------------------------------------------------------------------------- */

/* Index of the first slab that ends beyond `at`. */
static size_t place_of(const struct harp_heap *h, uint64_t at)
{
    size_t lo = 0, hi = h->count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (h->slabs[mid]->base + h->slabs[mid]->bytes <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct harp_slab *harp_heap_add(struct harp_heap *h, uint64_t base, uint64_t bytes, uint64_t owner,
                                bool shared)
{
    if (h->count == h->room) {
        size_t room = h->room * 2 + 16;
        struct harp_slab **more = realloc(h->slabs, room * sizeof(struct harp_slab *));
        if (more == NULL)
            return NULL;
        h->slabs = more;
        h->room = room;
    }
    struct harp_slab *slab = calloc(1, sizeof *slab);
    struct harp_cells *cells = shared ? calloc(1, sizeof *cells) : NULL;
    if (slab == NULL || (shared && cells == NULL)) {
        free(slab);
        return NULL;
    }
    slab->cells = cells;
    slab->base = base;
    slab->bytes = bytes;
    slab->owner = owner;
    slab->bin = -1;
    if (shared)
        rebin(h, slab, HARP_SLAB_UNITS);
    size_t at = place_of(h, base);
    memmove(&h->slabs[at + 1], &h->slabs[at], (h->count - at) * sizeof(struct harp_slab *));
    h->slabs[at] = slab;
    h->count++;
    return slab;
}

struct harp_slab *harp_heap_slab(const struct harp_heap *h, uint64_t at)
{
    size_t i = place_of(h, at);
    return i < h->count && h->slabs[i]->base <= at ? h->slabs[i] : NULL;
}

const struct harp_block *harp_heap_block(const struct harp_heap *h, uint64_t at)
{
    const struct harp_slab *slab = harp_heap_slab(h, at);
    if (slab == NULL)
        return NULL;
    uint64_t ptr = slab->base;
    if (slab->cells != NULL) {
        unsigned i = (unsigned)((at - slab->base) / HARP_UNIT_BYTES);
        if (!bit(slab->cells->used, i))
            return NULL;
        while (!bit(slab->cells->first, i)) /* whole words without a beginning are skipped */
            i = i % 64 == 63 && slab->cells->first[i / 64] == 0 ? i - 64 : i - 1;
        ptr += (uint64_t)i * HARP_UNIT_BYTES;
    }
    const struct harp_block *b = harp_map_find(&h->blocks, ptr);
    return b != NULL && at - ptr < b->bytes ? b : NULL;
}

struct harp_slab *harp_heap_free(struct harp_heap *h, uint64_t ptr)
{
    struct harp_block *b = harp_map_find(&h->blocks, ptr);
    struct harp_slab *slab = b != NULL ? harp_heap_slab(h, ptr) : NULL;
    if (slab == NULL)
        return NULL;
    harp_map_remove(&h->blocks, b);
    slab->live--;
    if (slab->cells == NULL)
        return slab;
    unsigned at = (unsigned)((ptr - slab->base) / HARP_UNIT_BYTES), end = end_of(slab->cells, at);
    set(slab->cells->used, at, end - at, false);
    set(slab->cells->first, at, 1, false);
    while (at > 0 && !bit(slab->cells->used, at - 1))
        at = at % 64 == 0 && slab->cells->used[at / 64 - 1] == 0 ? at - 64 : at - 1;
    unsigned run = next(slab->cells->used, at, true) - at;
    if (run > slab->longest)
        rebin(h, slab, run);
    return slab;
}

void harp_heap_drop(struct harp_heap *h, struct harp_slab *slab)
{
    if (slab->cells == NULL) {
        struct harp_block *b = harp_map_find(&h->blocks, slab->base);
        if (b != NULL)
            harp_map_remove(&h->blocks, b);
    } else {
        for (unsigned i = next(slab->cells->first, 0, true); i < HARP_SLAB_UNITS;
             i = next(slab->cells->first, i + 1, true)) {
            struct harp_block *b =
                harp_map_find(&h->blocks, slab->base + (uint64_t)i * HARP_UNIT_BYTES);
            if (b != NULL)
                harp_map_remove(&h->blocks, b);
        }
    }
    unbin(h, slab);
    size_t at = place_of(h, slab->base);
    memmove(&h->slabs[at], &h->slabs[at + 1], (h->count - at - 1) * sizeof(struct harp_slab *));
    h->count--;
    free(slab->cells);
    free(slab);
}
