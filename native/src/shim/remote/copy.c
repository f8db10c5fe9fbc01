/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies and fills. Bytes of this machine go through regions of the bulk area, in pieces of which
 * several are under way at a time; only the last piece is waited for, and only where a driver
 * waits. What cannot be wrong (memory of known allocations) is told, the rest asked: of memory that
 * is not known (variables, mapped memory, that of graphs) each piece.
 */
#include "src/shim/remote/copy.h"

#include "src/shim/remote/ahead.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/host.h"
#include "src/shim/remote/memory.h"
#include "src/wire/codec.h"

static void sure(CUdeviceptr at, uint64_t bytes)
{
    if (!harp_remote_on_device(at, bytes))
        harp_remote_doubt();
}

/* What one piece holds; the last one is what is left. No host memory: the driver's to refuse. */
static size_t piece(const void *data, size_t left)
{
    size_t most = (size_t)harp_remote_piece();
    return data == NULL || left < most ? left : most;
}

static CUresult settled(const void *data, size_t bytes)
{
    return harp_remote_settle(data, bytes) == 0 ? CUDA_SUCCESS : CUDA_ERROR_DEVICE_UNAVAILABLE;
}

CUresult harp_remote_before_read(const void *data, size_t bytes, const CUstream *stream)
{
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && stream != NULL && harp_remote_pinned(data, bytes) &&
        !harp_remote_capturing(0) && harp_remote_host_may_write())
        r = harp_sent_cuStreamSynchronize(*stream);
    return r == CUDA_SUCCESS ? settled(data, bytes) : r;
}

CUresult harp_remote_arrived(const void *data, size_t bytes, CUresult r)
{
    if (r == CUDA_SUCCESS)
        return settled(data, bytes);
    if (harp_remote_ready() == CUDA_SUCCESS)
        harp_remote_forget(data, bytes);
    return r;
}

CUresult harp_remote_arrived_in_stream(const void *data, size_t bytes, CUresult r)
{
    return harp_remote_pinned(data, bytes) ? r : harp_remote_arrived(data, bytes, r);
}

/* --- to and from this machine ----------------------------------------------------------------- */

/* Small ones need not wait: the bytes have been read, as a driver does it. */
CUresult harp_remote_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    CUresult r = harp_remote_before_read(srcHost, ByteCount, NULL);
    bool known = srcHost != NULL && harp_remote_on_device(dstDevice, ByteCount);
    for (size_t at = 0; r == CUDA_SUCCESS;) {
        size_t n = piece(srcHost, ByteCount - at);
        bool last = at + n == ByteCount;
        if (known && (!last || ByteCount <= HARP_WIRE_INLINE_BYTES))
            harp_remote_hurry();
        r = harp_sent_cuMemcpyHtoD_v2(dstDevice + at, (const uint8_t *)srcHost + at, n);
        at += n;
        if (last)
            break;
    }
    return r;
}

CUresult harp_remote_cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
    CUresult r = harp_remote_ready();
    bool known = dstHost != NULL && harp_remote_on_device(srcDevice, ByteCount);
    uint64_t before = 0;
    if (r == CUDA_SUCCESS && known && harp_remote_ahead_take(dstHost, srcDevice, ByteCount))
        return CUDA_SUCCESS;
    if (r == CUDA_SUCCESS && known)
        before = harp_remote_ahead_now();
    for (size_t at = 0; r == CUDA_SUCCESS;) {
        size_t n = piece(dstHost, ByteCount - at);
        bool last = at + n == ByteCount;
        if (known && !last)
            harp_remote_hurry();
        r = harp_sent_cuMemcpyDtoH_v2((uint8_t *)dstHost + at, srcDevice + at, n);
        at += n;
        if (last)
            break;
    }
    if (r == CUDA_SUCCESS && known)
        harp_remote_ahead_learn(srcDevice, ByteCount, before);
    return ByteCount > harp_remote_piece() ? harp_remote_arrived(dstHost, ByteCount, r) : r;
}

/* The bytes are read now. What is still on its way to them, an earlier copy of the same stream it
 * may be, has to come first. */
CUresult harp_remote_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost,
                                          size_t ByteCount, CUstream hStream)
{
    CUresult r = harp_remote_before_read(srcHost, ByteCount, &hStream);
    bool known = srcHost != NULL && harp_remote_on_device(dstDevice, ByteCount);
    for (size_t at = 0; r == CUDA_SUCCESS;) {
        size_t n = piece(srcHost, ByteCount - at);
        if (!known)
            harp_remote_doubt();
        r = harp_sent_cuMemcpyHtoDAsync_v2(dstDevice + at, (const uint8_t *)srcHost + at, n,
                                           hStream);
        at += n;
        if (at == ByteCount)
            break;
    }
    return r;
}

