/* SPDX-License-Identifier: Apache-2.0
 *
 * An arena is a reservation of the driver's at a place that this process has free. cuMemAlloc
 * cannot be told where: memory in an arena is made (cuMemCreate), mapped there and opened to its
 * device, by calls that the worker makes for any program. Nobody asks for one before a driver's own
 * choice was taken here eight times.
 */
#include "src/shim/remote/arena.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/room.h"
#include "src/shim/remote/snapshot.h"

#define GRANULE   HARP_REMOTE_CHUNK /* of physical memory; where it is more, cuMemCreate refuses */
#define TOP       (1ull << 47)      /* of a process' addresses, and of a device's */
#define ROUNDS    8                 /* of asking for a place */
#define ROUNDS_UP 5                 /* of them, above the driver's choice; then below */
#define ARENAS_MOST 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static struct harp_ranges arenas, slots;                 /* slots: what of them is in use */

/* --- a place that both have free -------------------------------------------------------------- */

struct search {
    uint64_t near, align, least; /* least: bytes, below which it is no use */
    uint64_t bytes;              /* wanted now: less where there is not so much */
    uint64_t offer;
    unsigned up, down; /* steps so far: each goes twice as far as the one before */
    bool held;         /* the offer is mapped here, so nobody else takes it */
};

/* Asks the worker for the place; *at is where it has it, 0: it has none. */
typedef CUresult ask_fn(CUdeviceptr *at, const struct search *s);

static uint64_t rounded(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) & ~(to - 1);
}

static void shrink(struct search *s)
{
    uint64_t less = rounded(s->bytes / 4, GRANULE);
    s->bytes = less > s->least ? less : s->least;
}

static bool probe(struct search *s, uint64_t at)
{
    for (;;) {
        uint64_t bytes = rounded(s->bytes, GRANULE);
        int err = harp_remote_hold(at, bytes);
        if (err == -EEXIST)
            return false;
        if (err == 0 || s->bytes == s->least) {
            s->offer = at;
            s->held = err == 0;
            return true;
        }
        shrink(s);
    }
}

/* The next place that is free here. */
static bool next(struct search *s, bool up)
{
    int saved = errno;
    bool found = false;
    unsigned *step = up ? &s->up : &s->down;
    while (!found) {
        uint64_t far = rounded(GRANULE << *step, s->align);
        uint64_t room = up ? TOP - s->near : s->near;
        if (far >= room || (up && s->bytes >= room - far))
            break;
        ++*step;
        found = probe(s, up ? rounded(s->near + far, s->align) : (s->near - far) & ~(s->align - 1));
    }
    errno = saved;
    return found;
}

static void let_go(const struct search *s)
{
    int saved = errno;
    if (s->held)
        munmap((void *)(uintptr_t)s->offer, rounded(s->bytes, GRANULE));
    errno = saved;
}

/* Offers places until one is free on both sides. 0: none is, or what *r says. */
static uint64_t agree(struct search *s, ask_fn *ask, CUresult *r)
{
    *r = CUDA_SUCCESS;
    for (unsigned round = 0; round < ROUNDS; round++) {
        CUdeviceptr at = 0;
        if (!next(s, round < ROUNDS_UP) && (round >= ROUNDS_UP || !next(s, false)))
            continue;
        *r = ask(&at, s);
        if (*r == CUDA_SUCCESS && at == s->offer) {
            if (s->held)
                harp_remote_held(at, rounded(s->bytes, GRANULE));
            return at;
        }
        let_go(s);
        if (*r != CUDA_SUCCESS)
            return 0;
        if (at == 0 && s->bytes == s->least)
            return 0;
        if (at != 0 && harp_remote_reserve(at, s->bytes) == 0)
            return at; /* the worker's own choice will do */
        if (at != 0)
            harp_sent_cuMemAddressFree(at, s->bytes);
        shrink(s);
    }
    return 0;
}

/* --- arenas ----------------------------------------------------------------------------------- */

static CUresult ask_arena(CUdeviceptr *at, const struct search *s)
{
    const uint64_t args[] = {s->offer, s->bytes, (uintptr_t)at};
    return harp_remote_make(HARP_OP_harpArena, args, 3);
}

bool harp_remote_has_arena(void)
{
    pthread_mutex_lock(&lock);
    bool has = arenas.count != 0;
    pthread_mutex_unlock(&lock);
    return has;
}

/* So much of one is the caller's from here on; 0: there is no room. */
static uint64_t slot(uint64_t bytes)
{
    uint64_t at = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < arenas.count && at == 0; i++)
        at = harp_ranges_gap(&slots, &arenas.at[i], bytes);
    const struct harp_range taken = {.base = at, .bytes = bytes};
    if (at != 0 && !harp_ranges_add(&slots, &taken))
        at = 0;
    pthread_mutex_unlock(&lock);
    return at;
}

static void no_slot(uint64_t at)
{
    pthread_mutex_lock(&lock);
    harp_ranges_remove(&slots, at);
    pthread_mutex_unlock(&lock);
}

