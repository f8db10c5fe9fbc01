/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on physical allocations: made, shared as file descriptors, given back. Memory goes
 * when no handle, no mapping and no importer has it.
 */
#include "soft/gpu/vmm.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "soft/gpu/checkpoint.h"

#define KNOWN_USAGE (CU_MEM_CREATE_USAGE_TILE_POOL | CU_MEM_CREATE_USAGE_HW_DECOMPRESS)

struct soft_vmm_alloc *soft_vmm_alloc_of(CUmemGenericAllocationHandle handle)
{
    struct soft_vmm_alloc *alloc = (struct soft_vmm_alloc *)(uintptr_t)handle;

    return soft_handle_is(SOFT_H_MEMORY, alloc) ? alloc : NULL;
}

CUmemGenericAllocationHandle soft_vmm_handle(struct soft_vmm_alloc *alloc)
{
    return (CUmemGenericAllocationHandle)(uintptr_t)alloc;
}

bool soft_vmm_retain(struct soft_vmm_alloc *alloc)
{
    if (alloc->handles == 0 && soft_handle_add(SOFT_H_MEMORY, alloc) != 0)
        return false;
    alloc->handles++;
    return true;
}

void soft_vmm_drop(struct soft_vmm_alloc *alloc)
{
    if (alloc->handles > 0 || alloc->mappings > 0)
        return;
    soft_phys_unref(alloc->phys);
    free(alloc);
}

bool soft_vmm_on_host(const struct soft_vmm_alloc *alloc)
{
    return alloc->phys->ordinal == SOFT_PHYS_HOST;
}

void soft_vmm_take_time(uint64_t from_ns, uint64_t cost_ns)
{
    while (soft_now_ns() - from_ns < cost_ns) /* too short to sleep through */
        sched_yield();
}

/* ------------------------------------------------------------------------------- properties --- */
static bool node_exists(int node)
{
    char path[64];

    if (node == 0)
        return true; /* where there is no NUMA, there is a node 0 */
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d", node);
    return node > 0 && access(path, F_OK) == 0;
}

