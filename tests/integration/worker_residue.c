/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver that keeps what it is given back as hardware would: before the software GPU frees memory
 * this looks for a mark in it, when the device has come to rest, and says on stderr what it has
 * found: "cuMemFree_v2 dirty" or "clean". Linked with the software GPU, whose functions are found
 * behind its own.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "generated/cuda_abi.h"

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MARK       0x5ec4e75ec4e75ec4ull /* of the test's */

static void say(const char *name, const void *data, size_t bytes, CUresult r)
{
    uint64_t mark = MARK;
    int found = 0;
    for (size_t i = 0; r == CUDA_SUCCESS && i + 8 <= bytes; i += 8)
        found |= memcmp((const char *)data + i, &mark, 8) == 0;
    fprintf(stderr, "%s %s\n", name, r != CUDA_SUCCESS ? "unreadable" : found ? "dirty" : "clean");
}

static void look(const char *name, CUdeviceptr at, size_t bytes)
{
    void *copy = malloc(bytes);
    CUresult r = NEXT(cuCtxSynchronize)();
    if (r == CUDA_SUCCESS)
        r = NEXT(cuMemcpyDtoH_v2)(copy, at, bytes);
    say(name, copy, bytes, r);
    free(copy);
}

static void look_at_allocation(const char *name, CUdeviceptr at)
{
    CUdeviceptr base = 0;
    size_t bytes = 0;
    if (NEXT(cuMemGetAddressRange_v2)(&base, &bytes, at) == CUDA_SUCCESS)
        look(name, base, bytes);
    else
        fprintf(stderr, "%s unreadable\n", name);
}

CUresult cuMemFree_v2(CUdeviceptr at)
{
    look_at_allocation("cuMemFree_v2", at);
    return NEXT(cuMemFree_v2)(at);
}

CUresult cuMemFreeAsync(CUdeviceptr at, CUstream stream)
{
    look_at_allocation("cuMemFreeAsync", at);
    return NEXT(cuMemFreeAsync)(at, stream);
}

CUresult cuArrayDestroy(CUarray array)
{
    CUDA_ARRAY3D_DESCRIPTOR d;
    CUresult r = NEXT(cuArray3DGetDescriptor_v2)(&d, array);
    size_t height = d.Height == 0 ? 1 : d.Height, depth = d.Depth == 0 ? 1 : d.Depth;
    char *copy = calloc(height * depth, d.Width); /* elements of one byte */
    const CUDA_MEMCPY3D back = {.srcMemoryType = CU_MEMORYTYPE_ARRAY,
                                .srcArray = array,
                                .dstMemoryType = CU_MEMORYTYPE_HOST,
                                .dstHost = copy,
                                .dstPitch = d.Width,
                                .dstHeight = (unsigned)height,
                                .WidthInBytes = d.Width,
                                .Height = height,
                                .Depth = depth};
    if (r == CUDA_SUCCESS)
        r = NEXT(cuCtxSynchronize)();
    if (r == CUDA_SUCCESS)
        r = NEXT(cuMemcpy3D_v2)(&back);
    say("cuArrayDestroy", copy, d.Width * height * depth, r);
    free(copy);
    return NEXT(cuArrayDestroy)(array);
}

/* Whatever a handle stands for, at a place of our own. */
CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    const CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
                                    .flags = CU_MEM_ACCESS_FLAGS_PROT_READ};
    size_t bytes = 2u << 20;
    CUdeviceptr at = 0;
    if (NEXT(cuMemAddressReserve)(&at, bytes, 0, 0, 0) == CUDA_SUCCESS &&
        NEXT(cuMemMap)(at, bytes, 0, handle, 0) == CUDA_SUCCESS &&
        NEXT(cuMemSetAccess)(at, bytes, &access, 1) == CUDA_SUCCESS)
        look("cuMemRelease", at, bytes);
    NEXT(cuMemUnmap)(at, bytes);
    NEXT(cuMemAddressFree)(at, bytes);
    return NEXT(cuMemRelease)(handle);
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    const char *at = getenv("RESIDUE_AT"); /* a file that says where */
    unsigned long long address = 0;
    FILE *f = at == NULL ? NULL : fopen(at, "r");
    if (f != NULL && fscanf(f, "%llx", &address) == 1)
        look_at_allocation("cuCtxDestroy_v2", address);
    if (f != NULL)
        fclose(f);
    return NEXT(cuCtxDestroy_v2)(context);
}
