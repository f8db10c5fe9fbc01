/* SPDX-License-Identifier: Apache-2.0
 *
 * MIG devices: instances of boards that programs use like devices. What instances there are is a
 * matter of the profile, from when the machine was made.
 */
#include "soft/nvml/nvml.h"

#define MOST_INSTANCES 7u

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    BOARD_OR_RETURN(device, current);
    if (pending == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!t.profile->has_mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *current = *pending = t.split ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activation)
{
    CHANGE_OR_RETURN(device);
    if (mode > NVML_DEVICE_MIG_ENABLE || activation == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!t.profile->has_mig || (mode == NVML_DEVICE_MIG_ENABLE) != t.split)
        return NVML_ERROR_NOT_SUPPORTED;
    *activation = NVML_SUCCESS;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    BOARD_OR_RETURN(device, count);
    *count = t.split ? MOST_INSTANCES : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                 nvmlDevice_t *mig)
{
    SPLIT_OR_RETURN(device, mig);
    if (index >= MOST_INSTANCES)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (index >= (unsigned)t.size)
        return NVML_ERROR_NOT_FOUND;
    *mig = soft_nvml_instance_handle(t.dev + (int)index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    ANY_OR_RETURN(device, is_mig);
    *is_mig = t.mig;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *device)
{
    ANY_OR_RETURN(mig, device);
    if (!t.mig)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = soft_nvml_board_handle(t.board);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    ANY_OR_RETURN(device, id);
    if (!t.mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *id = soft_state_instance(t.state, t.dev);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    ANY_OR_RETURN(device, id);
    if (!t.mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *id = 0;
    return NVML_SUCCESS;
}

/* Of MIG devices only, as NVML documents. */
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    ANY_OR_RETURN(device, attributes);
    if (!t.mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = (unsigned)t.profile->sm_count,
        .sharedCopyEngineCount = 2,
        .gpuInstanceSliceCount = (unsigned)t.profile->slices,
        .computeInstanceSliceCount = (unsigned)t.profile->slices,
        .memorySizeMB = t.profile->nvml_bytes >> 20,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    return nvmlDeviceGetAttributes_v2(device, attributes);
}
