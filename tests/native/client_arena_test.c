/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a driver's own choice of addresses is taken in the client: what is offered, what is agreed
 * on, and memory that then lies there. The peer's cuMemAlloc answers nothing but taken addresses.
 */
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"

#define MIB     (1ull << 20)
#define GRANULE (2 * MIB)
#define TAKEN   0x200000000000ull /* so much from here on is the client's own */
#define BYTES   (64 * MIB)
#define TOTAL   (1ull << 30) /* of a device */
#define TRIES   9            /* cuMemAlloc's, before there is an arena */
#define PRIMARY (1ull << 63 | 5)

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuDevicePrimaryCtxRetain);
DECLARE(cuDevicePrimaryCtxRelease_v2);
DECLARE(cuCtxCreate_v2);
DECLARE(cuCtxDestroy_v2);
DECLARE(cuCtxDetach);
DECLARE(cuDevicePrimaryCtxReset_v2);
DECLARE(cuCtxSetCurrent);
DECLARE(cuCtxSynchronize);
DECLARE(cuStreamBeginCapture_v2);
DECLARE(cuStreamEndCapture);
DECLARE(cuStreamCreate);
DECLARE(cuMemAddressReserve);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemAllocAsync);
DECLARE(cuMemAllocFromPoolAsync);
DECLARE(cuMemPoolCreate);
DECLARE(cuMemAllocPitch_v2);
DECLARE(cuMemFree_v2);
DECLARE(cuMemFreeAsync);
DECLARE(cuMemGetAddressRange_v2);

static struct peer peer;
static uint64_t next_address = TAKEN;
static uint64_t
    place[16];          /* where the driver has reservations, in order; 0: where it is asked to */
static unsigned places; /* that have been answered */
static bool none;       /* it has none */
static unsigned allocs = UINT32_MAX; /* that there is memory for */
static int made_on, opened_to;       /* devices */

static void out(struct harp_wire_call *call, unsigned slot, uint64_t value, size_t bytes)
{
    if (call->args[slot] != 0)
        memcpy((void *)(uintptr_t)call->args[slot], &value, bytes);
}

static uint64_t reservation(uint64_t hint)
{
    uint64_t at = place[places++ % 16];
    return none ? 0 : at != 0 ? at : hint;
}

static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args;
    (void)p;
    switch (call->op) {
    case HARP_OP_harpSession:
        out(call, 0, 2, 4);
        return 0;
    case HARP_OP_harpSnapshot:
        ((struct harp_wire_device *)(uintptr_t)a[1])->total_bytes = TOTAL;
        return 0;
    case HARP_OP_cuDevicePrimaryCtxRetain:
        out(call, 0, PRIMARY + a[1], 8);
        return 0;
    case HARP_OP_cuMemCreate:
        made_on = ((CUmemAllocationProp *)(uintptr_t)a[2])->location.id;
        return 0;
    case HARP_OP_cuMemSetAccess:
        opened_to = ((CUmemAccessDesc *)(uintptr_t)a[2])->location.id;
        return 0;
    case HARP_OP_cuMemAlloc_v2:
    case HARP_OP_cuMemAllocAsync:
    case HARP_OP_cuMemAllocFromPoolAsync:
        if (allocs == 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
        allocs--;
        out(call, 0, next_address, 8);
        next_address += GRANULE;
        return 0;
    case HARP_OP_cuMemAllocPitch_v2:
        out(call, 0, next_address, 8);
        out(call, 1, 1024, 8);
        next_address += GRANULE;
        return 0;
    case HARP_OP_cuMemAddressReserve:
        out(call, 0, reservation(a[3]), 8);
        return 0;
    case HARP_OP_harpArena:
        out(call, 2, reservation(a[0]), 8);
        return 0;
    default:
        return 0;
    }
}

static unsigned count(uint32_t op)
{
    return peer_count(&peer, op, NULL);
}

static struct peer_note last(uint32_t op)
{
    struct peer_note note;
    CHECK(peer_count(&peer, op, &note) != 0);
    return note;
}

