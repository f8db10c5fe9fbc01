/* SPDX-License-Identifier: Apache-2.0
 *
 * Things without an address that a driver packs: code, variables, arrays. What is larger than
 * HARP_PACKED_MOST has granules of its own; the smaller ones of a context share some, with its
 * small linear memory too: share.h counts them.
 */
#include "harp/lease.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"

#define SMALL 512u /* alignment of small things */

static uint64_t padded(uint64_t bytes)
{
    return (bytes + SMALL - 1) & ~(uint64_t)(SMALL - 1);
}

void harp_packed_unlease(CUcontext ctx, int dev, uint64_t bytes)
{
    uint64_t back = 0;
    if (bytes == 0)
        return;
    if (bytes > HARP_PACKED_MOST) {
        harp_unlease(dev, HARP_MEM_DEVICE, harp_granules(bytes));
        return;
    }
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_share *s = harp_share_find(l->shares, (uint64_t)(uintptr_t)ctx);
    if (s != NULL)
        back = harp_share_remove(s, padded(bytes));
    harp_ledger_unlock();
    harp_unlease(dev, HARP_MEM_DEVICE, back * HARP_GRANULE_BYTES);
}

/* False: it does not fit for certain, and no `granule` is held for it; or there is no host memory.
 */
static bool add(CUcontext ctx, int dev, uint64_t bytes, bool granule)
{
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_share *s = harp_share_of(&l->shares, (uint64_t)(uintptr_t)ctx, dev);
    bool added = s != NULL && (granule || (!harp_linear_opening() && harp_share_fits(s, bytes)));
    if (added)
        harp_share_add(s, bytes, !granule);
    harp_ledger_unlock();
    return added;
}

CUresult harp_packed_lease(CUcontext ctx, int dev, uint64_t bytes)
{
    if (bytes == 0)
        return CUDA_SUCCESS;
    if (bytes > HARP_PACKED_MOST)
        return harp_lease(dev, HARP_MEM_DEVICE, harp_granules(bytes));
    if (add(ctx, dev, padded(bytes), false))
        return CUDA_SUCCESS;
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, HARP_GRANULE_BYTES);
    if (r != CUDA_SUCCESS || add(ctx, dev, padded(bytes), true))
        return r;
    harp_unlease(dev, HARP_MEM_DEVICE, HARP_GRANULE_BYTES);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

void harp_packed_owner_gone(CUcontext ctx, int dev)
{
    struct harp_ledger *l = harp_ledger_lock();
    uint64_t held = harp_share_end(&l->shares, (uint64_t)(uintptr_t)ctx);
    harp_ledger_unlock();
    harp_unlease(dev, HARP_MEM_DEVICE, held * HARP_GRANULE_BYTES);
}
