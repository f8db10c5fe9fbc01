/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools of several processes: a descriptor of the pool's file gives access to all of it, export
 * data says where in it an allocation lies.
 */
#include <errno.h>
#include <string.h>

#include "soft/gpu/checkpoint.h"
#include "soft/gpu/pool.h"
#include "soft/gpu/shared.h"

#define MAGIC 0x4c4f4f5050524148ull /* "HARPPOOL" */

struct export { /* CUmemPoolPtrExportData */
    uint64_t magic;
    uint64_t dev, ino; /* the pool's file */
    uint64_t offset, bytes, asked;
    uint64_t unused;
    uint64_t sum; /* not a secret: only that it is one of these */
};
_Static_assert(sizeof(struct export) == sizeof(CUmemPoolPtrExportData), "it fits");

static uint64_t sum_of(const struct export *e)
{
    const unsigned char *p = (const unsigned char *)e;
    uint64_t sum = 0xcbf29ce484222325ull;

    for (size_t i = 0; i < offsetof(struct export, sum); i++)
        sum = (sum ^ p[i]) * 0x100000001b3ull;
    return sum;
}

static bool type_fits(CUmemAllocationHandleType type, unsigned long long flags, CUresult *r)
{
    *r = CUDA_ERROR_INVALID_VALUE;
    if (flags != 0)
        return false;
    if (type == CU_MEM_HANDLE_TYPE_WIN32 || type == CU_MEM_HANDLE_TYPE_WIN32_KMT ||
        type == CU_MEM_HANDLE_TYPE_FABRIC)
        *r = CUDA_ERROR_NOT_SUPPORTED;
    return type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
}

CUresult cuMemPoolExportToShareableHandle(void *handle_out, CUmemoryPool handle,
                                          CUmemAllocationHandleType handleType,
                                          unsigned long long flags)
{
    CUresult r = soft_ready(), why;
    const struct soft_pool *pool;
    int fd;

    if (r != CUDA_SUCCESS)
        return r;
    if (handle_out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (!type_fits(handleType, flags, &why))
        return why;
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || pool->imported || pool->props.handleTypes != handleType) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        fd = soft_phys_export(pool->phys);
        if (fd >= 0)
            *(int *)handle_out = fd;
        r = fd >= 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
    }
    soft_space_unlock();
    return r;
}

static CUresult result_of(int why)
{
    switch (why) {
    case ENOMEM:
    case ENOSPC:
        return CUDA_ERROR_OUT_OF_MEMORY;
    case EMFILE:
        return CUDA_ERROR_OPERATING_SYSTEM;
    default: /* none of these, of another machine, or nobody has it any more */
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle,
                                            CUmemAllocationHandleType handleType,
                                            unsigned long long flags)
{
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED};
    CUresult r = soft_ready(), reason;
    struct soft_phys *phys;
    struct soft_pool *pool;
    int why;

    if (r != CUDA_SUCCESS)
        return r;
    if (pool_out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (!type_fits(handleType, flags, &reason))
        return reason;
    if (soft_present(soft_the_state) < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    phys = soft_phys_import_growing((int)(intptr_t)handle, &why);
    if (phys == NULL)
        return result_of(why);
    props.location.type = phys->ordinal == SOFT_PHYS_HOST ? CU_MEM_LOCATION_TYPE_HOST_NUMA
                                                          : CU_MEM_LOCATION_TYPE_DEVICE;
    props.location.id = phys->ordinal == SOFT_PHYS_HOST ? 0 : soft_visible_device(phys->ordinal);
    soft_space_lock();
    pool = soft_pool_new(&props, phys->ordinal, phys);
    if (pool != NULL) {
        pool->imported = true;
        atomic_fetch_add(&soft_pools_waiting, 1);
        *pool_out = soft_pool_handle(pool);
    }
    soft_space_unlock();
    if (pool == NULL)
        soft_phys_unref(phys);
    return pool != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)
{
    CUresult r = soft_ready();
    const struct soft_piece *p;
    struct export e = {.magic = MAGIC};

    if (r != CUDA_SUCCESS)
        return r;
    if (shareData_out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    p = soft_piece_at(ptr, SOFT_PIECE_USED);
    if (p == NULL || p->chunk->pool->imported ||
        p->chunk->pool->props.handleTypes == CU_MEM_HANDLE_TYPE_NONE) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        const struct soft_phys *phys = p->chunk->pool->phys;

        e.dev = (uint64_t)phys->file.dev;
        e.ino = (uint64_t)phys->file.ino;
        e.offset = p->chunk->offset + (p->start - p->chunk->area.start);
        e.bytes = p->bytes;
        e.asked = p->asked;
        e.sum = sum_of(&e);
        memcpy(shareData_out, &e, sizeof e);
    }
    soft_space_unlock();
    return r;
}

static bool fits(const struct export *e, const struct soft_pool *pool)
{
    const struct soft_phys *phys = pool->phys;

    return e->magic == MAGIC && e->sum == sum_of(e) && e->dev == (uint64_t)phys->file.dev &&
           e->ino == (uint64_t)phys->file.ino && e->bytes > 0 && e->asked <= e->bytes &&
           e->offset <= phys->bytes && e->bytes <= phys->bytes - e->offset;
}

CUresult cuMemPoolImportPointer(CUdeviceptr *ptr_out, CUmemoryPool handle,
                                CUmemPoolPtrExportData *shareData)
{
    CUresult r = soft_ready();
    struct soft_pool *pool;
    struct soft_piece *p;
    struct export e;

    if (r != CUDA_SUCCESS)
        return r;
    if (ptr_out == NULL || shareData == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&e, shareData, sizeof e);
    soft_space_lock();
    pool = soft_pool_of(handle);
    if (pool == NULL || !pool->imported || !fits(&e, pool)) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        p = soft_space_make() == 0 ? soft_chunk_import(pool, e.offset, e.bytes) : NULL;
        if (p != NULL) {
            soft_piece_use(p, e.asked);
            *ptr_out = p->start;
        }
        r = p != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    soft_space_unlock();
    return r;
}
