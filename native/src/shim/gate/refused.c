/* SPDX-License-Identifier: Apache-2.0
 *
 * Ways to device memory that are not charged. A tenant with a memory limit gets an honest
 * NOT_SUPPORTED, logged by name; without a limit they pass. Never a hole.
 */
#include <limits.h>
#include <stddef.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/memory.h"

#define REFUSE(name, call)                                                                         \
    do {                                                                                           \
        if (!harp_inside() && harp_refused(name))                                                  \
            return CUDA_ERROR_NOT_SUPPORTED;                                                       \
        return call;                                                                               \
    } while (0)

/* Interfaces of CUDA 2 with 32-bit pointers. */
CUresult harp_hook_cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize)
{
    REFUSE("cuMemAlloc (32 bit)", HARP_REAL(cuMemAlloc)(dptr, bytesize));
}

CUresult harp_hook_cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch,
                                   unsigned int WidthInBytes, unsigned int Height,
                                   unsigned int ElementSizeBytes)
{
    REFUSE("cuMemAllocPitch (32 bit)",
           HARP_REAL(cuMemAllocPitch)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

CUresult harp_hook_cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *pAllocateArray)
{
    REFUSE("cuArrayCreate (32 bit)", HARP_REAL(cuArrayCreate)(pHandle, pAllocateArray));
}

CUresult harp_hook_cuArray3DCreate(CUarray *pHandle,
                                   const CUDA_ARRAY3D_DESCRIPTOR_v1 *pAllocateArray)
{
    REFUSE("cuArray3DCreate (32 bit)", HARP_REAL(cuArray3DCreate)(pHandle, pAllocateArray));
}

CUresult harp_hook_cuMemGetInfo(unsigned int *free, unsigned int *total)
{
    size_t f = 0, t = 0;
    if (free == NULL || total == NULL || !HARP_HAS(cuMemGetInfo_v2))
        return HARP_REAL(cuMemGetInfo)(free, total);
    CUresult r = harp_hook_cuMemGetInfo_v2(&f, &t);
    *free = f < UINT_MAX ? (unsigned int)f : UINT_MAX;
    *total = t < UINT_MAX ? (unsigned int)t : UINT_MAX;
    return r;
}

CUresult harp_hook_cuDeviceTotalMem(unsigned int *bytes, CUdevice dev)
{
    size_t b = 0;
    if (bytes == NULL || !HARP_HAS(cuDeviceTotalMem_v2))
        return HARP_REAL(cuDeviceTotalMem)(bytes, dev);
    CUresult r = harp_hook_cuDeviceTotalMem_v2(&b, dev);
    *bytes = b < UINT_MAX ? (unsigned int)b : UINT_MAX;
    return r;
}
