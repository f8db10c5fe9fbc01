/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points of one run of bytes from or to a one-dimensional array.
 */
#include "soft/gpu/array.h"

/* One run: a row of an array, device memory, or the host's. */
struct end {
    CUarray array;
    bool is_array, is_host;
    uint64_t at; /* offset, or address */
};

static CUresult resolve(const struct end *end, size_t bytes, struct soft_place *place)
{
    struct soft_box box = {end->at, 0, 0, bytes, 1, 1};
    const struct soft_array *a;

    if (end->is_host)
        return soft_place_host((const void *)(uintptr_t)end->at, bytes, place);
    if (!end->is_array)
        return soft_place_device(end->at, bytes, place);
    a = soft_array_of(end->array);
    if (a != NULL && (a->rows != 1 || a->slices != 1))
        return CUDA_ERROR_INVALID_VALUE;
    return soft_array_place(end->array, &box, place);
}

static CUresult copy(struct end to, struct end from, size_t bytes, CUstream hStream,
                     enum soft_copy_wait wait)
{
    struct soft_copy c = {.width = bytes, .height = 1, .depth = 1};
    struct soft_stream *stream;
    CUresult r = soft_copy_enter(hStream, wait, &stream);

    if (r != CUDA_SUCCESS)
        return r;
    if ((to.is_array && soft_array_of(to.array) == NULL) ||
        (from.is_array && soft_array_of(from.array) == NULL))
        return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == 0)
        return CUDA_SUCCESS;
    r = resolve(&to, bytes, &c.to);
    if (r == CUDA_SUCCESS)
        r = resolve(&from, bytes, &c.from);
    return r != CUDA_SUCCESS ? r : soft_copy_submit(stream, &c, wait);
}

static struct end array_at(CUarray array, size_t offset)
{
    return (struct end){.array = array, .is_array = true, .at = offset};
}

static struct end device_at(CUdeviceptr ptr)
{
    return (struct end){.at = ptr};
}

static struct end host_at(const void *p)
{
    return (struct end){.is_host = true, .at = (uint64_t)(uintptr_t)p};
}

CUresult cuMemcpyDtoA_v2(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice,
                         size_t ByteCount)
{
    return copy(array_at(dstArray, dstOffset), device_at(srcDevice), ByteCount, NULL,
                SOFT_COPY_SYNC);
}

CUresult cuMemcpyAtoD_v2(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset,
                         size_t ByteCount)
{
    return copy(device_at(dstDevice), array_at(srcArray, srcOffset), ByteCount, NULL,
                SOFT_COPY_SYNC);
}

CUresult cuMemcpyHtoA_v2(CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount)
{
    return copy(array_at(dstArray, dstOffset), host_at(srcHost), ByteCount, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpyAtoH_v2(void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
    return copy(host_at(dstHost), array_at(srcArray, srcOffset), ByteCount, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpyAtoA_v2(CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset,
                         size_t ByteCount)
{
    return copy(array_at(dstArray, dstOffset), array_at(srcArray, srcOffset), ByteCount, NULL,
                SOFT_COPY_SYNC);
}

CUresult cuMemcpyHtoAAsync_v2(CUarray dstArray, size_t dstOffset, const void *srcHost,
                              size_t ByteCount, CUstream hStream)
{
    return copy(array_at(dstArray, dstOffset), host_at(srcHost), ByteCount, hStream,
                SOFT_COPY_ASYNC);
}

CUresult cuMemcpyAtoHAsync_v2(void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount,
                              CUstream hStream)
{
    return copy(host_at(dstHost), array_at(srcArray, srcOffset), ByteCount, hStream,
                SOFT_COPY_ASYNC);
}
