/* SPDX-License-Identifier: Apache-2.0
 *
 * cuMemAllocAsync and cuMemFreeAsync: an allocation is a choice made when the call is made, a free
 * is a place in its stream.
 *
 * What is tried, in this order: free memory by the pool's rules; more of the device; the same after
 * units that nothing lies in went back (so that scattered free memory counts as one); memory that
 * another stream will free, behind a wait for that; the same after the host waited for it.
 */
#include <stdlib.h>

#include "soft/gpu/capture.h"
#include "soft/gpu/pool.h"
#include "soft/gpu/pool_graph.h"

#define BYTES_MOST (1ull << 46)

static struct soft_cmd *marker(const struct soft_cmd_ops *ops, size_t bytes)
{
    struct soft_cmd *cmd = calloc(1, bytes);

    if (cmd != NULL)
        cmd->ops = ops;
    return cmd;
}

/* -------------------------------------------------------------------------------- allocating -- */
static void drop_need(struct soft_pool_need *need)
{
    for (size_t i = 0; i < need->count; i++)
        soft_stream_unref(need->deps[i].stream);
    free(need->deps);
    *need = (struct soft_pool_need){NULL, 0};
}

struct wait {
    struct soft_cmd cmd;
    struct soft_pool_need need;
    bool *failed_out; /* read before the call returns */
};

static void wait_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct wait *w = (struct wait *)cmd;

    for (size_t i = 0; i < w->need.count; i++)
        if (w->need.deps[i].stream != stream &&
            soft_cmd_depend(cmd, w->need.deps[i].stream, w->need.deps[i].seq) != 0)
            *w->failed_out = true;
}

static void wait_destroy(struct soft_cmd *cmd)
{
    drop_need(&((struct wait *)cmd)->need);
    free(cmd);
}

static const struct soft_cmd_ops wait_ops = {.name = "mem_wait",
                                             .engine = SOFT_NO_ENGINE,
                                             .destroy = wait_destroy,
                                             .submitted = wait_submitted};

/* A wait for `need` in `stream`; takes `need`. */
static CUresult depend(struct soft_stream *stream, struct soft_pool_need *need)
{
    struct wait *w = (struct wait *)marker(&wait_ops, sizeof *w);
    bool failed = false;
    CUresult r;

    if (w == NULL) {
        drop_need(need);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    w->need = *need;
    w->failed_out = &failed;
    r = soft_submit(stream, &w->cmd);
    return r == CUDA_SUCCESS && failed ? CUDA_ERROR_OUT_OF_MEMORY : r;
}

/* What of the pool's is not free for everybody yet. */
static struct soft_pool_need pending(const struct soft_pool *pool)
{
    struct soft_pool_need need = {NULL, 0};
    size_t count = 0;

    for (const struct soft_piece *p = pool->free; p != NULL; p = p->free_next)
        count += p->stream != NULL;
    if (count > 0)
        need.deps = calloc(count, sizeof *need.deps);
    for (const struct soft_piece *p = pool->free; p != NULL && need.deps != NULL; p = p->free_next)
        if (p->stream != NULL) {
            soft_stream_ref(p->stream);
            need.deps[need.count++] = (struct soft_dep){p->stream, p->seq};
        }
    return need;
}

static bool has_come(struct soft_stream *stream, uint64_t seq, const void *arg)
{
    return soft_order_complete(stream, seq);
}

/* The last resort. Locked, but not while it waits; the pool may be gone afterwards: NULL then. */
static struct soft_piece *take_after_wait(CUmemoryPool handle, struct soft_stream *stream,
                                          uint64_t asked, struct soft_pool_need *need)
{
    struct soft_pool *pool = soft_pool_of(handle);
    struct soft_pool_need frees = pending(pool);
    bool waited = frees.count > 0;

    soft_space_unlock();
    for (size_t i = 0; i < frees.count; i++)
        soft_stream_wait_seq(frees.deps[i].stream, frees.deps[i].seq);
    drop_need(&frees);
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || !waited)
        return NULL;
    soft_pool_settle(pool, has_come, NULL);
    soft_pool_trim(pool, 0);
    return soft_piece_take(pool, stream, asked, need);
}

