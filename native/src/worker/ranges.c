/* SPDX-License-Identifier: Apache-2.0
 *
 * A sorted array of ranges, and what calls do to it.
 */
#include "src/worker/ranges.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "src/worker/worker.h"

struct range {
    uint64_t base, end;
    uint64_t reach; /* the greatest end of all up to here */
    uint64_t serial;
    uint64_t context; /* generation of the one that it ends with; 0: with none */
    /* What it goes with: a module, a library or a graph; and what the graph has been made into. 0
     * and 0: with its own free. */
    uint64_t owner, exec;
    bool made; /* into one, ever: its memory may outlive both */
};

/* Far more than a program has allocations at a time; graphs have a range for each of their nodes.
 */
#define RANGES_MAX (1u << 18)
#define ADDS_MOST                                                                                  \
    1088u /* lanes may add one each, once they are admitted, and spare ones (lease.c) */

/* Guarded by lock; by base, which is one's alone. Ranges may overlap: a reservation and what is
 * mapped there, nodes of a graph, what a driver has given out again without our knowing that it was
 * free. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct range *ranges;
static size_t count, room;
static uint64_t serials;

/* The first whose base is beyond `address`. */
static size_t after(uint64_t address)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (ranges[mid].base <= address)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* From there on they have changed. */
static void reach_from(size_t at)
{
    for (; at < count; at++) {
        uint64_t before = at == 0 ? 0 : ranges[at - 1].reach;
        ranges[at].reach = before > ranges[at].end ? before : ranges[at].end;
    }
}

/* Memory is given out once at a time: what lies within is of earlier. */
static int add(uint64_t base, uint64_t bytes, uint64_t owner, uint64_t context)
{
    int err = 0;
    pthread_rwlock_wrlock(&lock);
    if (count == RANGES_MAX) {
        err = -ENOMEM;
        goto out;
    }
    if (count == room) {
        size_t want = room == 0 ? 256 : room * 2;
        struct range *more = realloc(ranges, want * sizeof *ranges);
        if (more == NULL) {
            err = -ENOMEM;
            goto out;
        }
        ranges = more;
        room = want;
    }
    struct range made = {.base = base, .end = base + bytes, .owner = owner, .context = context};
    size_t at = after(base);
    if (at > 0 && ranges[at - 1].base == base) {
        const struct range *was = &ranges[--at];
        if (owner != 0 && was->owner == owner) { /* nodes of a graph share addresses */
            made = *was;
            made.end = was->end > base + bytes ? was->end : base + bytes;
        }
    }
    made.serial = ++serials;
    size_t kept = at, from = at;
    for (; from < count && (ranges[from].base < made.end || ranges[from].base == base); from++)
        if (ranges[from].base != base && ranges[from].end > made.end)
            ranges[kept++] = ranges[from];
    /* kept - at of them overlap its end; the new one goes before them. */
    memmove(&ranges[kept + 1], &ranges[from], (count - from) * sizeof *ranges);
    memmove(&ranges[at + 1], &ranges[at], (kept - at) * sizeof *ranges);
    ranges[at] = made;
    count = kept + 1 + (count - from);
    reach_from(at);
out:
    pthread_rwlock_unlock(&lock);
    return err;
}

int ranges_add(uint64_t base, uint64_t bytes)
{
    return add(base, bytes, 0, 0);
}

uint64_t ranges_now(void)
{
    pthread_rwlock_rdlock(&lock);
    uint64_t now = serials;
    pthread_rwlock_unlock(&lock);
    return now;
}

static struct ranges_dropped drop(uint64_t base)
{
    struct ranges_dropped dropped = {.bytes = 0};
    pthread_rwlock_wrlock(&lock);
    size_t at = after(base);
    if (at > 0 && ranges[at - 1].base == base && ranges[at - 1].owner == 0 &&
        ranges[at - 1].exec == 0) {
        dropped.bytes = ranges[at - 1].end - base;
        dropped.context = ranges[at - 1].context;
        memmove(&ranges[at - 1], &ranges[at], (count - at) * sizeof *ranges);
        count--;
        reach_from(at - 1);
    }
    pthread_rwlock_unlock(&lock);
    return dropped;
}

