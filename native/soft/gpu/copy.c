/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies as commands: which engine, how long, and the bytes themselves.
 */
#include "soft/gpu/copy.h"
#include "soft/gpu/capture.h"

#include <stdlib.h>
#include <string.h>

#define STAGING_BYTES                                                                              \
    (64u << 10)                /* pageable copies up to this return before the device is done      \
                                */
#define CHUNK_BYTES (2u << 20) /* a copy on the compute engine can be suspended between chunks */

CUresult soft_place_device(CUdeviceptr ptr, uint64_t bytes, struct soft_place *place)
{
    struct soft_span span;

    if (!soft_span_reach(ptr, bytes, &span))
        return CUDA_ERROR_INVALID_VALUE;
    place->host = span.host + (ptr - span.start);
    place->address = ptr;
    place->device = span.device;
    place->ordinal = span.ordinal;
    place->pinned = !span.device;
    place->vmm = span.kind == SOFT_SPAN_MAPPED ? ptr : 0;
    place->vmm_bytes = bytes;
    return CUDA_SUCCESS;
}

bool soft_place_may(const struct soft_ctx *ctx, const struct soft_place *place, unsigned want)
{
    bool may = true;

    if (place->vmm == 0)
        return true;
    soft_space_lock();
    for (uint64_t at = place->vmm / SOFT_GRANULE * SOFT_GRANULE;
         at < place->vmm + place->vmm_bytes && may; at += SOFT_GRANULE)
        may = (ctx->arena->map[(at - soft_space.base) / SOFT_GRANULE] & want) != 0;
    soft_space_unlock();
    return may;
}

CUresult soft_place_host(const void *p, struct soft_place *place)
{
    struct soft_span span;

    if (p == NULL ||
        (soft_is_device_range((uint64_t)(uintptr_t)p) && !soft_is_managed((uint64_t)(uintptr_t)p)))
        return CUDA_ERROR_INVALID_VALUE;
    place->host = (char *)(uintptr_t)p;
    place->address = (uint64_t)(uintptr_t)p;
    place->device = false;
    place->vmm = 0;
    place->pinned = soft_host_find((uint64_t)(uintptr_t)p, &span);
    return CUDA_SUCCESS;
}

CUresult soft_place_any(CUdeviceptr ptr, uint64_t bytes, struct soft_place *place)
{
    struct soft_span span;

    if (soft_is_device_range(ptr) || soft_host_find(ptr, &span))
        return soft_place_device(ptr, bytes, place);
    return soft_place_host((const void *)(uintptr_t)ptr, place);
}

static uint64_t bytes_of(const struct soft_copy *c)
{
    return (uint64_t)c->width * c->height * c->depth;
}

static bool between_devices(const struct soft_copy *c)
{
    return c->from.device && c->to.device && c->from.ordinal != c->to.ordinal;
}

static uint64_t modelled(const struct soft_copy *c, const struct soft_profile *p)
{
    double bytes = (double)bytes_of(c);
    const struct soft_place *host = c->from.device ? &c->to : &c->from;
    double ns;

    if (c->from.device && c->to.device)
        ns = 2 * bytes / p->hbm_bytes_per_ns; /* read and written */
    else if (host->pinned)
        ns = bytes / p->pcie_bytes_per_ns;
    else
        ns = bytes / (p->pcie_bytes_per_ns / 2); /* through the driver's staging buffers */
    return p->copy_ns + (uint64_t)ns;
}

/* Memory of pools and graphs may be gone when a copy runs, or not be there yet. */
static bool is_there(const struct soft_copy *c, const struct soft_place *p)
{
    uint64_t bytes = (c->depth - 1) * p->slice_pitch + (c->height - 1) * p->pitch + c->width;

    return !p->device || soft_space_backed(p->host, bytes);
}

bool soft_copy_backed(const struct soft_copy *c)
{
    return is_there(c, &c->to) && is_there(c, &c->from);
}

void soft_copy_bytes(struct soft_copy *c, int (*poll)(void *), void *arg)
{
    for (size_t z = 0; z < c->depth; z++)
        for (size_t y = 0; y < c->height; y++) {
            char *to = c->to.host + z * c->to.slice_pitch + y * c->to.pitch;
            const char *from = c->from.host + z * c->from.slice_pitch + y * c->from.pitch;

            for (size_t x = 0; x < c->width; x += CHUNK_BYTES) {
                size_t n = c->width - x < CHUNK_BYTES ? c->width - x : CHUNK_BYTES;

                memmove(to + x, from + x, n); /* overlap is undefined; it need not crash */
                if (poll(arg) != 0)
                    return;
            }
        }
}

static int poll_run(void *arg)
{
    struct soft_run *r = arg;

    return r->use != NULL ? soft_run_poll(r) : 0;
}

static CUresult run(struct soft_cmd *cmd, struct soft_run *r)
{
    struct soft_copy *c = (struct soft_copy *)cmd;

    r->modelled_ns = modelled(c, soft_ctx_profile(r->ctx));
    if (!soft_copy_backed(c))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    soft_copy_bytes(c, poll_run, r);
    if (r->use == NULL)
        r->end_ns = soft_now_ns(); /* the host's own: as long as it took */
    return CUDA_SUCCESS;
}

