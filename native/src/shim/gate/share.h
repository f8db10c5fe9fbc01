/* SPDX-License-Identifier: Apache-2.0
 *
 * Granules that small things of a context share: linear blocks, which have an address, and pieces,
 * which have none (code, variables, arrays). Pure.
 *
 * Nobody tells where a piece lies, so the count is an upper bound, right for every driver that
 * opens a granule only for what fits into no gap of the ones it has. Of n things in g granules
 * there are at most n + g gaps: the largest has at least their share of what is free. What is no
 * larger fits for certain; for all else one granule more is counted. This counts at most about
 * twice what things of one size take, and hardly more than they take if they are tiny.
 *
 * (1) Granules in use <= granules + extra.
 * (2) Granules with pieces <= extra + mixed: where the last block of a granule goes, a piece may
 *     stay. As many may have to be paid for then.
 */
#ifndef HARP_SHIM_SHARE_H
#define HARP_SHIM_SHARE_H

#include <stdbool.h>
#include <stdint.h>

struct harp_share { /* of one context */
    struct harp_share *next;
    uint64_t owner;
    int dev;
    uint64_t blocks, block_bytes, granules; /* small linear blocks; granules they lie in */
    uint64_t pieces, piece_bytes;
    uint64_t extra; /* granules held for pieces, besides those of blocks */
    uint64_t mixed; /* of `granules`, at most so many have pieces that `extra` does not cover */
};

struct harp_share *harp_share_find(struct harp_share *list, uint64_t owner);
/* Makes it if there is none. NULL: no host memory. */
struct harp_share *harp_share_of(struct harp_share **list, uint64_t owner, int dev);
/* Whether `bytes` more need no granule more. */
bool harp_share_fits(const struct harp_share *s, uint64_t bytes);
/* A block lies where no block was: 1 if that granule was held for pieces already, else 0. */
uint64_t harp_share_opened(struct harp_share *s, uint64_t bytes);
/* The last block of a granule is gone: 1 if the granule is held for pieces from now on, else 0. */
uint64_t harp_share_closed(struct harp_share *s);
/* A piece. Not `fits`: the caller holds a granule more for it. */
void harp_share_add(struct harp_share *s, uint64_t bytes, bool fits);
/* Granules that need not be held any more. */
uint64_t harp_share_remove(struct harp_share *s, uint64_t bytes);
/* The context is gone: granules that were held for pieces. */
uint64_t harp_share_end(struct harp_share **list, uint64_t owner);

#endif