uint64_t ranges_drop(uint64_t base)
{
    return drop(base).bytes;
}

enum ranges_place ranges_place(uint64_t address)
{
    pthread_rwlock_rdlock(&lock);
    size_t at = after(address);
    const uint64_t reach = at > 0 ? ranges[at - 1].reach : 0;
    pthread_rwlock_unlock(&lock);
    return address < reach ? RANGES_IN : address == reach ? RANGES_END : RANGES_OUT;
}

void ranges_owner_ended(uint64_t owner, uint64_t then)
{
    size_t kept = 0;
    pthread_rwlock_wrlock(&lock);
    for (size_t i = 0; i < count; i++) {
        struct range r = ranges[i];
        const bool of = r.serial <= then;
        if (of && r.owner == owner && !r.made)
            continue;
        r.owner = of && r.owner == owner ? 0 : r.owner;
        r.exec = of && r.exec == owner ? 0 : r.exec;
        ranges[kept++] = r;
    }
    count = kept;
    reach_from(0);
    pthread_rwlock_unlock(&lock);
}

void ranges_context_ended(uint64_t context)
{
    size_t kept = 0;
    pthread_rwlock_wrlock(&lock);
    for (size_t i = 0; i < count; i++)
        if (ranges[i].context != context)
            ranges[kept++] = ranges[i];
    count = kept;
    reach_from(0);
    pthread_rwlock_unlock(&lock);
}

/* What a graph's launches allocate may be freed and is there again with the next one. */
static void instantiated(uint64_t graph, uint64_t exec)
{
    pthread_rwlock_wrlock(&lock);
    for (size_t i = 0; i < count; i++)
        if (ranges[i].owner == graph) {
            ranges[i].exec = exec;
            ranges[i].made = true;
        }
    pthread_rwlock_unlock(&lock);
}

static uint64_t pointed(uint64_t slot)
{
    uint64_t value = 0;
    if (slot != 0)
        memcpy(&value, (const void *)(uintptr_t)slot, sizeof value);
    return value;
}

