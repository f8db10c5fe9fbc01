/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pointer is: the client knows its allocations, and asks for what it does not know.
 */
#include "src/shim/remote/calls.h"
#include "src/shim/remote/memory.h"
#include "src/shim/remote/snapshot.h"

static void put_u32(void *data, unsigned value)
{
    memcpy(data, &value, sizeof value);
}

static void put_u64(void *data, uint64_t value)
{
    memcpy(data, &value, sizeof value);
}

/* Variables, mapped memory and that of graphs: the worker says where it lies, and not whose it is.
 * What is none of the session's is none of a driver's. */
static CUresult ask(CUdeviceptr ptr, struct harp_range *range)
{
    CUdeviceptr base = 0;
    size_t bytes = 0;
    CUresult r = harp_sent_cuMemGetAddressRange_v2(&base, &bytes, ptr);
    *range = (struct harp_range){.base = base, .bytes = bytes};
    bool there = r == CUDA_SUCCESS && ptr - base < bytes;
    return there || (r != CUDA_SUCCESS && r != CUDA_ERROR_NOT_FOUND) ? r : CUDA_ERROR_INVALID_VALUE;
}

static CUresult not_told(void)
{
    return harp_remote_refused(HARP_SYM_cuPointerGetAttribute, CUDA_ERROR_NOT_SUPPORTED,
                               "of memory that no allocation of this program has made, context and "
                               "id stay with the GPU");
}

/* Where there is but one, it is that one. */
static CUresult only_device(void *data)
{
    CUresult r;
    if (harp_remote_device(1, &r) != NULL || r != CUDA_ERROR_INVALID_DEVICE)
        return not_told();
    put_u32(data, 0);
    return CUDA_SUCCESS;
}

/* Of an address in a known range; id 0: in one that was asked for. */
static CUresult answer(void *data, CUpointer_attribute attribute, CUdeviceptr ptr, bool on_device,
                       const struct harp_range *range)
{
    struct harp_thing *ctx =
        range->ctx == 0 ? NULL : harp_thing_by_id(HARP_HANDLE_CUcontext, range->ctx, false);
    switch ((int)attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        if (range->id == 0)
            return not_told();
        put_u64(data, (uintptr_t)ctx);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        put_u32(data, on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: /* no kernel reaches this machine's memory */
        put_u64(data, on_device ? ptr : 0);
        return on_device ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        put_u64(data, on_device ? 0 : ptr);
        return on_device ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        if (range->id == 0)
            return not_told();
        put_u64(data, range->id);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        memset(data, 0, sizeof(char));
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        if (range->id == 0)
            return only_device(data);
        put_u32(data, ctx != NULL && ctx->device >= 0 ? (unsigned)ctx->device : 0);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        put_u64(data, range->base);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        put_u64(data, range->bytes);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        memset(data, on_device, sizeof(char));
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult harp_remote_cuPointerGetAttribute(void *data, CUpointer_attribute attribute,
                                           CUdeviceptr ptr)
{
    bool on_device;
    struct harp_range range;
    CUresult r = harp_remote_ready();
    const struct harp_lane *lane = r == CUDA_SUCCESS ? harp_lane() : NULL;
    if (r != CUDA_SUCCESS)
        return r;
    if (lane == NULL || harp_lane_current(lane) == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (data == NULL || ptr == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!harp_remote_range(ptr, &on_device, &range)) {
        r = ask(ptr, &range);
        on_device = true;
    }
    if (r != CUDA_SUCCESS)
        return r;
    return answer(data, attribute, ptr, on_device, &range);
}

/* Each for itself; what has no answer is zeroed. */
CUresult harp_remote_cuPointerGetAttributes(unsigned int numAttributes,
                                            CUpointer_attribute *attributes, void **data,
                                            CUdeviceptr ptr)
{
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && (attributes == NULL || data == NULL))
        r = CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < numAttributes && r == CUDA_SUCCESS; i++) {
        bool narrow = attributes[i] == CU_POINTER_ATTRIBUTE_MEMORY_TYPE ||
                      attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        bool flag = attributes[i] == CU_POINTER_ATTRIBUTE_IS_MANAGED ||
                    attributes[i] == CU_POINTER_ATTRIBUTE_MAPPED ||
                    attributes[i] == CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE;
        if (data[i] == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        if (harp_remote_cuPointerGetAttribute(data[i], attributes[i], ptr) != CUDA_SUCCESS)
            memset(data[i], 0, flag ? 1 : narrow ? 4 : 8);
    }
    return r;
}
