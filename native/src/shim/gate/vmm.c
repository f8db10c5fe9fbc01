/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory without an address (cuMemCreate and its kin): it lives until the last reference
 * and the last mapping are gone. Both count as references of its handle here.
 */
#include "src/shim/gate/memory.h"

#include <stddef.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"

#define MAPPED      HARP_KEY_MAPPING
#define PHYSICAL(h) ((uint64_t)(h) | HARP_KEY_PHYSICAL)

CUresult harp_hook_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                               const CUmemAllocationProp *prop, unsigned long long flags)
{
    if (harp_inside() || handle == NULL || prop == NULL || size == 0 ||
        prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return HARP_REAL(cuMemCreate)(handle, size, prop, flags);
    int dev = harp_device_of(prop->location.id);
    uint64_t bytes = harp_granules(size);
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, bytes);
    if (r != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuMemCreate)(handle, size, prop, flags));
    if (r == CUDA_SUCCESS &&
        (r = harp_handle_made(PHYSICAL(*handle), 0, dev, bytes)) != CUDA_SUCCESS) {
        CUresult ignored;
        HARP_INSIDE(ignored, HARP_REAL(cuMemRelease)(*handle));
        (void)ignored;
    }
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, HARP_MEM_DEVICE, bytes);
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
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_block *physical = harp_map_find(&l->handles, PHYSICAL(handle));
    struct harp_block *mapping = physical != NULL ? harp_map_add(&l->handles, ptr | MAPPED) : NULL;
    if (mapping != NULL) {
        mapping->dev = -1;
        mapping->bytes = size;
        mapping->owner = 0;
        mapping->charged = handle;                               /* whose reference this is */
        physical = harp_map_find(&l->handles, PHYSICAL(handle)); /* adding may have moved it */
        physical->refs++;
    }
    harp_ledger_unlock();
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
    for (bool more = true; more;) {
        more = false;
        uint64_t handle = 0;
        struct harp_ledger *l = harp_ledger_lock();
        for (size_t i = 0; i < l->handles.places && !more; i++) {
            struct harp_block *b = &l->handles.at[i];
            uint64_t at = b->key & ~MAPPED;
            if ((b->key & MAPPED) == 0 || at < ptr || at - ptr >= size)
                continue;
            handle = b->charged;
            harp_map_remove(&l->handles, b);
            more = true;
        }
        harp_ledger_unlock();
        if (more) {
            struct harp_drop drop = harp_handle_drop(PHYSICAL(handle));
            harp_handle_dropped(&drop, true);
        }
    }
    return r;
}

CUresult harp_hook_cuMulticastCreate(CUmemGenericAllocationHandle *mcHandle,
                                     const CUmulticastObjectProp *prop)
{
    if (!harp_inside() && harp_refused("cuMulticastCreate"))
        return CUDA_ERROR_NOT_SUPPORTED;
    return HARP_REAL(cuMulticastCreate)(mcHandle, prop);
}
