/* SPDX-License-Identifier: Apache-2.0
 *
 * Every way to device memory that one process has by itself, as pairs of make and end. A make that
 * is refused leaves nothing behind. `low` and `high` are what the thing may cost on the device:
 * exactly its bytes, and the granules it may need.
 */
#ifndef HARP_TESTS_MEMORY_PATHS_H
#define HARP_TESTS_MEMORY_PATHS_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "driver_calls.h"

#define GRANULE  (2ull << 20)
#define CHUNK    (32ull << 20) /* what a pool takes of the device at a time */
#define UP(size) (((size) + GRANULE - 1) / GRANULE * GRANULE)

struct thing {
    int path;
    CUdeviceptr at;
    CUmemGenericAllocationHandle handle;
    CUmemoryPool pool;
    CUcontext ctx;
    CUarray array;
    CUmipmappedArray mipmap;
    bool released; /* the handle of a mapping */
    size_t size;
    uint64_t low, high;
};

struct path {
    const char *name;
    CUresult (*make)(struct thing *t, size_t size);
    CUresult (*end)(struct thing *t);
};

static CUcontext main_ctx;
static CUstream stream;

static void costs(struct thing *t, size_t size)
{
    t->size = size;
    t->low = size;
    t->high = UP(size);
}

static CUresult linear_make(struct thing *t, size_t size)
{
    costs(t, size);
    return CALL(cuMemAlloc_v2, &t->at, size);
}

static CUresult linear_end(struct thing *t)
{
    return CALL(cuMemFree_v2, t->at);
}

static CUresult pitch_make(struct thing *t, size_t size)
{
    size_t pitch = 0, rows = size / 4096 + 1;
    CUresult r = CALL(cuMemAllocPitch_v2, &t->at, &pitch, 4000, rows, 4);

    costs(t, (r == CUDA_SUCCESS ? pitch : 4096) * rows);
    return r;
}

/* Used at once by the device, granule by granule: it is where it is counted. */
static CUresult managed_make(struct thing *t, size_t size)
{
    CUresult r = CALL(cuMemAllocManaged, &t->at, size, CU_MEM_ATTACH_GLOBAL);

    costs(t, size);
    for (size_t from = 0; r == CUDA_SUCCESS && from < size; from += GRANULE)
        r = CALL(cuMemsetD8_v2, t->at + from, 1, 1);
    return r;
}

static CUresult async_make(struct thing *t, size_t size)
{
    costs(t, size);
    t->high = CHUNK;
    return CALL(cuMemAllocAsync, &t->at, size, stream);
}

static CUresult async_end(struct thing *t)
{
    CUresult r = CALL(cuMemFreeAsync, t->at, stream);
    return r == CUDA_SUCCESS && t->size % 3 == 0 ? CALL(cuStreamSynchronize, stream) : r;
}

static CUresult pool_make(struct thing *t, size_t size)
{
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
    CUresult r = CALL(cuMemPoolCreate, &t->pool, &props);

    costs(t, size);
    t->high = CHUNK;
    if (r != CUDA_SUCCESS)
        return r;
    r = CALL(cuMemAllocFromPoolAsync, &t->at, size, t->pool, stream);
    if (r != CUDA_SUCCESS)
        CALL(cuMemPoolDestroy, t->pool);
    return r;
}

static CUresult pool_end(struct thing *t)
{
    CUresult r = CALL(cuMemFreeAsync, t->at, stream);
    if (r == CUDA_SUCCESS)
        r = CALL(cuStreamSynchronize, stream);
    return r == CUDA_SUCCESS ? CALL(cuMemPoolDestroy, t->pool) : r;
}

/* Half of them give up their handle at once: the mapping alone keeps the memory. */
static CUresult vmm_make(struct thing *t, size_t size)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
    CUresult r;

    costs(t, UP(size));
    t->released = size % 2 == 0;
    if ((r = CALL(cuMemAddressReserve, &t->at, t->size, 0, 0, 0)) != CUDA_SUCCESS)
        return r;
    if ((r = CALL(cuMemCreate, &t->handle, t->size, &prop, 0)) != CUDA_SUCCESS) {
        CALL(cuMemAddressFree, t->at, t->size);
        return r;
    }
    r = CALL(cuMemMap, t->at, t->size, 0, t->handle, 0);
    if (r == CUDA_SUCCESS && t->released)
        r = CALL(cuMemRelease, t->handle);
    return r;
}

static CUresult vmm_end(struct thing *t)
{
    CUresult r = CALL(cuMemUnmap, t->at, t->size);
    if (r == CUDA_SUCCESS && !t->released)
        r = CALL(cuMemRelease, t->handle);
    return r == CUDA_SUCCESS ? CALL(cuMemAddressFree, t->at, t->size) : r;
}

static CUresult array_make(struct thing *t, size_t size)
{
    CUDA_ARRAY_DESCRIPTOR d = {
        .Width = 1024, .Height = size / 4096 + 1, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};

    costs(t, 4096 * d.Height);
    t->high += GRANULE; /* how rows are padded is the driver's */
    return CALL(cuArrayCreate_v2, &t->array, &d);
}

static CUresult array_end(struct thing *t)
{
    return CALL(cuArrayDestroy, t->array);
}

static CUresult mipmap_make(struct thing *t, size_t size)
{
    CUDA_ARRAY3D_DESCRIPTOR d = {
        .Width = 1024, .Height = size / 4096 + 1, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};

    costs(t, 4096 * d.Height);
    t->high = UP(2 * t->low) + 4 * GRANULE; /* levels, each with its padding */
    return CALL(cuMipmappedArrayCreate, &t->mipmap, &d, 3);
}

static CUresult mipmap_end(struct thing *t)
{
    return CALL(cuMipmappedArrayDestroy, t->mipmap);
}

/* What lies in a context goes with it. */
static CUresult context_make(struct thing *t, size_t size)
{
    CUcontext unused;
    CUresult r = CALL(cuCtxCreate_v2, &t->ctx, 0, 0);

    costs(t, size);
    if (r != CUDA_SUCCESS)
        return r;
    r = CALL(cuMemAlloc_v2, &t->at, size);
    CALL(cuCtxPopCurrent_v2, &unused);
    if (r != CUDA_SUCCESS)
        CALL(cuCtxDestroy_v2, t->ctx);
    return r;
}

static CUresult context_end(struct thing *t)
{
    return CALL(cuCtxDestroy_v2, t->ctx);
}

/* Never this tenant's device memory, whatever the limit. */
static CUresult pinned_make(struct thing *t, size_t size)
{
    void *host = NULL;
    CUresult r = CALL(cuMemHostAlloc, &host, size, 0);

    t->at = (CUdeviceptr)(uintptr_t)host;
    return r;
}

static CUresult pinned_end(struct thing *t)
{
    return CALL(cuMemFreeHost, (void *)(uintptr_t)t->at);
}

static const struct path paths[] = {
    {"linear", linear_make, linear_end},    {"pitch", pitch_make, linear_end},
    {"managed", managed_make, linear_end},  {"async", async_make, async_end},
    {"pool", pool_make, pool_end},          {"vmm", vmm_make, vmm_end},
    {"array", array_make, array_end},       {"mipmap", mipmap_make, mipmap_end},
    {"context", context_make, context_end}, {"pinned", pinned_make, pinned_end},
};
#define PATHS ((int)(sizeof paths / sizeof *paths))

static void paths_begin(void)
{
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (lib == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        _exit(3);
    }
    DO(cuInit, 0);
    DO(cuCtxCreate_v2, &main_ctx, 0, 0);
    DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
}

#endif
