/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device is: name, identity, place, capability, modes.
 */
#include <stdio.h>
#include <string.h>

#include "soft/nvml/nvml.h"

/* Every query: initialised, a good handle, somewhere to write. */
#define DEVICE_OR_RETURN(handle, out)                                                              \
    struct soft_state *state;                                                                      \
    int dev;                                                                                       \
    do {                                                                                           \
        nvmlReturn_t checked = soft_nvml_device(handle, &state, &dev);                             \
        if (checked != NVML_SUCCESS)                                                               \
            return checked;                                                                        \
        if ((out) == NULL)                                                                         \
            return NVML_ERROR_INVALID_ARGUMENT;                                                    \
    } while (0)

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    DEVICE_OR_RETURN(device, name);
    return soft_nvml_text(soft_state_profile(state, dev)->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    DEVICE_OR_RETURN(device, uuid);
    char text[48];
    soft_nvml_uuid(state, dev, text);
    return soft_nvml_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    DEVICE_OR_RETURN(device, index);
    *index = (unsigned)dev;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    DEVICE_OR_RETURN(device, minor);
    *minor = (unsigned)dev;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *id)
{
    DEVICE_OR_RETURN(device, id);
    *id = soft_state_pci_bus(state, dev) << 8;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *multi)
{
    DEVICE_OR_RETURN(device, multi);
    *multi = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *brand)
{
    DEVICE_OR_RETURN(device, brand);
    *brand = NVML_BRAND_UNKNOWN; /* nobody's product */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch)
{
    DEVICE_OR_RETURN(device, arch);
    const struct soft_profile *profile = soft_state_profile(state, dev);
    int cc = profile->cc_major * 10 + profile->cc_minor;
    if (cc >= 100)
        *arch = NVML_DEVICE_ARCH_BLACKWELL;
    else if (cc >= 90)
        *arch = NVML_DEVICE_ARCH_HOPPER;
    else if (cc == 89)
        *arch = NVML_DEVICE_ARCH_ADA;
    else if (cc >= 80)
        *arch = NVML_DEVICE_ARCH_AMPERE;
    else if (cc >= 75)
        *arch = NVML_DEVICE_ARCH_TURING;
    else
        *arch = NVML_DEVICE_ARCH_VOLTA;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    DEVICE_OR_RETURN(device, major);
    if (minor == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = soft_state_profile(state, dev)->cc_major;
    *minor = soft_state_profile(state, dev)->cc_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    DEVICE_OR_RETURN(device, pci);
    uint32_t bus = soft_state_pci_bus(state, dev);
    memset(pci, 0, sizeof *pci); /* device ids 0: no vendor made it */
    pci->bus = bus;
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", bus & 0xffu);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", bus & 0xffu);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_v2_t *pci)
{
    DEVICE_OR_RETURN(device, pci);
    uint32_t bus = soft_state_pci_bus(state, dev);
    memset(pci, 0, sizeof *pci);
    pci->bus = bus;
    snprintf(pci->busId, sizeof pci->busId, "0000:%02X:00.0", bus & 0xffu);
    return NVML_SUCCESS;
}

/* (1) The oldest struct may end after pciDeviceId: nothing behind it is written. */
nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_v2_t *pci)
{
    DEVICE_OR_RETURN(device, pci);
    nvmlPciInfo_v2_t whole;
    nvmlReturn_t result = nvmlDeviceGetPciInfo_v2(device, &whole);
    if (result == NVML_SUCCESS)
        memcpy(pci, &whole, offsetof(nvmlPciInfo_v2_t, pciSubSystemId));
    return result;
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t *pci)
{
    DEVICE_OR_RETURN(device, pci);
    unsigned version = pci->version;
    if (version != HARP_NVML_STRUCT(nvmlPciInfoExt_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    uint32_t bus = soft_state_pci_bus(state, dev);
    memset(pci, 0, sizeof *pci);
    pci->version = version;
    pci->bus = bus;
    pci->baseClass = 3; /* display controller ... */
    pci->subClass = 2;  /* ... 3D */
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", bus & 0xffu);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    DEVICE_OR_RETURN(device, mode);
    *mode = NVML_FEATURE_ENABLED; /* its state outlives its processes */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    DEVICE_OR_RETURN(device, mode);
    *mode = NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t *active)
{
    return nvmlDeviceGetDisplayMode(device, active);
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode)
{
    DEVICE_OR_RETURN(device, mode);
    *mode = NVML_COMPUTEMODE_DEFAULT;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t *mode)
{
    DEVICE_OR_RETURN(device, mode);
    *mode = NVML_GPU_VIRTUALIZATION_MODE_NONE;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    DEVICE_OR_RETURN(device, count);
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    DEVICE_OR_RETURN(device, is_mig);
    *is_mig = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t a, nvmlDevice_t b, int *same)
{
    DEVICE_OR_RETURN(a, same);
    int other;
    nvmlReturn_t result = soft_nvml_device(b, &state, &other);
    if (result == NVML_SUCCESS)
        *same = dev == other;
    return result;
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    DEVICE_OR_RETURN(device, attributes);
    const struct soft_profile *profile = soft_state_profile(state, dev);
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = (unsigned)profile->sm_count,
        .sharedCopyEngineCount = 2,
        .memorySizeMB = profile->memory_bytes >> 20,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    return nvmlDeviceGetAttributes_v2(device, attributes);
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *bits)
{
    DEVICE_OR_RETURN(device, bits);
    *bits = (unsigned)soft_state_profile(state, dev)->bus_bits;
    return NVML_SUCCESS;
}

/* The clocks the profile is modelled after; there is no current clock to read. */
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    DEVICE_OR_RETURN(device, mhz);
    const struct soft_profile *profile = soft_state_profile(state, dev);
    if (type == NVML_CLOCK_GRAPHICS || type == NVML_CLOCK_SM)
        *mhz = (unsigned)profile->clock_khz / 1000;
    else if (type == NVML_CLOCK_MEM)
        *mhz = (unsigned)profile->memory_clock_khz / 1000;
    else
        return type == NVML_CLOCK_VIDEO ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}
