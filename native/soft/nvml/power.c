/* SPDX-License-Identifier: Apache-2.0
 *
 * Power, energy, temperature, fans. Power follows from what the engines do (soft/gpu/state_board.c
 * has the formula). Temperature follows from power over the last six seconds: from the profile's
 * idle temperature at idle to its load temperature at the power limit the board was made with;
 * memory that has a sensor is 5 degrees warmer. A lower power limit lowers what work takes, so
 * nothing is ever slowed down by power or heat.
 */
#include <string.h>

#include "soft/nvml/nvml.h"

#define WARMING_NS    6000000000ull
#define MEMORY_WARMER 5u
#define MW(watt)      ((uint32_t)(watt) * 1000u)

uint32_t soft_nvml_limit_mw(const struct soft_target *t)
{
    uint32_t set = soft_state_setting(t->state, t->dev, SOFT_SET_POWER_MW);
    return set != 0 ? set : MW(t->profile->power_w);
}

unsigned soft_nvml_celsius(const struct soft_target *t)
{
    const struct soft_profile *p = t->profile;
    double above = (double)soft_state_power_mw(t->state, t->dev, WARMING_NS) - MW(p->idle_w);
    return (unsigned)(p->idle_c + (int)((p->load_c - p->idle_c) * above /
                                        (double)(MW(p->power_w) - MW(p->idle_w))));
}

unsigned soft_nvml_memory_celsius(const struct soft_target *t)
{
    return soft_nvml_celsius(t) + MEMORY_WARMER;
}

/* ----------------------------------------------------------------------- power and energy ---- */
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatt)
{
    BOARD_OR_RETURN(device, milliwatt);
    *milliwatt = soft_state_power_mw(t.state, t.dev, NVML_WINDOW_NS);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device,
                                                 unsigned long long *millijoule)
{
    BOARD_OR_RETURN(device, millijoule);
    *millijoule = soft_state_energy_mj(t.state, t.dev);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    *mode = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *milliwatt)
{
    BOARD_OR_RETURN(device, milliwatt);
    *milliwatt = soft_nvml_limit_mw(&t);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatt)
{
    return nvmlDeviceGetPowerManagementLimit(device, milliwatt);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned int *milliwatt)
{
    BOARD_OR_RETURN(device, milliwatt);
    *milliwatt = MW(t.profile->power_w);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least,
                                                          unsigned int *most)
{
    BOARD_OR_RETURN(device, least);
    if (most == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *least = MW(t.profile->power_min_w);
    *most = MW(t.profile->power_w);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int milliwatt)
{
    CHANGE_OR_RETURN(device);
    if (milliwatt < MW(t.profile->power_min_w) || milliwatt > MW(t.profile->power_w))
        return NVML_ERROR_INVALID_ARGUMENT;
    soft_state_set(t.state, t.dev, SOFT_SET_POWER_MW, milliwatt);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t device, nvmlPowerValue_v2_t *value)
{
    if (value == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (value->version != HARP_NVML_STRUCT(nvmlPowerValue_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (value->powerScope != 0) /* the GPU; modules and memory have no limit of their own */
        return NVML_ERROR_NOT_SUPPORTED;
    return nvmlDeviceSetPowerManagementLimit(device, value->powerValueMw);
}

nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, nvmlPerfPolicyType_t policy,
                                          nvmlViolationTime_t *time)
{
    BOARD_OR_RETURN(device, time);
    if ((policy > NVML_PERF_POLICY_RELIABILITY && policy < NVML_PERF_POLICY_TOTAL_APP_CLOCKS) ||
        policy > NVML_PERF_POLICY_TOTAL_BASE_CLOCKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    time->referenceTime = soft_nvml_wall_us(soft_now_ns());
    time->violationTime = 0; /* nothing slows it down */
    return NVML_SUCCESS;
}

/* --------------------------------------------------------------------------- temperature ----- */
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                      unsigned int *celsius)
{
    BOARD_OR_RETURN(device, celsius);
    if (sensor != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = soft_nvml_celsius(&t);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *temperature)
{
    BOARD_OR_RETURN(device, temperature);
    if (temperature->version != HARP_NVML_STRUCT(nvmlTemperature_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    temperature->temperature = (int)soft_nvml_celsius(&t);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device,
                                               nvmlTemperatureThresholds_t type,
                                               unsigned int *celsius)
{
    BOARD_OR_RETURN(device, celsius);
    int value = 0;
    switch (type) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN:
        value = t.profile->shutdown_c;
        break;
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN:
        value = t.profile->slow_c;
        break;
    case NVML_TEMPERATURE_THRESHOLD_MEM_MAX:
        value = t.profile->max_memory_c;
        break;
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX:
        value = t.profile->max_c;
        break;
    case NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_MIN:
    case NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_CURR:
    case NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_MAX:
    case NVML_TEMPERATURE_THRESHOLD_GPS_CURR:
        break;
    default:
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    if (value == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *celsius = (unsigned)value;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetTemperatureThreshold(nvmlDevice_t device,
                                               nvmlTemperatureThresholds_t type, int *celsius)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

/* How much warmer it may get before it is at its highest operating temperature. */
nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *margin)
{
    BOARD_OR_RETURN(device, margin);
    if (margin->version != HARP_NVML_STRUCT(nvmlMarginTemperature_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    margin->marginTemperature = t.profile->max_c - (int)soft_nvml_celsius(&t);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetThermalSettings(nvmlDevice_t device, unsigned int sensor,
                                          nvmlGpuThermalSettings_t *settings)
{
    BOARD_OR_RETURN(device, settings);
    if (sensor != 0 && sensor != 15) /* all */
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(settings, 0, sizeof *settings);
    settings->count = 1;
    settings->sensor[0] = (nvmlGpuThermalSensor_t){
        .controller = 1, /* inside the GPU ... */
        .defaultMinTemp = 0,
        .defaultMaxTemp = t.profile->max_c,
        .currentTemp = (int)soft_nvml_celsius(&t),
        .target = 1, /* ... of the GPU */
    };
    return NVML_SUCCESS;
}

/* The cards it is modelled after have none: the server blows. */
nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned int *count)
{
    BOARD_OR_RETURN(device, count);
    *count = 0;
    return NVML_SUCCESS;
}
