/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies of rectangles. A host side crosses closely packed: one that is not is gathered before, or
 * spread afterwards, and then waited for.
 */
#include <stdlib.h>

#include "src/shim/remote/calls.h"

#define MOST (1ull << 40) /* bytes of a side: beyond, the driver may say what is wrong */

struct sides { /* of a copy that has been made flat */
    CUDA_MEMCPY2D flat;
    uint8_t *bytes; /* packed; NULL: it was flat already */
    uint8_t *to;    /* where the program wants its rows; NULL: they are its own */
    size_t pitch;
};

static bool packed(size_t x, size_t y, size_t pitch, size_t width)
{
    return x == 0 && y == 0 && (pitch == 0 || pitch == width);
}

static bool flat(const CUDA_MEMCPY2D *c)
{
    return (c->srcMemoryType != CU_MEMORYTYPE_HOST ||
            packed(c->srcXInBytes, c->srcY, c->srcPitch, c->WidthInBytes)) &&
           (c->dstMemoryType != CU_MEMORYTYPE_HOST ||
            packed(c->dstXInBytes, c->dstY, c->dstPitch, c->WidthInBytes));
}

static void rows(uint8_t *to, size_t to_pitch, const uint8_t *from, size_t from_pitch,
                 const CUDA_MEMCPY2D *c)
{
    for (size_t y = 0; y < c->Height; y++)
        memcpy(to + y * to_pitch, from + y * from_pitch, c->WidthInBytes);
}

/* false: no memory. What a driver would refuse is left as it is, for it to say so. */
static bool flatten(const CUDA_MEMCPY2D *c, struct sides *s)
{
    bool host_from = c->srcMemoryType == CU_MEMORYTYPE_HOST,
         host_to = c->dstMemoryType == CU_MEMORYTYPE_HOST;
    *s = (struct sides){.flat = *c};
    if (flat(c) || host_from == host_to || c->Height == 0 || c->WidthInBytes == 0 ||
        c->WidthInBytes > MOST / c->Height)
        return true;
    size_t pitch = host_from ? c->srcPitch : c->dstPitch;
    size_t x = host_from ? c->srcXInBytes : c->dstXInBytes, y = host_from ? c->srcY : c->dstY;
    uint8_t *at = host_from ? (uint8_t *)(uintptr_t)c->srcHost : c->dstHost;
    pitch = pitch == 0 ? c->WidthInBytes + x : pitch;
    if (at == NULL || pitch < c->WidthInBytes || x > pitch - c->WidthInBytes)
        return true;
    s->bytes = malloc(c->WidthInBytes * c->Height);
    if (s->bytes == NULL)
        return false;
    at += y * pitch + x;
    if (host_from) {
        rows(s->bytes, c->WidthInBytes, at, pitch, c);
        s->flat.srcHost = s->bytes;
        s->flat.srcXInBytes = s->flat.srcY = 0;
        s->flat.srcPitch = c->WidthInBytes;
    } else {
        s->to = at;
        s->pitch = pitch;
        s->flat.dstHost = s->bytes;
        s->flat.dstXInBytes = s->flat.dstY = 0;
        s->flat.dstPitch = c->WidthInBytes;
    }
    return true;
}

static CUresult finish(const struct sides *s, CUresult r)
{
    if (r == CUDA_SUCCESS && s->to != NULL)
        rows(s->to, s->pitch, s->bytes, s->flat.WidthInBytes, &s->flat);
    free(s->bytes);
    return r;
}

CUresult harp_remote_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    struct sides s;
    if (pCopy == NULL)
        return harp_sent_cuMemcpy2D_v2(pCopy);
    if (!flatten(pCopy, &s))
        return CUDA_ERROR_OUT_OF_MEMORY;
    return finish(&s, harp_sent_cuMemcpy2D_v2(&s.flat));
}

CUresult harp_remote_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    struct sides s;
    if (pCopy == NULL)
        return harp_sent_cuMemcpy2DUnaligned_v2(pCopy);
    if (!flatten(pCopy, &s))
        return CUDA_ERROR_OUT_OF_MEMORY;
    return finish(&s, harp_sent_cuMemcpy2DUnaligned_v2(&s.flat));
}

CUresult harp_remote_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
    struct sides s;
    harp_remote_doubt();
    if (pCopy == NULL)
        return harp_sent_cuMemcpy2DAsync_v2(pCopy, hStream);
    if (!flatten(pCopy, &s))
        return CUDA_ERROR_OUT_OF_MEMORY;
    size_t bytes = s.flat.WidthInBytes * s.flat.Height;
    CUresult r = harp_sent_cuMemcpy2DAsync_v2(&s.flat, hStream);
    if (r == CUDA_SUCCESS && s.to != NULL && harp_remote_settle(s.bytes, bytes) != 0)
        r = CUDA_ERROR_DEVICE_UNAVAILABLE;
    return finish(&s, r);
}
