/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory without an address (cuMemCreate and its kin): it lives until the last reference
 * and the last mapping are gone, and so long as a sparse array or a multicast object keeps it. All
 * count as references of its handle here. An object that keeps memory takes none itself.
 *
 * What another process holds of it is not seen: a handle that was exported is charged as long as
 * this one holds it, and from then on, by harpd's reconcile, to who has it.
 */
#include "src/shim/gate/memory.h"

#include <stddef.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"

#define MAPPED      HARP_KEY_MAPPING
#define KEPT        HARP_KEY_KEPT
#define PHYSICAL(h) ((uint64_t)(h) | HARP_KEY_PHYSICAL)

static bool somewhere(CUmemLocationType type)
{
    return type == CU_MEM_LOCATION_TYPE_DEVICE || type == CU_MEM_LOCATION_TYPE_HOST ||
           type == CU_MEM_LOCATION_TYPE_HOST_NUMA || type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

/* --- references ------------------------------------------------------------------------------ */

/* References that one object, or a range, holds: `bit` says of what kind. */
struct held {
    uint64_t bit, owner, from, size;
    int dev; /* -1: of any */
};

/* The handle of one of them, which is forgotten; 0: none is left. */
static uint64_t forget_one(const struct held *held)
{
    uint64_t handle = 0;
    struct harp_ledger *l = harp_ledger_lock();
    for (size_t i = 0; i < l->handles.places && handle == 0; i++) {
        struct harp_block *b = &l->handles.at[i];
        uint64_t at = held->bit == MAPPED ? b->key & ~MAPPED : b->bytes;
        if ((b->key & held->bit) == 0 || b->owner != held->owner || at < held->from ||
            at - held->from >= held->size || (held->dev >= 0 && b->dev != held->dev))
            continue;
        handle = b->charged;
        harp_map_remove(&l->handles, b);
    }
    harp_ledger_unlock();
    return handle;
}

static void let_go(const struct held *held)
{
    for (uint64_t handle; (handle = forget_one(held)) != 0;) {
        struct harp_drop drop = harp_handle_drop(PHYSICAL(handle));
        harp_handle_dropped(&drop, true);
    }
}

/* A reference of `key` to `handle`, if that is memory of ours. */
static void hold(uint64_t key, uint64_t owner, uint64_t handle, uint64_t bytes)
{
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_block *physical = harp_map_find(&l->handles, PHYSICAL(handle));
    struct harp_block *b = physical != NULL ? harp_map_add(&l->handles, key) : NULL;
    if (b != NULL) {
        physical = harp_map_find(&l->handles, PHYSICAL(handle)); /* adding may have moved it */
        physical->refs++;
        b->dev = physical->dev;
        b->bytes = bytes;
        b->owner = owner;
        b->cls = HARP_REFERENCE;
        b->charged = handle; /* whose reference this is */
    }
    harp_ledger_unlock();
}

static void keep(uint64_t keeper, uint64_t handle, uint64_t offset)
{
    static uint64_t number; /* atomic */
    hold(KEPT | __atomic_add_fetch(&number, 1, __ATOMIC_RELAXED), keeper, handle, offset);
}

void harp_keeper_gone(uint64_t keeper)
{
    let_go(&(struct held){.bit = KEPT, .owner = keeper, .size = UINT64_MAX, .dev = -1});
}

/* --- handles and mappings -------------------------------------------------------------------- */

CUresult harp_hook_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                               const CUmemAllocationProp *prop, unsigned long long flags)
{
    if (harp_inside() || handle == NULL || prop == NULL || size == 0 ||
        !somewhere(prop->location.type))
        return HARP_REAL(cuMemCreate)(handle, size, prop, flags);
    bool on_device = prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    uint32_t cls = on_device ? HARP_MEM_DEVICE : HARP_MEM_HOST;
    int dev = on_device ? harp_device_of(prop->location.id) : harp_session_any();
    uint64_t bytes = on_device ? harp_granules(size) : harp_host_pages(0, size);
    CUresult r = harp_lease(dev, cls, bytes);
    if (r != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuMemCreate)(handle, size, prop, flags));
    if (r == CUDA_SUCCESS &&
        (r = harp_handle_made_of(cls, PHYSICAL(*handle), 0, dev, bytes)) != CUDA_SUCCESS) {
        CUresult ignored;
        HARP_INSIDE(ignored, HARP_REAL(cuMemRelease)(*handle));
        (void)ignored;
    }
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, cls, bytes);
    return r;
}

CUresult harp_hook_cuMemRelease(CUmemGenericAllocationHandle handle)
{
    if (harp_inside())
        return HARP_REAL(cuMemRelease)(handle);
    struct harp_drop drop = harp_handle_drop(PHYSICAL(handle));
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMemRelease)(handle));
    harp_handle_dropped(&drop, r == CUDA_SUCCESS);
    return r;
}