static void copy_destroy(struct soft_cmd *cmd)
{
    free(((struct soft_copy *)cmd)->staging);
    free(cmd);
}

static struct soft_cmd *copy_clone(const struct soft_cmd *cmd);

static const struct soft_cmd_ops copy_ops[] = {
    {.name = "memcpy HtoD",
     .engine = SOFT_COPY_IN,
     .run = run,
     .clone = copy_clone,
     .destroy = copy_destroy},
    {.name = "memcpy DtoH",
     .engine = SOFT_COPY_OUT,
     .run = run,
     .clone = copy_clone,
     .destroy = copy_destroy},
    {.name = "memcpy DtoD",
     .engine = SOFT_COMPUTE,
     .run = run,
     .clone = copy_clone,
     .destroy = copy_destroy},
    {.name = "memcpy PtoP",
     .engine = SOFT_NO_ENGINE, /* it takes one of each device by itself */
     .run = soft_copy_peer_run,
     .clone = copy_clone,
     .destroy = copy_destroy,
     .blocks = true},
    {.name = "memcpy HtoH",
     .engine = SOFT_NO_ENGINE,
     .run = run,
     .clone = copy_clone,
     .destroy = copy_destroy,
     .blocks = true},
};

static const struct soft_cmd_ops *ops_for(const struct soft_copy *c)
{
    if (between_devices(c))
        return &copy_ops[3];
    if (c->from.device)
        return c->to.device ? &copy_ops[2] : &copy_ops[1];
    return c->to.device ? &copy_ops[0] : &copy_ops[4];
}

/* Copies made of a captured one read the client's memory when they run, as a graph does. */
static struct soft_cmd *copy_clone(const struct soft_cmd *cmd)
{
    const struct soft_copy *from = (const struct soft_copy *)cmd;
    struct soft_copy *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->cmd.ops = from->cmd.ops;
    c->from = from->from;
    c->to = from->to;
    c->width = from->width;
    c->height = from->height;
    c->depth = from->depth;
    return &c->cmd;
}

static char *stage(struct soft_copy *c)
{
    char *to = malloc(bytes_of(c)), *at = to;

    for (size_t z = 0; z < c->depth && to != NULL; z++)
        for (size_t y = 0; y < c->height; y++, at += c->width)
            memcpy(at, c->from.host + z * c->from.slice_pitch + y * c->from.pitch, c->width);
    return to;
}

CUresult soft_copy_submit(struct soft_stream *stream, const struct soft_copy *shape,
                          enum soft_copy_wait wait)
{
    bool captured = soft_stream_capture(stream) != NULL;
    bool in = !shape->from.device && shape->to.device,
         out = shape->from.device && !shape->to.device;
    bool dtod = shape->from.device && shape->to.device, must_wait = false;
    struct soft_copy *c;
    CUresult r;

