# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Copies and fills."""

from __future__ import annotations

from native.api.model import Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuMemcpy", Cls.COPY, Gate.COPY, """
        cuMemcpy 4000 ptds=7000 (CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)""",
        remote="async"),
    fn("cuMemcpyPeer", Cls.COPY, Gate.COPY, """
        cuMemcpyPeer 4000 ptds=7000 (CUdeviceptr dstDevice, CUcontext dstContext,
            CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount)""",
        remote="async"),
    fn("cuMemcpyHtoD", Cls.COPY, Gate.COPY, """
        cuMemcpyHtoD 2000 (CUdeviceptr_v1 dstDevice, const void *srcHost,
            unsigned int ByteCount)
        cuMemcpyHtoD_v2 3020 ptds=7000 (CUdeviceptr dstDevice, const void *srcHost,
            size_t ByteCount)""",
        remote="sync srcHost=send[ByteCount]"),
    fn("cuMemcpyDtoH", Cls.COPY, Gate.COPY, """
        cuMemcpyDtoH 2000 (void *dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount)
        cuMemcpyDtoH_v2 3020 ptds=7000 (void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)""",
        remote="sync dstHost=fetch[ByteCount]"),
    fn("cuMemcpyDtoD", Cls.COPY, Gate.COPY, """
        cuMemcpyDtoD 2000 (CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice,
            unsigned int ByteCount)
        cuMemcpyDtoD_v2 3020 ptds=7000 (CUdeviceptr dstDevice, CUdeviceptr srcDevice,
            size_t ByteCount)""",
        remote="async"),
    fn("cuMemcpyDtoA", Cls.COPY, Gate.COPY, """
        cuMemcpyDtoA 2000 (CUarray dstArray, unsigned int dstOffset, CUdeviceptr_v1 srcDevice,
            unsigned int ByteCount)
        cuMemcpyDtoA_v2 3020 ptds=7000 (CUarray dstArray, size_t dstOffset,
            CUdeviceptr srcDevice, size_t ByteCount)""",
        remote="async"),
    fn("cuMemcpyAtoD", Cls.COPY, Gate.COPY, """
        cuMemcpyAtoD 2000 (CUdeviceptr_v1 dstDevice, CUarray srcArray, unsigned int srcOffset,
            unsigned int ByteCount)
        cuMemcpyAtoD_v2 3020 ptds=7000 (CUdeviceptr dstDevice, CUarray srcArray,
            size_t srcOffset, size_t ByteCount)""",
        remote="async"),
    fn("cuMemcpyHtoA", Cls.COPY, Gate.COPY, """
        cuMemcpyHtoA 2000 (CUarray dstArray, unsigned int dstOffset, const void *srcHost,
            unsigned int ByteCount)
        cuMemcpyHtoA_v2 3020 ptds=7000 (CUarray dstArray, size_t dstOffset, const void *srcHost,
            size_t ByteCount)""",
        remote="sync srcHost=send[ByteCount]"),
    fn("cuMemcpyAtoH", Cls.COPY, Gate.COPY, """
        cuMemcpyAtoH 2000 (void *dstHost, CUarray srcArray, unsigned int srcOffset,
            unsigned int ByteCount)
        cuMemcpyAtoH_v2 3020 ptds=7000 (void *dstHost, CUarray srcArray, size_t srcOffset,
            size_t ByteCount)""",
        remote="sync dstHost=fetch[ByteCount]"),
    fn("cuMemcpyAtoA", Cls.COPY, Gate.COPY, """
        cuMemcpyAtoA 2000 (CUarray dstArray, unsigned int dstOffset, CUarray srcArray,
            unsigned int srcOffset, unsigned int ByteCount)
        cuMemcpyAtoA_v2 3020 ptds=7000 (CUarray dstArray, size_t dstOffset, CUarray srcArray,
            size_t srcOffset, size_t ByteCount)""",
        remote="async"),
    fn("cuMemcpy2D", Cls.COPY, Gate.COPY, """
        cuMemcpy2D 2000 (const CUDA_MEMCPY2D_v1 *pCopy)
        cuMemcpy2D_v2 3020 ptds=7000 (const CUDA_MEMCPY2D *pCopy)""",
        remote="sync"),
    fn("cuMemcpy2DUnaligned", Cls.COPY, Gate.COPY, """
        cuMemcpy2DUnaligned 2000 (const CUDA_MEMCPY2D_v1 *pCopy)
        cuMemcpy2DUnaligned_v2 3020 ptds=7000 (const CUDA_MEMCPY2D *pCopy)""",
        remote="sync"),
    fn("cuMemcpy3D", Cls.COPY, Gate.COPY, """
        cuMemcpy3D 2000 (const CUDA_MEMCPY3D_v1 *pCopy)
        cuMemcpy3D_v2 3020 ptds=7000 (const CUDA_MEMCPY3D *pCopy)""",
        remote="sync"),
    fn("cuMemcpy3DPeer", Cls.COPY, Gate.COPY, """
        cuMemcpy3DPeer 4000 ptds=7000 (const CUDA_MEMCPY3D_PEER *pCopy)""",
        remote="sync"),
    fn("cuMemcpyAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyAsync 4000 ptsz=7000 (CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
            CUstream hStream)""",
        remote="async"),
    fn("cuMemcpyPeerAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyPeerAsync 4000 ptsz=7000 (CUdeviceptr dstDevice, CUcontext dstContext,
            CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount, CUstream hStream)""",
        remote="async"),
    fn("cuMemcpyHtoDAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyHtoDAsync 2000 (CUdeviceptr_v1 dstDevice, const void *srcHost,
            unsigned int ByteCount, CUstream hStream)
        cuMemcpyHtoDAsync_v2 3020 ptsz=7000 (CUdeviceptr dstDevice, const void *srcHost,
            size_t ByteCount, CUstream hStream)""",
        remote="async srcHost=send[ByteCount]"),
    fn("cuMemcpyDtoHAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyDtoHAsync 2000 (void *dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount,
            CUstream hStream)
        cuMemcpyDtoHAsync_v2 3020 ptsz=7000 (void *dstHost, CUdeviceptr srcDevice,
            size_t ByteCount, CUstream hStream)""",
        remote="async dstHost=fetch[ByteCount]"),
    fn("cuMemcpyDtoDAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyDtoDAsync 3000 (CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice,
            unsigned int ByteCount, CUstream hStream)
        cuMemcpyDtoDAsync_v2 3020 ptsz=7000 (CUdeviceptr dstDevice, CUdeviceptr srcDevice,
            size_t ByteCount, CUstream hStream)""",
        remote="async"),
    fn("cuMemcpyHtoAAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyHtoAAsync 2000 (CUarray dstArray, unsigned int dstOffset, const void *srcHost,
            unsigned int ByteCount, CUstream hStream)
        cuMemcpyHtoAAsync_v2 3020 ptsz=7000 (CUarray dstArray, size_t dstOffset,
            const void *srcHost, size_t ByteCount, CUstream hStream)""",
        remote="async srcHost=send[ByteCount]"),
    fn("cuMemcpyAtoHAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyAtoHAsync 2000 (void *dstHost, CUarray srcArray, unsigned int srcOffset,
            unsigned int ByteCount, CUstream hStream)
        cuMemcpyAtoHAsync_v2 3020 ptsz=7000 (void *dstHost, CUarray srcArray, size_t srcOffset,
            size_t ByteCount, CUstream hStream)""",
        remote="async dstHost=fetch[ByteCount]"),
    fn("cuMemcpy2DAsync", Cls.COPY, Gate.COPY, """
        cuMemcpy2DAsync 2000 (const CUDA_MEMCPY2D_v1 *pCopy, CUstream hStream)
        cuMemcpy2DAsync_v2 3020 ptsz=7000 (const CUDA_MEMCPY2D *pCopy, CUstream hStream)""",
        remote="async"),
    fn("cuMemcpy3DAsync", Cls.COPY, Gate.COPY, """
        cuMemcpy3DAsync 2000 (const CUDA_MEMCPY3D_v1 *pCopy, CUstream hStream)
        cuMemcpy3DAsync_v2 3020 ptsz=7000 (const CUDA_MEMCPY3D *pCopy, CUstream hStream)""",
        remote="async"),
    fn("cuMemcpy3DPeerAsync", Cls.COPY, Gate.COPY, """
        cuMemcpy3DPeerAsync 4000 ptsz=7000 (const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)""",
        remote="async"),
    fn("cuMemcpyBatchAsync", Cls.COPY, Gate.COPY, """
        cuMemcpyBatchAsync 12080 ptsz=12080 (CUdeviceptr *dsts, CUdeviceptr *srcs,
            size_t *sizes, size_t count, CUmemcpyAttributes *attrs, size_t *attrsIdxs,
            size_t numAttrs, size_t *failIdx, CUstream hStream)
        cuMemcpyBatchAsync_v2 13000 ptsz=13000 (CUdeviceptr *dsts, CUdeviceptr *srcs,
            size_t *sizes, size_t count, CUmemcpyAttributes *attrs, size_t *attrsIdxs,
            size_t numAttrs, CUstream hStream)""",
        remote="refused: addresses of host and device memory are mixed in its arrays; one "
            "cuMemcpyAsync each"),
    fn("cuMemcpy3DBatchAsync", Cls.COPY, Gate.COPY, """
        cuMemcpy3DBatchAsync 12080 ptsz=12080 (size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList,
            size_t *failIdx, unsigned long long flags, CUstream hStream)
        cuMemcpy3DBatchAsync_v2 13000 ptsz=13000 (size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList,
            unsigned long long flags, CUstream hStream)""",
        remote="refused: addresses of host and device memory are mixed in its arrays; one "
            "cuMemcpyAsync each"),
    fn("cuMemsetD8", Cls.COPY, Gate.MEMSET, """
        cuMemsetD8 2000 (CUdeviceptr_v1 dstDevice, unsigned char uc, unsigned int N)
        cuMemsetD8_v2 3020 ptds=7000 (CUdeviceptr dstDevice, unsigned char uc, size_t N)""",
        remote="async"),
    fn("cuMemsetD16", Cls.COPY, Gate.MEMSET, """
        cuMemsetD16 2000 (CUdeviceptr_v1 dstDevice, unsigned short us, unsigned int N)
        cuMemsetD16_v2 3020 ptds=7000 (CUdeviceptr dstDevice, unsigned short us, size_t N)""",
        remote="async"),
    fn("cuMemsetD32", Cls.COPY, Gate.MEMSET, """
        cuMemsetD32 2000 (CUdeviceptr_v1 dstDevice, unsigned int ui, unsigned int N)
        cuMemsetD32_v2 3020 ptds=7000 (CUdeviceptr dstDevice, unsigned int ui, size_t N)""",
        remote="async"),
    fn("cuMemsetD2D8", Cls.COPY, Gate.MEMSET, """
        cuMemsetD2D8 2000 (CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned char uc,
            unsigned int Width, unsigned int Height)
        cuMemsetD2D8_v2 3020 ptds=7000 (CUdeviceptr dstDevice, size_t dstPitch,
            unsigned char uc, size_t Width, size_t Height)""",
        remote="async"),
    fn("cuMemsetD2D16", Cls.COPY, Gate.MEMSET, """
        cuMemsetD2D16 2000 (CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned short us,
            unsigned int Width, unsigned int Height)
        cuMemsetD2D16_v2 3020 ptds=7000 (CUdeviceptr dstDevice, size_t dstPitch,
            unsigned short us, size_t Width, size_t Height)""",
        remote="async"),
    fn("cuMemsetD2D32", Cls.COPY, Gate.MEMSET, """
        cuMemsetD2D32 2000 (CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned int ui,
            unsigned int Width, unsigned int Height)
        cuMemsetD2D32_v2 3020 ptds=7000 (CUdeviceptr dstDevice, size_t dstPitch,
            unsigned int ui, size_t Width, size_t Height)""",
        remote="async"),
    fn("cuMemsetD8Async", Cls.COPY, Gate.MEMSET, """
        cuMemsetD8Async 3020 ptsz=7000 (CUdeviceptr dstDevice, unsigned char uc, size_t N,
            CUstream hStream)""",
        remote="async"),
    fn("cuMemsetD16Async", Cls.COPY, Gate.MEMSET, """
        cuMemsetD16Async 3020 ptsz=7000 (CUdeviceptr dstDevice, unsigned short us, size_t N,
            CUstream hStream)""",
        remote="async"),
    fn("cuMemsetD32Async", Cls.COPY, Gate.MEMSET, """
        cuMemsetD32Async 3020 ptsz=7000 (CUdeviceptr dstDevice, unsigned int ui, size_t N,
            CUstream hStream)""",
        remote="async"),
    fn("cuMemsetD2D8Async", Cls.COPY, Gate.MEMSET, """
        cuMemsetD2D8Async 3020 ptsz=7000 (CUdeviceptr dstDevice, size_t dstPitch,
            unsigned char uc, size_t Width, size_t Height, CUstream hStream)""",
        remote="async"),
    fn("cuMemsetD2D16Async", Cls.COPY, Gate.MEMSET, """
        cuMemsetD2D16Async 3020 ptsz=7000 (CUdeviceptr dstDevice, size_t dstPitch,
            unsigned short us, size_t Width, size_t Height, CUstream hStream)""",
        remote="async"),
    fn("cuMemsetD2D32Async", Cls.COPY, Gate.MEMSET, """
        cuMemsetD2D32Async 3020 ptsz=7000 (CUdeviceptr dstDevice, size_t dstPitch,
            unsigned int ui, size_t Width, size_t Height, CUstream hStream)""",
        remote="async"),
    fn("cuMemBatchDecompressAsync", Cls.COPY, Gate.COPY, """
        cuMemBatchDecompressAsync 12060 ptsz=12060 (CUmemDecompressParams *paramsArray,
            size_t count, unsigned int flags, size_t *errorIndex, CUstream stream)""",
        remote="refused: addresses of host and device memory are mixed in its arrays; one "
            "cuMemcpyAsync each"),
)
