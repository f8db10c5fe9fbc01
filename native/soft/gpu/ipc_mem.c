/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy IPC of memory. A handle stands for the whole block that its allocation lies in; opening it
 * maps the block, and gives the allocation's place in it. The exporter goes on being charged; what
 * the importer has mapped stays readable whatever the exporter does, or becomes of it.
 */
#include "soft/gpu/ipc.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/arena.h"

#define MAGIC 0x4d435049u
#define UNIT  512u

struct name {
    struct soft_ipc_name of;
    uint64_t offset, bytes, id; /* of the block in its file; of the allocation */
    uint32_t unit;              /* where in the block it begins */
    int32_t ordinal;
};
_Static_assert(sizeof(struct name) == sizeof(CUipcMemHandle), "a handle");

struct opened {
    uint32_t unit;
    unsigned refs;
};

struct import {
    struct soft_area area;
    struct soft_phys *phys;
    uint64_t owner, ino, offset, bytes, id;
    struct opened *opened;
    size_t count;
};

static struct import *import_of(struct soft_area *area)
{
    return (struct import *)area;
}

static bool find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    const struct import *im = import_of(area);

    *span = (struct soft_span){.ctx = area->ctx,
                               .ordinal = im->phys->ordinal,
                               .start = area->start,
                               .bytes = im->bytes,
                               .id = im->id,
                               .host = soft_space_host(area->start),
                               .kind = SOFT_SPAN_IMPORT,
                               .device = true};
    return true;
}

static void drop(struct soft_area *area)
{
    struct import *im = import_of(area);

    soft_area_give(area);
    soft_phys_unref(im->phys);
    free(im->opened);
    free(im);
}

static const struct soft_area_ops import_ops = {.find = find, .forget = drop};

CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
    struct soft_ctx *ctx;
    struct soft_phys *phys;
    struct soft_span span;
    struct name name;
    uint64_t at;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pHandle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    phys = soft_block_at(dptr, &span, &at);
    if (phys == NULL) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else if (soft_phys_mark(phys, at, span.id) != 0) {
        r = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        name = (struct name){.offset = phys->offset,
                             .bytes = at == 0 && span.bytes > SOFT_GRANULE / 2 ? span.bytes
                                                                               : SOFT_GRANULE,
                             .id = span.id,
                             .unit = (uint32_t)(at / UNIT),
                             .ordinal = soft_at(phys->ordinal)};
        soft_ipc_name(&name.of, MAGIC, &phys->file);
        memcpy(pHandle, &name, sizeof name);
    }
    soft_space_unlock();
    return r;
}

/* -------------------------------------------------------------------------------- the other side
 */
static struct import *import_at(const struct soft_ctx *ctx, const struct name *name)
{
    for (struct soft_area *a = ctx->arena->areas; a != NULL; a = a->next) {
        struct import *im = import_of(a);

        if (a->ops == &import_ops && im->owner == name->of.owner && im->ino == name->of.ino &&
            im->offset == name->offset)
            return im;
    }
    return NULL;
}

/* Documented: one context per device may open the handles of one device of another process. */
static bool other_context_has(const struct soft_ctx *ctx, const struct name *name)
{
    for (struct soft_arena *arena = soft_space.arenas; arena != NULL; arena = arena->next) {
        if (arena->ctx == ctx || arena->ctx->ordinal != ctx->ordinal)
            continue;
        for (struct soft_area *a = arena->areas; a != NULL; a = a->next)
            if (a->ops == &import_ops && import_of(a)->owner == name->of.owner &&
                import_of(a)->phys->ordinal == name->ordinal)
                return true;
    }
    return false;
}

