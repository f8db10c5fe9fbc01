/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that the client may hand out by itself. It is the driver's own, each piece an allocation:
 * so what a driver says of an allocation (where it ends, who reaches it, that it was freed) it says
 * of these. Until one is taken it is none of the session's: no call can name it.
 */
#include <pthread.h>

#include "src/wire/lease.h"
#include "src/worker/ranges.h"
#include "src/worker/wipe.h"
#include "src/worker/worker.h"

/* A client keeps a fourth of that; threads of its that keep at once are ahead of what it says. */
#define ITEMS_MOST (4 * HARP_LEASE_ITEMS)

struct spare {
    uint64_t at, bytes, context; /* the generation of its context */
};

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct spare spares[ITEMS_MOST];
static size_t count;
static uint64_t all_bytes;
static bool recalled; /* and none has become spare since */

static bool add(const struct spare *one)
{
    pthread_mutex_lock(&lock);
    const bool room = count < ITEMS_MOST;
    if (room) {
        spares[count++] = *one;
        all_bytes += one->bytes;
        recalled = false;
    }
    pthread_mutex_unlock(&lock);
    return room;
}

static bool take(uint64_t at, struct spare *to)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count && !found; i++)
        if (spares[i].at == at) {
            found = true;
            *to = spares[i];
            all_bytes -= to->bytes;
            spares[i] = spares[--count];
        }
    pthread_mutex_unlock(&lock);
    return found;
}

void lease_context_ended(uint64_t context)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count;)
        if (spares[i].context == context) {
            all_bytes -= spares[i].bytes;
            spares[i] = spares[--count];
        } else {
            i++;
        }
    pthread_mutex_unlock(&lock);
}

/* 0: not known, and so as if none. */
static uint64_t free_bytes(void)
{
    size_t free = 0, total = 0;
    return DRIVER(cuMemGetInfo_v2)(&free, &total) == CUDA_SUCCESS ? free : 0;
}

/* An allocation as the program's own are; it is to be wiped, whoever has it. */
static CUresult made(struct lane *lane, uint64_t bytes, CUdeviceptr *at)
{
    CUresult r = DRIVER(cuMemAlloc_v2)(at, bytes);
    const uint64_t args[HARP_WIRE_SLOTS] = {(uintptr_t)at, bytes};
    wipe_after(lane, HARP_OP_cuMemAlloc_v2, r, args);
    return r;
}

static void known(uint64_t at, uint64_t bytes, uint64_t context)
{
    const CUdeviceptr is = at;
    const uint64_t args[HARP_WIRE_SLOTS] = {(uintptr_t)&is, bytes};
    ranges_after(HARP_OP_cuMemAlloc_v2, args, context);
}

/* How many there may be beside what the program has asked for. */
static uint64_t room(uint64_t bytes, uint64_t wanted)
{
    if (bytes == 0 || bytes > HARP_LEASE_LARGEST || wanted == 0)
        return 0;
    pthread_mutex_lock(&lock);
    uint64_t some = count >= HARP_LEASE_ITEMS || all_bytes >= HARP_LEASE_MOST
                        ? 0
                        : (HARP_LEASE_MOST - all_bytes) / bytes;
    if (some != 0 && some > HARP_LEASE_ITEMS - count)
        some = HARP_LEASE_ITEMS - count;
    pthread_mutex_unlock(&lock);
    some = some < wanted ? some : wanted;
    some = some < HARP_LEASE_COUNT ? some : HARP_LEASE_COUNT;
    return some != 0 && free_bytes() >= HARP_LEASE_LEAVES + some * bytes ? some : 0;
}

CUresult lease_ask(struct lane *lane, const uint64_t *args)
{
    const uint64_t bytes = args[0], asked = args[1];
    uint64_t *to = (uint64_t *)(uintptr_t)args[2]; /* all of them 0 */
    CUdeviceptr at = 0;
    if (to == NULL || asked == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!ranges_admit(HARP_OP_cuMemAlloc_v2))
        return CUDA_ERROR_OUT_OF_MEMORY;
    owner_look(lane);
    CUresult r = made(lane, bytes, &at);
    if (r != CUDA_SUCCESS)
        return r;
    known(at, bytes, lane->generation);
    to[0] = at;
    const uint64_t some = lane->generation == 0 ? 0 : room(bytes, asked - 1);
    for (uint64_t i = 0; i < some && made(lane, bytes, &at) == CUDA_SUCCESS; i++) {
        const struct spare one = {.at = at, .bytes = bytes, .context = lane->generation};
        if (!add(&one)) {
            const uint64_t given[HARP_WIRE_SLOTS] = {at};
            wipe_before(lane, HARP_OP_cuMemFree_v2, given);
            wipe_after(lane, HARP_OP_cuMemFree_v2, DRIVER(cuMemFree_v2)(at), given);
            break;
        }
        to[i + 1] = at;
    }
    return CUDA_SUCCESS;
}

CUresult lease_take(const uint64_t *args)
{
    struct spare one;
    if (!take(args[0], &one))
        return CUDA_ERROR_INVALID_VALUE;
    known(one.at, one.bytes, one.context);
    return CUDA_SUCCESS;
}

/* As a free, but for the end of it: what may still write there is waited for, and it is wiped. Only
 * of the current context, and of what cuMemAlloc has made: all else has no context here. */
CUresult lease_keep(struct lane *lane, const uint64_t *args)
{
    owner_look(lane);
    const struct ranges_dropped was = ranges_before(HARP_OP_cuMemFree_v2, args);
    const struct spare one = {.at = args[0], .bytes = was.bytes, .context = was.context};
    if (was.bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (was.context == 0 || was.context != lane->generation) {
        ranges_failed(args, &was);
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult r = CUDA_SUCCESS;
    if (wipe_is_off())
        r = DRIVER(cuCtxSynchronize)();
    else
        wipe_before(lane, HARP_OP_cuMemFree_v2, args);
    if (r == CUDA_SUCCESS && add(&one))
        return CUDA_SUCCESS;
    ranges_failed(args, &was);
    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE;
}

/* What is made of the device's memory: little more is told than that. */
static bool takes_memory(const struct harp_wire_call *call)
{
    if (call->made_kind == 0)
        return ranges_adds(call->op);
    switch (call->made_kind) {
    case HARP_HANDLE_CUevent:
    case HARP_HANDLE_CUfunction:
    case HARP_HANDLE_CUkernel:
    case HARP_HANDLE_CUgraph:
    case HARP_HANDLE_CUgraphNode:
        return ranges_adds(call->op); /* of a graph's memory */
    default:
        return true;
    }
}

void lease_look(struct lane *lane, const struct harp_wire_call *call)
{
    pthread_mutex_lock(&lock);
    const bool some = count != 0 && !recalled;
    pthread_mutex_unlock(&lock);
    if (!some || !takes_memory(call))
        return;
    const uint64_t args[HARP_WIRE_SLOTS] = {free_bytes()};
    if (args[0] >= HARP_LEASE_LEAVES)
        return;
    pthread_mutex_lock(&lock);
    recalled = true;
    pthread_mutex_unlock(&lock);
    call_tell(lane->session, HARP_OP_harpMemRecall, lane->id, args);
}
