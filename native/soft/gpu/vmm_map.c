/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on reserved ranges, and what is mapped in them.
 *
 * Unmapping waits for nothing, as the driver does not always: a kernel that still uses the range
 * meets 700, a copy under way reads and writes bytes that are nobody's (space.c).
 */
#include "soft/gpu/vmm.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

/* Index of the first mapping that ends beyond `ptr`. */
static size_t at_or_after(const struct soft_vmm_range *range, uint64_t ptr)
{
    size_t lo = 0, hi = range->count;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (range->maps[mid].start + range->maps[mid].bytes <= ptr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct soft_vmm_map *soft_vmm_map_at(struct soft_vmm_range *range, uint64_t ptr)
{
    size_t i = at_or_after(range, ptr);

    return i < range->count && range->maps[i].start <= ptr ? &range->maps[i] : NULL;
}

static struct soft_vmm_range *range_of(struct soft_area *area)
{
    return (struct soft_vmm_range *)area;
}

static bool find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    const struct soft_vmm_map *map = soft_vmm_map_at(range_of(area), ptr);

    if (map == NULL)
        return false;
    *span = (struct soft_span){.ordinal = map->alloc->phys->ordinal,
                               .start = map->start,
                               .bytes = map->bytes,
                               .id = map->id,
                               .host = soft_space_host(map->start),
                               .kind = SOFT_SPAN_MAPPED,
                               .device = !soft_vmm_on_host(map->alloc),
                               .range_start = area->start,
                               .range_bytes = range_of(area)->bytes,
                               .block_id = map->alloc->phys->id,
                               .handle_types = (unsigned)map->alloc->prop.requestedHandleTypes};
    return true;
}

static unsigned may(struct soft_area *area, uint64_t at, struct soft_ctx *ctx)
{
    const struct soft_vmm_map *map = soft_vmm_map_at(range_of(area), at);

    return map != NULL ? map->access[ctx->ordinal] : SOFT_ACCESS_NONE;
}

static bool host_may(struct soft_area *area, uint64_t ptr)
{
    const struct soft_vmm_map *map = soft_vmm_map_at(range_of(area), ptr);

    return map != NULL && map->host != SOFT_ACCESS_NONE;
}

static const struct soft_area_ops range_ops = {
    .find = find, .access = may, .host_may = host_may, .joined = true};

struct soft_vmm_range *soft_vmm_range_at(uint64_t ptr)
{
    struct soft_area *area;

    if (!soft_is_device_range(ptr))
        return NULL;
    area = soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE];
    return area != NULL && area->ops == &range_ops && ptr - area->start < range_of(area)->bytes
               ? range_of(area)
               : NULL;
}

bool soft_vmm_reserved(uint64_t ptr, uint64_t *start, uint64_t *bytes)
{
    const struct soft_vmm_range *range;

    soft_space_lock();
    range = soft_vmm_range_at(ptr);
    if (range != NULL) {
        *start = range->area.start;
        *bytes = range->bytes;
    }
    soft_space_unlock();
    return range != NULL;
}

static const struct soft_profile *costs(void)
{
    return soft_the_state->profile[soft_visible_ordinal(0)];
}

