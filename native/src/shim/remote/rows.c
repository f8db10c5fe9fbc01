/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies of rectangles and boxes. A host side crosses closely packed: a rectangle that is not is
 * gathered before, or spread afterwards, and then waited for. What is more than a region holds goes
 * in blocks.
 */
#include <stdlib.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/copy.h"

#define MOST (1ull << 40) /* bytes of a side: beyond, the driver may say what is wrong */

/* --- blocks ----------------------------------------------------------------------------------- */

struct block {
    size_t x, y, z, width, height, depth;
};

static size_t less(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* 0 also of a size that the driver is to judge. */
static size_t bytes_of(const struct block *b)
{
    if (b->width == 0 || b->height == 0 || b->depth == 0 || b->width > MOST / b->height ||
        b->width * b->height > MOST / b->depth)
        return 0;
    return b->width * b->height * b->depth;
}

/* As many bytes of all as go at once: planes, else rows of a plane, else of a row. false: all do.
 */
static bool blocks(const struct block *all, struct block *b)
{
    size_t most = harp_remote_piece();
    *b = *all;
    if (bytes_of(all) <= most)
        return false;
    b->width = less(all->width, most);
    b->height = less(all->height, most / b->width);
    b->depth = b->height < all->height ? 1 : less(all->depth, most / (b->width * b->height));
    return true;
}

/* The next one, of the size that `size` is. */
static bool next(const struct block *all, const struct block *size, struct block *b)
{
    b->x += b->width;
    if (b->x == all->width) {
        b->x = 0;
        b->y += b->height;
    }
    if (b->y == all->height) {
        b->y = 0;
        b->z += b->depth;
    }
    b->width = less(size->width, all->width - b->x);
    b->height = less(size->height, all->height - b->y);
    b->depth = less(size->depth, all->depth - b->z);
    return b->z < all->depth;
}

/* --- rectangles ------------------------------------------------------------------------------- */

typedef CUresult copy_fn(const CUDA_MEMCPY2D *c, CUstream stream);

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

/* Where the bytes of a host side lie, from the first to the last. */
static void *span(const CUDA_MEMCPY2D *c, bool from, size_t *bytes)
{
    size_t x = from ? c->srcXInBytes : c->dstXInBytes, y = from ? c->srcY : c->dstY;
    size_t pitch = from ? c->srcPitch : c->dstPitch;
    pitch = pitch == 0 ? c->WidthInBytes + x : pitch;
    *bytes = c->Height == 0 ? 0 : (c->Height - 1) * pitch + c->WidthInBytes;
    return (void *)((uintptr_t)(from ? c->srcHost : c->dstHost) + y * pitch + x);
}

/* Memory of the device that has no pitch: where its second row lies is the driver's to say. */
static bool pitchless(CUmemorytype type, size_t pitch)
{
    return type != CU_MEMORYTYPE_ARRAY && pitch == 0;
}

/* But of one row, its first one, no pitch is needed. */
static bool lone(const CUDA_MEMCPY2D *c)
{
    return c->Height == 1 && c->srcY == 0 && c->dstY == 0;
}

static CUresult in_blocks(const CUDA_MEMCPY2D *c, CUstream stream, copy_fn *copy)
{
    const struct block all = {.width = c->WidthInBytes, .height = c->Height, .depth = 1};
    bool from = c->srcMemoryType == CU_MEMORYTYPE_HOST;
    bool no_pitch =
        from ? pitchless(c->dstMemoryType, c->dstPitch) : pitchless(c->srcMemoryType, c->srcPitch);
    struct block size, b;
    if (from == (c->dstMemoryType == CU_MEMORYTYPE_HOST) || !flat(c) || !blocks(&all, &size) ||
        (no_pitch && !lone(c)))
        return copy(c, stream);
    CUresult r;
    b = size;
    do {
        CUDA_MEMCPY2D part = *c;
        size_t at = b.y * c->WidthInBytes + b.x;
        part.WidthInBytes = b.width;
        part.Height = b.height;
        if (from) {
            part.srcHost = (const uint8_t *)c->srcHost + at;
            part.srcPitch = b.width;
            part.dstDevice += no_pitch ? b.x : 0;
            part.dstXInBytes += no_pitch ? 0 : b.x;
            part.dstY += b.y;
        } else {
            part.dstHost = (uint8_t *)c->dstHost + at;
            part.dstPitch = b.width;
            part.srcDevice += no_pitch ? b.x : 0;
            part.srcXInBytes += no_pitch ? 0 : b.x;
            part.srcY += b.y;
        }
        r = copy(&part, stream);
    } while (r == CUDA_SUCCESS && next(&all, &size, &b));
    return r;
}

/* `in`: the copy is one of a stream's. */
static CUresult rectangle(const CUDA_MEMCPY2D *c, const CUstream *in, CUstream stream,
                          copy_fn *copy)
{
    struct sides s;
    size_t bytes = 0;
    CUresult r = harp_remote_ready();
    if (r != CUDA_SUCCESS || c == NULL)
        return r != CUDA_SUCCESS ? r : copy(c, stream);
    if (c->srcMemoryType == CU_MEMORYTYPE_HOST) {
        const void *from = span(c, true, &bytes);
        r = harp_remote_before_read(from, bytes, in);
    }
    if (r != CUDA_SUCCESS)
        return r;
    if (!flatten(c, &s))
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = in_blocks(&s.flat, stream, copy);
    if (s.to != NULL) {
        r = harp_remote_arrived(s.bytes, c->WidthInBytes * c->Height, r);
    } else if (c->dstMemoryType == CU_MEMORYTYPE_HOST && in != NULL) {
        const void *to = span(c, false, &bytes);
        r = harp_remote_arrived_in_stream(to, bytes, r);
    }
    if (r == CUDA_SUCCESS && s.to != NULL)
        rows(s.to, s.pitch, s.bytes, s.flat.WidthInBytes, &s.flat);
    free(s.bytes);
    return r;
}

static CUresult aligned(const CUDA_MEMCPY2D *c, CUstream stream)
{
    (void)stream;
    return harp_sent_cuMemcpy2D_v2(c);
}

static CUresult unaligned(const CUDA_MEMCPY2D *c, CUstream stream)
{
    (void)stream;
    return harp_sent_cuMemcpy2DUnaligned_v2(c);
}

CUresult harp_remote_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    return rectangle(pCopy, NULL, NULL, aligned);
}