/* To pageable memory a driver comes back when the bytes are there. */
CUresult harp_remote_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                                          CUstream hStream)
{
    CUresult r = harp_remote_ready();
    bool known = dstHost != NULL && harp_remote_on_device(srcDevice, ByteCount);
    for (size_t at = 0; r == CUDA_SUCCESS;) {
        size_t n = piece(dstHost, ByteCount - at);
        if (!known)
            harp_remote_doubt();
        r = harp_sent_cuMemcpyDtoHAsync_v2((uint8_t *)dstHost + at, srcDevice + at, n, hStream);
        at += n;
        if (at == ByteCount)
            break;
    }
    return harp_remote_arrived_in_stream(dstHost, ByteCount, r);
}

/* --- arrays ----------------------------------------------------------------------------------- */

CUresult harp_remote_cuMemcpyHtoA_v2(CUarray dstArray, size_t dstOffset, const void *srcHost,
                                     size_t ByteCount)
{
    CUresult r = harp_remote_before_read(srcHost, ByteCount, NULL);
    for (size_t at = 0, n; r == CUDA_SUCCESS; at += n) {
        n = piece(srcHost, ByteCount - at);
        r = harp_sent_cuMemcpyHtoA_v2(dstArray, dstOffset + at, (const uint8_t *)srcHost + at, n);
        if (at + n == ByteCount)
            break;
    }
    return r;
}

CUresult harp_remote_cuMemcpyHtoAAsync_v2(CUarray dstArray, size_t dstOffset, const void *srcHost,
                                          size_t ByteCount, CUstream hStream)
{
    CUresult r = harp_remote_before_read(srcHost, ByteCount, &hStream);
    for (size_t at = 0, n; r == CUDA_SUCCESS; at += n) {
        n = piece(srcHost, ByteCount - at);
        r = harp_sent_cuMemcpyHtoAAsync_v2(dstArray, dstOffset + at, (const uint8_t *)srcHost + at,
                                           n, hStream);
        if (at + n == ByteCount)
            break;
    }
    return r;
}

CUresult harp_remote_cuMemcpyAtoH_v2(void *dstHost, CUarray srcArray, size_t srcOffset,
                                     size_t ByteCount)
{
    CUresult r = harp_remote_ready();
    for (size_t at = 0, n; r == CUDA_SUCCESS; at += n) {
        n = piece(dstHost, ByteCount - at);
        r = harp_sent_cuMemcpyAtoH_v2((uint8_t *)dstHost + at, srcArray, srcOffset + at, n);
        if (at + n == ByteCount)
            break;
    }
    return r;
}

CUresult harp_remote_cuMemcpyAtoHAsync_v2(void *dstHost, CUarray srcArray, size_t srcOffset,
                                          size_t ByteCount, CUstream hStream)
{
    CUresult r = harp_remote_ready();
    for (size_t at = 0, n; r == CUDA_SUCCESS; at += n) {
        n = piece(dstHost, ByteCount - at);
        r = harp_sent_cuMemcpyAtoHAsync_v2((uint8_t *)dstHost + at, srcArray, srcOffset + at, n,
                                           hStream);
        if (at + n == ByteCount)
            break;
    }
    return harp_remote_arrived_in_stream(dstHost, ByteCount, r);
}

/* --- by address alone ------------------------------------------------------------------------- */

enum side { HOST, DEVICE };

/* What is none of the allocations may be a variable, mapped memory, or a graph's: the worker knows
 * all of the session's, and refuses what is none of it. That is this machine's. */
static CUresult side_of(CUdeviceptr at, enum side *side)
{
    bool on_device;
    struct harp_range range;
    CUdeviceptr base;
    size_t bytes;
    CUresult r = CUDA_SUCCESS;
    if (!harp_remote_range(at, &on_device, &range)) {
        r = harp_sent_cuMemGetAddressRange_v2(&base, &bytes, at);
        on_device = r == CUDA_SUCCESS || r == CUDA_ERROR_NOT_FOUND;
    }
    *side = on_device ? DEVICE : HOST;
    return on_device || r == CUDA_ERROR_INVALID_VALUE ? CUDA_SUCCESS : r;
}

