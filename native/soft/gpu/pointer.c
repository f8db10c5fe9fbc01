/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pointer is. Asked for one attribute, an unknown pointer is an error; asked for several it
 * is unregistered host memory: all zero, device ordinal -2.
 */
#include "soft/gpu/arena.h"
#include "soft/gpu/fault.h"
#include "soft/gpu/pool.h"
#include "soft/gpu/vmm.h"

#include <stdlib.h>
#include <string.h>

#define NO_DEVICE (-2)

/* SYNC_MEMOPS: ids of the allocations that have it. An id is never used again, so that none need be
 * taken out when its allocation goes. */
static pthread_mutex_t sync_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static uint64_t *sync_ids;
static size_t sync_room;
static _Atomic size_t sync_count; /* also read without it */

/* Index of the id; the count if it is not there. With the lock. */
static size_t sync_at(uint64_t id)
{
    size_t i = 0;

    while (i < sync_count && sync_ids[i] != id)
        i++;
    return i;
}

static bool sync_has(uint64_t id)
{
    bool has;

    if (atomic_load(&sync_count) == 0)
        return false;
    pthread_mutex_lock(&sync_lock);
    has = sync_at(id) < sync_count;
    pthread_mutex_unlock(&sync_lock);
    return has;
}

static bool sync_set(uint64_t id, bool on)
{
    bool good = true;
    size_t i;

    pthread_mutex_lock(&sync_lock);
    i = sync_at(id);
    if (on && i == sync_room) {
        uint64_t *wider = realloc(sync_ids, (sync_room * 2 + 8) * sizeof *wider);

        good = wider != NULL;
        if (good) {
            sync_ids = wider;
            sync_room = sync_room * 2 + 8;
        }
    }
    if (good && on && i == sync_count) {
        sync_ids[i] = id;
        sync_count++;
    } else if (!on && i < sync_count) {
        sync_ids[i] = sync_ids[--sync_count];
    }
    pthread_mutex_unlock(&sync_lock);
    return good;
}

bool soft_memops_sync(const struct soft_ctx *ctx, CUdeviceptr ptr)
{
    struct soft_span span;

    if ((ctx->flags & CU_CTX_SYNC_MEMOPS) != 0)
        return true;
    return atomic_load(&sync_count) > 0 && soft_span_find(ptr, &span) && sync_has(span.id);
}

static size_t size_of(CUpointer_attribute attribute)
{
    switch ((int)attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        return 4;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        return 1;
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        return 8;
    default:
        return 0;
    }
}

/* What `ctx` may do there; the driver's numbers are the map's. */
static uint64_t access_flags(const struct soft_ctx *ctx, uint64_t ptr)
{
    uint64_t flags = CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;

    if (!soft_is_device_range(ptr))
        return flags;
    soft_space_lock();
    flags = ctx->arena->map[(ptr - soft_space.base) / SOFT_GRANULE];
    soft_space_unlock();
    return flags;
}

/* Of a reserved address with nothing mapped there. */
static bool value_of_reserved(CUpointer_attribute attribute, uint64_t start, uint64_t bytes,
                              uint64_t *value)
{
    *value = 0;
    if (attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)
        *value = start;
    else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_SIZE)
        *value = bytes;
    else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
        *value = (uint64_t)(int64_t)NO_DEVICE;
    else
        return attribute == CU_POINTER_ATTRIBUTE_MAPPED;
    return true;
}

/* The value's low bytes, widened; false where the pointer has no such thing. */
static bool value_of(CUpointer_attribute attribute, uint64_t ptr, const struct soft_ctx *ctx,
                     const struct soft_span *span, uint64_t *value)
{
    *value = 0;
    switch ((int)attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *value = span->ctx != NULL ? (uint64_t)(uintptr_t)soft_ctx_handle(span->ctx) : 0;
        return true;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *value = span->device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *value = ptr;
        return true;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        *value = ptr;
        return !span->device || span->kind == SOFT_SPAN_MANAGED;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *value = span->kind == SOFT_SPAN_MANAGED;
        return true;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        *value = span->id;
        return true;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *value = span->block_id != 0 ? span->block_id : span->id;
        return true;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *value = span->handle_types;
        return true;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *value = span->kind == SOFT_SPAN_LINEAR &&
                 (soft_fault_lacks(soft_at(span->ordinal)) & SOFT_DOOR_IPC) == 0;
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *value = (uint64_t)soft_visible_device(span->ordinal);
        return true;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *value = span->range_bytes != 0 ? span->range_start : span->start;
        return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *value = span->range_bytes != 0 ? span->range_bytes : span->bytes;
        return true;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *value = span->start;
        return true;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *value = span->bytes;
        return true;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *value = 1;
        return true;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        if (span->kind == SOFT_SPAN_POOL)
            *value = (uint64_t)(uintptr_t)soft_pool_handle(span->owner);
        else if (span->kind == SOFT_SPAN_MANAGED)
            *value = (uint64_t)(uintptr_t)soft_pool_managed_handle(ptr);
        return true;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *value = sync_has(span->id);
        return true;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *value = access_flags(ctx, ptr);
        return true;
    default:
        return size_of(attribute) != 0;
    }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    uint64_t value, start, bytes;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (data == NULL || size_of(attribute) == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_span_find(ptr, &span) ? !value_of(attribute, ptr, ctx, &span, &value)
                                   : !soft_vmm_reserved(ptr, &start, &bytes) ||
                                         !value_of_reserved(attribute, start, bytes, &value))
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(data, &value, size_of(attribute));
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes,
                                void **data, CUdeviceptr ptr)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    uint64_t start = 0, bytes = 0;
    bool known, reserved;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (numAttributes == 0 || attributes == NULL || data == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    known = soft_span_find(ptr, &span);
    reserved = !known && soft_vmm_reserved(ptr, &start, &bytes);
    for (unsigned i = 0; i < numAttributes; i++) {
        uint64_t value = 0;

        if (data[i] == NULL || size_of(attributes[i]) == 0)
            return CUDA_ERROR_INVALID_VALUE;
        if (known && !value_of(attributes[i], ptr, ctx, &span, &value))
            value = 0;
        if (reserved)
            value_of_reserved(attributes[i], start, bytes, &value);
        else if (!known && attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
            value = (uint64_t)(int64_t)NO_DEVICE;
        memcpy(data[i], &value, size_of(attributes[i]));
    }
    return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    /* the only one that can be set */
    if (value == NULL || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS ||
        !soft_span_find(ptr, &span) || !span.device)
        return CUDA_ERROR_INVALID_VALUE;
    return sync_set(span.id, *(const unsigned char *)value != 0) ? CUDA_SUCCESS
                                                                 : CUDA_ERROR_OUT_OF_MEMORY;
}
