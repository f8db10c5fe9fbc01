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
};

/* Guarded by lock; by base. Ranges may overlap: a reservation and what is mapped there. */
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

int ranges_add(uint64_t base, uint64_t bytes)
{
    int err = 0;
    pthread_rwlock_wrlock(&lock);
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
    size_t at = after(base);
    if (at > 0 && ranges[at - 1].base == base) { /* the same global again */
        if (ranges[at - 1].end < base + bytes)
            ranges[at - 1].end = base + bytes;
        goto out;
    }
    memmove(&ranges[at + 1], &ranges[at], (count - at) * sizeof *ranges);
    ranges[at] = (struct range){base, base + bytes};
    count++;
out:
    pthread_rwlock_unlock(&lock);
    return err;
}

void ranges_drop(uint64_t base)
{
    pthread_rwlock_wrlock(&lock);
    size_t at = after(base);
    if (at > 0 && ranges[at - 1].base == base) {
        memmove(&ranges[at - 1], &ranges[at], (count - at) * sizeof *ranges);
        count--;
    }
    pthread_rwlock_unlock(&lock);
}

bool ranges_have(uint64_t address)
{
    pthread_rwlock_rdlock(&lock);
    size_t at = after(address);
    bool have = at > 0 && address <= ranges[at - 1].end;
    pthread_rwlock_unlock(&lock);
    return have;
}

static uint64_t pointed(uint64_t slot)
{
    uint64_t value = 0;
    if (slot != 0)
        memcpy(&value, (const void *)(uintptr_t)slot, sizeof value);
    return value;
}

/* A node of a graph may be memory. */
static void node(uint64_t slot)
{
    const CUgraphNodeParams *params = (const void *)(uintptr_t)slot;
    if (params != NULL && params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        ranges_add(params->alloc.dptr, params->alloc.bytesize);
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
            ranges_add(pointed(args[0]), pointed(args[1]));
        break;
    case HARP_OP_cuGraphAddMemAllocNode: {
        const CUDA_MEM_ALLOC_NODE_PARAMS *p = (const void *)(uintptr_t)args[4];
        ranges_add(p->dptr, p->bytesize);
        break;
    }
    case HARP_OP_cuGraphAddNode:
        node(args[4]);
        break;
    case HARP_OP_cuGraphAddNode_v2:
        node(args[5]);
        break;
    case HARP_OP_cuMemFree_v2:
    case HARP_OP_cuMemFreeAsync:
    case HARP_OP_cuMemAddressFree:
        ranges_drop(args[0]);
        break;
    default:
        break;
    }
}