static CUresult alloc(CUmemoryPool handle, struct soft_stream *stream, uint64_t asked,
                      CUdeviceptr *out)
{
    struct soft_pool_need need = {NULL, 0};
    struct soft_pool *pool;
    struct soft_piece *p;
    CUdeviceptr ptr = 0;
    CUresult r;

    soft_space_lock();
    pool = soft_pool_of(handle);
    p = pool != NULL ? soft_piece_take(pool, stream, asked, &need) : NULL;
    if (pool != NULL && p == NULL) {
        soft_pool_trim(pool, 0);
        p = soft_piece_take(pool, stream, asked, &need);
    }
    if (pool != NULL && p == NULL && pool->internal)
        p = soft_piece_take_pending(pool, asked, &need);
    while (pool != NULL && p == NULL && pool->ordinal != SOFT_PHYS_HOST) {
        int ordinal = pool->ordinal;
        bool again;

        soft_space_unlock();
        again = soft_reclaim(ordinal, asked);
        soft_space_lock();
        pool = soft_pool_of(handle);
        if (pool == NULL || !again)
            break;
        p = soft_piece_take(pool, stream, asked, &need);
    }
    if (pool != NULL && p == NULL && pool->internal) {
        drop_need(&need);
        p = take_after_wait(handle, stream, asked, &need);
    }
    if (p != NULL)
        ptr = p->start;
    soft_space_unlock();
    if (ptr == 0) {
        drop_need(&need);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (need.count > 0 && (r = depend(stream, &need)) != CUDA_SUCCESS) {
        /* what it was to wait for is not over: it must not be had by anybody before the end */
        soft_space_lock();
        p = soft_piece_at(ptr, SOFT_PIECE_USED);
        if (p != NULL)
            soft_piece_free(p, stream, UINT64_MAX);
        soft_space_unlock();
        return r;
    }
    soft_space_lock();
    p = soft_piece_at(ptr, SOFT_PIECE_USED);
    if (p != NULL && p->early) {
        soft_stream_ref(stream);
        p->stream = stream;
        p->seq = soft_order_submitted(stream);
    }
    soft_space_unlock();
    *out = ptr;
    return CUDA_SUCCESS;
}

static CUresult alloc_async(CUdeviceptr *dptr, size_t bytes, CUmemoryPool handle, bool given,
                            CUstream hStream)
{
    struct soft_stream *stream;
    struct soft_pool *pool;
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemPoolProps props;
    uint8_t access[SOFT_MAX_DEVICES];
    CUresult r = soft_ready();
    bool imported;

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (dptr == NULL || bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    location.id = stream->ctx->device;
    soft_space_lock();
    pool = given ? soft_pool_of(handle) : soft_pool_current_of(&location);
    imported = pool != NULL && pool->imported;
    if (pool != NULL && !imported) {
        handle = soft_pool_handle(pool);
        props = pool->props;
        for (int i = 0; i < SOFT_MAX_DEVICES; i++)
            access[i] = pool->access[i];
    }
    soft_space_unlock();
    if (pool == NULL)
        return given ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    if (imported)
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_stream_capture(stream) != NULL)
        return soft_capture_alloc(stream, &props, access, bytes, dptr);
    if (bytes <= BYTES_MOST && props.allocType == CU_MEM_ALLOCATION_TYPE_MANAGED)
        return soft_pool_managed_alloc(handle, bytes, dptr);
    return bytes > BYTES_MOST ? CUDA_ERROR_OUT_OF_MEMORY : alloc(handle, stream, bytes, dptr);
}

CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    return alloc_async(dptr, bytesize, NULL, false, hStream);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                 CUstream hStream)
{
    return alloc_async(dptr, bytesize, pool, true, hStream);
}