/* A node of a graph may be memory. */
static void node(uint64_t slot, uint64_t graph)
{
    const CUgraphNodeParams *params = (const void *)(uintptr_t)slot;
    if (params != NULL && params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        add(params->alloc.dptr, params->alloc.bytesize, graph, 0);
}

bool ranges_adds(unsigned op)
{
    switch (op) {
    case HARP_OP_cuMemAlloc_v2:
    case HARP_OP_cuMemAllocAsync:
    case HARP_OP_cuMemAllocFromPoolAsync:
    case HARP_OP_cuMemAddressReserve:
    case HARP_OP_cuMemAllocPitch_v2:
    case HARP_OP_cuModuleGetGlobal_v2:
    case HARP_OP_cuLibraryGetGlobal:
    case HARP_OP_cuGraphAddMemAllocNode:
    case HARP_OP_cuGraphAddNode:
    case HARP_OP_cuGraphAddNode_v2:
        return true;
    default:
        return false;
    }
}

bool ranges_admit(unsigned op)
{
    if (!ranges_adds(op))
        return true;
    pthread_rwlock_rdlock(&lock);
    bool room_left = count + ADDS_MOST < RANGES_MAX;
    pthread_rwlock_unlock(&lock);
    return room_left;
}

struct ranges_dropped ranges_before(unsigned op, const uint64_t *args)
{
    const struct ranges_dropped none = {.bytes = 0};
    switch (op) {
    case HARP_OP_cuMemFree_v2:
    case HARP_OP_cuMemFreeAsync:
    case HARP_OP_cuMemAddressFree:
        return drop(args[0]);
    case HARP_OP_cuModuleUnload:
    case HARP_OP_cuLibraryUnload:
    case HARP_OP_cuGraphDestroy:
    case HARP_OP_cuGraphExecDestroy:
        ranges_owner_ended(args[0], UINT64_MAX);
        return none;
    default:
        return none;
    }
}

void ranges_failed(const uint64_t *args, const struct ranges_dropped *dropped)
{
    if (dropped->bytes != 0)
        add(args[0], dropped->bytes, 0, dropped->context);
}

/* By the driver itself, where nothing is copied an address is not looked at. */
bool ranges_nothing(unsigned op, const uint64_t *args)
{
    switch (op) {
    case HARP_OP_cuMemcpy:
    case HARP_OP_cuMemcpyAsync:
    case HARP_OP_cuMemcpyHtoD_v2:
    case HARP_OP_cuMemcpyHtoDAsync_v2:
    case HARP_OP_cuMemcpyDtoH_v2:
    case HARP_OP_cuMemcpyDtoHAsync_v2:
    case HARP_OP_cuMemcpyDtoD_v2:
    case HARP_OP_cuMemcpyDtoDAsync_v2:
    case HARP_OP_cuMemsetD8_v2:
    case HARP_OP_cuMemsetD8Async:
    case HARP_OP_cuMemsetD16_v2:
    case HARP_OP_cuMemsetD16Async:
    case HARP_OP_cuMemsetD32_v2:
    case HARP_OP_cuMemsetD32Async:
        return args[2] == 0;
    case HARP_OP_cuMemcpyDtoA_v2:
    case HARP_OP_cuMemcpyAtoD_v2:
        return args[3] == 0;
    case HARP_OP_cuMemcpyPeer:
    case HARP_OP_cuMemcpyPeerAsync:
        return args[4] == 0;
    case HARP_OP_cuMemsetD2D8_v2:
    case HARP_OP_cuMemsetD2D8Async:
    case HARP_OP_cuMemsetD2D16_v2:
    case HARP_OP_cuMemsetD2D16Async:
    case HARP_OP_cuMemsetD2D32_v2:
    case HARP_OP_cuMemsetD2D32Async:
        return args[3] == 0 || args[4] == 0;
    case HARP_OP_cuMemcpy2D_v2:
    case HARP_OP_cuMemcpy2DUnaligned_v2:
    case HARP_OP_cuMemcpy2DAsync_v2: {
        const CUDA_MEMCPY2D *p = (const void *)(uintptr_t)args[0];
        return p != NULL && (p->WidthInBytes == 0 || p->Height == 0);
    }
    case HARP_OP_cuMemcpy3D_v2:
    case HARP_OP_cuMemcpy3DAsync_v2: {
        const CUDA_MEMCPY3D *p = (const void *)(uintptr_t)args[0];
        return p != NULL && (p->WidthInBytes == 0 || p->Height == 0 || p->Depth == 0);
    }
    default:
        return false;
    }
}

void ranges_after(unsigned op, const uint64_t *args, uint64_t context)
{
    switch (op) {
    case HARP_OP_cuMemAlloc_v2:
        add(pointed(args[0]), args[1], 0, context);
        break;
    case HARP_OP_cuMemAllocAsync:
    case HARP_OP_cuMemAllocFromPoolAsync:
    case HARP_OP_cuMemAddressReserve:
        ranges_add(pointed(args[0]), args[1]);
        break;
    case HARP_OP_cuMemAllocPitch_v2:
        add(pointed(args[0]), pointed(args[1]) * args[3], 0, context);
        break;
    case HARP_OP_cuModuleGetGlobal_v2:
    case HARP_OP_cuLibraryGetGlobal:
        if (args[0] != 0)
            add(pointed(args[0]), pointed(args[1]), args[2], context);
        break;
    case HARP_OP_cuGraphAddMemAllocNode: {
        const CUDA_MEM_ALLOC_NODE_PARAMS *p = (const void *)(uintptr_t)args[4];
        add(p->dptr, p->bytesize, args[1], 0);
        break;
    }
    case HARP_OP_cuGraphAddNode:
        node(args[4], args[1]);
        break;
    case HARP_OP_cuGraphAddNode_v2:
        node(args[5], args[1]);
        break;
    case HARP_OP_cuGraphInstantiate:
    case HARP_OP_cuGraphInstantiate_v2:
    case HARP_OP_cuGraphInstantiateWithFlags:
    case HARP_OP_cuGraphInstantiateWithParams:
        instantiated(args[1], pointed(args[0]));
        break;
    default:
        break;
    }
}
