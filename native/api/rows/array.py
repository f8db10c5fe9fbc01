# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Arrays, textures, surfaces, tensor maps."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuArrayCreate", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuArrayCreate 2000 (CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *pAllocateArray)
        cuArrayCreate_v2 3020 (CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)""",
        remote="sync pHandle=new",
        charge=Charge.ARRAY),
    fn("cuArrayGetDescriptor", Cls.QUERY, Gate.NONE, """
        cuArrayGetDescriptor 2000 (CUDA_ARRAY_DESCRIPTOR_v1 *pArrayDescriptor, CUarray hArray)
        cuArrayGetDescriptor_v2 3020 (CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)""",
        remote="cached"),
    fn("cuArrayGetSparseProperties", Cls.QUERY, Gate.NONE, """
        cuArrayGetSparseProperties 11010 (CUDA_ARRAY_SPARSE_PROPERTIES *sparseProperties,
            CUarray array)""",
        remote="sync"),
    fn("cuMipmappedArrayGetSparseProperties", Cls.QUERY, Gate.NONE, """
        cuMipmappedArrayGetSparseProperties 11010
            (CUDA_ARRAY_SPARSE_PROPERTIES *sparseProperties, CUmipmappedArray mipmap)""",
        remote="sync"),
    fn("cuArrayGetMemoryRequirements", Cls.QUERY, Gate.NONE, """
        cuArrayGetMemoryRequirements 11060 (CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements,
            CUarray array, CUdevice device)""",
        remote="sync"),
    fn("cuMipmappedArrayGetMemoryRequirements", Cls.QUERY, Gate.NONE, """
        cuMipmappedArrayGetMemoryRequirements 11060
            (CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements, CUmipmappedArray mipmap,
            CUdevice device)""",
        remote="sync"),
    fn("cuArrayGetPlane", Cls.QUERY, Gate.NONE, """
        cuArrayGetPlane 11020 (CUarray *pPlaneArray, CUarray hArray, unsigned int planeIdx)""",
        remote="sync pPlaneArray=ref"),
    fn("cuArrayDestroy", Cls.FREE, Gate.MEM_FREE, """
        cuArrayDestroy 2000 (CUarray hArray)""",
        remote="sync hArray=del"),
    fn("cuArray3DCreate", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuArray3DCreate 2000 (CUarray *pHandle,
            const CUDA_ARRAY3D_DESCRIPTOR_v1 *pAllocateArray)
        cuArray3DCreate_v2 3020 (CUarray *pHandle,
            const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)""",
        remote="sync pHandle=new",
        charge=Charge.ARRAY),
    fn("cuArray3DGetDescriptor", Cls.QUERY, Gate.NONE, """
        cuArray3DGetDescriptor 2000 (CUDA_ARRAY3D_DESCRIPTOR_v1 *pArrayDescriptor,
            CUarray hArray)
        cuArray3DGetDescriptor_v2 3020 (CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor,
            CUarray hArray)""",
        remote="cached"),
    fn("cuMipmappedArrayCreate", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMipmappedArrayCreate 5000 (CUmipmappedArray *pHandle,
            const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc, unsigned int numMipmapLevels)""",
        remote="sync pHandle=new",
        charge=Charge.ARRAY),
    fn("cuMipmappedArrayGetLevel", Cls.QUERY, Gate.NONE, """
        cuMipmappedArrayGetLevel 5000 (CUarray *pLevelArray, CUmipmappedArray hMipmappedArray,
            unsigned int level)""",
        remote="sync pLevelArray=ref"),
    fn("cuMipmappedArrayDestroy", Cls.FREE, Gate.MEM_FREE, """
        cuMipmappedArrayDestroy 5000 (CUmipmappedArray hMipmappedArray)""",
        remote="sync hMipmappedArray=del"),
    fn("cuTexRefSetArray", Cls.OTHER, Gate.NONE, """
        cuTexRefSetArray 2000 (CUtexref hTexRef, CUarray hArray, unsigned int Flags)""",
        remote="sync"),
    fn("cuTexRefSetMipmappedArray", Cls.OTHER, Gate.NONE, """
        cuTexRefSetMipmappedArray 5000 (CUtexref hTexRef, CUmipmappedArray hMipmappedArray,
            unsigned int Flags)""",
        remote="sync"),
    fn("cuTexRefSetAddress", Cls.OTHER, Gate.TOUCH, """
        cuTexRefSetAddress 2000 (unsigned int *ByteOffset, CUtexref hTexRef,
            CUdeviceptr_v1 dptr, unsigned int bytes)
        cuTexRefSetAddress_v2 3020 (size_t *ByteOffset, CUtexref hTexRef, CUdeviceptr dptr,
            size_t bytes)""",
        remote="sync"),
    fn("cuTexRefSetAddress2D", Cls.OTHER, Gate.TOUCH, """
        cuTexRefSetAddress2D 2020 (CUtexref hTexRef, const CUDA_ARRAY_DESCRIPTOR_v1 *desc,
            CUdeviceptr_v1 dptr, unsigned int Pitch)
        cuTexRefSetAddress2D_v2 3020 (CUtexref hTexRef, const CUDA_ARRAY_DESCRIPTOR *desc,
            CUdeviceptr dptr, size_t Pitch)
        cuTexRefSetAddress2D_v3 4010 (CUtexref hTexRef, const CUDA_ARRAY_DESCRIPTOR *desc,
            CUdeviceptr dptr, size_t Pitch)""",
        remote="sync"),
    fn("cuTexRefSetFormat", Cls.OTHER, Gate.NONE, """
        cuTexRefSetFormat 2000 (CUtexref hTexRef, CUarray_format fmt, int NumPackedComponents)""",
        remote="async"),
    fn("cuTexRefSetAddressMode", Cls.OTHER, Gate.NONE, """
        cuTexRefSetAddressMode 2000 (CUtexref hTexRef, int dim, CUaddress_mode am)""",
        remote="async"),
    fn("cuTexRefSetFilterMode", Cls.OTHER, Gate.NONE, """
        cuTexRefSetFilterMode 2000 (CUtexref hTexRef, CUfilter_mode fm)""",
        remote="async"),
    fn("cuTexRefSetMipmapFilterMode", Cls.OTHER, Gate.NONE, """
        cuTexRefSetMipmapFilterMode 5000 (CUtexref hTexRef, CUfilter_mode fm)""",
        remote="async"),
    fn("cuTexRefSetMipmapLevelBias", Cls.OTHER, Gate.NONE, """
        cuTexRefSetMipmapLevelBias 5000 (CUtexref hTexRef, float bias)""",
        remote="async"),
    fn("cuTexRefSetMipmapLevelClamp", Cls.OTHER, Gate.NONE, """
        cuTexRefSetMipmapLevelClamp 5000 (CUtexref hTexRef, float minMipmapLevelClamp,
            float maxMipmapLevelClamp)""",
        remote="async"),
    fn("cuTexRefSetMaxAnisotropy", Cls.OTHER, Gate.NONE, """
        cuTexRefSetMaxAnisotropy 5000 (CUtexref hTexRef, unsigned int maxAniso)""",
        remote="async"),
    fn("cuTexRefSetBorderColor", Cls.OTHER, Gate.NONE, """
        cuTexRefSetBorderColor 8000 (CUtexref hTexRef, float *pBorderColor)""",
        remote="async pBorderColor=in[4]"),
    fn("cuTexRefSetFlags", Cls.OTHER, Gate.NONE, """
        cuTexRefSetFlags 2000 (CUtexref hTexRef, unsigned int Flags)""",
        remote="async"),
    fn("cuTexRefGetAddress", Cls.QUERY, Gate.NONE, """
        cuTexRefGetAddress 2000 (CUdeviceptr_v1 *pdptr, CUtexref hTexRef)
        cuTexRefGetAddress_v2 3020 (CUdeviceptr *pdptr, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetArray", Cls.QUERY, Gate.NONE, """
        cuTexRefGetArray 2000 (CUarray *phArray, CUtexref hTexRef)""",
        remote="sync phArray=ref"),
    fn("cuTexRefGetMipmappedArray", Cls.QUERY, Gate.NONE, """
        cuTexRefGetMipmappedArray 5000 (CUmipmappedArray *phMipmappedArray, CUtexref hTexRef)""",
        remote="sync phMipmappedArray=ref"),
    fn("cuTexRefGetAddressMode", Cls.QUERY, Gate.NONE, """
        cuTexRefGetAddressMode 2000 (CUaddress_mode *pam, CUtexref hTexRef, int dim)""",
        remote="sync"),
    fn("cuTexRefGetFilterMode", Cls.QUERY, Gate.NONE, """
        cuTexRefGetFilterMode 2000 (CUfilter_mode *pfm, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetFormat", Cls.QUERY, Gate.NONE, """
        cuTexRefGetFormat 2000 (CUarray_format *pFormat, int *pNumChannels, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetMipmapFilterMode", Cls.QUERY, Gate.NONE, """
        cuTexRefGetMipmapFilterMode 5000 (CUfilter_mode *pfm, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetMipmapLevelBias", Cls.QUERY, Gate.NONE, """
        cuTexRefGetMipmapLevelBias 5000 (float *pbias, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetMipmapLevelClamp", Cls.QUERY, Gate.NONE, """
        cuTexRefGetMipmapLevelClamp 5000 (float *pminMipmapLevelClamp,
            float *pmaxMipmapLevelClamp, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetMaxAnisotropy", Cls.QUERY, Gate.NONE, """
        cuTexRefGetMaxAnisotropy 5000 (int *pmaxAniso, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefGetBorderColor", Cls.QUERY, Gate.NONE, """
        cuTexRefGetBorderColor 8000 (float *pBorderColor, CUtexref hTexRef)""",
        remote="sync pBorderColor=out[4]"),
    fn("cuTexRefGetFlags", Cls.QUERY, Gate.NONE, """
        cuTexRefGetFlags 2000 (unsigned int *pFlags, CUtexref hTexRef)""",
        remote="sync"),
    fn("cuTexRefCreate", Cls.OTHER, Gate.NONE, """
        cuTexRefCreate 2000 (CUtexref *pTexRef)""",
        remote="sync pTexRef=new"),
    fn("cuTexRefDestroy", Cls.FREE, Gate.NONE, """
        cuTexRefDestroy 2000 (CUtexref hTexRef)""",
        remote="async hTexRef=del"),
    fn("cuSurfRefSetArray", Cls.OTHER, Gate.NONE, """
        cuSurfRefSetArray 3000 (CUsurfref hSurfRef, CUarray hArray, unsigned int Flags)""",
        remote="sync"),
    fn("cuSurfRefGetArray", Cls.QUERY, Gate.NONE, """
        cuSurfRefGetArray 3000 (CUarray *phArray, CUsurfref hSurfRef)""",
        remote="sync phArray=ref"),
    fn("cuTexObjectCreate", Cls.OTHER, Gate.TOUCH, """
        cuTexObjectCreate 5000 (CUtexObject *pTexObject, const CUDA_RESOURCE_DESC *pResDesc,
            const CUDA_TEXTURE_DESC *pTexDesc, const CUDA_RESOURCE_VIEW_DESC *pResViewDesc)""",
        remote="sync"),
    fn("cuTexObjectDestroy", Cls.FREE, Gate.NONE, """
        cuTexObjectDestroy 5000 (CUtexObject texObject)""",
        remote="async"),
    fn("cuTexObjectGetResourceDesc", Cls.QUERY, Gate.NONE, """
        cuTexObjectGetResourceDesc 5000 (CUDA_RESOURCE_DESC *pResDesc, CUtexObject texObject)""",
        remote="sync"),
    fn("cuTexObjectGetTextureDesc", Cls.QUERY, Gate.NONE, """
        cuTexObjectGetTextureDesc 5000 (CUDA_TEXTURE_DESC *pTexDesc, CUtexObject texObject)""",
        remote="sync"),
    fn("cuTexObjectGetResourceViewDesc", Cls.QUERY, Gate.NONE, """
        cuTexObjectGetResourceViewDesc 5000 (CUDA_RESOURCE_VIEW_DESC *pResViewDesc,
            CUtexObject texObject)""",
        remote="sync"),
    fn("cuSurfObjectCreate", Cls.OTHER, Gate.NONE, """
        cuSurfObjectCreate 5000 (CUsurfObject *pSurfObject, const CUDA_RESOURCE_DESC *pResDesc)""",
        remote="sync"),
    fn("cuSurfObjectDestroy", Cls.FREE, Gate.NONE, """
        cuSurfObjectDestroy 5000 (CUsurfObject surfObject)""",
        remote="async"),
    fn("cuSurfObjectGetResourceDesc", Cls.QUERY, Gate.NONE, """
        cuSurfObjectGetResourceDesc 5000 (CUDA_RESOURCE_DESC *pResDesc, CUsurfObject surfObject)""",
        remote="sync"),
    fn("cuTensorMapEncodeTiled", Cls.QUERY, Gate.NONE, """
        cuTensorMapEncodeTiled 12000 (CUtensorMap *tensorMap,
            CUtensorMapDataType tensorDataType, cuuint32_t tensorRank, void *globalAddress,
            const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
            const cuuint32_t *boxDim, const cuuint32_t *elementStrides,
            CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
            CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)""",
        remote="sync globalAddress=device globalDim=in[tensorRank] globalStrides=in[tensorRank-1] "
            "boxDim=in[tensorRank] elementStrides=in[tensorRank]"),
    fn("cuTensorMapEncodeIm2col", Cls.QUERY, Gate.NONE, """
        cuTensorMapEncodeIm2col 12000 (CUtensorMap *tensorMap,
            CUtensorMapDataType tensorDataType, cuuint32_t tensorRank, void *globalAddress,
            const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
            const int *pixelBoxLowerCorner, const int *pixelBoxUpperCorner,
            cuuint32_t channelsPerPixel, cuuint32_t pixelsPerColumn,
            const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
            CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion,
            CUtensorMapFloatOOBfill oobFill)""",
        remote="sync globalAddress=device globalDim=in[tensorRank] globalStrides=in[tensorRank-1] "
            "pixelBoxLowerCorner=in[tensorRank-2] pixelBoxUpperCorner=in[tensorRank-2] "
            "elementStrides=in[tensorRank]"),
    fn("cuTensorMapEncodeIm2colWide", Cls.QUERY, Gate.NONE, """
        cuTensorMapEncodeIm2colWide 12080 (CUtensorMap *tensorMap,
            CUtensorMapDataType tensorDataType, cuuint32_t tensorRank, void *globalAddress,
            const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
            int pixelBoxLowerCornerWidth, int pixelBoxUpperCornerWidth,
            cuuint32_t channelsPerPixel, cuuint32_t pixelsPerColumn,
            const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
            CUtensorMapIm2ColWideMode mode, CUtensorMapSwizzle swizzle,
            CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)""",
        remote="sync globalAddress=device globalDim=in[tensorRank] globalStrides=in[tensorRank-1] "
            "elementStrides=in[tensorRank]"),
    fn("cuTensorMapReplaceAddress", Cls.QUERY, Gate.NONE, """
        cuTensorMapReplaceAddress 12000 (CUtensorMap *tensorMap, void *globalAddress)""",
        remote="sync tensorMap=inout globalAddress=device"),
)
