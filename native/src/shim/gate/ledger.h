/* SPDX-License-Identifier: Apache-2.0
 *
 * What this process holds on its devices: a hash table of allocations and the granules they lie in.
 *
 * Pure: no locks, no clock, no driver. The caller holds one lock round every call.
 *
 * A driver hands out device memory in granules of 2 MiB; small allocations share one. So linear
 * memory is charged by the granules it touches: the first and the last granule of an allocation may
 * be shared (counted per granule), those between are its own. Things without an address (arrays,
 * physical handles) are charged by their size, rounded up.
 */
#ifndef HARP_SHIM_LEDGER_H
#define HARP_SHIM_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/shim/gate/share.h"

struct harp_block {   /* one allocation */
    uint64_t key;     /* device pointer, or handle; 0: empty place */
    uint64_t bytes;   /* as asked */
    uint64_t charged; /* handles: what is held for it. Linear memory: 0, see the granules */
    uint64_t owner;   /* context */
    int dev;
    uint32_t refs; /* physical handles: references and mappings */
    uint32_t cls;  /* handles, host memory: enum harp_mem_class. Linear memory: whether it shares no
                    * granule */
};

struct harp_map { /* open addressing, linear probing, backward-shift deletion */
    struct harp_block *at;
    size_t places, used;
};

struct harp_ledger {
    struct harp_map blocks; /* linear memory, by pointer */
    struct harp_map
        granules;              /* shared edge granules, by number: refs, bytes = live bytes in it,
                                * charged = blocks in it that are not small, owner (MIXED: several) */
    struct harp_map handles;   /* all else */
    struct harp_share *shares; /* by owner: what is small */
};

uint64_t harp_granules(uint64_t bytes); /* bytes rounded up to whole granules */

struct harp_block *harp_map_find(const struct harp_map *map, uint64_t key);
/* Adds (or returns the one there). NULL: no memory. The pointer is good until the next change. */
struct harp_block *harp_map_add(struct harp_map *map, uint64_t key);
void harp_map_remove(struct harp_map *map, struct harp_block *block);
void harp_map_free(struct harp_map *map);

/* Records linear memory; *charged gets the bytes of granules that were not held before.
 * -1: no host memory, nothing recorded. */
int harp_ledger_add(struct harp_ledger *l, uint64_t ptr, uint64_t bytes, uint64_t owner, int dev,
                    uint64_t *charged);
/* The same of memory that shares no granule with other kinds, however small: managed memory. */
int harp_ledger_add_apart(struct harp_ledger *l, uint64_t ptr, uint64_t bytes, uint64_t owner,
                          int dev, uint64_t *charged);
/* Takes a block out but keeps its granules: before the driver frees it. False: unknown. */
bool harp_ledger_take(struct harp_ledger *l, uint64_t ptr, struct harp_block *out);
/* After the driver freed a block that was taken: bytes of the granules that are now free. */
uint64_t harp_ledger_release(struct harp_ledger *l, const struct harp_block *block);
/* The driver refused to free it. */
void harp_ledger_put_back(struct harp_ledger *l, const struct harp_block *block);
/* Whether `bytes` more of `owner` fit in one piece into a held granule of `dev` that drivers share:
 * one of small blocks alone, all of that owner. */
bool harp_ledger_has_room(const struct harp_ledger *l, int dev, uint64_t owner, uint64_t bytes);
/* Takes out one block or handle of `owner` on each call; false: no more. *freed: bytes released. */
bool harp_ledger_drop(struct harp_ledger *l, uint64_t owner, struct harp_block *gone,
                      uint64_t *freed);
void harp_ledger_clear(struct harp_ledger *l);

#endif