CUresult harp_remote_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    return rectangle(pCopy, NULL, NULL, unaligned);
}

CUresult harp_remote_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
    return rectangle(pCopy, &hStream, hStream, harp_sent_cuMemcpy2DAsync_v2);
}

/* --- boxes ------------------------------------------------------------------------------------ */

typedef CUresult box_fn(const CUDA_MEMCPY3D *c, CUstream stream);

/* No gaps on a host side: others do not cross. */
static bool solid(const CUDA_MEMCPY3D *c, bool from)
{
    size_t height = from ? c->srcHeight : c->dstHeight;
    return (from ? packed(c->srcXInBytes, c->srcY, c->srcPitch, c->WidthInBytes) && c->srcZ == 0
                 : packed(c->dstXInBytes, c->dstY, c->dstPitch, c->WidthInBytes) && c->dstZ == 0) &&
           (height == 0 || height == c->Height);
}

static CUresult box_in_blocks(const CUDA_MEMCPY3D *c, const struct block *all, CUstream stream,
                              box_fn *copy)
{
    bool from = c->srcMemoryType == CU_MEMORYTYPE_HOST;
    struct block size, b;
    if (from == (c->dstMemoryType == CU_MEMORYTYPE_HOST) || !solid(c, from) ||
        !blocks(all, &size) ||
        (from
             ? pitchless(c->dstMemoryType, c->dstPitch) || pitchless(c->dstMemoryType, c->dstHeight)
             : pitchless(c->srcMemoryType, c->srcPitch) ||
                   pitchless(c->srcMemoryType, c->srcHeight)))
        return copy(c, stream);
    CUresult r;
    b = size;
    do {
        CUDA_MEMCPY3D part = *c;
        size_t at = (b.z * all->height + b.y) * all->width + b.x;
        part.WidthInBytes = b.width;
        part.Height = b.height;
        part.Depth = b.depth;
        if (from) {
            part.srcHost = (const uint8_t *)c->srcHost + at;
            part.srcPitch = b.width;
            part.srcHeight = b.height;
            part.dstXInBytes += b.x;
            part.dstY += b.y;
            part.dstZ += b.z;
        } else {
            part.dstHost = (uint8_t *)c->dstHost + at;
            part.dstPitch = b.width;
            part.dstHeight = b.height;
            part.srcXInBytes += b.x;
            part.srcY += b.y;
            part.srcZ += b.z;
        }
        r = copy(&part, stream);
    } while (r == CUDA_SUCCESS && next(all, &size, &b));
    return r;
}

static CUresult box(const CUDA_MEMCPY3D *c, const CUstream *in, CUstream stream, box_fn *copy)
{
    CUresult r = harp_remote_ready();
    if (r != CUDA_SUCCESS || c == NULL)
        return r != CUDA_SUCCESS ? r : copy(c, stream);
    const struct block all = {.width = c->WidthInBytes, .height = c->Height, .depth = c->Depth};
    if (c->srcMemoryType == CU_MEMORYTYPE_HOST)
        r = harp_remote_before_read(c->srcHost, bytes_of(&all), in);
    if (r == CUDA_SUCCESS)
        r = box_in_blocks(c, &all, stream, copy);
    if (c->dstMemoryType == CU_MEMORYTYPE_HOST && in != NULL)
        r = harp_remote_arrived_in_stream(c->dstHost, bytes_of(&all), r);
    return r;
}

static CUresult box_now(const CUDA_MEMCPY3D *c, CUstream stream)
{
    (void)stream;
    return harp_sent_cuMemcpy3D_v2(c);
}

CUresult harp_remote_cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
    return box(pCopy, NULL, NULL, box_now);
}

CUresult harp_remote_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
    return box(pCopy, &hStream, hStream, harp_sent_cuMemcpy3DAsync_v2);
}

/* Between contexts: the same struct, but that its two words which are reserved there are these. */
static CUresult peers(const CUDA_MEMCPY3D *c, CUstream stream)
{
    CUDA_MEMCPY3D_PEER p;
    (void)stream;
    memcpy(&p, c, sizeof p);
    return harp_sent_cuMemcpy3DPeer(&p);
}

static CUresult peers_in_stream(const CUDA_MEMCPY3D *c, CUstream stream)
{
    CUDA_MEMCPY3D_PEER p;
    memcpy(&p, c, sizeof p);
    return harp_sent_cuMemcpy3DPeerAsync(&p, stream);
}

CUresult harp_remote_cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *pCopy)
{
    CUDA_MEMCPY3D c;
    if (pCopy == NULL)
        return harp_sent_cuMemcpy3DPeer(pCopy);
    memcpy(&c, pCopy, sizeof c);
    return box(&c, NULL, NULL, peers);
}

CUresult harp_remote_cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)
{
    CUDA_MEMCPY3D c;
    if (pCopy == NULL)
        return harp_sent_cuMemcpy3DPeerAsync(pCopy, hStream);
    memcpy(&c, pCopy, sizeof c);
    return box(&c, &hStream, hStream, peers_in_stream);
}