static CUresult note_open(struct import *im, uint32_t unit, CUdeviceptr *ptr)
{
    struct opened *more;

    *ptr = im->area.start + (uint64_t)unit * UNIT;
    for (size_t i = 0; i < im->count; i++)
        if (im->opened[i].unit == unit) {
            im->opened[i].refs++;
            return CUDA_SUCCESS;
        }
    more = realloc(im->opened, (im->count + 1) * sizeof *more);
    if (more == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    more[im->count++] = (struct opened){unit, 1};
    im->opened = more;
    return CUDA_SUCCESS;
}

/* Takes `fd`. Locked. */
static CUresult import(struct soft_ctx *ctx, const struct name *name, int fd, struct import **out)
{
    struct import *im = calloc(1, sizeof *im);
    uint64_t bytes = soft_granules(name->bytes);

    if (im == NULL) {
        close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    im->area.ops = &import_ops;
    im->area.ctx = ctx;
    im->owner = name->of.owner;
    im->ino = name->of.ino;
    im->offset = name->offset;
    im->bytes = name->bytes;
    im->id = soft_span_next_id();
    im->phys = soft_phys_borrow(fd, name->ordinal, name->offset, bytes);
    if (im->phys == NULL || soft_area_take(&im->area, bytes, 0, 0) != 0) {
        soft_phys_unref(im->phys);
        free(im);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (soft_area_map(&im->area, im->area.start, im->phys, 0, bytes) != 0) {
        drop(&im->area);
        return CUDA_ERROR_MAP_FAILED;
    }
    soft_area_publish(&im->area, im->area.start, bytes);
    *out = im;
    return CUDA_SUCCESS;
}

static CUresult check_device(const struct soft_ctx *ctx, int ordinal)
{
    if (ordinal < 0 || ordinal >= soft_the_state->map->device_count)
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_visible_device(ordinal) < 0) {
        soft_log("an IPC handle is of memory on a device which CUDA_VISIBLE_DEVICES hides");
        return CUDA_ERROR_MAP_FAILED;
    }
    return ordinal == ctx->ordinal || soft_devices_peer(ctx->ordinal, ordinal)
               ? CUDA_SUCCESS
               : CUDA_ERROR_MAP_FAILED;
}

static CUresult open_in(struct soft_ctx *ctx, const struct name *name, int fd, CUdeviceptr *ptr)
{
    struct import *im = import_at(ctx, name);
    bool fresh = im == NULL;
    CUresult r = CUDA_SUCCESS;

    if (soft_phys_marked(fd, name->offset + (uint64_t)name->unit * UNIT) != name->id) {
        close(fd); /* it was freed */
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!fresh || other_context_has(ctx, name))
        close(fd);
    else
        r = import(ctx, name, fd, &im);
    if (im == NULL)
        return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_HANDLE;
    r = note_open(im, name->unit, ptr);
    if (r != CUDA_SUCCESS && fresh)
        drop(&im->area);
    return r;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
    struct soft_ctx *ctx;
    struct name name;
    int fd;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pdptr == NULL || Flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&name, &handle, sizeof name);
    r = soft_ipc_check(&name.of, MAGIC);
    if (r == CUDA_SUCCESS &&
        (name.bytes == 0 || name.bytes > 1ull << 46 || (uint64_t)name.unit * UNIT >= name.bytes))
        r = CUDA_ERROR_INVALID_VALUE;
    name.ordinal = soft_from(name.ordinal);
    if (r == CUDA_SUCCESS)
        r = check_device(ctx, name.ordinal);
    if (r == CUDA_SUCCESS)
        r = soft_ipc_open(&name.of, &fd);
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    r = open_in(ctx, &name, fd, pdptr);
    soft_space_unlock();
    return r;
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
    return cuIpcOpenMemHandle_v2(pdptr, handle, Flags);
}

static struct opened *opened_at(struct soft_ctx *ctx, uint64_t ptr, struct import **out)
{
    struct soft_area *area =
        soft_is_device_range(ptr) ? soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE] : NULL;

    if (area == NULL || area->ops != &import_ops || area->ctx != ctx)
        return NULL;
    *out = import_of(area);
    for (size_t i = 0; i < (*out)->count; i++)
        if (area->start + (uint64_t)(*out)->opened[i].unit * UNIT == ptr)
            return &(*out)->opened[i];
    return NULL;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr dptr)
{
    struct soft_ctx *ctx;
    struct import *im;
    struct opened *o;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    o = opened_at(ctx, dptr, &im);
    soft_space_unlock();
    if (o == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_ctx_wait(ctx); /* as freeing does */
    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    o = opened_at(ctx, dptr, &im); /* another thread may have closed it meanwhile */
    if (o == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    else if (--o->refs == 0)
        *o = im->opened[--im->count];
    if (o != NULL && im->count == 0)
        drop(&im->area);
    soft_space_unlock();
    return r;
}