static CUresult sides(CUdeviceptr dst, CUdeviceptr src, enum side *to, enum side *from)
{
    CUresult r = side_of(dst, to);
    return r == CUDA_SUCCESS ? side_of(src, from) : r;
}

static void *host(CUdeviceptr at)
{
    return (void *)(uintptr_t)at;
}

CUresult harp_remote_cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
    enum side to, from;
    CUresult r = sides(dst, src, &to, &from);
    if (r != CUDA_SUCCESS)
        return r;
    if (to == DEVICE && from == DEVICE) {
        harp_remote_doubt();
        return harp_sent_cuMemcpy(dst, src, ByteCount);
    }
    if (to == DEVICE)
        return harp_remote_cuMemcpyHtoD_v2(dst, host(src), ByteCount);
    if (from == DEVICE)
        return harp_remote_cuMemcpyDtoH_v2(host(dst), src, ByteCount);
    r = harp_sent_cuStreamSynchronize(NULL);
    if (r == CUDA_SUCCESS)
        memmove(host(dst), host(src), ByteCount);
    return r;
}

CUresult harp_remote_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
                                   CUstream hStream)
{
    enum side to, from;
    CUresult r = sides(dst, src, &to, &from);
    if (r != CUDA_SUCCESS)
        return r;
    if (to == DEVICE && from == DEVICE) {
        sure(dst, ByteCount);
        sure(src, ByteCount);
        return harp_sent_cuMemcpyAsync(dst, src, ByteCount, hStream);
    }
    if (to == DEVICE)
        return harp_remote_cuMemcpyHtoDAsync_v2(dst, host(src), ByteCount, hStream);
    if (from == DEVICE)
        return harp_remote_cuMemcpyDtoHAsync_v2(host(dst), src, ByteCount, hStream);
    r = harp_sent_cuStreamSynchronize(hStream);
    if (r == CUDA_SUCCESS)
        memmove(host(dst), host(src), ByteCount);
    return r;
}

CUresult harp_remote_cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
    sure(dstDevice, ByteCount);
    sure(srcDevice, ByteCount);
    return harp_sent_cuMemcpyDtoD_v2(dstDevice, srcDevice, ByteCount);
}

CUresult harp_remote_cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice,
                                          size_t ByteCount, CUstream hStream)
{
    sure(dstDevice, ByteCount);
    sure(srcDevice, ByteCount);
    return harp_sent_cuMemcpyDtoDAsync_v2(dstDevice, srcDevice, ByteCount, hStream);
}

/* --- fills ------------------------------------------------------------------------------------ */

/* N elements that must lie at a multiple of their size. */
static void sure_of(CUdeviceptr at, size_t count, unsigned element)
{
    if (count == 0 || count > SIZE_MAX / element || at % element != 0)
        harp_remote_doubt();
    else
        sure(at, count * element);
}

#define FILL(name, type, element)                                                                  \
    CUresult harp_remote_##name##_v2(CUdeviceptr dstDevice, type value, size_t N)                  \
    {                                                                                              \
        sure_of(dstDevice, N, element);                                                            \
        return harp_sent_##name##_v2(dstDevice, value, N);                                         \
    }                                                                                              \
    CUresult harp_remote_##name##Async(CUdeviceptr dstDevice, type value, size_t N,                \
                                       CUstream hStream)                                           \
    {                                                                                              \
        sure_of(dstDevice, N, element);                                                            \
        return harp_sent_##name##Async(dstDevice, value, N, hStream);                              \
    }
FILL(cuMemsetD8, unsigned char, 1)
FILL(cuMemsetD16, unsigned short, 2)
FILL(cuMemsetD32, unsigned int, 4)

#define RECTANGLE(name, type)                                                                      \
    CUresult harp_remote_##name##_v2(CUdeviceptr dstDevice, size_t dstPitch, type value,           \
                                     size_t Width, size_t Height)                                  \
    {                                                                                              \
        harp_remote_doubt();                                                                       \
        return harp_sent_##name##_v2(dstDevice, dstPitch, value, Width, Height);                   \
    }                                                                                              \
    CUresult harp_remote_##name##Async(CUdeviceptr dstDevice, size_t dstPitch, type value,         \
                                       size_t Width, size_t Height, CUstream hStream)              \
    {                                                                                              \
        harp_remote_doubt();                                                                       \
        return harp_sent_##name##Async(dstDevice, dstPitch, value, Width, Height, hStream);        \
    }
RECTANGLE(cuMemsetD2D8, unsigned char)
RECTANGLE(cuMemsetD2D16, unsigned short)
RECTANGLE(cuMemsetD2D32, unsigned int)
