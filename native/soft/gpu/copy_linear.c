/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points of plain copies: one run of bytes.
 */
#include "soft/gpu/copy.h"

enum side { DEVICE, HOST, ANY };

static CUresult find(enum side side, uint64_t at, size_t bytes, struct soft_place *place)
{
    switch (side) {
    case DEVICE:
        return soft_place_device(at, bytes, place);
    case HOST:
        return soft_place_host((const void *)(uintptr_t)at, bytes, place);
    case ANY:
    default:
        return soft_place_any(at, bytes, place);
    }
}

static CUresult copy(enum side to, uint64_t dst, enum side from, uint64_t src, size_t bytes,
                     CUstream hStream, enum soft_copy_wait wait)
{
    struct soft_copy c = {.width = bytes, .height = 1, .depth = 1};
    struct soft_stream *stream;
    CUresult r = soft_copy_enter(hStream, wait, &stream);

    if (r != CUDA_SUCCESS)
        return r;
    if (bytes == 0)
        return CUDA_SUCCESS;
    r = find(to, dst, bytes, &c.to);
    if (r == CUDA_SUCCESS)
        r = find(from, src, bytes, &c.from);
    return r != CUDA_SUCCESS ? r : soft_copy_submit(stream, &c, wait);
}

static uint64_t addr(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
    return copy(ANY, dst, ANY, src, ByteCount, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
    return copy(ANY, dst, ANY, src, ByteCount, hStream, SOFT_COPY_ASYNC);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    return copy(DEVICE, dstDevice, HOST, addr(srcHost), ByteCount, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount,
                              CUstream hStream)
{
    return copy(DEVICE, dstDevice, HOST, addr(srcHost), ByteCount, hStream, SOFT_COPY_ASYNC);
}

CUresult cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
    return copy(HOST, addr(dstHost), DEVICE, srcDevice, ByteCount, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream)
{
    return copy(HOST, addr(dstHost), DEVICE, srcDevice, ByteCount, hStream, SOFT_COPY_ASYNC);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
    return copy(DEVICE, dstDevice, DEVICE, srcDevice, ByteCount, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream)
{
    return copy(DEVICE, dstDevice, DEVICE, srcDevice, ByteCount, hStream, SOFT_COPY_ASYNC);
}
