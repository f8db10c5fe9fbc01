/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/ledger.h"

#include <stdlib.h>
#include <string.h>

#include "harp/lease.h"

#define SHIFT 21                       /* log2 of HARP_GRANULE_BYTES */
#define SMALL 512u                     /* alignment of small allocations */
#define SHARE (HARP_GRANULE_BYTES / 2) /* blocks up to so large share granules */
#define UNITS (HARP_GRANULE_BYTES / SMALL)
#define TRIES 16 /* granules looked into for room */
#define MIXED UINT64_MAX

_Static_assert(1ull << SHIFT == HARP_GRANULE_BYTES, "a granule is 2 MiB");

uint64_t harp_granules(uint64_t bytes)
{
    if (bytes > UINT64_MAX - HARP_GRANULE_BYTES)
        return UINT64_MAX & ~(HARP_GRANULE_BYTES - 1);
    return (bytes + HARP_GRANULE_BYTES - 1) & ~(HARP_GRANULE_BYTES - 1);
}

static size_t place_of(const struct harp_map *map, uint64_t key)
{
    key ^= key >> 33;
    key *= 0xff51afd7ed558ccdull;
    key ^= key >> 33;
    return (size_t)key & (map->places - 1);
}

struct harp_block *harp_map_find(const struct harp_map *map, uint64_t key)
{
    if (map->places == 0 || key == 0)
        return NULL;
    for (size_t i = place_of(map, key);; i = (i + 1) & (map->places - 1)) {
        if (map->at[i].key == key)
            return &map->at[i];
        if (map->at[i].key == 0)
            return NULL;
    }
}

static int grow(struct harp_map *map)
{
    struct harp_map bigger = {.places = map->places == 0 ? 64 : map->places * 2};
    bigger.at = calloc(bigger.places, sizeof *bigger.at);
    if (bigger.at == NULL)
        return -1;
    for (size_t i = 0; i < map->places; i++) {
        if (map->at[i].key == 0)
            continue;
        size_t j = place_of(&bigger, map->at[i].key);
        while (bigger.at[j].key != 0)
            j = (j + 1) & (bigger.places - 1);
        bigger.at[j] = map->at[i];
    }
    bigger.used = map->used;
    free(map->at);
    *map = bigger;
    return 0;
}

struct harp_block *harp_map_add(struct harp_map *map, uint64_t key)
{
    struct harp_block *there = harp_map_find(map, key);
    if (there != NULL)
        return there;
    if (key == 0 || ((map->used + 1) * 4 > map->places * 3 && grow(map) != 0))
        return NULL;
    size_t i = place_of(map, key);
    while (map->at[i].key != 0)
        i = (i + 1) & (map->places - 1);
    map->at[i] = (struct harp_block){.key = key};
    map->used++;
    return &map->at[i];
}

void harp_map_remove(struct harp_map *map, struct harp_block *block)
{
    size_t mask = map->places - 1, hole = (size_t)(block - map->at);
    for (size_t i = (hole + 1) & mask; map->at[i].key != 0; i = (i + 1) & mask) {
        size_t home = place_of(map, map->at[i].key);
        if (((i - home) & mask) >= ((i - hole) & mask)) { /* may move back into the hole */
            map->at[hole] = map->at[i];
            hole = i;
        }
    }
    map->at[hole].key = 0;
    map->used--;
}

void harp_map_free(struct harp_map *map)
{
    free(map->at);
    *map = (struct harp_map){0};
}

/* --- granules -------------------------------------------------------------------------------- */

static uint64_t units(uint64_t bytes)
{
    return (bytes + SMALL - 1) / SMALL;
}

static uint64_t live_bytes(uint64_t ptr, uint64_t bytes, uint64_t granule)
{
    uint64_t from = granule << SHIFT, to = from + HARP_GRANULE_BYTES;
    uint64_t end = ptr + ((bytes + SMALL - 1) & ~(uint64_t)(SMALL - 1));
    if (from < ptr)
        from = ptr;
    if (to > end)
        to = end;
    return to > from ? to - from : 0;
}