/* --------------------------------------------------------------------------- reserved ranges -- */
CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                             unsigned long long flags)
{
    uint64_t from = soft_now_ns();
    struct soft_vmm_range *range;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (ptr == NULL || size == 0 || size % PAGE != 0 || addr % PAGE != 0 || flags != 0 ||
        (alignment & (alignment - 1)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (size > UINT64_MAX - SOFT_GRANULE || alignment > 1ull << 46)
        return CUDA_ERROR_OUT_OF_MEMORY;
    range = calloc(1, sizeof *range);
    if (range == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    range->area.ops = &range_ops;
    range->bytes = size;
    soft_space_lock();
    if (soft_space_make() == 0 &&
        soft_area_take(&range->area, soft_granules(size), alignment, addr) == 0)
        *ptr = range->area.start;
    else
        r = CUDA_ERROR_OUT_OF_MEMORY;
    soft_space_unlock();
    if (r != CUDA_SUCCESS)
        free(range);
    soft_vmm_take_time(from, costs()->vmm_reserve_ns);
    return r;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    struct soft_vmm_range *range;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    range = soft_vmm_range_at(ptr);
    if (range == NULL || range->area.start != ptr || range->bytes != size || range->count > 0) {
        r = CUDA_ERROR_INVALID_VALUE;
    } else {
        soft_area_give(&range->area);
        free(range->maps);
        free(range);
    }
    soft_space_unlock();
    return r;
}

/* ---------------------------------------------------------------------------------- mappings -- */
static bool make_room(struct soft_vmm_range *range)
{
    size_t more = range->room == 0 ? 4 : range->room * 2;
    struct soft_vmm_map *wider;

    if (range->count < range->room)
        return true;
    wider = realloc(range->maps, more * sizeof *wider);
    if (wider == NULL)
        return false;
    range->maps = wider;
    range->room = more;
    return true;
}

/* [ptr, ptr + size) lies in one reservation, in whole granules. */
static struct soft_vmm_range *range_for(uint64_t ptr, uint64_t size)
{
    struct soft_vmm_range *range = soft_vmm_range_at(ptr);

    return range != NULL && size > 0 && size % SOFT_GRANULE == 0 && ptr % SOFT_GRANULE == 0 &&
                   size <= range->bytes - (ptr - range->area.start)
               ? range
               : NULL;
}

static CUresult map_in(uint64_t ptr, uint64_t size, CUmemGenericAllocationHandle handle)
{
    struct soft_vmm_alloc *alloc = soft_vmm_alloc_of(handle);
    struct soft_vmm_range *range = range_for(ptr, size);
    size_t i;

    if (alloc == NULL || range == NULL || size > alloc->phys->bytes)
        return CUDA_ERROR_INVALID_VALUE;
    i = at_or_after(range, ptr);
    if (i < range->count && range->maps[i].start < ptr + size)
        return CUDA_ERROR_INVALID_VALUE; /* something is mapped there */
    if (!make_room(range) || soft_area_map(&range->area, ptr, alloc->phys, 0, size) != 0) {
        soft_area_unmap(&range->area, ptr, size);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memmove(&range->maps[i + 1], &range->maps[i], (range->count - i) * sizeof *range->maps);
    range->maps[i] = (struct soft_vmm_map){
        .start = ptr, .bytes = size, .id = soft_span_next_id(), .alloc = alloc};
    range->count++;
    alloc->mappings++;
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    uint64_t from = soft_now_ns();
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (offset != 0 || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    r = map_in(ptr, size, handle);
    soft_space_unlock();
    soft_vmm_take_time(from, costs()->vmm_map_ns);
    return r;
}

/* The mappings that [ptr, ptr + size) is made of, none cut, no hole between them. */
static bool whole_maps(const struct soft_vmm_range *range, uint64_t ptr, uint64_t size,
                       size_t *first, size_t *count)
{
    uint64_t at = ptr;
    size_t i = at_or_after(range, ptr);

    *first = i;
    while (at < ptr + size && i < range->count && range->maps[i].start == at &&
           range->maps[i].bytes <= ptr + size - at)
        at += range->maps[i++].bytes;
    *count = i - *first;
    return at == ptr + size;
}

static void unmap_host(struct soft_vmm_map *map)
{
    if (map->host != SOFT_ACCESS_NONE)
        soft_space_blank(map->start, map->bytes);
    map->host = SOFT_ACCESS_NONE;
}

static CUresult unmap(uint64_t ptr, uint64_t size, size_t *count)
{
    struct soft_vmm_range *range = range_for(ptr, size);
    size_t first;

    if (range == NULL || !whole_maps(range, ptr, size, &first, count))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = first; i < first + *count; i++) {
        struct soft_vmm_map *map = &range->maps[i];

        unmap_host(map);
        soft_keep_park(map->alloc->phys, soft_space_host(map->start), map->bytes);
        soft_area_unmap(&range->area, map->start, map->bytes);
        map->alloc->mappings--;
        soft_vmm_drop(map->alloc);
    }
    memmove(&range->maps[first], &range->maps[first + *count],
            (range->count - first - *count) * sizeof *range->maps);
    range->count -= *count;
    return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    uint64_t from = soft_now_ns();
    size_t count = 0;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    soft_space_lock();
    r = unmap(ptr, size, &count);
    soft_space_unlock();
    soft_vmm_take_time(from, count * costs()->vmm_unmap_ns);
    return r;
}

/* ------------------------------------------------------------------------------------ access -- */
static bool is_host(CUmemLocationType type)
{
    return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
}

static CUresult check_access(const CUmemAccessDesc *desc, const struct soft_vmm_alloc *alloc)
{
    int ordinal, lies = alloc->phys->ordinal;

    if (desc->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    if (is_host(desc->location.type)) /* the host reaches its own memory, no device's */
        return soft_vmm_on_host(alloc) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    ordinal = soft_visible_ordinal(desc->location.id);
    if (ordinal < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    return lies == SOFT_PHYS_HOST || lies == ordinal || soft_devices_peer(ordinal, lies)
               ? CUDA_SUCCESS
               : CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult set_host(struct soft_vmm_map *map, unsigned flags)
{
    if (flags == SOFT_ACCESS_NONE) {
        unmap_host(map);
        return CUDA_SUCCESS;
    }
    if (soft_space_show(map->start, map->alloc->phys, map->bytes, flags == SOFT_ACCESS_READ) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    map->host = (uint8_t)flags;
    return CUDA_SUCCESS;
}

static CUresult set_access(uint64_t ptr, uint64_t size, const CUmemAccessDesc *desc, size_t count)
{
    struct soft_vmm_range *range = range_for(ptr, size);
    size_t first, maps;
    CUresult r = CUDA_SUCCESS;

    if (range == NULL || !whole_maps(range, ptr, size, &first, &maps))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t d = 0; d < count; d++)
        for (size_t i = first; i < first + maps; i++)
            if ((r = check_access(&desc[d], range->maps[i].alloc)) != CUDA_SUCCESS)
                return r;
    for (size_t d = 0; d < count; d++)
        for (size_t i = first; i < first + maps && r == CUDA_SUCCESS; i++) {
            if (is_host(desc[d].location.type))
                r = set_host(&range->maps[i], (unsigned)desc[d].flags);
            else
                range->maps[i].access[soft_visible_ordinal(desc[d].location.id)] =
                    (uint8_t)desc[d].flags;
        }
    soft_area_publish(&range->area, ptr, size);
    return r;
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    uint64_t from = soft_now_ns();
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (desc == NULL || count == 0)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    r = set_access(ptr, size, desc, count);
    soft_space_unlock();
    soft_vmm_take_time(from, costs()->vmm_access_ns);
    return r;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
    struct soft_vmm_range *range;
    const struct soft_vmm_map *map;
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (flags == NULL || location == NULL ||
        (location->type != CU_MEM_LOCATION_TYPE_DEVICE && !is_host(location->type)))
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type == CU_MEM_LOCATION_TYPE_DEVICE && soft_visible_ordinal(location->id) < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    soft_space_lock();
    range = soft_vmm_range_at(ptr);
    map = range != NULL ? soft_vmm_map_at(range, ptr) : NULL;
    if (map == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    else
        *flags =
            is_host(location->type) ? map->host : map->access[soft_visible_ordinal(location->id)];
    soft_space_unlock();
    return r;
}
