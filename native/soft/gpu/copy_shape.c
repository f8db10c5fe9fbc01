/* SPDX-License-Identifier: Apache-2.0
 *
 * Shapes of the 2D and 3D calls: each side from linear memory or an array.
 */
#include "soft/gpu/array.h"

#include <string.h>

#define MAX_PITCH 0x7fffffffu

struct side {
    CUmemorytype type;
    size_t x, y, z, lod, pitch, height;
    const void *host;
    CUdeviceptr device;
    CUarray array;
};

static CUresult place(const struct side *s, uint64_t offset, uint64_t extent,
                      struct soft_place *out)
{
    switch ((int)s->type) {
    case CU_MEMORYTYPE_HOST:
        if (s->host == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        return soft_place_host((const char *)s->host + offset, extent, out);
    case CU_MEMORYTYPE_DEVICE:
        return soft_place_device(s->device + offset, extent, out);
    case CU_MEMORYTYPE_UNIFIED:
        return soft_place_any(s->device + offset, extent, out);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult side_of(const struct side *s, const struct soft_copy *c, struct soft_place *out)
{
    size_t pitch = s->pitch != 0 ? s->pitch : s->x + c->width;
    size_t height = s->height != 0 ? s->height : s->y + c->height;
    uint64_t offset, extent, slice, rows;

    if (s->lod != 0) /* a level of a mipmap is an array of its own */
        return CUDA_ERROR_INVALID_VALUE;
    if (s->type == CU_MEMORYTYPE_ARRAY) {
        struct soft_box box = {s->x, s->y, s->z, c->width, c->height, c->depth};

        return soft_array_place(s->array, &box, out);
    }
    if (pitch < s->x + c->width || pitch < s->x || (c->depth > 1 && height < s->y + c->height) ||
        __builtin_mul_overflow(pitch, height, &slice))
        return CUDA_ERROR_INVALID_VALUE;
    /* without a pitch there can be one row only */
    if (s->pitch == 0 && (c->height > 1 || s->y > 0))
        return CUDA_ERROR_INVALID_VALUE;
    if (__builtin_mul_overflow(s->z, slice, &offset) ||
        __builtin_mul_overflow(c->depth - 1, slice, &extent) ||
        __builtin_mul_overflow(c->height - 1, pitch, &rows) || /* one slice: of any height */
        __builtin_add_overflow(extent, rows, &extent) ||
        __builtin_add_overflow(extent, c->width, &extent))
        return CUDA_ERROR_INVALID_VALUE;
    offset += s->y * pitch + s->x;
    out->pitch = pitch;
    out->slice_pitch = slice;
    return place(s, offset, extent, out);
}

CUresult soft_copy_shape(const CUDA_MEMCPY3D *m, struct soft_copy *c)
{
    struct side from = {m->srcMemoryType, m->srcXInBytes, m->srcY,    m->srcZ,      m->srcLOD,
                        m->srcPitch,      m->srcHeight,   m->srcHost, m->srcDevice, m->srcArray};
    struct side to = {m->dstMemoryType, m->dstXInBytes, m->dstY,    m->dstZ,      m->dstLOD,
                      m->dstPitch,      m->dstHeight,   m->dstHost, m->dstDevice, m->dstArray};
    CUresult r;

    *c = (struct soft_copy){.width = m->WidthInBytes, .height = m->Height, .depth = m->Depth};
    if (c->width == 0 || c->height == 0 || c->depth == 0)
        return CUDA_SUCCESS;
    r = side_of(&from, c, &c->from);
    return r != CUDA_SUCCESS ? r : side_of(&to, c, &c->to);
}

/* Arrays have a pitch of their own. */
static bool is_too_far(CUmemorytype type, size_t pitch, size_t most)
{
    return type != CU_MEMORYTYPE_ARRAY && pitch > most;
}

static CUresult copy_any(const CUDA_MEMCPY3D *m, CUstream hStream, enum soft_copy_wait wait,
                         size_t max_pitch)
{
    struct soft_copy c;
    struct soft_stream *stream;
    CUresult r = soft_copy_enter(hStream, wait, &stream);

    if (r != CUDA_SUCCESS)
        return r;
    if (m == NULL || is_too_far(m->srcMemoryType, m->srcPitch, max_pitch) ||
        is_too_far(m->dstMemoryType, m->dstPitch, max_pitch))
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_copy_shape(m, &c);
    return r != CUDA_SUCCESS ? r : soft_copy_submit(stream, &c, wait);
}

static CUresult copy_3d(const CUDA_MEMCPY3D *m, CUstream hStream, enum soft_copy_wait wait)
{
    return copy_any(m, hStream, wait, MAX_PITCH);
}

CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
    return copy_3d(pCopy, NULL, SOFT_COPY_SYNC);
}

CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
    return copy_3d(pCopy, hStream, SOFT_COPY_ASYNC);
}

static CUresult copy_2d(const CUDA_MEMCPY2D *m, CUstream hStream, enum soft_copy_wait wait,
                        size_t max_pitch)
{
    CUresult ready = soft_ready();
    CUDA_MEMCPY3D as3d;

    if (ready != CUDA_SUCCESS)
        return ready;
    if (m == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    as3d = (CUDA_MEMCPY3D){.srcXInBytes = m->srcXInBytes,
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
                           .Height = m->Height,
                           .Depth = 1};
    return copy_any(&as3d, hStream, wait, max_pitch);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, NULL, SOFT_COPY_SYNC, MAX_PITCH);
}

CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, NULL, SOFT_COPY_SYNC, SIZE_MAX);
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
    return copy_2d(pCopy, hStream, SOFT_COPY_ASYNC, MAX_PITCH);
}