static uint64_t last_granule(const struct harp_block *b)
{
    return (b->key + (b->bytes != 0 ? b->bytes - 1 : 0)) >> SHIFT;
}

static bool is_small(const struct harp_block *b)
{
    return b->bytes <= SHARE && b->cls == 0;
}

/* Small blocks of the block's owner, in granules that pieces may share. */
static struct harp_share *share_of(struct harp_ledger *l, const struct harp_block *b)
{
    return is_small(b) ? harp_share_find(l->shares, b->owner) : NULL;
}

static int granule_ref(struct harp_ledger *l, const struct harp_block *b, uint64_t granule,
                       uint64_t *charged)
{
    struct harp_block *g = harp_map_add(&l->granules, granule);
    if (g == NULL)
        return -1;
    if (g->refs != 0 && g->owner != b->owner)
        g->owner = MIXED;
    else
        g->owner = b->owner;
    g->dev = b->dev;
    g->bytes += live_bytes(b->key, b->bytes, granule);
    struct harp_share *s = share_of(l, b);
    bool opened = s != NULL && g->refs == g->charged, held = g->refs != 0;
    g->charged += !is_small(b);
    if (g->refs++ == 0)
        *charged += HARP_GRANULE_BYTES;
    if (opened && held)
        s->granules++;
    else if (opened)
        *charged -= harp_share_opened(s, b->bytes) * HARP_GRANULE_BYTES;
    return 0;
}

static uint64_t granule_unref(struct harp_ledger *l, const struct harp_block *b, uint64_t granule)
{
    struct harp_block *g = harp_map_find(&l->granules, granule);
    if (g == NULL)
        return 0;
    g->bytes -= live_bytes(b->key, b->bytes, granule);
    g->charged -= !is_small(b);
    uint64_t freed = --g->refs == 0 ? HARP_GRANULE_BYTES : 0;
    struct harp_share *s = g->refs == g->charged ? share_of(l, b) : NULL;
    if (s != NULL && g->refs != 0)
        s->granules -= s->granules != 0; /* a large one holds it */
    else if (s != NULL && harp_share_closed(s) != 0)
        freed = 0;
    if (g->refs == 0)
        harp_map_remove(&l->granules, g);
    return freed;
}

static int add(struct harp_ledger *l, uint64_t ptr, uint64_t bytes, uint64_t owner, int dev,
               bool apart, uint64_t *charged)
{
    *charged = 0;
    struct harp_block *b = harp_map_add(&l->blocks, ptr);
    if (b == NULL)
        return -1;
    *b = (struct harp_block){.key = ptr, .bytes = bytes, .owner = owner, .dev = dev, .cls = apart};
    struct harp_block copy = *b;
    if (is_small(&copy) && harp_share_of(&l->shares, owner, dev) == NULL) {
        harp_map_remove(&l->blocks, b);
        return -1;
    }
    uint64_t first = ptr >> SHIFT, last = last_granule(&copy);
    int failed = granule_ref(l, &copy, first, charged);
    if (failed == 0 && last != first) {
        failed = granule_ref(l, &copy, last, charged);
        if (failed != 0)
            granule_unref(l, &copy, first);
        else
            *charged += (last - first - 1) << SHIFT;
    }
    struct harp_share *s = share_of(l, &copy);
    if (failed == 0 && s != NULL) {
        s->blocks++;
        s->block_bytes += units(bytes) * SMALL;
    }
    if (failed == 0)
        return 0;
    harp_map_remove(&l->blocks, harp_map_find(&l->blocks, ptr));
    *charged = 0;
    return -1;
}

int harp_ledger_add(struct harp_ledger *l, uint64_t ptr, uint64_t bytes, uint64_t owner, int dev,
                    uint64_t *charged)
{
    return add(l, ptr, bytes, owner, dev, false, charged);
}

int harp_ledger_add_apart(struct harp_ledger *l, uint64_t ptr, uint64_t bytes, uint64_t owner,
                          int dev, uint64_t *charged)
{
    return add(l, ptr, bytes, owner, dev, true, charged);
}

