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

#include "generated/cuda_abi.h"
#include "generated/wire_ops.h"

struct range {
    uint64_t base, end;
    uint64_t reach; /* the greatest end of all up to here */
    /* What it goes with: a module, a library or a graph; and what the graph has been made into. 0
     * and 0: with its own free. */
    uint64_t owner, exec;
    bool made; /* into one, ever: its memory may outlive both */
};

/* Far more than a program has allocations at a time; graphs have a range for each of their nodes.
 */
#define RANGES_MAX (1u << 18)
#define LANES_MOST 64u /* that may add one each, once they are admitted */

/* Guarded by lock; by base, which is one's alone. Ranges may overlap: a reservation and what is
 * mapped there, nodes of a graph, what a driver has given out again without our knowing that it was
 * free. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct range *ranges;
static size_t count, room;

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
static int add(uint64_t base, uint64_t bytes, uint64_t owner)
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
    struct range made = {.base = base, .end = base + bytes, .owner = owner};
    size_t at = after(base);
    if (at > 0 && ranges[at - 1].base == base) {
        const struct range *was = &ranges[--at];
        if (owner != 0 && was->owner == owner) { /* nodes of a graph share addresses */
            made = *was;
            made.end = was->end > base + bytes ? was->end : base + bytes;
        }
    }
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
    return add(base, bytes, 0);
}

uint64_t ranges_drop(uint64_t base)
{
    uint64_t bytes = 0;
    pthread_rwlock_wrlock(&lock);
    size_t at = after(base);
    if (at > 0 && ranges[at - 1].base == base && ranges[at - 1].owner == 0 &&
        ranges[at - 1].exec == 0) {
        bytes = ranges[at - 1].end - base;
        memmove(&ranges[at - 1], &ranges[at], (count - at) * sizeof *ranges);
        count--;
        reach_from(at - 1);
    }
    pthread_rwlock_unlock(&lock);
    return bytes;
}

bool ranges_have(uint64_t address)
{
    pthread_rwlock_rdlock(&lock);
    size_t at = after(address);
    bool have = at > 0 && address <= ranges[at - 1].reach;
    pthread_rwlock_unlock(&lock);
    return have;
}

/* A module, library, graph or executable graph is no more. */
static void ended(uint64_t owner)
{
    size_t kept = 0;
    pthread_rwlock_wrlock(&lock);
    for (size_t i = 0; i < count; i++) {
        struct range r = ranges[i];
        if (r.owner == owner && !r.made)
            continue;
        r.owner = r.owner == owner ? 0 : r.owner;
        r.exec = r.exec == owner ? 0 : r.exec;
        ranges[kept++] = r;
    }
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
        add(params->alloc.dptr, params->alloc.bytesize, graph);
}

bool ranges_admit(unsigned op)
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
        break;
    default:
        return true;
    }
    pthread_rwlock_rdlock(&lock);
    bool room_left = count + LANES_MOST < RANGES_MAX;
    pthread_rwlock_unlock(&lock);
    return room_left;
}

uint64_t ranges_before(unsigned op, const uint64_t *args)
{
    switch (op) {
    case HARP_OP_cuMemFree_v2:
    case HARP_OP_cuMemFreeAsync:
    case HARP_OP_cuMemAddressFree:
        return ranges_drop(args[0]);
    case HARP_OP_cuModuleUnload:
    case HARP_OP_cuLibraryUnload:
    case HARP_OP_cuGraphDestroy:
    case HARP_OP_cuGraphExecDestroy:
        ended(args[0]);
        return 0;
    default:
        return 0;
    }
}

void ranges_failed(const uint64_t *args, uint64_t dropped)
{
    if (dropped != 0)
        ranges_add(args[0], dropped);
}

void ranges_after(unsigned op, const uint64_t *args)
{
    switch (op) {
    case HARP_OP_cuMemAlloc_v2:
    case HARP_OP_cuMemAllocAsync:
    case HARP_OP_cuMemAllocFromPoolAsync:
    case HARP_OP_cuMemAddressReserve:
        ranges_add(pointed(args[0]), args[1]);
        break;
    case HARP_OP_cuMemAllocPitch_v2:
        ranges_add(pointed(args[0]), pointed(args[1]) * args[3]);
        break;
    case HARP_OP_cuModuleGetGlobal_v2:
    case HARP_OP_cuLibraryGetGlobal:
        if (args[0] != 0)
            add(pointed(args[0]), pointed(args[1]), args[2]);
        break;
    case HARP_OP_cuGraphAddMemAllocNode: {
        const CUDA_MEM_ALLOC_NODE_PARAMS *p = (const void *)(uintptr_t)args[4];
        add(p->dptr, p->bytesize, args[1]);
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
