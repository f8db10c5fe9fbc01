/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that can leave the device: blocks in slabs of address space, which keep their addresses.
 *
 * Pure: no locks, no clock, no driver. The caller holds one lock round every call.
 *
 * A slab is what is mapped, moved and given back at once. Blocks of up to half a granule share
 * slabs of one granule, cut in units of 512 bytes; larger ones have a slab of their own, in whole
 * granules. So what is held is what a driver would hold, and a limit refuses nothing that it would
 * not.
 */
#ifndef HARP_SHIM_SLAB_H
#define HARP_SHIM_SLAB_H

#include "harp/lease.h"
#include "src/shim/gate/ledger.h"

#define HARP_UNIT_BYTES  512u
#define HARP_SLAB_UNITS  (HARP_GRANULE_BYTES / HARP_UNIT_BYTES)
#define HARP_SMALL_BYTES (HARP_GRANULE_BYTES / 2)
#define HARP_SLAB_BINS   13 /* free runs of 1, 2, 4 ... 4096 units */

struct harp_cells {
    uint64_t used[HARP_SLAB_UNITS / 64];
    uint64_t first[HARP_SLAB_UNITS / 64]; /* unit where a block begins */
};

struct harp_slab {
    struct harp_slab *next, *prev; /* in its bin */
    struct harp_cells *cells;      /* NULL: one block */
    uint64_t base, bytes;          /* address space, whole granules */
    uint64_t owner;                /* context */
    uint64_t live;                 /* blocks in it */
    unsigned longest;              /* no free run is longer; units */
    int bin;                       /* -1: in none */
    /* the mover's */
    int dev;
    uint64_t handle; /* physical memory; 0: it has none at present */
    uint64_t parked; /* where in the host's arena it lies */
    bool saved;      /* ... if it does */
    bool managed;    /* the driver moves it: no handle, no arena */
    bool pinned;     /* stays on the device for good */
};

struct harp_heap {
    struct harp_slab **slabs; /* by base */
    size_t count, room;
    struct harp_slab *bins[HARP_SLAB_BINS];
    struct harp_map blocks; /* by address: bytes as asked, refs = id */
    uint32_t ids;
};

/* What a slab for a block of `bytes` takes; 0: more than there is. */
uint64_t harp_slab_bytes(uint64_t bytes);

/* A block in a slab of `owner` that has room; 0: none has, or such a block has one of its own. */
uint64_t harp_heap_take(struct harp_heap *h, uint64_t owner, uint64_t bytes);
/* A new slab, empty. NULL: no host memory. */
struct harp_slab *harp_heap_add(struct harp_heap *h, uint64_t base, uint64_t bytes, uint64_t owner,
                                bool shared);
/* The first block of a new slab; 0: no host memory. */
uint64_t harp_heap_place(struct harp_heap *h, struct harp_slab *slab, uint64_t bytes);

/* The slab that an address lies in. */
struct harp_slab *harp_heap_slab(const struct harp_heap *h, uint64_t at);
/* The block that it lies in; NULL: none. Good until the next change. */
const struct harp_block *harp_heap_block(const struct harp_heap *h, uint64_t at);

/* Frees the block that begins at `ptr`. Its slab; NULL: no block begins there. */
struct harp_slab *harp_heap_free(struct harp_heap *h, uint64_t ptr);
/* Forgets a slab and the blocks in it. */
void harp_heap_drop(struct harp_heap *h, struct harp_slab *slab);

#endif
