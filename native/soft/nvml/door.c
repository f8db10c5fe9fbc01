/* SPDX-License-Identifier: Apache-2.0
 *
 * libnvidia-ml's side of its doors: devices that are lost, and faults.
 */
#include "soft/gpu/door.h"

#include <errno.h>

#include "soft/gpu/fault.h"
#include "soft/nvml/nvml.h"

/* The device that a call is about; -1: none, or not a device (the call itself says so). */
static int device_of(const struct soft_door_info *info, const uint64_t *args)
{
    struct soft_state *state;
    struct soft_target t;
    nvmlReturn_t r;

    if ((info->flags & SOFT_DOOR_HANDLE) != 0) {
        r = soft_nvml_target((nvmlDevice_t)(uintptr_t)args[info->device_arg], &t);
        if (r == NVML_SUCCESS || r == NVML_ERROR_GPU_IS_LOST)
            return t.dev;
    }
    if ((info->flags & SOFT_DOOR_INDEX) != 0 && soft_nvml_state(&state) == NVML_SUCCESS &&
        (uint32_t)args[0] < (uint32_t)soft_state_board_count(state))
        return soft_state_board_dev(state, (int)(uint32_t)args[0]);
    return -1;
}

uint64_t soft_door(uint32_t symbol, const uint64_t *args)
{
    const struct soft_door_info *info = &soft_doors_nvml[symbol];
    int saved = errno, result = -1, dev;
    struct soft_state *state = soft_fault_state();

    if (state != NULL && soft_fault_armed(state)) {
        dev = device_of(info, args);
        soft_fault_symbols(soft_doors_nvml, soft_doors_nvml_count);
        result = soft_fault_decide(state, symbol, dev);
        if (result < 0 && dev >= 0 && soft_fault_lost(state, dev))
            result = NVML_ERROR_GPU_IS_LOST;
    }
    errno = saved;
    return result < 0 ? 0 : SOFT_DOOR_ANSWER(result);
}
