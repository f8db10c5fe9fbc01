/* SPDX-License-Identifier: Apache-2.0
 *
 * nvmlDeviceGetSamples: the engines' history in the state file, a sample each 100 ms, some six
 * seconds of it.
 */
#include <stdlib.h>

#include "soft/nvml/nvml.h"

#define HISTORY (SOFT_BUCKETS - 2) /* whole buckets behind us */

static unsigned percent(double share)
{
    return (unsigned)(share * 100.0 + 0.5);
}

static double busiest(const struct soft_target *t, enum soft_engine engine, uint64_t number)
{
    double most = 0;
    for (int dev = t->dev; dev < t->dev + t->size; dev++) {
        double share = soft_state_bucket(t->state, dev, engine, number);
        most = share > most ? share : most;
    }
    return most;
}

/* By the formula of soft/gpu/state_board.c, at today's limit. */
static unsigned power(const struct soft_target *t, uint64_t number)
{
    double share = 0;
    for (int dev = t->dev; dev < t->dev + t->size; dev++)
        share += (0.9 * soft_state_bucket(t->state, dev, SOFT_COMPUTE, number) +
                  0.05 * soft_state_bucket(t->state, dev, SOFT_COPY_IN, number) +
                  0.05 * soft_state_bucket(t->state, dev, SOFT_COPY_OUT, number)) /
                 t->size;
    unsigned idle = (unsigned)t->profile->idle_w * 1000;
    return idle + (unsigned)((double)(soft_nvml_limit_mw(t) - idle) * share);
}

static unsigned value_of(const struct soft_target *t, nvmlSamplingType_t type, uint64_t number)
{
    bool busy = busiest(t, SOFT_COMPUTE, number) > 0;
    double in, out;
    switch (type) {
    case NVML_TOTAL_POWER_SAMPLES:
        return power(t, number);
    case NVML_GPU_UTILIZATION_SAMPLES:
        return percent(busiest(t, SOFT_COMPUTE, number));
    case NVML_MEMORY_UTILIZATION_SAMPLES:
        in = busiest(t, SOFT_COPY_IN, number);
        out = busiest(t, SOFT_COPY_OUT, number);
        return percent(in > out ? in : out);
    case NVML_PROCESSOR_CLK_SAMPLES:
        return busy ? soft_state_sm_most_mhz(t->state, t->dev)
                    : (unsigned)t->profile->idle_clock_khz / 1000;
    case NVML_MEMORY_CLK_SAMPLES:
        return (unsigned)(busy ? t->profile->memory_clock_khz : t->profile->idle_memory_clock_khz) /
               1000;
    default:
        return 0; /* pictures */
    }
}

nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type,
                                  unsigned long long since, nvmlValueType_t *value_type,
                                  unsigned int *count, nvmlSample_t *samples)
{
    BOARD_OR_RETURN(device, count);
    if (value_type == NULL || (unsigned)type > NVML_OFA_UTILIZATION_SAMPLES)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (type == NVML_MODULE_POWER_SAMPLES ||
        (t.split && type != NVML_TOTAL_POWER_SAMPLES && type != NVML_PROCESSOR_CLK_SAMPLES &&
         type != NVML_MEMORY_CLK_SAMPLES))
        return NVML_ERROR_NOT_SUPPORTED;
    *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
    if (samples == NULL) {
        *count = HISTORY;
        return NVML_SUCCESS;
    }
    uint64_t now = soft_now_ns() / SOFT_BUCKET_NS, from = now > HISTORY ? now - HISTORY : 0;
    unsigned n = 0, room = *count;
    for (uint64_t number = from; number < now && n < room; number++) {
        uint64_t stamp = soft_nvml_wall_us((number + 1) * SOFT_BUCKET_NS);
        if (stamp <= since)
            continue;
        samples[n].timeStamp = stamp;
        samples[n].sampleValue.ullVal = 0;
        samples[n++].sampleValue.uiVal = value_of(&t, type, number);
    }
    *count = n;
    return n > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}
