/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies in batches: all are checked, then all are submitted, in one stream.
 */
#include "soft/gpu/array.h"
#include "soft/gpu/managed.h"

#include <stdlib.h>

/* Where an operand is to be reached, if it is managed memory and could be reached by either. */
static CUresult place(CUdeviceptr ptr, uint64_t bytes, const CUmemLocation *hint,
                      struct soft_place *out)
{
    bool host = hint->type == CU_MEM_LOCATION_TYPE_HOST ||
                hint->type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
                hint->type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;

    if (soft_is_managed(ptr) && host)
        return soft_place_host((const void *)(uintptr_t)ptr, bytes, out);
    if (soft_is_managed(ptr) && hint->type == CU_MEM_LOCATION_TYPE_DEVICE)
        return soft_place_device(ptr, bytes, out);
    return soft_place_any(ptr, bytes, out);
}

static bool is_order(CUmemcpySrcAccessOrder order)
{
    return order >= CU_MEMCPY_SRC_ACCESS_ORDER_STREAM && order <= CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
}

static CUresult begin(CUstream hStream, struct soft_stream **stream)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (soft_is_legacy_handle(hStream))
        return CUDA_ERROR_INVALID_VALUE;
    return soft_stream_of(hStream, stream);
}

/* `at_once`: some source must have been read when the call returns. Pageable ones always are. */
static CUresult submit(struct soft_stream *stream, const struct soft_copy *copies, size_t count,
                       bool at_once)
{
    CUresult r = CUDA_SUCCESS;

    soft_stream_ref(stream); /* another thread may destroy it while one of them waits */
    for (size_t i = 0; i < count && r == CUDA_SUCCESS; i++)
        r = soft_copy_submit(stream, &copies[i], SOFT_COPY_ASYNC);
    if (r == CUDA_SUCCESS && at_once && soft_stream_capture(stream) == NULL)
        r = soft_stream_wait(stream);
    soft_stream_unref(stream);
    return r;
}

/* ------------------------------------------------------------------------------------- 1D ----- */
struct batch {
    const CUdeviceptr *dsts, *srcs;
    const size_t *sizes;
    size_t count;
    const CUmemcpyAttributes *attrs;
    const size_t *first; /* copy that each of attrs begins with */
    size_t attr_count;
};

static bool is_sound(const struct batch *b)
{
    if (b->dsts == NULL || b->srcs == NULL || b->sizes == NULL || b->count == 0 ||
        b->attrs == NULL || b->first == NULL || b->attr_count == 0 || b->attr_count > b->count ||
        b->first[0] != 0)
        return false;
    for (size_t i = 0; i < b->attr_count; i++)
        if ((i > 0 && b->first[i] <= b->first[i - 1]) || b->first[i] >= b->count ||
            !is_order(b->attrs[i].srcAccessOrder) ||
            (b->attrs[i].flags & ~(unsigned)CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE) != 0)
            return false;
    return true;
}

static CUresult batch_1d(const struct batch *b, size_t *fail, CUstream hStream)
{
    struct soft_copy *copies;
    struct soft_stream *stream;
    bool at_once = false;
    size_t attr = 0;
    CUresult r = begin(hStream, &stream);

    *fail = SIZE_MAX; /* not the fault of one of them */
    if (r != CUDA_SUCCESS)
        return r;
    if (!is_sound(b))
        return CUDA_ERROR_INVALID_VALUE;
    copies = calloc(b->count, sizeof *copies);
    if (copies == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < b->count && r == CUDA_SUCCESS; i++) {
        if (attr + 1 < b->attr_count && b->first[attr + 1] == i)
            attr++;
        at_once =
            at_once || b->attrs[attr].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
        copies[i].width = b->sizes[i];
        copies[i].height = copies[i].depth = 1;
        if (b->sizes[i] == 0)
            continue;
        r = place(b->dsts[i], b->sizes[i], &b->attrs[attr].dstLocHint, &copies[i].to);
        if (r == CUDA_SUCCESS)
            r = place(b->srcs[i], b->sizes[i], &b->attrs[attr].srcLocHint, &copies[i].from);
        if (r != CUDA_SUCCESS)
            *fail = i;
    }
    if (r == CUDA_SUCCESS)
        r = submit(stream, copies, b->count, at_once);
    free(copies);
    return r;
}

CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                               CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs,
                               CUstream hStream)
{
    struct batch b = {dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs};
    size_t unused;

    return batch_1d(&b, &unused, hStream);
}

