/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake driver of shim_fake_cuda.c, with what neither it nor the software GPU has: arrays that
 * are mapped later and say what they need, sparse tiles, multicast, external memory, green
 * contexts. FAKE_FAIL names a function that answers CUDA_ERROR_NOT_SUPPORTED.
 */
#define cuArray3DCreate_v2      fake_array_3d
#define cuMipmappedArrayCreate  fake_mipmap
#define cuArrayDestroy          fake_array_gone
#define cuMipmappedArrayDestroy fake_mipmap_gone
#include "shim_fake_cuda.c"
#undef cuArray3DCreate_v2
#undef cuMipmappedArrayCreate
#undef cuArrayDestroy
#undef cuMipmappedArrayDestroy

static int fails(const char *name)
{
    const char *which = getenv("FAKE_FAIL");
    return which != NULL && strcmp(which, name) == 0;
}

/* One that is mapped later needs 3 KiB a row, whatever is in it, and takes nothing. */
static CUresult later(void **out, const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    *out = malloc(sizeof(uint64_t));
    *(uint64_t *)*out = 3072 * (d->Height != 0 ? d->Height : 1);
    return CUDA_SUCCESS;
}

CUresult cuArray3DCreate_v2(CUarray *a, const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    if ((d->Flags & (CUDA_ARRAY3D_DEFERRED_MAPPING | CUDA_ARRAY3D_SPARSE)) != 0)
        return fails("deferred") ? CUDA_ERROR_INVALID_VALUE : later((void **)a, d);
    return fake_array_3d(a, d);
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray *a, const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned n)
{
    if ((d->Flags & CUDA_ARRAY3D_DEFERRED_MAPPING) != 0)
        return fails("deferred") ? CUDA_ERROR_INVALID_VALUE : later((void **)a, d);
    return fake_mipmap(a, d, n);
}

CUresult cuArrayDestroy(CUarray a)
{
    if (fake_array_gone(a) != CUDA_SUCCESS)
        free(a);
    return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray a)
{
    if (fake_mipmap_gone(a) != CUDA_SUCCESS)
        free(a);
    return CUDA_SUCCESS;
}

static CUresult needs(CUDA_ARRAY_MEMORY_REQUIREMENTS *out, const void *array)
{
    *out = (CUDA_ARRAY_MEMORY_REQUIREMENTS){.size = *(const uint64_t *)array, .alignment = 65536};
    return CUDA_SUCCESS;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out, CUarray a, CUdevice d)
{
    return needs(out, a);
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out,
                                               CUmipmappedArray a, CUdevice d)
{
    return needs(out, a);
}

CUresult cuMemMapArrayAsync(CUarrayMapInfo *list, unsigned int count, CUstream s)
{
    return fails("cuMemMapArrayAsync") ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
}

CUresult cuMulticastCreate(CUmemGenericAllocationHandle *h, const CUmulticastObjectProp *prop)
{
    static uint64_t next = 0x5000;
    *h = next++;
    return CUDA_SUCCESS;
}

CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle h, CUdevice d)
{
    return CUDA_SUCCESS;
}

CUresult cuMulticastBindMem(CUmemGenericAllocationHandle h, size_t at,
                            CUmemGenericAllocationHandle mem, size_t offset, size_t n,
                            unsigned long long flags)
{
    return CUDA_SUCCESS;
}

CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle h, size_t at, CUdeviceptr p, size_t n,
                             unsigned long long flags)
{
    return CUDA_SUCCESS;
}

CUresult cuMulticastUnbind(CUmemGenericAllocationHandle h, CUdevice d, size_t at, size_t n)
{
    return CUDA_SUCCESS;
}

CUresult cuImportExternalMemory(CUexternalMemory *out, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *d)
{
    if (fails("cuImportExternalMemory"))
        return CUDA_ERROR_NOT_SUPPORTED;
    *out = (CUexternalMemory)malloc(16);
    return CUDA_SUCCESS;
}

CUresult cuDestroyExternalMemory(CUexternalMemory m)
{
    free(m);
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxCreate(CUgreenCtx *g, CUdevResourceDesc desc, CUdevice d, unsigned int flags)
{
    CUcontext c;
    if (fails("cuGreenCtxCreate"))
        return CUDA_ERROR_NOT_SUPPORTED;
    *g = (CUgreenCtx)malloc(16);
    return cuDevicePrimaryCtxRetain(&c, d);
}

CUresult cuGreenCtxDestroy(CUgreenCtx g)
{
    free(g);
    return cuDevicePrimaryCtxRelease_v2(0);
}
