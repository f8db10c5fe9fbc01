/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device says of itself: name, size, identity and attributes, from its profile. Attributes
 * of features that the software GPU has not got (yet) are 0: a client that asks first is not
 * misled.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/context.h"
#include "soft/gpu/driver.h"
#include "soft/gpu/fault.h"
#include "soft/gpu/soft.h"
#include "soft/gpu/state.h"

const struct soft_profile *soft_device_profile(CUdevice dev)
{
    int ordinal = soft_visible_ordinal(dev);

    return ordinal < 0 || soft_the_state == NULL ? NULL
                                                 : soft_state_profile(soft_the_state, ordinal);
}

/* Profile of `dev`, or the driver's answer to a call that cannot be. */
static CUresult device(CUdevice dev, const void *out, const struct soft_profile **profile)
{
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *profile = soft_device_profile(dev);
    return *profile == NULL ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

SOFT_API CUresult cuDeviceGetCount(int *count)
{
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = soft_visible_count();
    return CUDA_SUCCESS;
}

SOFT_API CUresult cuDeviceGet(CUdevice *out, int ordinal)
{
    const struct soft_profile *profile;
    CUresult r = device(ordinal, out, &profile);

    if (r == CUDA_SUCCESS)
        *out = ordinal;
    return r;
}

SOFT_API CUresult cuDeviceGetName(char *name, int bytes, CUdevice dev)
{
    const struct soft_profile *profile;
    CUresult r = device(dev, name, &profile);

    if (r != CUDA_SUCCESS)
        return r;
    if (bytes <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, (size_t)bytes, "%s", profile->name);
    return CUDA_SUCCESS;
}

SOFT_API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
    const struct soft_profile *profile;
    CUresult r = device(dev, bytes, &profile);

    if (r == CUDA_SUCCESS)
        *bytes = profile->memory_bytes;
    return r;
}

SOFT_API CUresult cuDeviceTotalMem(unsigned int *bytes, CUdevice dev)
{
    size_t all;
    CUresult r = cuDeviceTotalMem_v2(bytes != NULL ? &all : NULL, dev);

    if (r == CUDA_SUCCESS)
        *bytes = all > 0xffffffffu ? 0xffffffffu : (unsigned int)all;
    return r;
}

SOFT_API CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
    const struct soft_profile *profile;
    CUresult r = device(dev, major, &profile);

    if (r != CUDA_SUCCESS)
        return r;
    if (minor == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *major = profile->cc_major;
    *minor = profile->cc_minor;
    return CUDA_SUCCESS;
}

SOFT_API CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
    const struct soft_profile *profile;
    CUresult r = device(dev, uuid, &profile);

    if (r == CUDA_SUCCESS)
        soft_state_uuid(soft_the_state, soft_at(soft_visible_ordinal(dev)), (uint8_t *)uuid);
    return r;
}

SOFT_API CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
    return cuDeviceGetUuid_v2(uuid, dev);
}

SOFT_API CUresult cuDeviceGetPCIBusId(char *text, int bytes, CUdevice dev)
{
    const struct soft_profile *profile;
    CUresult r = device(dev, text, &profile);
    char id[32];

    if (r != CUDA_SUCCESS)
        return r;
    snprintf(id, sizeof id, "0000:%02X:00.0",
             soft_state_pci_bus(soft_the_state, soft_at(soft_visible_ordinal(dev))));
    if (bytes <= (int)strlen(id))
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(text, id, strlen(id) + 1);
    return CUDA_SUCCESS;
}