    if (bytes_of(shape) == 0)
        return soft_ctx_sticky(stream->ctx);
    if (!soft_place_may(stream->ctx, &shape->from, SOFT_ACCESS_READ) ||
        !soft_place_may(stream->ctx, &shape->to, SOFT_ACCESS_WRITE))
        return CUDA_ERROR_INVALID_VALUE;
    c = calloc(1, sizeof *c);
    if (c == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *c = *shape;
    c->cmd = (struct soft_cmd){.ops = ops_for(shape)};
    c->staging = NULL;
    if (in && !c->from.pinned && !captured) {
        /* pageable: what the client does to it afterwards must not reach the device */
        if (bytes_of(c) <= STAGING_BYTES && (c->staging = stage(c)) != NULL) {
            c->from.host = c->staging;
            c->from.pitch = c->width;
            c->from.slice_pitch = c->width * c->height;
        } else {
            must_wait = true;
        }
    }
    if ((out && !c->to.pinned && !captured) || (wait == SOFT_COPY_SYNC && !dtod && !c->staging))
        must_wait = true;
    r = soft_submit(stream, &c->cmd);
    if (r != CUDA_SUCCESS || !must_wait || captured)
        return r;
    return soft_stream_wait_seq(stream, soft_stream_pending(stream)), soft_ctx_error(stream->ctx);
}

/* ------------------------------------------------------------------ shapes of the 2D, 3D calls --
 */
static CUresult place(CUmemorytype type, const void *host, CUdeviceptr device, CUarray array,
                      uint64_t offset, uint64_t extent, struct soft_place *out)
{
    switch ((int)type) {
    case CU_MEMORYTYPE_HOST: {
        CUresult r;

        if (host == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        r = soft_place_host((const char *)host + offset, out);
        return r;
    }
    case CU_MEMORYTYPE_DEVICE:
        return soft_place_device(device + offset, extent, out);
    case CU_MEMORYTYPE_UNIFIED:
        return soft_place_any(device + offset, extent, out);
    case CU_MEMORYTYPE_ARRAY:
        return array == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

struct side {
    CUmemorytype type;
    size_t x, y, z, lod, pitch, height;
    const void *host;
    CUdeviceptr device;
    CUarray array;
};

static CUresult side_of(const struct side *s, const struct soft_copy *c, struct soft_place *out)
{
    size_t pitch = s->pitch != 0 ? s->pitch : s->x + c->width;
    size_t height = s->height != 0 ? s->height : s->y + c->height;
    uint64_t offset, extent, slice;
    CUresult r;

    if (s->lod != 0 || pitch < s->x + c->width || pitch < s->x ||
        (c->depth > 1 && height < s->y + c->height) ||
        __builtin_mul_overflow(pitch, height, &slice))
        return CUDA_ERROR_INVALID_VALUE;
    /* without a pitch there can be one row only */
    if (s->pitch == 0 && (c->height > 1 || s->y > 0) && s->type != CU_MEMORYTYPE_ARRAY)
        return CUDA_ERROR_INVALID_VALUE;
    if (__builtin_mul_overflow(s->z, slice, &offset) ||
        __builtin_mul_overflow(c->depth - 1, slice, &extent) ||
        __builtin_add_overflow(extent, (c->height - 1) * pitch + c->width, &extent))
        return CUDA_ERROR_INVALID_VALUE;
    offset += s->y * pitch + s->x;
    out->pitch = pitch;
    out->slice_pitch = slice;
    r = place(s->type, s->host, s->device, s->array, offset, extent, out);
    return r;
}

static CUresult shape_of(const CUDA_MEMCPY3D *m, struct soft_copy *c)
{
    struct side from = {m->srcMemoryType, m->srcXInBytes, m->srcY,    m->srcZ,      m->srcLOD,
                        m->srcPitch,      m->srcHeight,   m->srcHost, m->srcDevice, m->srcArray};
    struct side to = {m->dstMemoryType, m->dstXInBytes, m->dstY,    m->dstZ,      m->dstLOD,
                      m->dstPitch,      m->dstHeight,   m->dstHost, m->dstDevice, m->dstArray};
    CUresult r;

    *c = (struct soft_copy){.width = m->WidthInBytes, .height = m->Height, .depth = m->Depth};
    if (bytes_of(c) == 0)
        return CUDA_SUCCESS;
    r = side_of(&from, c, &c->from);
    return r != CUDA_SUCCESS ? r : side_of(&to, c, &c->to);
}

CUresult soft_copy_new(struct soft_ctx *ctx, const CUDA_MEMCPY3D *copy, struct soft_cmd **out)
{
    struct soft_copy *c = calloc(1, sizeof *c);
    CUresult r;

    if (c == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = shape_of(copy, c);
    if (r == CUDA_SUCCESS && (!soft_place_may(ctx, &c->from, SOFT_ACCESS_READ) ||
                              !soft_place_may(ctx, &c->to, SOFT_ACCESS_WRITE)))
        r = CUDA_ERROR_INVALID_VALUE;
    if (r != CUDA_SUCCESS) {
        free(c);
        return r;
    }
    c->cmd.ops = ops_for(c);
    *out = &c->cmd;
    return CUDA_SUCCESS;
}

/* One run of bytes has no pitch of its own: its width is told. */
static void describe(const struct soft_place *place, const struct soft_copy *c, CUmemorytype *type,
                     const void **host, CUdeviceptr *device, size_t *pitch, size_t *height)
{
    *type = place->device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
    *pitch = place->pitch != 0 ? place->pitch : c->width;
    *height = place->slice_pitch != 0 ? place->slice_pitch / *pitch : c->height;
    if (place->device)
        *device = place->address;
    else
        *host = (const void *)(uintptr_t)place->address;
}

void soft_copy_params(const struct soft_cmd *cmd, CUDA_MEMCPY3D *m)
{
    const struct soft_copy *c = (const struct soft_copy *)cmd;
    const void *to = NULL;

    *m = (CUDA_MEMCPY3D){.WidthInBytes = c->width, .Height = c->height, .Depth = c->depth};
    describe(&c->from, c, &m->srcMemoryType, &m->srcHost, &m->srcDevice, &m->srcPitch,
             &m->srcHeight);
    describe(&c->to, c, &m->dstMemoryType, &to, &m->dstDevice, &m->dstPitch, &m->dstHeight);
    m->dstHost = (void *)(uintptr_t)to;
}

static CUresult copy_3d(const CUDA_MEMCPY3D *m, CUstream hStream, enum soft_copy_wait wait)
{
    struct soft_copy c;
    struct soft_stream *stream;
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS && wait == SOFT_COPY_SYNC)
        r = soft_capture_check_unsafe();
    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (m == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = shape_of(m, &c);
    return r != CUDA_SUCCESS ? r : soft_copy_submit(stream, &c, wait);
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
    CUDA_MEMCPY3D as3d;

    if (m == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (m->srcPitch > max_pitch || m->dstPitch > max_pitch)
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
    return copy_3d(&as3d, hStream, wait);
}

#define MAX_PITCH 0x7fffffffu

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
