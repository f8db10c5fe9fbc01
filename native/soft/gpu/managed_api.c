/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on managed memory: allocation, stream attachment, prefetches and discards.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/managed.h"

#include <stdlib.h>

CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (dptr == NULL || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        return CUDA_ERROR_INVALID_VALUE;
    return soft_managed_alloc(ctx, bytesize, flags, dptr);
}

/* Every device here lets host and kernels use managed memory at the same time, so an attachment
 * restricts nobody; it is checked, and waits for nothing that could be seen. */
CUresult cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length,
                                unsigned int flags)
{
    bool null = hStream == NULL || hStream == CU_STREAM_LEGACY || hStream == CU_STREAM_PER_THREAD;
    const struct soft_managed *m;
    struct soft_stream *stream;
    struct soft_ctx *ctx;
    bool whole;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if ((flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST &&
         flags != CU_MEM_ATTACH_SINGLE) ||
        (flags == CU_MEM_ATTACH_SINGLE && null))
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    m = soft_managed_named(dptr, 1);
    /* variables share one: any of them, of whatever length */
    whole =
        m != NULL && (m->inner || (m->area.start == dptr && (length == 0 || length == m->bytes)));
    soft_space_unlock();
    if (!whole)
        return CUDA_ERROR_INVALID_VALUE;
    return soft_stream_capture(stream) != NULL ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                                               : CUDA_SUCCESS;
}

/* ----------------------------------------------------------------------- prefetch, discard ---- */
struct moving { /* a command */
    struct soft_cmd cmd;
    bool discards, prefetches;
    size_t count;
    struct item {
        CUdeviceptr ptr;
        size_t bytes;
        CUmemLocation location;
        CUdevice device;
    } items[];
};

static uint64_t pages(uint64_t offset, bool up)
{
    return (offset + (up ? SOFT_PAGE - 1 : 0)) / SOFT_PAGE * SOFT_PAGE;
}

static CUresult run(struct soft_cmd *cmd, struct soft_run *r)
{
    const struct moving *v = (const struct moving *)cmd;

    r->modelled_ns = soft_ctx_profile(r->ctx)->copy_ns;
    for (size_t i = 0; i < v->count; i++) {
        const struct item *item = &v->items[i];
        struct soft_managed *m;
        uint64_t from, to;

        soft_space_lock();
        m = soft_managed_at(item->ptr, item->bytes);
        if (m != NULL) {
            from = pages(item->ptr - m->area.start, false);
            to = pages(item->ptr - m->area.start + item->bytes, true);
            if (v->discards)
                soft_managed_discard(m, from, to);
            if (v->prefetches)
                r->modelled_ns += soft_managed_prefetch(m, from, to, item->device);
        }
        soft_space_unlock();
    }
    return CUDA_SUCCESS;
}

/* No clone: a graph has no nodes for it, and a capture refuses it. */
static const struct soft_cmd_ops to_device_ops = {
    .name = "prefetch to device", .engine = SOFT_COPY_IN, .run = run};
static const struct soft_cmd_ops to_host_ops = {
    .name = "prefetch to host", .engine = SOFT_COPY_OUT, .run = run};

static void prefetched(struct soft_policy *policy, const void *arg)
{
    policy->prefetched = ((const struct item *)arg)->location;
}

/* Remembers where the range was last sent; false: not managed memory, or no host memory. */
static bool remember(const struct item *item, bool prefetches)
{
    struct soft_managed *m;
    bool done;

    soft_space_lock();
    m = item->bytes > 0 ? soft_managed_named(item->ptr, item->bytes) : NULL;
    done = m != NULL &&
           (!prefetches || soft_policy_change(m, pages(item->ptr - m->area.start, false),
                                              pages(item->ptr - m->area.start + item->bytes, true),
                                              prefetched, item));
    soft_space_unlock();
    return done;
}