/* One more, as large as the device's memory if there is room for that. */
static bool more(CUdevice device, uint64_t least, uint64_t near)
{
    CUresult r;
    const struct harp_wire_device *facts = harp_remote_device(device, &r);
    struct search s = {.near = near & ~(GRANULE - 1), .align = GRANULE, .least = least};
    if (facts == NULL || near >= TOP)
        return false;
    s.bytes = rounded(facts->total_bytes, GRANULE);
    s.bytes = s.bytes > least ? s.bytes : least;
    uint64_t at = agree(&s, ask_arena, &r);
    if (at == 0)
        return false;
    const struct harp_range arena = {.base = at, .bytes = s.bytes};
    pthread_mutex_lock(&lock);
    bool added = arenas.count < ARENAS_MOST && harp_ranges_add(&arenas, &arena);
    pthread_mutex_unlock(&lock);
    if (!added)
        harp_sent_cuMemAddressFree(at, s.bytes);
    else
        harp_log(
            "remote_arena base=%#llx bytes=%llu why=\"this process has memory of its own where "
            "the driver's lies\"",
            (unsigned long long)at, (unsigned long long)s.bytes);
    return added;
}

static CUresult back(CUdeviceptr at, uint64_t bytes, CUdevice device)
{
    const CUmemLocation where = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
    const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = where};
    const CUmemAccessDesc access = {.location = where, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    CUresult r = harp_sent_cuMemCreate(&handle, bytes, &prop, 0);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuMemMap(at, bytes, 0, handle, 0);
    if (r == CUDA_SUCCESS) {
        r = harp_sent_cuMemSetAccess(at, bytes, &access, 1);
        if (r != CUDA_SUCCESS)
            harp_sent_cuMemUnmap(at, bytes);
    }
    harp_sent_cuMemRelease(handle); /* what is mapped stays */
    return r;
}

CUresult harp_remote_arena_alloc(CUdeviceptr *at, uint64_t bytes, uint64_t near)
{
    CUdevice device;
    CUresult r = harp_remote_cuCtxGetDevice(&device);
    if (r != CUDA_SUCCESS)
        return r;
    if (bytes == 0 || bytes > TOP)
        return CUDA_ERROR_OUT_OF_MEMORY;
    bytes = rounded(bytes, GRANULE);
    uint64_t place = slot(bytes);
    if (place == 0 && more(device, bytes, near))
        place = slot(bytes);
    if (place == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = back(place, bytes, device);
    if (r != CUDA_SUCCESS)
        no_slot(place);
    else
        *at = place;
    return r;
}

CUresult harp_remote_arena_wait(const struct harp_range *memory)
{
    const struct harp_lane *lane = harp_lane();
    struct harp_thing *ctx = harp_thing_by_id(HARP_HANDLE_CUcontext, memory->ctx, false);
    if (lane == NULL || ctx == NULL)
        return lane == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    bool other = harp_lane_current(lane) != memory->ctx;
    CUresult r = other ? harp_remote_cuCtxPushCurrent_v2((CUcontext)ctx) : CUDA_SUCCESS;
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuCtxSynchronize();
    if (other)
        harp_remote_cuCtxPopCurrent_v2(NULL);
    return r;
}

CUresult harp_remote_arena_give(const struct harp_range *memory)
{
    CUresult r = harp_sent_cuMemUnmap(memory->base, rounded(memory->bytes, GRANULE));
    if (r == CUDA_SUCCESS)
        no_slot(memory->base);
    return r;
}

/* --- reservations of the program's ------------------------------------------------------------ */

static CUresult ask_reservation(CUdeviceptr *at, const struct search *s)
{
    return harp_sent_cuMemAddressReserve(at, s->bytes, s->align > GRANULE ? s->align : 0, s->offer,
                                         0);
}

CUresult harp_remote_cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment,
                                         CUdeviceptr addr, unsigned long long flags)
{
    CUresult r = harp_sent_cuMemAddressReserve(ptr, size, alignment, addr, flags);
    if (r != CUDA_SUCCESS || ptr == NULL || harp_remote_reserve(*ptr, size) == 0)
        return r;
    struct search s = {.near = *ptr & ~(GRANULE - 1),
                       .align = alignment > GRANULE ? alignment : GRANULE,
                       .least = size,
                       .bytes = size};
    CUdeviceptr taken = *ptr;
    harp_sent_cuMemAddressFree(taken, size);
    CUdeviceptr at = taken < TOP ? agree(&s, ask_reservation, &r) : 0;
    if (at != 0) {
        *ptr = at;
        return CUDA_SUCCESS;
    }
    harp_remote_taken(taken, size);
    return r != CUDA_SUCCESS ? r : CUDA_ERROR_OUT_OF_MEMORY;
}

void harp_remote_forget_arenas(void)
{
    pthread_mutex_lock(&lock);
    arenas.count = slots.count = 0;
    pthread_mutex_unlock(&lock);
}
