/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device holds and does: memory, utilisation.
 */
#include <string.h>
#include <time.h>

#include "soft/nvml/nvml.h"

static unsigned percent(double share)
{
    int value = (int)(share * 100.0 + 0.5);
    return value < 0 ? 0 : value > 100 ? 100 : (unsigned)value;
}

unsigned soft_nvml_busy(const struct soft_target *t, enum soft_engine engine)
{
    unsigned most = 0;
    for (int dev = t->dev; dev < t->dev + t->size; dev++) {
        unsigned busy = percent(soft_state_utilization(t->state, dev, engine, NVML_WINDOW_NS));
        most = busy > most ? busy : most;
    }
    return most;
}

uint64_t soft_nvml_wall_us(uint64_t device_ns)
{
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    uint64_t now_us = (uint64_t)wall.tv_sec * 1000000u + (uint64_t)wall.tv_nsec / 1000u;
    return now_us - (soft_now_ns() - device_ns) / 1000u;
}

/* ---------------------------------------------------------------------------------- memory --- */
struct usage {
    uint64_t total, reserved, used, free;
};

static struct usage memory_of(const struct soft_target *t)
{
    struct usage usage = {.total = t->profile->nvml_bytes};
    for (int dev = t->dev; dev < t->dev + t->size; dev++) {
        uint64_t room = soft_state_profile(t->state, dev)->memory_bytes;
        uint64_t used = soft_state_used_bytes(t->state, dev);
        usage.used += used;
        usage.free += used < room ? room - used : 0;
    }
    usage.reserved = usage.total - usage.used - usage.free;
    return usage;
}

/* The old struct has no field for what firmware reserves: it counts as used. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    ANY_OR_RETURN(device, memory);
    struct usage usage = memory_of(&t);
    memory->total = usage.total;
    memory->free = usage.free;
    memory->used = usage.total - usage.free;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    ANY_OR_RETURN(device, memory);
    if (memory->version != HARP_NVML_STRUCT(nvmlMemory_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct usage usage = memory_of(&t);
    memory->total = usage.total;
    memory->reserved = usage.reserved;
    memory->free = usage.free;
    memory->used = usage.used;
    return NVML_SUCCESS;
}

/* ----------------------------------------------------------------------------- utilisation --- */
/* `memory` is the busier copy engine: what kernels move is not metered apart. Boards with instances
 * and instances do not answer, as NVML documents. */
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    BOARD_OR_RETURN(device, utilization);
    if (t.split)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned in = soft_nvml_busy(&t, SOFT_COPY_IN), out = soft_nvml_busy(&t, SOFT_COPY_OUT);
    *utilization = (nvmlUtilization_t){
        .gpu = soft_nvml_busy(&t, SOFT_COMPUTE),
        .memory = in > out ? in : out,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device, nvmlGpuDynamicPstatesInfo_t *info)
{
    nvmlUtilization_t busy;
    nvmlReturn_t result = nvmlDeviceGetUtilizationRates(device, &busy);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(info, 0, sizeof *info);
    info->utilization[0] = (nvmlGpuDynamicPstatesUtilization_t){1, busy.gpu, 0, 0};
    info->utilization[1] = (nvmlGpuDynamicPstatesUtilization_t){1, busy.memory, 0, 0};
    return NVML_SUCCESS;
}

/* It has no engines for pictures: they are never busy. */
static nvmlReturn_t no_video(nvmlDevice_t device, unsigned *busy, unsigned *period_us)
{
    BOARD_OR_RETURN(device, busy);
    if (period_us == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (t.split)
        return NVML_ERROR_NOT_SUPPORTED;
    *busy = 0;
    *period_us = (unsigned)(SOFT_BUCKET_NS / 1000);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *busy,
                                             unsigned int *period_us)
{
    return no_video(device, busy, period_us);
}

nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *busy,
                                             unsigned int *period_us)
{
    return no_video(device, busy, period_us);
}

nvmlReturn_t nvmlDeviceGetJpgUtilization(nvmlDevice_t device, unsigned int *busy,
                                         unsigned int *period_us)
{
    return no_video(device, busy, period_us);
}

nvmlReturn_t nvmlDeviceGetOfaUtilization(nvmlDevice_t device, unsigned int *busy,
                                         unsigned int *period_us)
{
    return no_video(device, busy, period_us);
}

nvmlReturn_t nvmlDeviceGetEncoderCapacity(nvmlDevice_t device, nvmlEncoderType_t type,
                                          unsigned int *capacity)
{
    BOARD_OR_RETURN(device, capacity);
    if ((unsigned)type > NVML_ENCODER_QUERY_AV1)
        return NVML_ERROR_INVALID_ARGUMENT;
    *capacity = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t device, unsigned int *sessions,
                                       unsigned int *fps, unsigned int *latency_us)
{
    BOARD_OR_RETURN(device, sessions);
    if (fps == NULL || latency_us == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *sessions = *fps = *latency_us = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderSessions(nvmlDevice_t device, unsigned int *count,
                                          nvmlEncoderSessionInfo_t *sessions)
{
    BOARD_OR_RETURN(device, count);
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFBCStats(nvmlDevice_t device, nvmlFBCStats_t *stats)
{
    BOARD_OR_RETURN(device, stats);
    *stats = (nvmlFBCStats_t){0};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFBCSessions(nvmlDevice_t device, unsigned int *count,
                                      nvmlFBCSessionInfo_t *sessions)
{
    BOARD_OR_RETURN(device, count);
    *count = 0;
    return NVML_SUCCESS;
}