CUresult harp_hook_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    CUresult r;
    struct harp_seen seen;
    if (harp_swap_find((CUdeviceptr)(uintptr_t)addr, &seen)) /* as of any cuMemAlloc */
        return CUDA_ERROR_INVALID_VALUE;
    HARP_INSIDE(r, HARP_REAL(cuMemRetainAllocationHandle)(handle, addr));
    if (r == CUDA_SUCCESS && handle != NULL && !harp_inside())
        harp_handle_ref(PHYSICAL(*handle));
    return r;
}

CUresult harp_hook_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
                            CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMemMap)(ptr, size, offset, handle, flags));
    if (r != CUDA_SUCCESS || harp_inside())
        return r;
    hold(ptr | MAPPED, 0, handle, size);
    return r;
}

/* Unmapping a range ends every mapping that lies in it. */
CUresult harp_hook_cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    CUresult r;
    struct harp_seen seen;
    if (harp_swap_find(ptr, &seen))
        return CUDA_ERROR_INVALID_VALUE;
    HARP_INSIDE(r, HARP_REAL(cuMemUnmap)(ptr, size));
    if (r != CUDA_SUCCESS || harp_inside())
        return r;
    let_go(&(struct held){.bit = MAPPED, .from = ptr, .size = size, .dev = -1});
    return r;
}

/* --- what keeps memory ----------------------------------------------------------------------- */

/* Tiles of sparse arrays. Which of them a later unmapping leaves is not followed: what was ever
 * mapped into an array counts until the array is destroyed. */
static void tiles_mapped(const CUarrayMapInfo *list, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++) {
        uint64_t array = (uint64_t)(uintptr_t)list[i].resource.array; /* or mipmap: a union */
        uint64_t handle = list[i].memHandle.memHandle;
        bool known = false;
        if (list[i].memOperationType != CU_MEM_OPERATION_TYPE_MAP)
            continue;
        struct harp_ledger *l = harp_ledger_lock();
        for (size_t at = 0; at < l->handles.places && !known; at++) {
            const struct harp_block *b = &l->handles.at[at];
            known = (b->key & KEPT) != 0 && b->owner == array && b->charged == handle;
        }
        harp_ledger_unlock();
        if (!known)
            keep(array, handle, 0);
    }
}

CUresult harp_hook_cuMemMapArrayAsync(CUarrayMapInfo *mapInfoList, unsigned int count,
                                      CUstream hStream)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMemMapArrayAsync)(mapInfoList, count, hStream));
    if (r == CUDA_SUCCESS && !harp_inside())
        tiles_mapped(mapInfoList, count);
    return r;
}

CUresult harp_hook_cuMemMapArrayAsync_ptsz(CUarrayMapInfo *mapInfoList, unsigned int count,
                                           CUstream hStream)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMemMapArrayAsync_ptsz)(mapInfoList, count, hStream));
    if (r == CUDA_SUCCESS && !harp_inside())
        tiles_mapped(mapInfoList, count);
    return r;
}

/* A multicast object is an address at the switch: what is bound to it has been charged when it was
 * made, and stays so until it is unbound or the object is gone. */
CUresult harp_hook_cuMulticastCreate(CUmemGenericAllocationHandle *mcHandle,
                                     const CUmulticastObjectProp *prop)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMulticastCreate)(mcHandle, prop));
    if (r == CUDA_SUCCESS && !harp_inside())
        harp_handle_made_of(HARP_KEEPER, PHYSICAL(*mcHandle), *mcHandle, -1, 0);
    return r;
}

CUresult harp_hook_cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                      CUmemGenericAllocationHandle memHandle, size_t memOffset,
                                      size_t size, unsigned long long flags)
{
    CUresult r;
    HARP_INSIDE(
        r, HARP_REAL(cuMulticastBindMem)(mcHandle, mcOffset, memHandle, memOffset, size, flags));
    if (r == CUDA_SUCCESS && !harp_inside())
        keep(mcHandle, memHandle, mcOffset);
    return r;
}

CUresult harp_hook_cuMulticastBindAddr(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                       CUdeviceptr memptr, size_t size, unsigned long long flags)
{
    CUresult r;
    uint64_t handle = 0;
    HARP_INSIDE(r, HARP_REAL(cuMulticastBindAddr)(mcHandle, mcOffset, memptr, size, flags));
    if (r != CUDA_SUCCESS || harp_inside())
        return r;
    struct harp_ledger *l = harp_ledger_lock();
    for (size_t i = 0; i < l->handles.places && handle == 0; i++) {
        const struct harp_block *b = &l->handles.at[i];
        uint64_t at = b->key & ~MAPPED;
        if ((b->key & MAPPED) != 0 && at <= memptr && memptr - at < b->bytes)
            handle = b->charged;
    }
    harp_ledger_unlock();
    if (handle != 0)
        keep(mcHandle, handle, mcOffset);
    return r;
}

CUresult harp_hook_cuMulticastUnbind(CUmemGenericAllocationHandle mcHandle, CUdevice dev,
                                     size_t mcOffset, size_t size)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuMulticastUnbind)(mcHandle, dev, mcOffset, size));
    if (r == CUDA_SUCCESS && !harp_inside())
        let_go(&(struct held){KEPT, mcHandle, mcOffset, size, harp_device_of(dev)});
    return r;
}
