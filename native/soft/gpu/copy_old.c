/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies as they were called before 64-bit addresses. A device pointer of then has 32 bits, and no
 * memory here lies that low: the host's and arrays are what they still copy.
 */
#include "soft/gpu/soft.h"

CUresult cuMemcpyDtoA(CUarray dstArray, unsigned int dstOffset, CUdeviceptr_v1 srcDevice,
                      unsigned int ByteCount)
{
    return cuMemcpyDtoA_v2(dstArray, dstOffset, srcDevice, ByteCount);
}

CUresult cuMemcpyAtoD(CUdeviceptr_v1 dstDevice, CUarray srcArray, unsigned int srcOffset,
                      unsigned int ByteCount)
{
    return cuMemcpyAtoD_v2(dstDevice, srcArray, srcOffset, ByteCount);
}

CUresult cuMemcpyHtoA(CUarray dstArray, unsigned int dstOffset, const void *srcHost,
                      unsigned int ByteCount)
{
    return cuMemcpyHtoA_v2(dstArray, dstOffset, srcHost, ByteCount);
}

CUresult cuMemcpyAtoH(void *dstHost, CUarray srcArray, unsigned int srcOffset,
                      unsigned int ByteCount)
{
    return cuMemcpyAtoH_v2(dstHost, srcArray, srcOffset, ByteCount);
}

CUresult cuMemcpyAtoA(CUarray dstArray, unsigned int dstOffset, CUarray srcArray,
                      unsigned int srcOffset, unsigned int ByteCount)
{
    return cuMemcpyAtoA_v2(dstArray, dstOffset, srcArray, srcOffset, ByteCount);
}

CUresult cuMemcpyHtoAAsync(CUarray dstArray, unsigned int dstOffset, const void *srcHost,
                           unsigned int ByteCount, CUstream hStream)
{
    return cuMemcpyHtoAAsync_v2(dstArray, dstOffset, srcHost, ByteCount, hStream);
}

CUresult cuMemcpyAtoHAsync(void *dstHost, CUarray srcArray, unsigned int srcOffset,
                           unsigned int ByteCount, CUstream hStream)
{
    return cuMemcpyAtoHAsync_v2(dstHost, srcArray, srcOffset, ByteCount, hStream);
}

static CUDA_MEMCPY2D wide_2d(const CUDA_MEMCPY2D_v1 *m)
{
    return (CUDA_MEMCPY2D){.srcXInBytes = m->srcXInBytes,
                           .srcY = m->srcY,
                           .srcMemoryType = m->srcMemoryType,
                           .srcHost = m->srcHost,
                           .srcDevice = m->srcDevice,
                           .srcArray = m->srcArray,
                           .srcPitch = m->srcPitch,
                           .dstXInBytes = m->dstXInBytes,
                           .dstY = m->dstY,
                           .dstMemoryType = m->dstMemoryType,
                           .dstHost = m->dstHost,
                           .dstDevice = m->dstDevice,
                           .dstArray = m->dstArray,
                           .dstPitch = m->dstPitch,
                           .WidthInBytes = m->WidthInBytes,
                           .Height = m->Height};
}

static CUDA_MEMCPY3D wide_3d(const CUDA_MEMCPY3D_v1 *m)
{
    return (CUDA_MEMCPY3D){.srcXInBytes = m->srcXInBytes,
                           .srcY = m->srcY,
                           .srcZ = m->srcZ,
                           .srcLOD = m->srcLOD,
                           .srcMemoryType = m->srcMemoryType,
                           .srcHost = m->srcHost,
                           .srcDevice = m->srcDevice,
                           .srcArray = m->srcArray,
                           .srcPitch = m->srcPitch,
                           .srcHeight = m->srcHeight,
                           .dstXInBytes = m->dstXInBytes,
                           .dstY = m->dstY,
                           .dstZ = m->dstZ,
                           .dstLOD = m->dstLOD,
                           .dstMemoryType = m->dstMemoryType,
                           .dstHost = m->dstHost,
                           .dstDevice = m->dstDevice,
                           .dstArray = m->dstArray,
                           .dstPitch = m->dstPitch,
                           .dstHeight = m->dstHeight,
                           .WidthInBytes = m->WidthInBytes,
                           .Height = m->Height,
                           .Depth = m->Depth};
}

CUresult cuMemcpy2D(const CUDA_MEMCPY2D_v1 *pCopy)
{
    CUDA_MEMCPY2D wide;

    if (pCopy == NULL)
        return cuMemcpy2D_v2(NULL);
    wide = wide_2d(pCopy);
    return cuMemcpy2D_v2(&wide);
}

CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D_v1 *pCopy)
{
    CUDA_MEMCPY2D wide;

    if (pCopy == NULL)
        return cuMemcpy2DUnaligned_v2(NULL);
    wide = wide_2d(pCopy);
    return cuMemcpy2DUnaligned_v2(&wide);
}

CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D_v1 *pCopy, CUstream hStream)
{
    CUDA_MEMCPY2D wide;

    if (pCopy == NULL)
        return cuMemcpy2DAsync_v2(NULL, hStream);
    wide = wide_2d(pCopy);
    return cuMemcpy2DAsync_v2(&wide, hStream);
}

CUresult cuMemcpy3D(const CUDA_MEMCPY3D_v1 *pCopy)
{
    CUDA_MEMCPY3D wide;

    if (pCopy == NULL)
        return cuMemcpy3D_v2(NULL);
    wide = wide_3d(pCopy);
    return cuMemcpy3D_v2(&wide);
}

CUresult cuMemcpy3DAsync(const CUDA_MEMCPY3D_v1 *pCopy, CUstream hStream)
{
    CUDA_MEMCPY3D wide;

    if (pCopy == NULL)
        return cuMemcpy3DAsync_v2(NULL, hStream);
    wide = wide_3d(pCopy);
    return cuMemcpy3DAsync_v2(&wide, hStream);
}