/* Where a note is among all others. */
static unsigned when(uint32_t op)
{
    unsigned at = peer.notes;
    while (at > 0 && peer.note[at - 1].op != op)
        at--;
    return at;
}

static bool is_free(uint64_t at, uint64_t bytes)
{
    void *got = mmap((void *)at, bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got != MAP_FAILED)
        munmap(got, bytes);
    return got == (void *)at;
}

static void take(uint64_t at, uint64_t bytes)
{
    CHECK(mmap((void *)at, bytes, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
               0) == (void *)at);
}

static CUcontext begin(void)
{
    CUcontext ctx = NULL;
    take(TAKEN, BYTES);
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&ctx, 1) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
    return ctx;
}

/* What is offered is agreed on. Nobody asks before it is needed, and once is enough. */
static void an_arena_is_offered(void)
{
    CUdeviceptr at = 0, other = 0, base = 0;
    size_t bytes = 0;
    begin();
    CHECK(cuMemAlloc_v2(&at, 3 * MIB) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == TRIES && count(HARP_OP_cuMemFree_v2) == TRIES);
    CHECK(count(HARP_OP_harpArena) == 1);
    struct peer_note arena = last(HARP_OP_harpArena);
    CHECK(arena.args[0] >= TAKEN + BYTES && arena.args[0] < TAKEN + 4 * BYTES);
    CHECK(arena.args[0] % GRANULE == 0 && arena.args[1] == TOTAL && at == arena.args[0]);
    CHECK(!is_free(at, TOTAL) && !is_free(at + TOTAL - GRANULE, GRANULE));
    struct peer_note made = last(HARP_OP_cuMemCreate), mapped = last(HARP_OP_cuMemMap);
    CHECK(made.args[1] == 4 * MIB && mapped.args[0] == at && mapped.args[1] == 4 * MIB);
    CHECK(mapped.args[3] == made.made && last(HARP_OP_cuMemRelease).args[0] == made.made);
    CHECK(last(HARP_OP_cuMemSetAccess).args[0] == at && count(HARP_OP_cuMemSetAccess) == 1);
    CHECK(made_on == 1 && opened_to == 1);
    /* It is as any allocation; what does not start anew at each of them is the search. */
    CHECK(cuMemGetAddressRange_v2(&base, &bytes, at + 5) == CUDA_SUCCESS);
    CHECK(base == at && bytes == 3 * MIB);
    CHECK(cuMemAlloc_v2(&other, 1) == CUDA_SUCCESS && other == at + 4 * MIB);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == TRIES + 1 && count(HARP_OP_cuMemFree_v2) == TRIES + 1);
    CHECK(count(HARP_OP_harpArena) == 1);
    /* Freed, when what ran has ended; its addresses are another's. */
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == TRIES + 1);
    CHECK(last(HARP_OP_cuMemUnmap).args[0] == at && last(HARP_OP_cuMemUnmap).args[1] == 4 * MIB);
    CHECK(count(HARP_OP_cuCtxSynchronize) == 1);
    CHECK(when(HARP_OP_cuCtxSynchronize) < when(HARP_OP_cuMemUnmap));
    CHECK(cuMemAlloc_v2(&base, 3 * MIB) == CUDA_SUCCESS && base == at);
    CHECK(cuMemFreeAsync(base, NULL) == CUDA_SUCCESS && count(HARP_OP_cuMemUnmap) == 2);
    CHECK(count(HARP_OP_cuStreamSynchronize) == 1 && count(HARP_OP_cuMemFreeAsync) == 0);
    CHECK(cuMemAllocPitch_v2(&base, &bytes, 1000, 5000, 4) == CUDA_SUCCESS && bytes == 1024);
    CHECK(base == other + GRANULE && last(HARP_OP_cuMemCreate).args[1] == 6 * MIB);
    /* Where the driver's choice is free after all, that is it. */
    next_address = TAKEN - 16 * MIB;
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == TAKEN - 16 * MIB);
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == at && count(HARP_OP_cuMemUnmap) == 2);
}

