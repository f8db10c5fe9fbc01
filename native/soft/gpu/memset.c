/* SPDX-License-Identifier: Apache-2.0
 *
 * Fills, one and two-dimensional, of 1, 2 and 4-byte values. All are asynchronous for the host, as
 * the driver's are for device memory.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/copy.h"
#include "soft/gpu/managed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES (2u << 20)
#define PAGE        4096u

struct fill {
    struct soft_cmd cmd;
    CUDA_MEMSET_NODE_PARAMS_v1 params; /* as given */
    struct soft_place to;
    uint32_t value;
    unsigned element; /* bytes */
    size_t width;     /* bytes */
    size_t height;
};

static void fill_bytes(char *to, uint32_t value, unsigned element, size_t bytes)
{
    if (element == 1) {
        memset(to, (int)(value & 0xff), bytes);
    } else if (element == 2) {
        uint16_t v = (uint16_t)value;

        for (size_t i = 0; i < bytes; i += 2)
            memcpy(to + i, &v, 2);
    } else {
        for (size_t i = 0; i < bytes; i += 4)
            memcpy(to + i, &value, 4);
    }
}

/* Zeroing whole pages of device memory gives them back to its file instead: a host need not have
 * the memory that its software GPU has. */
static void fill_row(char *to, const struct fill *f, size_t bytes)
{
    uintptr_t from = ((uintptr_t)to + PAGE - 1) / PAGE * PAGE;
    uintptr_t until = ((uintptr_t)to + bytes) / PAGE * PAGE;

    if (f->value == 0 && f->to.device && until > from && until - from >= CHUNK_BYTES &&
        madvise((void *)from, until - from, MADV_REMOVE) == 0) {
        memset(to, 0, from - (uintptr_t)to);
        memset((void *)until, 0, (uintptr_t)to + bytes - until);
        return;
    }
    fill_bytes(to, f->value, f->element, bytes);
}

static CUresult run(struct soft_cmd *cmd, struct soft_run *r)
{
    struct fill *f = (struct fill *)cmd;
    const struct soft_profile *p = soft_ctx_profile(r->ctx);
    size_t step = f->value == 0 ? f->width : CHUNK_BYTES;
    uint64_t bytes = (f->height - 1) * f->to.pitch + f->width;
    struct soft_span span;

    r->modelled_ns =
        p->launch_ns + (uint64_t)((double)f->width * (double)f->height / p->hbm_bytes_per_ns);
    if (f->to.kind == SOFT_SPAN_LINEAR && !soft_span_reach(f->to.address, bytes, &span))
        return CUDA_ERROR_ILLEGAL_ADDRESS; /* freed after the node of a graph was made */
    if (f->to.kind == SOFT_SPAN_MANAGED) {
        if (!soft_managed_is_there(f->to.address, bytes))
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        soft_managed_use(f->to.address, bytes, r->ctx, true, r);
    }
    if (f->to.device && !soft_space_backed(f->to.host, bytes))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    for (size_t y = 0; y < f->height; y++)
        for (size_t x = 0; x < f->width; x += step) {
            fill_row(f->to.host + y * f->to.pitch + x, f,
                     f->width - x < step ? f->width - x : step);
            if (soft_run_poll(r) != 0)
                return CUDA_SUCCESS;
        }
    return CUDA_SUCCESS;
}

static struct soft_cmd *fill_clone(const struct soft_cmd *cmd)
{
    const struct fill *from = (const struct fill *)cmd;
    struct fill *f = calloc(1, sizeof *f);

    if (f == NULL)
        return NULL;
    *f = *from;
    f->cmd = (struct soft_cmd){.ops = from->cmd.ops};
    return &f->cmd;
}

static const struct soft_cmd_ops fill_ops = {
    .name = "memset", .engine = SOFT_COMPUTE, .run = run, .clone = fill_clone};

CUresult soft_memset_new(struct soft_ctx *ctx, CUdeviceptr dst, size_t pitch, uint32_t value,
                         unsigned element_bytes, size_t width, size_t height, struct soft_cmd **out)
{
    const CUDA_MEMSET_NODE_PARAMS_v1 params = {dst, pitch, value, element_bytes, width, height};
    uint64_t extent;
    struct soft_place to;
    struct fill *f;
    CUresult r;

    if (dst % element_bytes != 0 ||
        (height > 1 && (pitch % element_bytes != 0 || pitch < width * element_bytes)) ||
        __builtin_mul_overflow(width, (size_t)element_bytes, &width) ||
        __builtin_mul_overflow(pitch, height - 1, &extent) ||
        __builtin_add_overflow(extent, width, &extent))
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_place_device(dst, extent, &to);
    if (r == CUDA_SUCCESS && !soft_place_may(ctx, &to, SOFT_ACCESS_WRITE))
        r = CUDA_ERROR_INVALID_VALUE;
    if (r != CUDA_SUCCESS)
        return r;
    f = calloc(1, sizeof *f);
    if (f == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    f->cmd.ops = &fill_ops;
    f->params = params;
    f->to = to;
    f->to.pitch = pitch;
    f->value = value;
    f->element = element_bytes;
    f->width = width;
    f->height = height;
    *out = &f->cmd;
    return CUDA_SUCCESS;
}

void soft_memset_params(const struct soft_cmd *cmd, CUDA_MEMSET_NODE_PARAMS_v1 *params)
{
    *params = ((const struct fill *)cmd)->params;
}

static CUresult fill(CUdeviceptr dst, size_t pitch, uint32_t value, unsigned element, size_t width,
                     size_t height, CUstream hStream, bool async)
{
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS && !async)
        r = soft_capture_check_unsafe();
    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS || width == 0 || height == 0)
        return r;
    r = soft_memset_new(ctx, dst, pitch, value, element, width, height, &cmd);
    if (r == CUDA_SUCCESS)
        r = soft_submit(stream, cmd);
    return r == CUDA_SUCCESS && !async && soft_memops_sync(ctx, dst) ? soft_stream_wait(stream) : r;
}

CUresult cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
    return fill(dstDevice, 0, uc, 1, N, 1, NULL, false);
}

CUresult cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N)
{
    return fill(dstDevice, 0, us, 2, N, 1, NULL, false);
}

CUresult cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N)
{
    return fill(dstDevice, 0, ui, 4, N, 1, NULL, false);
}

CUresult cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                         size_t Height)
{
    return fill(dstDevice, dstPitch, uc, 1, Width, Height, NULL, false);
}

CUresult cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                          size_t Height)
{
    return fill(dstDevice, dstPitch, us, 2, Width, Height, NULL, false);
}

CUresult cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                          size_t Height)
{
    return fill(dstDevice, dstPitch, ui, 4, Width, Height, NULL, false);
}

CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
    return fill(dstDevice, 0, uc, 1, N, 1, hStream, true);
}

CUresult cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream)
{
    return fill(dstDevice, 0, us, 2, N, 1, hStream, true);
}

CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
    return fill(dstDevice, 0, ui, 4, N, 1, hStream, true);
}

CUresult cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                           size_t Height, CUstream hStream)
{
    return fill(dstDevice, dstPitch, uc, 1, Width, Height, hStream, true);
}

CUresult cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                            size_t Height, CUstream hStream)
{
    return fill(dstDevice, dstPitch, us, 2, Width, Height, hStream, true);
}

CUresult cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                            size_t Height, CUstream hStream)
{
    return fill(dstDevice, dstPitch, ui, 4, Width, Height, hStream, true);
}
