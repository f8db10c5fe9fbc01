/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device is: name, identity, place, capability, modes.
 */
#include <stdio.h>
#include <string.h>

#include "soft/nvml/nvml.h"

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    ANY_OR_RETURN(device, name);
    return soft_nvml_text(t.profile->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    ANY_OR_RETURN(device, uuid);
    char text[48];
    soft_nvml_uuid(&t, text);
    return soft_nvml_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    BOARD_OR_RETURN(device, index);
    *index = (unsigned)t.board;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    BOARD_OR_RETURN(device, minor);
    *minor = (unsigned)t.board;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *id)
{
    BOARD_OR_RETURN(device, id);
    *id = soft_state_pci_bus(t.state, t.dev) << 8;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *multi)
{
    BOARD_OR_RETURN(device, multi);
    *multi = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *brand)
{
    BOARD_OR_RETURN(device, brand);
    *brand = NVML_BRAND_UNKNOWN; /* nobody's product */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch)
{
    ANY_OR_RETURN(device, arch);
    int cc = t.profile->cc_major * 10 + t.profile->cc_minor;
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
    ANY_OR_RETURN(device, major);
    if (minor == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = t.profile->cc_major;
    *minor = t.profile->cc_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    BOARD_OR_RETURN(device, pci);
    uint32_t bus = soft_state_pci_bus(t.state, t.dev);
    memset(pci, 0, sizeof *pci); /* device ids 0: no vendor made it */
    pci->bus = bus;
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", bus & 0xffu);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", bus & 0xffu);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_v2_t *pci)
{
    BOARD_OR_RETURN(device, pci);
    uint32_t bus = soft_state_pci_bus(t.state, t.dev);
    memset(pci, 0, sizeof *pci);
    pci->bus = bus;
    snprintf(pci->busId, sizeof pci->busId, "0000:%02X:00.0", bus & 0xffu);
    return NVML_SUCCESS;
}

/* (1) The oldest struct may end after pciDeviceId: nothing behind it is written. */
nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_v2_t *pci)
{
    BOARD_OR_RETURN(device, pci);
    nvmlPciInfo_v2_t whole;
    nvmlReturn_t result = nvmlDeviceGetPciInfo_v2(device, &whole);
    if (result == NVML_SUCCESS)
        memcpy(pci, &whole, offsetof(nvmlPciInfo_v2_t, pciSubSystemId));
    return result;
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t *pci)
{
    BOARD_OR_RETURN(device, pci);
    unsigned version = pci->version;
    if (version != HARP_NVML_STRUCT(nvmlPciInfoExt_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    uint32_t bus = soft_state_pci_bus(t.state, t.dev);
    memset(pci, 0, sizeof *pci);
    pci->version = version;
    pci->bus = bus;
    pci->baseClass = 3; /* display controller ... */
    pci->subClass = 2;  /* ... 3D */
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", bus & 0xffu);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t a, nvmlDevice_t b, int *same)
{
    BOARD_OR_RETURN(a, same);
    struct soft_target other;
    nvmlReturn_t result = soft_nvml_board(b, &other);
    if (result == NVML_SUCCESS)
        *same = t.board == other.board;
    return result;
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *bits)
{
    BOARD_OR_RETURN(device, bits);
    *bits = (unsigned)t.profile->bus_bits;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *cores)
{
    BOARD_OR_RETURN(device, cores);
    *cores = (unsigned)(t.profile->sm_count * t.profile->cores_per_sm);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetModuleId(nvmlDevice_t device, unsigned int *id)
{
    BOARD_OR_RETURN(device, id);
    *id = (unsigned)t.board + 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBusType(nvmlDevice_t device, unsigned int *type)
{
    BOARD_OR_RETURN(device, type);
    *type = 2; /* PCI Express */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerSource(nvmlDevice_t device, unsigned int *source)
{
    BOARD_OR_RETURN(device, source);
    *source = 0; /* mains */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, nvmlC2cModeInfo_v1_t *info)
{
    BOARD_OR_RETURN(device, info);
    info->isC2cEnabled = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBridgeChipInfo(nvmlDevice_t device, nvmlBridgeChipHierarchy_t *bridges)
{
    BOARD_OR_RETURN(device, bridges);
    memset(bridges, 0, sizeof *bridges); /* one chip alone */
    return NVML_SUCCESS;
}
