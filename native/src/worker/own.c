/* SPDX-License-Identifier: Apache-2.0
 *
 * Ops of HARP's own: what a client asks first, and images.
 */
#include <errno.h>
#include <string.h>

#include "src/worker/ranges.h"
#include "src/worker/worker.h"

#define POINTED(type, slot) ((type *)(uintptr_t)(slot))

static CUresult session_facts(const uint64_t *args)
{
    unsigned *devices = POINTED(unsigned, args[0]);
    int *version = POINTED(int, args[1]), *mode = POINTED(int, args[2]), count = 0;
    CUmoduleLoadingMode loading = 0;
    CUresult r = DRIVER(cuInit)(0);
    if (r == CUDA_SUCCESS)
        r = DRIVER(cuDeviceGetCount)(&count);
    if (r == CUDA_SUCCESS && version != NULL)
        r = DRIVER(cuDriverGetVersion)(version);
    if (r == CUDA_SUCCESS && mode != NULL && DRIVER(cuModuleGetLoadingMode)(&loading) == 0)
        *mode = (int)loading;
    if (devices != NULL)
        *devices = (unsigned)count;
    return r;
}

static CUresult snapshot(const uint64_t *args)
{
    struct harp_wire_device *facts = POINTED(struct harp_wire_device, args[1]);
    CUdevice device;
    CUresult r = DRIVER(cuDeviceGet)(&device, (int)args[0]);
    int major = 0, minor = 0, active;
    if (r != CUDA_SUCCESS || facts == NULL)
        return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE;
    *facts = (struct harp_wire_device){.luid_mask = 0};
    r = DRIVER(cuDeviceGetName)(facts->name, sizeof facts->name, device);
    if (r == CUDA_SUCCESS)
        r = DRIVER(cuDeviceTotalMem_v2)(&facts->total_bytes, device);
    if (r == CUDA_SUCCESS)
        r = DRIVER(cuDeviceGetUuid_v2)((CUuuid *)facts->uuid, device);
    if (r == CUDA_SUCCESS)
        r = DRIVER(cuDeviceGetPCIBusId)(facts->pci_bus_id, sizeof facts->pci_bus_id, device);
    if (r != CUDA_SUCCESS)
        return r;
    /* What a driver may lack stays 0. */
    DRIVER(cuDeviceGetLuid)(facts->luid, &facts->luid_mask, device);
    DRIVER(cuDevicePrimaryCtxGetState)(device, &facts->primary_flags, &active);
    facts->free_bytes = facts->total_bytes; /* without a context; who has one asks */
    for (int i = 0; i < (int)(sizeof facts->attributes / sizeof *facts->attributes); i++) {
        r = DRIVER(cuDeviceGetAttribute)(&facts->attributes[i], (CUdevice_attribute)i, device);
        if (r == CUDA_SUCCESS)
            facts->answered[i / 8] |= (unsigned char)(1u << i % 8);
    }
    major = facts->attributes[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR];
    minor = facts->attributes[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR];
    facts->compute_major = (unsigned)major;
    facts->compute_minor = (unsigned)minor;
    return CUDA_SUCCESS;
}

/* Where the client has the same range free. Another is agreed on by asking again. */
static CUresult arena(const uint64_t *args)
{
    uint64_t *agreed = POINTED(uint64_t, args[2]);
    CUdeviceptr base = 0;
    if (agreed == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *agreed = 0;
    if (driver_named("cuMemAddressReserve") == NULL ||
        DRIVER(cuMemAddressReserve)(&base, args[1], 0, args[0], 0) != CUDA_SUCCESS)
        return CUDA_SUCCESS;
    if (ranges_add(base, args[1]) != 0) {
        DRIVER(cuMemAddressFree)(base, args[1]);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *agreed = base;
    return CUDA_SUCCESS;
}

static CUresult find(const uint64_t *args)
{
    unsigned *found = POINTED(unsigned, args[1]);
    if (args[0] == 0 || found == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct image *image = image_take(POINTED(struct harp_wire_image, args[0]));
    *found = image != NULL;
    if (image != NULL)
        image_give(image);
    return CUDA_SUCCESS;
}

static CUresult put(const uint64_t *args)
{
    if (args[0] == 0 || args[1] == 0)
        return CUDA_ERROR_INVALID_VALUE;
    int err = image_put(POINTED(struct harp_wire_image, args[0]), POINTED(void, args[1]), args[2]);
    return err == 0         ? CUDA_SUCCESS
           : err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY
                            : CUDA_ERROR_INVALID_IMAGE;
}

/* Its address has been looked at, as every call's. */
static CUresult peek(const struct lane *lane, const uint64_t *args)
{
    CUresult (*copy)(void *, CUdeviceptr, size_t) =
        (CUresult (*)(void *, CUdeviceptr, size_t))driver_fn(
            HARP_OP_cuMemcpyDtoH_v2, (lane->flags & HARP_FRAME_PER_THREAD) != 0);
    if (copy == NULL)
        return CUDA_ERROR_NOT_FOUND;
    return copy(POINTED(void, args[0]), args[1], args[2]);
}

CUresult own_call(struct lane *lane, struct harp_wire_call *call)
{
    switch (call->op) {
    case HARP_OP_harpSession:
        return session_facts(call->args);
    case HARP_OP_harpSnapshot:
        return snapshot(call->args);
    case HARP_OP_harpArena:
        return arena(call->args);
    case HARP_OP_harpMemLease:
        return lease_ask(lane, call->args);
    case HARP_OP_harpMemTake:
        return lease_take(call->args);
    case HARP_OP_harpMemKeep:
        return lease_keep(lane, call->args);
    case HARP_OP_harpMemPeek:
        return peek(lane, call->args);
    case HARP_OP_harpImageFind:
        return find(call->args);
    case HARP_OP_harpImagePut:
        return put(call->args);
    default:
        return CUDA_ERROR_NOT_SUPPORTED; /* the worker's to say */
    }
}
