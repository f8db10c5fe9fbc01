/* SPDX-License-Identifier: Apache-2.0
 *
 * softmod_fuzz.c: pieces of memory of every kind, what is copied between them, advice.
 */
#include "softmod_fuzz.h"

void drop_piece(struct player *p, struct piece *piece)
{
    switch (piece->kind) {
    case LINEAR:
        GOOD(cuCtxPushCurrent_v2(piece->ctx));
        GOOD(cuMemFree_v2(piece->ptr));
        GOOD(cuCtxPopCurrent_v2(NULL));
        break;
    case MANAGED:
        GOOD(cuMemFree_v2(piece->ptr));
        break;
    case PINNED:
        GOOD(cuMemFreeHost((void *)(uintptr_t)piece->ptr));
        break;
    case MAPPED:
        quiet(p); /* unmapping waits for nothing */
        GOOD(cuMemUnmap(piece->ptr, 2 * GRANULE));
        GOOD(cuMemRelease(piece->handle));
        GOOD(cuMemAddressFree(piece->ptr, 2 * GRANULE));
        break;
    case NOTHING:
        break;
    }
    piece->kind = NOTHING;
}

static void map_piece(struct player *p, struct piece *piece)
{
    CUdevice device = (CUdevice)below(p, 2);
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes =
                                    below(p, 2) ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
    CUmemAccessDesc access[2] = {
        {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE},
        {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE}};

    if (!GOOD(cuMemAddressReserve(&piece->ptr, 2 * GRANULE, 0, 0, 0)))
        return;
    if (!GOOD(cuMemCreate(&piece->handle, 2 * GRANULE, &prop, 0))) {
        GOOD(cuMemAddressFree(piece->ptr, 2 * GRANULE));
        return;
    }
    CHECK(GOOD(cuMemMap(piece->ptr, 2 * GRANULE, 0, piece->handle, 0)));
    CHECK(GOOD(cuMemSetAccess(piece->ptr, 2 * GRANULE, access, 2)));
    piece->kind = MAPPED;
}

void memory(struct player *p)
{
    struct piece *piece = &p->piece[below(p, SLOTS * 2)];
    void *host;

    if (piece->kind != NOTHING) {
        drop_piece(p, piece);
        return;
    }
    piece->ctx = p->now;
    switch (below(p, 4)) {
    case 0:
        if (GOOD(cuMemAlloc_v2(&piece->ptr, BYTES)))
            piece->kind = LINEAR;
        break;
    case 1:
        if (GOOD(cuMemAllocManaged(&piece->ptr, BYTES, CU_MEM_ATTACH_GLOBAL)))
            piece->kind = MANAGED;
        break;
    case 2:
        if (GOOD(cuMemHostAlloc(&host, BYTES, 0))) {
            piece->ptr = (CUdeviceptr)(uintptr_t)host;
            piece->kind = PINNED;
        }
        break;
    default:
        map_piece(p, piece);
    }
}

void move(struct player *p)
{
    struct piece *a = some_piece(p), *b = some_piece(p);
    unsigned bytes = below(p, BYTES - 4096);

    if (a == NULL)
        return;
    if (b != NULL && b != a && below(p, 2) == 0)
        GOOD(cuMemcpyAsync(a->ptr, b->ptr + below(p, 4096), bytes + 1, some_stream(p)));
    else if (a->kind != PINNED && below(p, 2) == 0)
        GOOD(cuMemsetD8Async(a->ptr + below(p, 4096), 7, bytes, some_stream(p)));
    else if (a->kind == LINEAR && below(p, 2) == 0 && a->ctx == fuzz.ctx[0])
        GOOD(cuMemcpyPeerAsync(fuzz.managed, fuzz.ctx[1], a->ptr, fuzz.ctx[0], 4096,
                               some_stream(p)));
    else if (a->kind == MANAGED)
        GOOD(cuMemPrefetchAsync(a->ptr, bytes + 1,
                                below(p, 3) == 0 ? CU_DEVICE_CPU : (CUdevice)below(p, 2),
                                some_stream(p)));
    else {
        char text[64];
        GOOD(cuMemcpyDtoH_v2(text, a->ptr, sizeof text));
    }
}

void advise(struct player *p)
{
    static const CUmem_advise advice[] = {
        CU_MEM_ADVISE_SET_READ_MOSTLY, CU_MEM_ADVISE_UNSET_READ_MOSTLY,
        CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION,
        CU_MEM_ADVISE_SET_ACCESSED_BY};
    struct piece *a = some_piece(p);
    CUdeviceptr ptr = a != NULL && a->kind == MANAGED ? a->ptr : fuzz.managed;

    GOOD(cuMemAdvise(ptr, BYTES / 2, advice[below(p, 5)], (CUdevice)below(p, 2)));
}