/* All ranges are checked before any is sent. */
static CUresult submit(struct moving *v, struct soft_stream *stream)
{
    bool to_device = !v->prefetches;

    for (size_t i = 0; i < v->count; i++) {
        CUresult r = v->prefetches ? soft_location_of(&v->items[i].location, &v->items[i].device)
                                   : CUDA_SUCCESS;

        if (r == CUDA_SUCCESS && !remember(&v->items[i], false))
            r = CUDA_ERROR_INVALID_VALUE;
        if (r != CUDA_SUCCESS) {
            free(v);
            return r;
        }
        to_device = to_device || v->items[i].device >= 0;
    }
    if (soft_stream_capture(stream) == NULL)
        for (size_t i = 0; i < v->count; i++)
            remember(&v->items[i], v->prefetches);
    v->cmd.ops = to_device ? &to_device_ops : &to_host_ops;
    return soft_submit(stream, &v->cmd);
}

CUresult cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                               unsigned int flags, CUstream hStream)
{
    struct soft_stream *stream;
    struct soft_ctx *ctx;
    struct moving *v;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    v = calloc(1, sizeof *v + sizeof v->items[0]);
    if (v == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    v->prefetches = true;
    v->count = 1;
    v->items[0] = (struct item){devPtr, count, location, 0};
    return submit(v, stream);
}

CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream)
{
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, dstDevice};

    if (dstDevice == CU_DEVICE_CPU)
        location = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST, 0};
    return cuMemPrefetchAsync_v2(devPtr, count, location, 0, hStream);
}

struct batch {
    const CUdeviceptr *dptrs;
    const size_t *sizes;
    size_t count;
    const CUmemLocation *locations; /* NULL: no prefetch */
    const size_t *first;            /* range that each location begins with */
    size_t location_count;
    unsigned long long flags;
};

static bool is_sound(const struct batch *b)
{
    if (b->dptrs == NULL || b->sizes == NULL || b->count == 0 || b->flags != 0)
        return false;
    if (b->locations == NULL)
        return true;
    if (b->first == NULL || b->location_count == 0 || b->location_count > b->count ||
        b->first[0] != 0)
        return false;
    for (size_t i = 1; i < b->location_count; i++)
        if (b->first[i] <= b->first[i - 1] || b->first[i] >= b->count)
            return false;
    return true;
}

static CUresult batch(const struct batch *b, bool discards, CUstream hStream)
{
    struct soft_stream *stream;
    struct soft_ctx *ctx;
    struct moving *v;
    size_t location = 0;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (!is_sound(b) || soft_is_legacy_handle(hStream))
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (b->count > (SIZE_MAX - sizeof *v) / sizeof v->items[0])
        return CUDA_ERROR_INVALID_VALUE;
    v = calloc(1, sizeof *v + b->count * sizeof v->items[0]);
    if (v == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    v->discards = discards;
    v->prefetches = b->locations != NULL;
    v->count = b->count;
    for (size_t i = 0; i < b->count; i++) {
        if (v->prefetches && location + 1 < b->location_count && b->first[location + 1] == i)
            location++;
        v->items[i] = (struct item){.ptr = b->dptrs[i], .bytes = b->sizes[i]};
        if (v->prefetches)
            v->items[i].location = b->locations[location];
    }
    return submit(v, stream);
}

CUresult cuMemPrefetchBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count,
                                 CUmemLocation *prefetchLocs, size_t *prefetchLocIdxs,
                                 size_t numPrefetchLocs, unsigned long long flags, CUstream hStream)
{
    struct batch b = {dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags};

    if (prefetchLocs == NULL)
        b.count = 0; /* an error, found where the others are */
    return batch(&b, false, hStream);
}

CUresult cuMemDiscardBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count,
                                unsigned long long flags, CUstream hStream)
{
    struct batch b = {dptrs, sizes, count, NULL, NULL, 0, flags};

    return batch(&b, true, hStream);
}

CUresult cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count,
                                           CUmemLocation *prefetchLocs, size_t *prefetchLocIdxs,
                                           size_t numPrefetchLocs, unsigned long long flags,
                                           CUstream hStream)
{
    struct batch b = {dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags};

    if (prefetchLocs == NULL)
        b.count = 0;
    return batch(&b, true, hStream);
}