CUresult cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                            CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs,
                            size_t *failIdx, CUstream hStream)
{
    struct batch b = {dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs};
    size_t unused;

    return batch_1d(&b, failIdx != NULL ? failIdx : &unused, hStream);
}

/* ------------------------------------------------------------------------------------- 3D ----- */
/* Bytes of the element that an operand counts in; 0: a pointer, or a planar array. */
static CUresult element_of(const CUmemcpy3DOperand *operand, uint32_t *bytes)
{
    const struct soft_array *a;

    *bytes = 0;
    if (operand->type == CU_MEMCPY_OPERAND_TYPE_POINTER)
        return CUDA_SUCCESS;
    if (operand->type != CU_MEMCPY_OPERAND_TYPE_ARRAY)
        return CUDA_ERROR_INVALID_VALUE;
    a = soft_array_of(operand->op.array.array);
    if (a == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    *bytes = a->element;
    return a->element == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult operand_place(const CUmemcpy3DOperand *o, const CUextent3D *extent, size_t element,
                              struct soft_place *out)
{
    size_t row, height, slice, bytes;

    if (o->type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
        struct soft_box box = {0,
                               o->op.array.offset.y,
                               o->op.array.offset.z,
                               extent->width * element,
                               extent->height,
                               extent->depth};

        if (__builtin_mul_overflow(o->op.array.offset.x, element, &box.x))
            return CUDA_ERROR_INVALID_VALUE;
        return soft_array_place(o->op.array.array, &box, out);
    }
    row = o->op.ptr.rowLength != 0 ? o->op.ptr.rowLength : extent->width;
    height = o->op.ptr.layerHeight != 0 ? o->op.ptr.layerHeight : extent->height;
    if (row < extent->width || height < extent->height ||
        __builtin_mul_overflow(row, element, &row) || __builtin_mul_overflow(row, height, &slice) ||
        __builtin_mul_overflow(extent->depth - 1, slice, &bytes) ||
        __builtin_add_overflow(bytes, (extent->height - 1) * row + extent->width * element, &bytes))
        return CUDA_ERROR_INVALID_VALUE;
    out->pitch = row;
    out->slice_pitch = slice;
    return place(o->op.ptr.ptr, bytes, &o->op.ptr.locHint, out);
}

static CUresult op_copy(const CUDA_MEMCPY3D_BATCH_OP *op, struct soft_copy *c)
{
    const CUextent3D *e = &op->extent;
    uint32_t from, to, element;
    CUresult r = element_of(&op->src, &from);

    if (r == CUDA_SUCCESS)
        r = element_of(&op->dst, &to);
    if (r != CUDA_SUCCESS)
        return r;
    element = from != 0 ? from : to != 0 ? to : 1;
    if ((from != 0 && to != 0 && from != to) || e->width == 0 || e->height == 0 || e->depth == 0 ||
        e->width > SIZE_MAX / element || !is_order(op->srcAccessOrder) ||
        (op->flags & ~(unsigned)CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    *c = (struct soft_copy){.width = e->width * element, .height = e->height, .depth = e->depth};
    r = operand_place(&op->dst, e, element, &c->to);
    return r != CUDA_SUCCESS ? r : operand_place(&op->src, e, element, &c->from);
}

static CUresult batch_3d(size_t count, const CUDA_MEMCPY3D_BATCH_OP *ops, size_t *fail,
                         unsigned long long flags, CUstream hStream)
{
    struct soft_copy *copies;
    struct soft_stream *stream;
    bool at_once = false;
    CUresult r = begin(hStream, &stream);

    *fail = SIZE_MAX;
    if (r != CUDA_SUCCESS)
        return r;
    if (count == 0 || ops == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    copies = calloc(count, sizeof *copies);
    if (copies == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < count && r == CUDA_SUCCESS; i++) {
        r = op_copy(&ops[i], &copies[i]);
        at_once = at_once || ops[i].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
        if (r != CUDA_SUCCESS)
            *fail = i;
    }
    if (r == CUDA_SUCCESS)
        r = submit(stream, copies, count, at_once);
    free(copies);
    return r;
}

CUresult cuMemcpy3DBatchAsync_v2(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList,
                                 unsigned long long flags, CUstream hStream)
{
    size_t unused;

    return batch_3d(numOps, opList, &unused, flags, hStream);
}

CUresult cuMemcpy3DBatchAsync(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx,
                              unsigned long long flags, CUstream hStream)
{
    size_t unused;

    return batch_3d(numOps, opList, failIdx != NULL ? failIdx : &unused, flags, hStream);
}