/* The driver has something where it is asked to have nothing. */
static void another_place_is_agreed_on(void)
{
    const uint64_t its = TAKEN + (1ull << 40);
    CUdeviceptr at = 0;
    place[0] = its;
    begin();
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == its);
    CHECK(count(HARP_OP_harpArena) == 1 && count(HARP_OP_cuMemAddressFree) == 0);
    CHECK(!is_free(its + TOTAL - GRANULE, GRANULE));
    CHECK(is_free(last(HARP_OP_harpArena).args[0], TOTAL)); /* what was offered is let go of */
}

/* And what it has instead is taken here: it goes back, and less is asked for elsewhere. */
static void the_drivers_place_is_taken_too(void)
{
    CUdeviceptr at = 0;
    place[0] = place[1] = TAKEN + MIB;
    begin();
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_harpArena) == 3 && count(HARP_OP_cuMemAddressFree) == 2);
    struct peer_note arena = last(HARP_OP_harpArena);
    CHECK(arena.args[0] == at && arena.args[1] == TOTAL / 16);
    CHECK(last(HARP_OP_cuMemAddressFree).args[0] == TAKEN + MIB);
    CHECK(last(HARP_OP_cuMemAddressFree).args[1] == TOTAL / 4);
}

static void nothing_is_agreed_on(void)
{
    CUdeviceptr at = 0;
    begin();
    none = true;
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == TRIES && count(HARP_OP_cuMemFree_v2) == TRIES);
    CHECK(count(HARP_OP_harpArena) > 1 && count(HARP_OP_harpArena) <= 8);
    CHECK(last(HARP_OP_harpArena).args[1] == MIB || last(HARP_OP_harpArena).args[1] == GRANULE);
    CHECK(count(HARP_OP_cuMemCreate) == 0);
    /* All it has is taken here. */
    none = false;
    for (unsigned i = 0; i < 16; i++)
        place[i] = TAKEN;
    unsigned before = count(HARP_OP_harpArena);
    next_address = TAKEN;
    CHECK(cuMemAlloc_v2(&at, 2 * MIB) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_harpArena) == before + 8 && count(HARP_OP_cuMemAddressFree) == 8);
    CHECK(count(HARP_OP_cuMemCreate) == 0);
}

/* What is kept for the search may be all that the device has. */
static void there_is_memory_for_some_tries(void)
{
    CUdeviceptr at = 0;
    begin();
    allocs = 3;
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == last(HARP_OP_cuMemMap).args[0]);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 4 && count(HARP_OP_cuMemFree_v2) == 3);
    CHECK(when(HARP_OP_cuMemFree_v2) < when(HARP_OP_cuMemCreate));
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_cuMemCreate) == 1); /* there is none, wherever it would lie */
}

