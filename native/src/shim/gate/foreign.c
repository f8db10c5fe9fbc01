/* SPDX-License-Identifier: Apache-2.0
 *
 * External memory: made by another interface (Vulkan, Direct3D, NvSci) and imported. The ledger
 * charges its importer, in full, from the import to the destruction: whoever made it is no client
 * of HARP, so nothing else would hold it to a limit. Where another process made it, the device
 * lists it there, and this one is charged for memory of another's: said in the log.
 */
#include <stddef.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

CUresult harp_hook_cuImportExternalMemory(CUexternalMemory *extMem_out,
                                          const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc)
{
    int dev;
    CUcontext ctx;
    CUresult r;
    if (harp_inside() || extMem_out == NULL || memHandleDesc == NULL || memHandleDesc->size == 0 ||
        memHandleDesc->size > 1ull << 50 || harp_device_current(&dev, &ctx) != CUDA_SUCCESS)
        return HARP_REAL(cuImportExternalMemory)(extMem_out, memHandleDesc);
    uint64_t bytes = harp_granules(memHandleDesc->size);
    if ((r = harp_lease(dev, HARP_MEM_DEVICE, bytes)) != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuImportExternalMemory)(extMem_out, memHandleDesc));
    bool made = r == CUDA_SUCCESS;
    if (made)
        r = harp_handle_made((uint64_t)(uintptr_t)*extMem_out, (uint64_t)(uintptr_t)ctx, dev,
                             bytes);
    if (made && r != CUDA_SUCCESS) {
        CUresult ignored;
        HARP_INSIDE(ignored, HARP_REAL(cuDestroyExternalMemory)(*extMem_out));
        (void)ignored;
    }
    if (r != CUDA_SUCCESS)
        harp_unlease(dev, HARP_MEM_DEVICE, bytes);
    else
        harp_log("external_memory_charged dev=%d bytes=%llu owner=external", dev,
                 (unsigned long long)bytes);
    return r;
}

CUresult harp_hook_cuDestroyExternalMemory(CUexternalMemory extMem)
{
    if (harp_inside())
        return HARP_REAL(cuDestroyExternalMemory)(extMem);
    struct harp_drop gone = harp_handle_drop((uint64_t)(uintptr_t)extMem);
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuDestroyExternalMemory)(extMem));
    harp_handle_dropped(&gone, r == CUDA_SUCCESS);
    return r;
}
