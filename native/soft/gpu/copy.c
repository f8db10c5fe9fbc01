/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies as commands: which engine, how long, and the bytes themselves.
 */
#include "soft/gpu/copy.h"
#include "soft/gpu/capture.h"
#include "soft/gpu/managed.h"

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
    place->ordinal = span.kind == SOFT_SPAN_MANAGED ? -1 : span.ordinal;
    place->pinned = !span.device;
    place->vmm = span.kind == SOFT_SPAN_MAPPED ? ptr : 0;
    place->vmm_bytes = bytes;
    place->kind = span.kind;
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

CUresult soft_place_host(const void *p, uint64_t bytes, struct soft_place *place)
{
    struct soft_span span;

    if (p == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_is_device_range((uint64_t)(uintptr_t)p)) {
        CUresult r = soft_place_device((CUdeviceptr)(uintptr_t)p, bytes, place);

        if (r == CUDA_SUCCESS && !soft_is_managed((uint64_t)(uintptr_t)p))
            r = CUDA_ERROR_INVALID_VALUE;
        place->vmm = 0;
        place->device = false;
        place->pinned = true;
        return r;
    }
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

    if (soft_is_managed(ptr) && soft_managed_prefers_host(ptr))
        return soft_place_host((const void *)(uintptr_t)ptr, bytes, place);
    if (soft_is_device_range(ptr) || soft_host_find(ptr, &span))
        return soft_place_device(ptr, bytes, place);
    return soft_place_host((const void *)(uintptr_t)ptr, bytes, place);
}

static uint64_t bytes_of(const struct soft_copy *c)
{
    return (uint64_t)c->width * c->height * c->depth;
}

static bool between_devices(const struct soft_copy *c)
{
    return c->from.device && c->to.device && c->from.ordinal != c->to.ordinal &&
           c->from.ordinal >= 0 && c->to.ordinal >= 0;
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

/* Is it still there (a graph outlives what its nodes copy)? Managed memory comes to who uses it. */
static bool arrive(const struct soft_copy *c, const struct soft_place *p, bool write,
                   struct soft_run *r)
{
    uint64_t rows = (c->height - 1) * p->pitch + c->width, bytes;
    struct soft_span span;

    bytes = (c->depth - 1) * p->slice_pitch + rows;
    /* memory of pools and graphs may be gone when a copy runs, or not be there yet */
    if (p->kind != SOFT_SPAN_LINEAR && p->kind != SOFT_SPAN_MANAGED)
        return !p->device || soft_space_backed(p->host, bytes);
    if (p->kind == SOFT_SPAN_MANAGED ? !soft_managed_is_there(p->address, bytes)
                                     : !soft_span_reach(p->address, bytes, &span))
        return false;
    for (size_t z = 0; z < c->depth && p->kind == SOFT_SPAN_MANAGED; z++)
        soft_managed_use(p->address + z * p->slice_pitch, rows, p->device ? r->ctx : NULL, write,
                         r);
    return true;
}

bool soft_copy_arrive(const struct soft_copy *c, struct soft_run *r)
{
    return arrive(c, &c->from, false, r) && arrive(c, &c->to, true, r);
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
    if (bytes_of(c) == 0)
        return CUDA_SUCCESS;
    if (!soft_copy_arrive(c, r))
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

CUresult soft_copy_enter(CUstream handle, enum soft_copy_wait wait, struct soft_stream **stream)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS && wait == SOFT_COPY_SYNC)
        r = soft_capture_check_unsafe();
    return r != CUDA_SUCCESS ? r : soft_stream_of(handle, stream);
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
    struct soft_ctx *ctx = stream->ctx;
    struct soft_copy *c;
    CUresult r;

    if (bytes_of(shape) == 0)
        return soft_ctx_sticky(ctx);
    if (!soft_place_may(ctx, &shape->from, SOFT_ACCESS_READ) ||
        !soft_place_may(ctx, &shape->to, SOFT_ACCESS_WRITE))
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
    if (wait == SOFT_COPY_SYNC &&
        (soft_memops_sync(ctx, c->from.address) || soft_memops_sync(ctx, c->to.address)))
        must_wait = true;
    if (!must_wait || captured)
        return soft_submit(stream, &c->cmd);
    soft_stream_ref(stream); /* another thread may destroy it meanwhile */
    r = soft_submit(stream, &c->cmd);
    if (r == CUDA_SUCCESS) {
        soft_stream_wait_seq(stream, soft_stream_pending(stream));
        r = soft_ctx_error(ctx);
    }
    soft_stream_unref(stream);
    return r;
}

CUresult soft_copy_new(struct soft_ctx *ctx, const CUDA_MEMCPY3D *copy, struct soft_cmd **out)
{
    struct soft_copy *c = calloc(1, sizeof *c);
    CUresult r;

    if (c == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = soft_copy_shape(copy, c);
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
