/* SPDX-License-Identifier: Apache-2.0
 *
 * Clocks and performance states. The SMs run at their highest clock when something was computed in
 * the last second, else at the lowest; memory of one clock keeps it. Locked and applications clocks
 * are obeyed: modelled time of kernels follows them (soft/gpu/launch_run.c).
 */
#include "soft/nvml/nvml.h"

#define STEP_MHZ    15u
#define REASON_IDLE 0x1ull
#define REASON_APP  0x2ull
#define ALL_REASONS (REASON_IDLE | REASON_APP)
#define NO_VIDEO(type)                                                                             \
    ((type) == NVML_CLOCK_VIDEO ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT)

static unsigned sm_max(const struct soft_target *t)
{
    return (unsigned)t->profile->clock_khz / 1000;
}

static unsigned memory_max(const struct soft_target *t)
{
    return (unsigned)t->profile->memory_clock_khz / 1000;
}

static unsigned sm_min(const struct soft_target *t)
{
    return (unsigned)t->profile->idle_clock_khz / 1000;
}

static unsigned memory_min(const struct soft_target *t)
{
    return (unsigned)t->profile->idle_memory_clock_khz / 1000;
}

static bool is_idle(const struct soft_target *t)
{
    return soft_nvml_busy(t, SOFT_COMPUTE) == 0 && soft_nvml_busy(t, SOFT_COPY_IN) == 0 &&
           soft_nvml_busy(t, SOFT_COPY_OUT) == 0;
}

unsigned soft_nvml_memory_mhz(const struct soft_target *t)
{
    return is_idle(t) ? memory_min(t) : memory_max(t);
}