bool harp_ledger_take(struct harp_ledger *l, uint64_t ptr, struct harp_block *out)
{
    struct harp_block *b = harp_map_find(&l->blocks, ptr);
    if (b == NULL)
        return false;
    *out = *b;
    harp_map_remove(&l->blocks, b);
    return true;
}

uint64_t harp_ledger_release(struct harp_ledger *l, const struct harp_block *block)
{
    struct harp_share *s = share_of(l, block);
    if (s != NULL && s->blocks != 0) { /* else its context is gone, and was made again */
        s->blocks--;
        s->block_bytes -= units(block->bytes) * SMALL;
    }
    uint64_t first = block->key >> SHIFT, last = last_granule(block);
    uint64_t freed = granule_unref(l, block, first);
    if (last != first)
        freed += granule_unref(l, block, last) + ((last - first - 1) << SHIFT);
    return freed;
}

void harp_ledger_put_back(struct harp_ledger *l, const struct harp_block *block)
{
    struct harp_block *b = harp_map_add(&l->blocks, block->key);
    if (b != NULL)
        *b = *block;
}

/* Whether `units` lie free side by side in the granule. */
static bool has_gap(const struct harp_ledger *l, uint64_t granule, uint64_t units)
{
    bool used[UNITS] = {false};
    for (size_t i = 0; i < l->blocks.places; i++) {
        const struct harp_block *b = &l->blocks.at[i];
        if (b->key == 0 || b->key >> SHIFT != granule)
            continue;
        uint64_t first = (b->key & (HARP_GRANULE_BYTES - 1)) / SMALL;
        for (uint64_t u = first; u < first + (b->bytes + SMALL - 1) / SMALL && u < UNITS; u++)
            used[u] = true;
    }
    for (uint64_t u = 0, run = 0; u < UNITS; u++) {
        run = used[u] ? 0 : run + 1;
        if (run == units)
            return true;
    }
    return false;
}

bool harp_ledger_has_room(const struct harp_ledger *l, int dev, uint64_t owner, uint64_t bytes)
{
    int tries = 0;
    if (bytes > SHARE)
        return false;
    const struct harp_share *s = harp_share_find(l->shares, owner);
    if (s != NULL && s->pieces != 0) /* which may lie in any gap */
        return harp_share_fits(s, units(bytes) * SMALL);
    for (size_t i = 0; i < l->granules.places && tries < TRIES; i++) {
        const struct harp_block *g = &l->granules.at[i];
        if (g->key == 0 || g->dev != dev || g->owner != owner || g->charged != 0 ||
            g->bytes + bytes > HARP_GRANULE_BYTES)
            continue;
        tries++;
        if (has_gap(l, g->key, (bytes + SMALL - 1) / SMALL))
            return true;
    }
    return false;
}

bool harp_ledger_drop(struct harp_ledger *l, uint64_t owner, struct harp_block *gone,
                      uint64_t *freed)
{
    for (size_t i = 0; i < l->blocks.places; i++) {
        struct harp_block b = l->blocks.at[i];
        if (b.key == 0 || b.owner != owner)
            continue;
        harp_map_remove(&l->blocks, &l->blocks.at[i]);
        *gone = b;
        *freed = harp_ledger_release(l, &b);
        return true;
    }
    for (size_t i = 0; i < l->handles.places; i++) {
        struct harp_block b = l->handles.at[i];
        if (b.key == 0 || b.owner != owner)
            continue;
        harp_map_remove(&l->handles, &l->handles.at[i]);
        *gone = b;
        *freed = b.cls == HARP_MEM_DEVICE ? b.charged : 0; /* of others the account goes itself */
        return true;
    }
    return false;
}

void harp_ledger_clear(struct harp_ledger *l)
{
    harp_map_free(&l->blocks);
    harp_map_free(&l->granules);
    harp_map_free(&l->handles);
    while (l->shares != NULL)
        harp_share_end(&l->shares, l->shares->owner);
}