/* Allocations of pools are made again, too. In the arena is what is of the current device. */
static void pools_find_another_place(void)
{
    CUcontext ctx = begin(), other = NULL;
    CUdeviceptr at = 0;
    CUmemoryPool pool = NULL;
    CUstream s = NULL;
    CUgraph graph = NULL;
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    CHECK(cuMemPoolCreate(&pool, &props) == CUDA_SUCCESS);
    next_address = TAKEN + BYTES - 3 * GRANULE;
    CHECK(cuMemAllocAsync(&at, MIB, s) == CUDA_SUCCESS && at == TAKEN + BYTES);
    CHECK(count(HARP_OP_cuMemAllocAsync) == 4 && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemFreeAsync) == 3);
    next_address = TAKEN;
    CHECK(cuMemAllocFromPoolAsync(&at, MIB, pool, s) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_cuMemAllocFromPoolAsync) == TRIES && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemFreeAsync) == 3 + TRIES && count(HARP_OP_harpArena) == 0);
    next_address = TAKEN;
    CHECK(cuCtxCreate_v2(&other, 0, 0) == CUDA_SUCCESS); /* not the stream's */
    CHECK(cuMemAllocAsync(&at, MIB, s) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS && count(HARP_OP_harpArena) == 0);
    /* A graph has its own, and each of them once. */
    next_address = TAKEN;
    CHECK(cuStreamBeginCapture_v2(s, 0) == CUDA_SUCCESS);
    unsigned before = count(HARP_OP_cuMemAllocAsync);
    CHECK(cuMemAllocAsync(&at, MIB, s) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_cuMemAllocAsync) == before + 1 && count(HARP_OP_harpArena) == 0);
    CHECK(cuStreamEndCapture(s, &graph) == CUDA_SUCCESS);
    next_address = TAKEN;
    CHECK(cuMemAllocAsync(&at, MIB, s) == CUDA_SUCCESS && at == last(HARP_OP_harpArena).args[0]);
    CHECK(count(HARP_OP_cuMemAllocAsync) == before + 1 + TRIES && made_on == 1);
    CHECK(cuMemFreeAsync(at, s) == CUDA_SUCCESS && last(HARP_OP_cuMemUnmap).args[0] == at);
    CHECK(cuMemAllocAsync(&at, MIB, NULL) == CUDA_SUCCESS && cuMemFree_v2(at) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemUnmap) == 2);
    next_address = TAKEN + BYTES - 3 * GRANULE; /* with an arena, too, as it is not for this pool */
    CHECK(cuMemAllocFromPoolAsync(&at, MIB, pool, s) == CUDA_SUCCESS && at == TAKEN + BYTES);
}

static void what_fails_there_leaves_nothing(void)
{
    CUdeviceptr at = 0, other = 0;
    begin();
    peer_fail(&peer, HARP_OP_cuMemCreate, CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_ERROR_OUT_OF_MEMORY && count(HARP_OP_cuMemMap) == 0);
    peer_fail(&peer, HARP_OP_cuMemMap, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_ERROR_INVALID_VALUE);
    CHECK(count(HARP_OP_cuMemRelease) == 1 && count(HARP_OP_cuMemUnmap) == 0);
    peer_fail(&peer, HARP_OP_cuMemSetAccess, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_ERROR_INVALID_VALUE);
    CHECK(count(HARP_OP_cuMemRelease) == 2 && count(HARP_OP_cuMemUnmap) == 1);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == last(HARP_OP_harpArena).args[0]);
    /* What cannot be freed is still there, and nobody else's. */
    peer_fail(&peer, HARP_OP_cuMemUnmap, CUDA_ERROR_LAUNCH_FAILED);
    CHECK(cuMemFree_v2(at) == CUDA_ERROR_LAUNCH_FAILED);
    CHECK(cuMemAlloc_v2(&other, MIB) == CUDA_SUCCESS && other == at + GRANULE);
    CHECK(cuStreamBeginCapture_v2(NULL, 0) == CUDA_SUCCESS);
    unsigned unmaps = count(HARP_OP_cuMemUnmap);
    peer_fail(&peer, HARP_OP_cuCtxSynchronize, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(cuMemFree_v2(at) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(count(HARP_OP_cuMemUnmap) == unmaps);
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS && count(HARP_OP_cuMemUnmap) == unmaps + 1);
}

/* With its context, as all memory; another's stays. */
static void it_ends_with_its_context(void)
{
    CUcontext first = begin(), second = NULL;
    CUdeviceptr at[3];
    CHECK(cuMemAlloc_v2(&at[0], MIB) == CUDA_SUCCESS);
    CHECK(cuCtxCreate_v2(&second, 0, 1) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at[1], MIB) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at[2], MIB) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(first) == CUDA_SUCCESS);
    CHECK(cuCtxDestroy_v2(second) == CUDA_SUCCESS && count(HARP_OP_cuMemUnmap) == 2);
    CHECK(when(HARP_OP_cuMemUnmap) < when(HARP_OP_cuCtxDestroy_v2)); /* it is wiped in it */
    CHECK(last(HARP_OP_cuMemUnmap).args[0] == at[2] && count(HARP_OP_cuCtxSynchronize) == 1);
    CHECK(when(HARP_OP_cuCtxSynchronize) <
          when(HARP_OP_cuCtxSetCurrent)); /* it was for the second */
    CHECK(cuDevicePrimaryCtxRelease_v2(1) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemUnmap) == 3 && last(HARP_OP_cuMemUnmap).args[0] == at[0]);
    CHECK(when(HARP_OP_cuMemUnmap) < when(HARP_OP_cuDevicePrimaryCtxRelease_v2));
    CHECK(cuDevicePrimaryCtxRetain(&first, 1) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(first) == CUDA_SUCCESS && cuMemAlloc_v2(&at[0], MIB) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxReset_v2(1) == CUDA_SUCCESS && count(HARP_OP_cuMemUnmap) == 4);
    CHECK(cuCtxCreate_v2(&second, 0, 1) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at[1], MIB) == CUDA_SUCCESS && cuCtxDetach(second) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemUnmap) == 5 && last(HARP_OP_cuMemUnmap).args[0] == at[1]);
}

