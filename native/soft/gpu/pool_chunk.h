/* SPDX-License-Identifier: Apache-2.0
 *
 * Chunks and pieces as pool.c uses them. All locked.
 */
#ifndef HARP_SOFT_POOL_CHUNK_H
#define HARP_SOFT_POOL_CHUNK_H

#include "soft/gpu/pool.h"

/* The chunk that `ptr` is in; NULL: in none. */
struct soft_chunk *soft_chunk_at(CUdeviceptr ptr);
/* A chunk of its own for at least `bytes`, one free piece; NULL: the pool or its device is full. */
struct soft_chunk *soft_chunk_make(struct soft_pool *pool, uint64_t bytes);
/* It goes, whatever lies in it. */
void soft_chunk_drop(struct soft_chunk *chunk);
/* Gives back its units that nothing lies in, as long as the pool keeps `keep` bytes. True: nothing
 * is left of it. */
bool soft_chunk_trim(struct soft_chunk *chunk, uint64_t keep);

/* Its buckets point at it. */
void soft_piece_index(struct soft_piece *p);
/* Among the free ones of its pool, and out of them. */
void soft_piece_list(struct soft_piece *p);
void soft_piece_unlist(struct soft_piece *p);
/* It waits for no stream. */
void soft_piece_over(struct soft_piece *p);
/* Cuts it: the second half, like the first in all else. NULL: no memory. */
struct soft_piece *soft_piece_split(struct soft_piece *p, uint64_t bytes);
/* The next one becomes part of it. */
void soft_piece_absorb(struct soft_piece *p);

#endif
