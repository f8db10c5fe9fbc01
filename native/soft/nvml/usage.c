/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device holds and does: memory, utilisation.
 */
#include <stdlib.h>

#include "soft/nvml/nvml.h"

#define WINDOW_NS 1000000000ull /* what utilisation looks back on */

static unsigned percent(double share)
{
    int value = (int)(share * 100.0 + 0.5);
    return value < 0 ? 0 : value > 100 ? 100 : (unsigned)value;
}

struct usage {
    uint64_t total, reserved, used, free;
};

static struct usage memory_of(struct soft_state *state, int dev)
{
    const struct soft_profile *profile = soft_state_profile(state, dev);
    struct usage usage = {
        .total = profile->nvml_bytes,
        .reserved = profile->nvml_bytes - profile->memory_bytes,
        .used = soft_state_used_bytes(state, dev),
    };
    usage.free = usage.used < profile->memory_bytes ? profile->memory_bytes - usage.used : 0;
    return usage;
}

/* The old struct has no field for what firmware reserves: it counts as used. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct usage usage = memory_of(state, dev);
    memory->total = usage.total;
    memory->free = usage.free;
    memory->used = usage.total - usage.free;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (memory->version != HARP_NVML_STRUCT(nvmlMemory_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct usage usage = memory_of(state, dev);
    memory->total = usage.total;
    memory->reserved = usage.reserved;
    memory->free = usage.free;
    memory->used = usage.total - usage.reserved - usage.free;
    return NVML_SUCCESS;
}

/* `memory` is the busier copy engine: what kernels move is not metered apart. */
static nvmlUtilization_t utilization_of(struct soft_state *state, int dev)
{
    double in = soft_state_utilization(state, dev, SOFT_COPY_IN, WINDOW_NS);
    double out = soft_state_utilization(state, dev, SOFT_COPY_OUT, WINDOW_NS);
    return (nvmlUtilization_t){
        .gpu = percent(soft_state_utilization(state, dev, SOFT_COMPUTE, WINDOW_NS)),
        .memory = percent(in > out ? in : out),
    };
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (utilization == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *utilization = utilization_of(state, dev);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *pstate)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (pstate == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *pstate = NVML_PSTATE_0; /* the only one it has */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerState(nvmlDevice_t device, nvmlPstates_t *pstate)
{
    return nvmlDeviceGetPerformanceState(device, pstate);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                    unsigned long long *reasons)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (reasons == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *reasons = 0; /* nothing slows it down */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                       unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

/* Each field answers for itself; a software GPU has none of them. */
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (values == NULL || count <= 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++)
        values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}