/* Takes [domain:]bus:device[.function], hexadecimal. */
SOFT_API CUresult cuDeviceGetByPCIBusId(CUdevice *dev, const char *text)
{
    unsigned domain = 0, bus, unit, function = 0;
    CUresult r = soft_ready();
    char end;

    if (r != CUDA_SUCCESS)
        return r;
    if (dev == NULL || text == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (sscanf(text, "%x:%x:%x.%x%c", &domain, &bus, &unit, &function, &end) != 4 &&
        sscanf(text, "%x:%x:%x%c", &domain, &bus, &unit, &end) != 3) {
        domain = 0;
        function = 0;
        if (sscanf(text, "%x:%x.%x%c", &bus, &unit, &function, &end) != 3 &&
            sscanf(text, "%x:%x%c", &bus, &unit, &end) != 2)
            return CUDA_ERROR_INVALID_VALUE;
    }
    for (int i = 0; i < soft_visible_count(); i++)
        if (domain == 0 && unit == 0 && function == 0 &&
            soft_state_pci_bus(soft_the_state, soft_at(soft_visible_ordinal(i))) == bus) {
            *dev = i;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_DEVICE;
}

/* Texture and surface limits are those of compute capability 7.5 to 9.0. */
static const struct {
    CUdevice_attribute attribute;
    int value;
} constants[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_PITCH, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, 32},
    {CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS, 1},
    {CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, 2},
    {CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR},
    {CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_NUMA_ID, -1},
    {CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, -1},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT, 65536},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_CAN_TEX2D_GATHER, 1},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE, 8192},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE, 8192},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS, 2046},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT, 65536},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH, 16384},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS, 2048},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS, 2046},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH, 1 << 28},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH, 131072},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT, 65000},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH, 2097120},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT, 32768},
    {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH, 32768},
};

/* Attributes that say whether a device has what a fault rule takes away. */
static bool is_taken_away(unsigned lacks, CUdevice_attribute attribute)
{
    switch ((int)attribute) {
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
        return (lacks & SOFT_DOOR_VMM) != 0;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED:
        return (lacks & SOFT_DOOR_POOL) != 0;
    case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
        return (lacks & SOFT_DOOR_IPC) != 0;
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST:
        return (lacks & SOFT_DOOR_MANAGED) != 0;
    default:
        return false;
    }
}

SOFT_API CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute attribute, CUdevice dev)
{
    const struct soft_profile *p;
    CUresult r = device(dev, out, &p);

    if (r != CUDA_SUCCESS)
        return r;
    if ((int)attribute < 1 || (int)attribute >= CU_DEVICE_ATTRIBUTE_MAX ||
        soft_driver_hides_attribute((int)attribute))
        return CUDA_ERROR_INVALID_VALUE;
    *out = 0;
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
        if (constants[i].attribute == attribute)
            *out = constants[i].value;
    switch ((int)attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *out = p->sm_count;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *out = p->cc_major;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *out = p->cc_minor;
        break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        *out = p->clock_khz;
        break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        *out = p->memory_clock_khz;
        break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        *out = p->bus_bits;
        break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        *out = p->l2_bytes;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        *out = p->regs_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        *out = p->threads_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
        *out = p->blocks_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        *out = p->shared_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        *out = p->shared_optin;
        break;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
        *out = p->cc_major >= 8 ? 1024 : 0;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        *out = (int)soft_state_pci_bus(soft_the_state, soft_at(soft_visible_ordinal(dev)));
        break;
    default:
        break;
    }
    if (is_taken_away(soft_fault_lacks(soft_at(soft_visible_ordinal(dev))), attribute))
        *out = 0;
    return CUDA_SUCCESS;
}

SOFT_API CUresult cuDeviceGetProperties(CUdevprop *prop, CUdevice dev)
{
    const struct soft_profile *p;
    CUresult r = device(dev, prop, &p);

    if (r != CUDA_SUCCESS)
        return r;
    *prop = (CUdevprop){
        .maxThreadsPerBlock = 1024,
        .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {0x7fffffff, 65535, 65535},
        .sharedMemPerBlock = 49152,
        .totalConstantMemory = 65536,
        .SIMDWidth = 32,
        .memPitch = 0x7fffffff,
        .regsPerBlock = p->regs_per_sm,
        .clockRate = p->clock_khz,
        .textureAlign = 512,
    };
    return CUDA_SUCCESS;
}

SOFT_API CUresult cuDeviceGetExecAffinitySupport(int *supported, CUexecAffinityType type,
                                                 CUdevice dev)
{
    const struct soft_profile *p;
    CUresult r = device(dev, supported, &p);

    if (r == CUDA_SUCCESS && type != CU_EXEC_AFFINITY_TYPE_SM_COUNT)
        return CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        *supported = 0;
    return r;
}
