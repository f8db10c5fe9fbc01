/* SPDX-License-Identifier: Apache-2.0
 *
 * Advice about managed memory, kept by host pages in runs of alike ones, and what is told of it.
 */
#include "soft/gpu/managed.h"

#include <stdlib.h>
#include <string.h>

/* Index of the hint that covers `offset`. */
static size_t hint_at(const struct soft_managed *m, uint64_t offset)
{
    size_t lo = 0, hi = m->hint_count;

    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;

        if (m->hints[mid].from <= offset)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

const struct soft_policy *soft_policy_at(const struct soft_managed *m, uint64_t offset)
{
    return &m->hints[hint_at(m, offset)].policy;
}

/* A hint begins at `offset`; there is room for one more. Its index. */
static size_t cut(struct soft_managed *m, uint64_t offset)
{
    size_t i;

    if (offset >= m->area.bytes)
        return m->hint_count;
    i = hint_at(m, offset);
    if (m->hints[i].from == offset)
        return i;
    memmove(&m->hints[i + 2], &m->hints[i + 1], (m->hint_count - i - 1) * sizeof *m->hints);
    m->hints[i + 1] = (struct soft_hint){offset, m->hints[i].policy};
    m->hint_count++;
    return i + 1;
}

static bool alike(const struct soft_policy *a, const struct soft_policy *b)
{
    return memcmp(a, b, sizeof *a) == 0; /* no padding in it */
}

bool soft_policy_change(struct soft_managed *m, uint64_t from, uint64_t to,
                        void (*change)(struct soft_policy *policy, const void *arg),
                        const void *arg)
{
    struct soft_hint *wider = realloc(m->hints, (m->hint_count + 2) * sizeof *wider);
    size_t first, last, kept = 1;

    if (wider == NULL)
        return false;
    m->hints = wider;
    first = cut(m, from);
    last = cut(m, to);
    for (size_t i = first; i < last; i++)
        change(&m->hints[i].policy, arg);
    for (size_t i = 1; i < m->hint_count; i++)
        if (!alike(&m->hints[i].policy, &m->hints[kept - 1].policy))
            m->hints[kept++] = m->hints[i];
    m->hint_count = kept;
    return true;
}

bool soft_managed_prefers_host(CUdeviceptr ptr)
{
    const struct soft_managed *m;
    bool prefers = false;

    soft_space_lock();
    m = soft_managed_at(ptr, 1);
    if (m != NULL) {
        CUmemLocationType type = soft_policy_at(m, ptr - m->area.start)->preferred.type;

        prefers = type != CU_MEM_LOCATION_TYPE_INVALID && type != CU_MEM_LOCATION_TYPE_DEVICE;
    }
    soft_space_unlock();
    return prefers;
}

CUresult soft_location_of(CUmemLocation *location, CUdevice *device)
{
    *device = CU_DEVICE_CPU;
    switch ((int)location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *device = location->id;
        return soft_visible_ordinal(location->id) < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST:
        location->id = 0; /* ignored */
        return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA: /* a software host has one node */
        return location->id == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        *location = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST_NUMA, 0};
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* ---------------------------------------------------------------------------------- advise ---- */
struct advice {
    CUmem_advise what;
    CUmemLocation location;
    uint32_t bit;
};

static void advise(struct soft_policy *policy, const void *arg)
{
    const struct advice *a = arg;

    switch ((int)a->what) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
        policy->read_mostly = 1;
        break;
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
        policy->read_mostly = 0;
        break;
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
        policy->preferred = a->location;
        break;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
        policy->preferred = (CUmemLocation){0};
        break;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
        policy->accessed_by |= a->bit;
        break;
    default:
        policy->accessed_by &= ~a->bit;
        break;
    }
}

/* The pages of [ptr, ptr + bytes) as offsets. Locked. */
static struct soft_managed *range(CUdeviceptr ptr, size_t bytes, uint64_t *from, uint64_t *to)
{
    struct soft_managed *m = bytes > 0 ? soft_managed_named(ptr, bytes) : NULL;

    if (m != NULL) {
        *from = (ptr - m->area.start) / SOFT_PAGE * SOFT_PAGE;
        *to = (ptr - m->area.start + bytes + SOFT_PAGE - 1) / SOFT_PAGE * SOFT_PAGE;
    }
    return m;
}

CUresult cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
                        CUmemLocation location)
{
    struct advice a = {advice, location, 0};
    struct soft_managed *m;
    struct soft_ctx *ctx;
    uint64_t from, to;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (advice < CU_MEM_ADVISE_SET_READ_MOSTLY || advice > CU_MEM_ADVISE_UNSET_ACCESSED_BY)
        return CUDA_ERROR_INVALID_VALUE;
    if (advice == CU_MEM_ADVISE_SET_PREFERRED_LOCATION || advice >= CU_MEM_ADVISE_SET_ACCESSED_BY) {
        CUdevice device;

        r = soft_location_of(&a.location, &device);
        if (r != CUDA_SUCCESS)
            return r;
        if (advice >= CU_MEM_ADVISE_SET_ACCESSED_BY &&
            a.location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA)
            return CUDA_ERROR_INVALID_VALUE;
        a.bit = device >= 0 ? 1u << device : SOFT_ON_HOST;
    }
    soft_space_lock();
    m = range(devPtr, count, &from, &to);
    r = CUDA_ERROR_INVALID_VALUE;
    if (m != NULL)
        r = soft_policy_change(m, from, to, advise, &a) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (r == CUDA_SUCCESS)
        soft_managed_review(m, from, to);
    soft_space_unlock();
    return r;
}

