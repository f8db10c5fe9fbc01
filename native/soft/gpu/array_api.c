/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on arrays and mipmaps. Sparse arrays and arrays mapped later do not exist here, so
 * what asks for their properties gets what the driver says of an array that is neither.
 */
#include "soft/gpu/array.h"
#include "soft/gpu/capture.h"

static CUresult create(struct soft_array **out, const void *wanted,
                       const CUDA_ARRAY3D_DESCRIPTOR *desc, bool mipmap, unsigned levels)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (wanted == NULL || desc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return soft_array_make(ctx, desc, mipmap, levels, out);
}

static CUresult create_array(CUarray *handle, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
    struct soft_array *a;
    CUresult r = create(&a, handle, desc, false, 0);

    if (r == CUDA_SUCCESS)
        *handle = (CUarray)(void *)a;
    return r;
}

CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
    return create_array(pHandle, pAllocateArray);
}

CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
    const CUDA_ARRAY_DESCRIPTOR *d = pAllocateArray;
    CUDA_ARRAY3D_DESCRIPTOR desc;

    if (d == NULL)
        return create_array(pHandle, NULL);
    desc = (CUDA_ARRAY3D_DESCRIPTOR){
        .Width = d->Width, .Height = d->Height, .Format = d->Format, .NumChannels = d->NumChannels};
    return create_array(pHandle, &desc);
}

CUresult cuArray3DCreate(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR_v1 *pAllocateArray)
{
    const CUDA_ARRAY3D_DESCRIPTOR_v1 *d = pAllocateArray;
    CUDA_ARRAY3D_DESCRIPTOR desc;

    if (d == NULL)
        return create_array(pHandle, NULL);
    desc = (CUDA_ARRAY3D_DESCRIPTOR){d->Width,  d->Height,      d->Depth,
                                     d->Format, d->NumChannels, d->Flags};
    return create_array(pHandle, &desc);
}

CUresult cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *pAllocateArray)
{
    const CUDA_ARRAY_DESCRIPTOR_v1 *d = pAllocateArray;
    CUDA_ARRAY3D_DESCRIPTOR desc;

    if (d == NULL)
        return create_array(pHandle, NULL);
    desc = (CUDA_ARRAY3D_DESCRIPTOR){
        .Width = d->Width, .Height = d->Height, .Format = d->Format, .NumChannels = d->NumChannels};
    return create_array(pHandle, &desc);
}

/* A handle of a call that needs a context; `out` is what the caller is to be told in. */
static CUresult known(CUarray handle, const void *out, const struct soft_array **a)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *a = soft_array_of(handle);
    return *a == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
    const struct soft_array *a;
    CUresult r = known(hArray, pArrayDescriptor, &a);

    if (r == CUDA_SUCCESS)
        *pArrayDescriptor = a->desc;
    return r;
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
    const struct soft_array *a;
    CUresult r = known(hArray, pArrayDescriptor, &a);

    if (r == CUDA_SUCCESS)
        *pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR){a->desc.Width, a->desc.Height, a->desc.Format,
                                                    a->desc.NumChannels};
    return r;
}

CUresult cuArray3DGetDescriptor(CUDA_ARRAY3D_DESCRIPTOR_v1 *pArrayDescriptor, CUarray hArray)
{
    const struct soft_array *a;
    CUresult r = known(hArray, pArrayDescriptor, &a);

    if (r == CUDA_SUCCESS)
        *pArrayDescriptor = (CUDA_ARRAY3D_DESCRIPTOR_v1){
            (unsigned)a->desc.Width, (unsigned)a->desc.Height, (unsigned)a->desc.Depth,
            a->desc.Format,          a->desc.NumChannels,      a->desc.Flags};
    return r;
}

CUresult cuArrayGetDescriptor(CUDA_ARRAY_DESCRIPTOR_v1 *pArrayDescriptor, CUarray hArray)
{
    const struct soft_array *a;
    CUresult r = known(hArray, pArrayDescriptor, &a);

    if (r == CUDA_SUCCESS)
        *pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR_v1){
            (unsigned)a->desc.Width, (unsigned)a->desc.Height, a->desc.Format, a->desc.NumChannels};
    return r;
}

CUresult cuArrayDestroy(CUarray hArray)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    return soft_array_drop(soft_array_of(hArray), false) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuArrayGetPlane(CUarray *pPlaneArray, CUarray hArray, unsigned int planeIdx)
{
    const struct soft_array *a;
    CUresult r = known(hArray, pPlaneArray, &a);

    if (r != CUDA_SUCCESS)
        return r;
    if (planeIdx >= a->part_count)
        return CUDA_ERROR_INVALID_VALUE;
    *pPlaneArray = (CUarray)(void *)&a->parts[planeIdx];
    return CUDA_SUCCESS;
}

CUresult cuArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES *sparseProperties, CUarray array)
{
    const struct soft_array *a;
    CUresult r = known(array, sparseProperties, &a);

    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements,
                                      CUarray array, CUdevice device)
{
    const struct soft_array *a;
    CUresult r = known(array, memoryRequirements, &a);

    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE;
}

/* --------------------------------------------------------------------------------- mipmaps ---- */
CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
                                const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                unsigned int numMipmapLevels)
{
    struct soft_array *a;
    CUresult r = create(&a, pHandle, pMipmappedArrayDesc, true, numMipmapLevels);

    if (r == CUDA_SUCCESS)
        *pHandle = (CUmipmappedArray)(void *)a;
    return r;
}

static CUresult known_mipmap(CUmipmappedArray handle, const void *out, const struct soft_array **a)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *a = soft_mipmap_of(handle);
    return *a == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult cuMipmappedArrayGetLevel(CUarray *pLevelArray, CUmipmappedArray hMipmappedArray,
                                  unsigned int level)
{
    const struct soft_array *a;
    CUresult r = known_mipmap(hMipmappedArray, pLevelArray, &a);

    if (r != CUDA_SUCCESS)
        return r;
    if (level >= a->part_count)
        return CUDA_ERROR_INVALID_VALUE;
    *pLevelArray = (CUarray)(void *)&a->parts[level];
    return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    return soft_array_drop(soft_mipmap_of(hMipmappedArray), true) ? CUDA_SUCCESS
                                                                  : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMipmappedArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES *sparseProperties,
                                             CUmipmappedArray mipmap)
{
    const struct soft_array *a;
    CUresult r = known_mipmap(mipmap, sparseProperties, &a);

    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements,
                                               CUmipmappedArray mipmap, CUdevice device)
{
    const struct soft_array *a;
    CUresult r = known_mipmap(mipmap, memoryRequirements, &a);

    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE;
}