static CUresult check_handle_types(const CUmemAllocationProp *p)
{
    unsigned types = (unsigned)p->requestedHandleTypes;

    if ((types & ~0xfu) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (p->location.type == CU_MEM_LOCATION_TYPE_HOST && types != 0)
        return CUDA_ERROR_INVALID_VALUE; /* documented: no IPC of those */
    if ((types & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
        return CUDA_ERROR_NOT_SUPPORTED; /* Windows; no fabric, as the attributes say */
    return CUDA_SUCCESS;
}

/* Of what cannot be done here: what the attributes say is not supported. */
static CUresult check_flags(const CUmemAllocationProp *p)
{
    if (p->allocFlags.compressionType > CU_MEM_ALLOCATION_COMP_GENERIC ||
        (p->allocFlags.usage & ~KNOWN_USAGE) != 0 || p->win32HandleMetaData != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (p->allocFlags.compressionType != 0 || p->allocFlags.gpuDirectRDMACapable != 0 ||
        p->allocFlags.usage != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    return CUDA_SUCCESS;
}

/* Ordinal of the location, or SOFT_PHYS_HOST. */
static CUresult check_prop(const CUmemAllocationProp *p, int *ordinal)
{
    CUresult r;

    *ordinal = SOFT_PHYS_HOST;
    if (p == NULL || p->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)p->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *ordinal = soft_visible_ordinal(p->location.id);
        if (*ordinal < 0)
            return CUDA_ERROR_INVALID_DEVICE;
        break;
    case CU_MEM_LOCATION_TYPE_HOST:
        break;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        if (!node_exists(p->location.id))
            return CUDA_ERROR_INVALID_VALUE;
        break;
    default: /* HOST_NUMA_CURRENT too, as documented */
        return CUDA_ERROR_INVALID_VALUE;
    }
    r = check_handle_types(p);
    return r != CUDA_SUCCESS ? r : check_flags(p);
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option)
{
    int ordinal;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (granularity == NULL || (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM &&
                                option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
        return CUDA_ERROR_INVALID_VALUE;
    r = check_prop(prop, &ordinal);
    if (r == CUDA_SUCCESS)
        *granularity = SOFT_GRANULE;
    return r;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                                CUmemGenericAllocationHandle handle)
{
    struct soft_vmm_alloc *alloc;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    alloc = soft_vmm_alloc_of(handle);
    if (prop == NULL || alloc == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    else
        *prop = alloc->prop;
    soft_space_unlock();
    return r;
}

/* ----------------------------------------------------------------------- made and given back -- */
static const struct soft_profile *costs(int ordinal)
{
    return soft_the_state->profile[ordinal < 0 ? soft_visible_ordinal(0) : ordinal];
}

/* Takes `phys` over. */
static CUresult wrap(struct soft_phys *phys, const CUmemAllocationProp *prop,
                     CUmemGenericAllocationHandle *handle)
{
    struct soft_vmm_alloc *alloc = calloc(1, sizeof *alloc);
    bool known = false;

    if (alloc != NULL) {
        *alloc = (struct soft_vmm_alloc){.phys = phys, .prop = *prop};
        soft_space_lock();
        known = soft_vmm_retain(alloc);
        soft_space_unlock();
    }
    if (!known) {
        free(alloc);
        soft_phys_unref(phys);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *handle = soft_vmm_handle(alloc);
    return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                     const CUmemAllocationProp *prop, unsigned long long flags)
{
    uint64_t from = soft_now_ns();
    enum soft_phys_kind kind;
    struct soft_phys *phys;
    int ordinal;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (handle == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    r = check_prop(prop, &ordinal);
    if (r != CUDA_SUCCESS)
        return r;
    if (size == 0 || size % SOFT_GRANULE != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (size > (ordinal < 0 ? 1ull << 46 : costs(ordinal)->memory_bytes) ||
        soft_present(soft_the_state) < 0) /* no context need be there yet */
        return CUDA_ERROR_OUT_OF_MEMORY;
    kind = prop->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE ? SOFT_PHYS_SHAREABLE
                                                                 : SOFT_PHYS_PRIVATE;
    do {
        phys = soft_phys_make(ordinal, size, kind);
    } while (phys == NULL && ordinal >= 0 && soft_reclaim(ordinal, size));
    if (phys == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = wrap(phys, prop, handle);
    soft_vmm_take_time(from, costs(ordinal)->vmm_create_ns);
    return r;
}

static uint64_t release_cost(const struct soft_phys *phys)
{
    const struct soft_profile *p = costs(phys->ordinal);

    return p->vmm_release_ns + phys->bytes / SOFT_GRANULE * p->vmm_release_granule_ns;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    uint64_t from = soft_now_ns(), cost = 0;
    struct soft_vmm_alloc *alloc;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    alloc = soft_vmm_alloc_of(handle);
    if (alloc == NULL) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else if (--alloc->handles == 0) {
        soft_handle_remove(SOFT_H_MEMORY, alloc);
        cost = release_cost(alloc->phys);
        soft_vmm_drop(alloc);
    }
    soft_space_unlock();
    soft_vmm_take_time(from, cost);
    return r;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    struct soft_vmm_range *range;
    struct soft_vmm_map *map = NULL;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (handle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    range = soft_vmm_range_at((uint64_t)(uintptr_t)addr);
    if (range != NULL)
        map = soft_vmm_map_at(range, (uint64_t)(uintptr_t)addr);
    if (map == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    else if (!soft_vmm_retain(map->alloc))
        r = CUDA_ERROR_OUT_OF_MEMORY;
    else
        *handle = soft_vmm_handle(map->alloc);
    soft_space_unlock();
    return r;
}

/* ---------------------------------------------------------------------------------- sharing --- */
CUresult cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType handleType,
                                      unsigned long long flags)
{
    struct soft_vmm_alloc *alloc;
    int fd = -EINVAL;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (shareableHandle == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    alloc = soft_vmm_alloc_of(handle);
    if (alloc != NULL && handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR &&
        alloc->prop.requestedHandleTypes == handleType)
        fd = soft_phys_export(alloc->phys);
    soft_space_unlock();
    if (fd < 0) {
        if (fd != -EINVAL)
            soft_log("cuMemExportToShareableHandle: no descriptor can be made (error %d); remedy: "
                     "raise 'ulimit -n'",
                     -fd);
        return fd == -EINVAL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    }
    *(int *)shareableHandle = fd;
    return CUDA_SUCCESS;
}

static CUresult import_error(int why)
{
    switch (why) {
    case ENOENT:
        soft_log("cuMemImportFromShareableHandle: all who held that memory are gone");
        return CUDA_ERROR_INVALID_VALUE;
    case ENOSPC:
        soft_log("cuMemImportFromShareableHandle: %d processes hold that memory, the most that can",
                 SOFT_OBJECT_HOLDERS);
        return CUDA_ERROR_OUT_OF_MEMORY;
    case ENOMEM:
    case EMFILE:
        return CUDA_ERROR_OUT_OF_MEMORY;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle,
                                        CUmemAllocationHandleType shHandleType)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
    struct soft_phys *phys;
    int why;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (handle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return shHandleType == CU_MEM_HANDLE_TYPE_WIN32 ||
                       shHandleType == CU_MEM_HANDLE_TYPE_WIN32_KMT ||
                       shHandleType == CU_MEM_HANDLE_TYPE_FABRIC
                   ? CUDA_ERROR_NOT_SUPPORTED
                   : CUDA_ERROR_INVALID_VALUE;
    if (soft_present(soft_the_state) < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    phys = soft_phys_import((int)(intptr_t)osHandle, &why);
    if (phys == NULL)
        return import_error(why);
    if (phys->ordinal == SOFT_PHYS_HOST) {
        prop.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
    } else {
        prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
        prop.location.id = soft_visible_device(phys->ordinal);
        if (prop.location.id < 0) {
            soft_log("cuMemImportFromShareableHandle: that memory is on a device which "
                     "CUDA_VISIBLE_DEVICES hides");
            soft_phys_unref(phys);
            return CUDA_ERROR_NOT_SUPPORTED;
        }
    }
    return wrap(phys, &prop, handle);
}