CUresult cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, device};

    if (device == CU_DEVICE_CPU)
        location = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST, 0};
    return cuMemAdvise_v2(devPtr, count, advice, location);
}

/* ------------------------------------------------------------------------------- told of it --- */
/* What all pages of the range have in common. */
static struct soft_policy common(const struct soft_managed *m, uint64_t from, uint64_t to)
{
    size_t i = hint_at(m, from);
    struct soft_policy all = m->hints[i].policy;

    for (i++; i < m->hint_count && m->hints[i].from < to; i++) {
        const struct soft_policy *p = &m->hints[i].policy;

        all.read_mostly &= p->read_mostly;
        all.accessed_by &= p->accessed_by;
        if (memcmp(&all.preferred, &p->preferred, sizeof all.preferred) != 0)
            all.preferred = (CUmemLocation){0};
        if (memcmp(&all.prefetched, &p->prefetched, sizeof all.prefetched) != 0)
            all.prefetched = (CUmemLocation){0};
    }
    return all;
}

static int32_t old_style(const CUmemLocation *location)
{
    if (location->type == CU_MEM_LOCATION_TYPE_DEVICE)
        return location->id;
    return location->type == CU_MEM_LOCATION_TYPE_INVALID ? CU_DEVICE_INVALID : CU_DEVICE_CPU;
}

static void tell_accessed_by(uint32_t bits, int32_t *list, size_t room)
{
    size_t n = 0;

    for (CUdevice d = 0; d < SOFT_MAX_DEVICES && n < room; d++)
        if ((bits & 1u << d) != 0)
            list[n++] = d;
    if ((bits & SOFT_ON_HOST) != 0 && n < room)
        list[n++] = CU_DEVICE_CPU;
    while (n < room)
        list[n++] = CU_DEVICE_INVALID;
}

static CUresult tell(const struct soft_policy *all, CUmem_range_attribute attribute, void *data,
                     size_t bytes)
{
    int32_t value;

    if (data == NULL || bytes == 0 || bytes % 4 != 0 ||
        (attribute != CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY && bytes != 4))
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        value = (int32_t)all->read_mostly;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
        value = old_style(&all->preferred);
        break;
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY:
        tell_accessed_by(all->accessed_by, data, bytes / 4);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
        value = old_style(&all->prefetched);
        break;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
        value = (int32_t)all->preferred.type;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
        value = all->preferred.id;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
        value = (int32_t)all->prefetched.type;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
        value = all->prefetched.id;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    memcpy(data, &value, sizeof value);
    return CUDA_SUCCESS;
}

CUresult cuMemRangeGetAttributes(void **data, size_t *dataSizes, CUmem_range_attribute *attributes,
                                 size_t numAttributes, CUdeviceptr devPtr, size_t count)
{
    const struct soft_managed *m;
    struct soft_policy all = {0};
    struct soft_ctx *ctx;
    uint64_t from, to;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (data == NULL || dataSizes == NULL || attributes == NULL || numAttributes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    soft_space_lock();
    m = range(devPtr, count, &from, &to);
    if (m != NULL)
        all = common(m, from, to);
    soft_space_unlock();
    if (m == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < numAttributes && r == CUDA_SUCCESS; i++)
        r = tell(&all, attributes[i], data[i], dataSizes[i]);
    return r;
}

CUresult cuMemRangeGetAttribute(void *data, size_t dataSize, CUmem_range_attribute attribute,
                                CUdeviceptr devPtr, size_t count)
{
    return cuMemRangeGetAttributes(&data, &dataSize, &attribute, 1, devPtr, count);
}