static bool is_sm(nvmlClockType_t type)
{
    return type == NVML_CLOCK_GRAPHICS || type == NVML_CLOCK_SM;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    BOARD_OR_RETURN(device, mhz);
    if (is_sm(type))
        *mhz = soft_state_sm_mhz(t.state, t.dev);
    else if (type == NVML_CLOCK_MEM)
        *mhz = soft_nvml_memory_mhz(&t);
    else
        return NO_VIDEO(type);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    BOARD_OR_RETURN(device, mhz);
    if (!is_sm(type) && type != NVML_CLOCK_MEM)
        return NO_VIDEO(type);
    *mhz = is_sm(type) ? sm_max(&t) : memory_max(&t);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDefaultApplicationsClock(nvmlDevice_t device, nvmlClockType_t type,
                                                   unsigned int *mhz)
{
    return nvmlDeviceGetMaxClockInfo(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, nvmlClockType_t type,
                                                unsigned int *mhz)
{
    return nvmlDeviceGetMaxClockInfo(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, nvmlClockType_t type,
                                            unsigned int *mhz)
{
    nvmlReturn_t result = nvmlDeviceGetMaxClockInfo(device, type, mhz);
    if (result != NVML_SUCCESS || !is_sm(type))
        return result;
    BOARD_OR_RETURN(device, mhz);
    uint32_t wished = soft_state_setting(t.state, t.dev, SOFT_SET_APP_SM_MHZ);
    if (wished != 0)
        *mhz = wished;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t type, nvmlClockId_t id,
                                unsigned int *mhz)
{
    switch (id) {
    case NVML_CLOCK_ID_CURRENT:
        return nvmlDeviceGetClockInfo(device, type, mhz);
    case NVML_CLOCK_ID_APP_CLOCK_TARGET:
        return nvmlDeviceGetApplicationsClock(device, type, mhz);
    case NVML_CLOCK_ID_APP_CLOCK_DEFAULT:
        return nvmlDeviceGetDefaultApplicationsClock(device, type, mhz);
    case NVML_CLOCK_ID_CUSTOMER_BOOST_MAX:
        return nvmlDeviceGetMaxCustomerBoostClock(device, type, mhz);
    }
    BOARD_OR_RETURN(device, mhz);
    return NVML_ERROR_INVALID_ARGUMENT;
}

/* Numbers from `most` down to `least`, with NVML's protocol. */
static nvmlReturn_t ladder(unsigned most, unsigned least, unsigned step, unsigned *count,
                           unsigned *mhz)
{
    unsigned room = mhz != NULL ? *count : 0, n = (most - least) / step + 1;
    *count = n;
    if (n > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < n; i++)
        mhz[i] = most - i * step;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int *count,
                                                unsigned int *mhz)
{
    BOARD_OR_RETURN(device, count);
    unsigned most = memory_max(&t), least = memory_min(&t);
    return ladder(most, least, most > least ? most - least : 1, count, mhz);
}

nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned int memory_mhz,
                                                  unsigned int *count, unsigned int *mhz)
{
    BOARD_OR_RETURN(device, count);
    if (memory_mhz != memory_max(&t) && memory_mhz != memory_min(&t))
        return NVML_ERROR_NOT_FOUND;
    return ladder(sm_max(&t), sm_min(&t), STEP_MHZ, count, mhz);
}

nvmlReturn_t nvmlDeviceGetAdaptiveClockInfoStatus(nvmlDevice_t device, unsigned int *status)
{
    BOARD_OR_RETURN(device, status);
    *status = 0; /* the clock is what it says */
    return NVML_SUCCESS;
}

/* ------------------------------------------------------------------------------- changes ----- */
nvmlReturn_t nvmlDeviceSetApplicationsClocks(nvmlDevice_t device, unsigned int memory_mhz,
                                             unsigned int sm_mhz)
{
    CHANGE_OR_RETURN(device);
    if (memory_mhz != memory_max(&t) || sm_mhz > sm_max(&t) || sm_mhz < sm_min(&t) ||
        (sm_max(&t) - sm_mhz) % STEP_MHZ != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    soft_state_set(t.state, t.dev, SOFT_SET_APP_SM_MHZ, sm_mhz);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceResetApplicationsClocks(nvmlDevice_t device)
{
    CHANGE_OR_RETURN(device);
    soft_state_set(t.state, t.dev, SOFT_SET_APP_SM_MHZ, 0);
    return NVML_SUCCESS;
}

/* Nearest of what the SMs can do. */
static uint32_t clamped(const struct soft_target *t, unsigned mhz)
{
    if (mhz > sm_max(t))
        return sm_max(t);
    return mhz < sm_min(t) ? sm_min(t) : mhz;
}

nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned int least_mhz,
                                          unsigned int most_mhz)
{
    CHANGE_OR_RETURN(device);
    if (least_mhz > most_mhz || most_mhz == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    soft_state_set(t.state, t.dev, SOFT_SET_SM_MIN_MHZ, clamped(&t, least_mhz));
    soft_state_set(t.state, t.dev, SOFT_SET_SM_MAX_MHZ, clamped(&t, most_mhz));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device)
{
    CHANGE_OR_RETURN(device);
    soft_state_set(t.state, t.dev, SOFT_SET_SM_MIN_MHZ, 0);
    soft_state_set(t.state, t.dev, SOFT_SET_SM_MAX_MHZ, 0);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetMemoryLockedClocks(nvmlDevice_t device, unsigned int least_mhz,
                                             unsigned int most_mhz)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceResetMemoryLockedClocks(nvmlDevice_t device)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceSetAutoBoostedClocksEnabled(nvmlDevice_t device, nvmlEnableState_t enabled)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceSetDefaultAutoBoostedClocksEnabled(nvmlDevice_t device,
                                                          nvmlEnableState_t enabled,
                                                          unsigned int flags)
{
    CHANGE_OR_RETURN(device);
    return NVML_ERROR_NOT_SUPPORTED;
}

/* -------------------------------------------------------------------- states and reasons ----- */
/* Memory with a lower clock to idle at: P8 while it does. */
nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *pstate)
{
    BOARD_OR_RETURN(device, pstate);
    *pstate = soft_nvml_memory_mhz(&t) < memory_max(&t) ? NVML_PSTATE_8 : NVML_PSTATE_0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerState(nvmlDevice_t device, nvmlPstates_t *pstate)
{
    return nvmlDeviceGetPerformanceState(device, pstate);
}

nvmlReturn_t nvmlDeviceGetSupportedPerformanceStates(nvmlDevice_t device, nvmlPstates_t *states,
                                                     unsigned int bytes)
{
    BOARD_OR_RETURN(device, states);
    unsigned room = bytes / (unsigned)sizeof *states, n = memory_min(&t) < memory_max(&t) ? 2 : 1;
    if (room < n)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < room; i++)
        states[i] = i == 0 ? NVML_PSTATE_0 : i < n ? NVML_PSTATE_8 : NVML_PSTATE_UNKNOWN;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinMaxClockOfPState(nvmlDevice_t device, nvmlClockType_t type,
                                              nvmlPstates_t pstate, unsigned int *least,
                                              unsigned int *most)
{
    BOARD_OR_RETURN(device, least);
    bool two = memory_min(&t) < memory_max(&t);
    if (most == NULL || (pstate != NVML_PSTATE_0 && !(two && pstate == NVML_PSTATE_8)))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!is_sm(type) && type != NVML_CLOCK_MEM)
        return NO_VIDEO(type);
    if (is_sm(type)) {
        *least = sm_min(&t);
        *most = pstate == NVML_PSTATE_0 ? sm_max(&t) : sm_min(&t);
    } else {
        *least = *most = pstate == NVML_PSTATE_0 ? memory_max(&t) : memory_min(&t);
    }
    return NVML_SUCCESS;
}

/* Why the SMs are not at their highest clock. */
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                    unsigned long long *reasons)
{
    BOARD_OR_RETURN(device, reasons);
    *reasons = 0;
    if (is_idle(&t))
        *reasons = REASON_IDLE;
    else if (soft_state_sm_most_mhz(t.state, t.dev) < sm_max(&t))
        *reasons = REASON_APP;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                       unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device,
                                                      unsigned long long *reasons)
{
    BOARD_OR_RETURN(device, reasons);
    *reasons = ALL_REASONS;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device,
                                                         unsigned long long *reasons)
{
    return nvmlDeviceGetSupportedClocksEventReasons(device, reasons);
}
