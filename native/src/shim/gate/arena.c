/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/arena.h"

#include <stdlib.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"

#define PIECE_BYTES (1ull << 30) /* most that is pinned by one call */

struct harp_piece {
    struct harp_piece *next;
    void *host;
    uint64_t bytes;
};

static CUresult add(struct harp_arena *arena, uint64_t bytes)
{
    struct harp_piece *piece = calloc(1, sizeof *piece), **at = &arena->first;
    if (piece == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMemHostAlloc)(&piece->host, bytes, CU_MEMHOSTALLOC_PORTABLE));
    if (r != CUDA_SUCCESS) {
        free(piece);
        return r;
    }
    piece->bytes = bytes;
    while (*at != NULL)
        at = &(*at)->next;
    *at = piece;
    arena->bytes += bytes;
    return CUDA_SUCCESS;
}

CUresult harp_arena_grow(struct harp_arena *arena, int dev, uint64_t bytes)
{
    CUresult r = CUDA_SUCCESS;
    while (arena->bytes < bytes && r == CUDA_SUCCESS) {
        uint64_t more = bytes - arena->bytes;
        if (more < arena->bytes / 4) /* a little each time would be many pieces */
            more = arena->bytes / 4;
        more = harp_granules(more < PIECE_BYTES ? more : PIECE_BYTES);
        if ((r = harp_lease(dev, HARP_MEM_HOST, more)) != CUDA_SUCCESS)
            break;
        r = add(arena, more);
        if (r != CUDA_SUCCESS)
            harp_unlease(dev, HARP_MEM_HOST, more);
    }
    return r;
}

void *harp_arena_at(const struct harp_arena *arena, uint64_t offset, uint64_t *run)
{
    struct harp_piece *piece = arena->first;
    while (piece != NULL && offset >= piece->bytes) {
        offset -= piece->bytes;
        piece = piece->next;
    }
    *run = piece != NULL ? piece->bytes - offset : 0;
    return piece != NULL ? (char *)piece->host + offset : NULL;
}

void harp_arena_forget(struct harp_arena *arena, int dev)
{
    while (arena->first != NULL) {
        struct harp_piece *piece = arena->first;
        arena->first = piece->next;
        free(piece);
    }
    harp_unlease(dev, HARP_MEM_HOST, arena->bytes);
    *arena = (struct harp_arena){0};
}
