/* SPDX-License-Identifier: Apache-2.0
 *
 * Modes of a board, and changing them. Who is not root gets NO_PERMISSION; for root a change holds
 * for the whole machine, or is NOT_SUPPORTED.
 */
#include "soft/nvml/nvml.h"

/* Its state outlives its processes, whatever the mode: on, unless somebody says off. */
nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    uint32_t set = soft_state_setting(t.state, t.dev, SOFT_SET_PERSISTENCE);
    *mode = set == 0 ? NVML_FEATURE_ENABLED : (nvmlEnableState_t)(set - 1);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
    CHANGE_OR_RETURN(device);
    if (mode != NVML_FEATURE_ENABLED && mode != NVML_FEATURE_DISABLED)
        return NVML_ERROR_INVALID_ARGUMENT;
    soft_state_set(t.state, t.dev, SOFT_SET_PERSISTENCE, 1 + (uint32_t)mode);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    *mode = NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t *active)
{
    return nvmlDeviceGetDisplayMode(device, active);
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    *mode = (nvmlComputeMode_t)soft_state_setting(t.state, t.dev, SOFT_SET_COMPUTE_MODE);
    return NVML_SUCCESS;
}

/* The driver API knows no other mode here. */
nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, nvmlComputeMode_t mode)
{
    CHANGE_OR_RETURN(device);
    if ((unsigned)mode > NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)
        return NVML_ERROR_INVALID_ARGUMENT;
    return mode == NVML_COMPUTEMODE_DEFAULT ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    *mode = NVML_GPU_VIRTUALIZATION_MODE_NONE;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t mode)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

/* Setting clocks takes root, and boosting by itself is no choice of anybody. */
nvmlReturn_t nvmlDeviceGetAPIRestriction(nvmlDevice_t device, nvmlRestrictedAPI_t api,
                                         nvmlEnableState_t *restricted)
{
    BOARD_OR_RETURN(device, restricted);
    if (api == NVML_RESTRICTED_API_SET_AUTO_BOOSTED_CLOCKS)
        return NVML_ERROR_NOT_SUPPORTED;
    if (api != NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    *restricted = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetAPIRestriction(nvmlDevice_t device, nvmlRestrictedAPI_t api,
                                         nvmlEnableState_t restricted)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceSetGpuOperationMode(nvmlDevice_t device, unsigned int mode)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

/* A thing of Windows. */
nvmlReturn_t nvmlDeviceSetDriverModel(nvmlDevice_t device, unsigned int model, unsigned int flags)
{
    BOARD_OR_RETURN(device, device);
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    ANY_OR_RETURN(device, support);
    if (support->version != 1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = 0; /* no counters inside the SMs */
    return NVML_SUCCESS;
}