/* A full arena is not the last one. */
static void there_may_be_several(void)
{
    CUdeviceptr at = 0, other = 0;
    begin();
    CHECK(cuMemAlloc_v2(&at, TOTAL - GRANULE) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&other, GRANULE + 1) == CUDA_SUCCESS && count(HARP_OP_harpArena) == 2);
    CHECK(other == last(HARP_OP_harpArena).args[0] && other != at);
    CHECK(cuMemAlloc_v2(&other, GRANULE) == CUDA_SUCCESS && other == at + TOTAL - GRANULE);
}

/* Reservations of the program's can be told where. */
static void reservations_are_asked_for_elsewhere(void)
{
    CUdeviceptr at = 0;
    begin();
    place[0] = TAKEN;
    CHECK(cuMemAddressReserve(&at, 16 * MIB, 0, 0, 0) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemAddressReserve) == 2 && count(HARP_OP_cuMemAddressFree) == 1);
    CHECK(at >= TAKEN + BYTES && at == last(HARP_OP_cuMemAddressReserve).args[3]);
    CHECK(!is_free(at, 16 * MIB) && !is_free(at + 14 * MIB, GRANULE));
    places = 0;
    CHECK(cuMemAddressReserve(&at, 16 * MIB, 1ull << 30, 0, 0) == CUDA_SUCCESS);
    CHECK(at % (1ull << 30) == 0 && last(HARP_OP_cuMemAddressReserve).args[2] == 1ull << 30);
    /* One that is free here is as the driver says, and the client's memory stays away from it. */
    place[places % 16] = TAKEN + (1ull << 40);
    unsigned before = count(HARP_OP_cuMemAddressReserve);
    CHECK(cuMemAddressReserve(&at, 2 * GRANULE, 0, 0, 0) == CUDA_SUCCESS);
    CHECK(at == TAKEN + (1ull << 40) && count(HARP_OP_cuMemAddressReserve) == before + 1);
    CHECK(!is_free(at, GRANULE) && !is_free(at + GRANULE, GRANULE));
    for (unsigned i = 0; i < 16; i++)
        place[i] = TAKEN;
    unsigned frees = count(HARP_OP_cuMemAddressFree);
    CHECK(cuMemAddressReserve(&at, GRANULE, 0, 0, 0) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_cuMemAddressFree) == frees + 9);
}

static const struct peer_scenario scenarios[] = {
    {"an_arena_is_offered", an_arena_is_offered},
    {"another_place_is_agreed_on", another_place_is_agreed_on},
    {"the_drivers_place_is_taken_too", the_drivers_place_is_taken_too},
    {"nothing_is_agreed_on", nothing_is_agreed_on},
    {"there_is_memory_for_some_tries", there_is_memory_for_some_tries},
    {"pools_find_another_place", pools_find_another_place},
    {"what_fails_there_leaves_nothing", what_fails_there_leaves_nothing},
    {"it_ends_with_its_context", it_ends_with_its_context},
    {"there_may_be_several", there_may_be_several},
    {"reservations_are_asked_for_elsewhere", reservations_are_asked_for_elsewhere},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
