/* SPDX-License-Identifier: Apache-2.0
 *
 * What is known of a pool's memory from the outside: which addresses it dealt out, which of them
 * came back and in what stream. It answers one question: can this allocation be had without more of
 * the device than is paid for? "No" may be wrong, and costs a lease; "yes" must be right.
 *
 * Pure: no locks, no clock, no driver. The caller holds one lock round every call.
 *
 * Pieces are sorted by address and never overlap; between them is what nothing is known of. A piece
 * is known to be free when it was freed, or when the pool grew by it and dealt out less. Memory is
 * given back by the driver in whole units in which nothing lives (`unit`, counted from the start of
 * what the pool grew by at once: its extent).
 */
#ifndef HARP_SHIM_PIECES_H
#define HARP_SHIM_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HARP_ANYBODY 0u          /* free for every stream: else the stream's handle + 1 */
#define HARP_NOBODY  UINTPTR_MAX /* freed in a stream that is gone, perhaps not over */

enum harp_piece_is { HARP_PIECE_LIVE, HARP_PIECE_FREEING, HARP_PIECE_FREE };

struct harp_piece {
    uint64_t start, bytes;
    uint64_t extent;  /* where it starts; 0: not known */
    uint64_t order;   /* FREE: the pool's how manieth free, the latest of what was joined */
    uintptr_t stream; /* FREE: whose. Else: in which it was allocated */
    enum harp_piece_is is;
    bool lost; /* being freed when the pool gave memory back: perhaps this. Nobody counts on it */
};

struct harp_pieces {
    struct harp_piece *at;
    size_t count, room, live; /* live: LIVE and FREEING */
    size_t hint;              /* where something fitted */
    uint64_t frees;
};

/* The driver dealt out `ptr` in `stream`; the pool grew by `grown` for it. True: it lay in memory
 * known to be free. What cannot be noted for want of host memory is not known. */
bool harp_pieces_made(struct harp_pieces *p, uint64_t ptr, uint64_t bytes, uintptr_t stream,
                      uint64_t grown);
/* Before the driver is asked to free. False: not one of these. */
bool harp_pieces_freeing(struct harp_pieces *p, uint64_t ptr);
/* Afterwards: freed in a stream's order, or refused. HARP_ANYBODY: at once; but its allocation may
 * have been promised memory that was still in use, so the stream of that has to get there. */
void harp_pieces_freed(struct harp_pieces *p, uint64_t ptr, uintptr_t stream);
void harp_pieces_refused(struct harp_pieces *p, uint64_t ptr);

/* Whether `bytes` for `stream` make a pool have no more than it was last known to have, though it
 * may have given something back since. They do if there is one free piece for them and the pool
 * gives nothing back by itself (`kept`), or what lives beside the piece keeps it, or a unit is
 * enough: a piece that is not there any more took a unit along, and one is all that is taken. */
bool harp_pieces_fit(struct harp_pieces *p, uint64_t bytes, uintptr_t stream, uint64_t unit,
                     bool kept);
/* The pool has given memory back: units without life are not known any more. What is freed and not
 * over stays, as lost: harp_pieces_pending() tells of it. */
void harp_pieces_shrunk(struct harp_pieces *p, uint64_t unit);
/* All that `stream` freed, up to `order` frees, is over (HARP_NOBODY: of streams that are gone). */
void harp_pieces_over(struct harp_pieces *p, uintptr_t stream, uint64_t order);
/* The stream (0: perhaps every one) is destroyed: its handle may come again. */
void harp_pieces_stream_gone(struct harp_pieces *p, uintptr_t stream);
/* A stream with frees that are not known to be over, after `after` (0: the first); 0: no more. */
uintptr_t harp_pieces_pending(const struct harp_pieces *p, uintptr_t after);
void harp_pieces_clear(struct harp_pieces *p);

#endif