/* ----------------------------------------------------------------------------------- freeing -- */
struct release {
    struct soft_cmd cmd;
    CUdeviceptr ptr;
    struct soft_ctx *ctx; /* of linear memory */
    struct soft_stream *stream;
};

static void release_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct release *c = (struct release *)cmd;
    struct soft_piece *p;

    c->stream = stream;
    soft_space_lock();
    p = soft_piece_at(c->ptr, SOFT_PIECE_FREEING);
    if (p != NULL)
        soft_piece_free(p, stream, cmd->seq);
    else if (!soft_pool_managed_freed(c->ptr, stream, cmd->seq))
        soft_graph_pool_freed(c->ptr, stream, cmd->seq);
    soft_space_unlock();
}

static void release_ended(struct soft_cmd *cmd, uint64_t end_ns)
{
    soft_pools_reached(((struct release *)cmd)->stream, cmd->seq);
}

static const struct soft_cmd_ops release_ops = {.name = "mem_free",
                                                .engine = SOFT_NO_ENGINE,
                                                .submitted = release_submitted,
                                                .ended = release_ended};

static CUresult linear_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct release *c = (struct release *)cmd;

    soft_mem_free(c->ctx, c->ptr); /* freed twice: the second has nothing to do */
    return CUDA_SUCCESS;
}

static const struct soft_cmd_ops linear_ops = {
    .name = "mem_free linear", .engine = SOFT_NO_ENGINE, .run = linear_run};

/* It is nobody else's to free from now on. Locked. */
static bool claim(CUdeviceptr ptr)
{
    struct soft_piece *p = soft_piece_at(ptr, SOFT_PIECE_USED);

    if (p != NULL)
        p->is = SOFT_PIECE_FREEING;
    return p != NULL || soft_pool_managed_claim(ptr) || soft_graph_pool_claim(ptr);
}

static void unclaim(CUdeviceptr ptr)
{
    struct soft_piece *p = soft_piece_at(ptr, SOFT_PIECE_FREEING);

    if (p != NULL)
        p->is = SOFT_PIECE_USED;
    else if (!soft_pool_managed_unclaim(ptr))
        soft_graph_pool_unclaim(ptr);
}

CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    struct soft_stream *stream;
    struct soft_span span;
    struct release *c;
    bool linear, claimed = false;
    CUresult r = soft_ready();

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (soft_stream_capture(stream) != NULL)
        return soft_capture_free(stream, dptr);
    linear = soft_span_find(dptr, &span) && span.kind == SOFT_SPAN_LINEAR && span.start == dptr;
    if (linear && span.inner)
        return CUDA_ERROR_INVALID_VALUE;
    if (!linear) {
        soft_space_lock();
        claimed = claim(dptr);
        soft_space_unlock();
        if (!claimed)
            return CUDA_ERROR_INVALID_VALUE;
    }
    c = (struct release *)marker(linear ? &linear_ops : &release_ops, sizeof *c);
    if (c != NULL) {
        c->ptr = dptr;
        c->ctx = linear ? span.ctx : NULL;
    }
    r = c != NULL ? soft_submit(stream, &c->cmd) : CUDA_ERROR_OUT_OF_MEMORY;
    if (r != CUDA_SUCCESS && claimed) {
        soft_space_lock();
        unclaim(dptr);
        soft_space_unlock();
    }
    return r;
}

CUresult soft_pool_free(CUdeviceptr ptr)
{
    struct soft_piece *p;
    bool done;

    soft_space_lock();
    p = soft_piece_at(ptr, SOFT_PIECE_USED);
    done = p != NULL || soft_pool_managed_claim(ptr) || soft_graph_pool_claim(ptr);
    if (p != NULL)
        soft_piece_free(p, NULL, 0);
    else if (done && !soft_pool_managed_freed(ptr, NULL, 0))
        soft_graph_pool_freed(ptr, NULL, 0);
    soft_pools_reap();
    soft_space_unlock();
    return done ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
