/* SPDX-License-Identifier: Apache-2.0
 *
 * Each process's share of a device's engines, since this was last asked.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "soft/nvml/nvml.h"

struct seen { /* a process's meters when they were last read here */
    int32_t pid;
    uint64_t start_ns, at_ns, compute_ns, copy_ns;
};
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;
static struct seen seen[SOFT_MAX_DEVICES][SOFT_MAX_SLOTS]; /* guarded by seen_lock */
static unsigned seen_count[SOFT_MAX_DEVICES];              /* guarded by seen_lock */

static unsigned percent(uint64_t busy_ns, uint64_t window_ns)
{
    uint64_t value = window_ns == 0 ? 0 : (busy_ns * 100 + window_ns / 2) / window_ns;
    return value > 100 ? 100 : (unsigned)value;
}

static const struct seen *before(int dev, const struct soft_user *user)
{
    for (unsigned i = 0; i < seen_count[dev]; i++)
        if (seen[dev][i].pid == user->pid && seen[dev][i].start_ns == user->start_ns)
            return &seen[dev][i];
    return NULL;
}

/* Share of each process since this was last asked here, or since the process began. */
static void sample(int dev, const struct soft_user *users, unsigned n,
                   nvmlProcessUtilizationInfo_v1_t *out)
{
    uint64_t now_ns = soft_now_ns(), stamp_us = soft_nvml_wall_us(now_ns);
    static struct seen fresh[SOFT_MAX_SLOTS]; /* guarded by seen_lock */
    pthread_mutex_lock(&seen_lock);
    for (unsigned i = 0; i < n; i++) {
        const struct soft_user *user = &users[i];
        const struct seen *last = before(dev, user);
        fresh[i] =
            (struct seen){user->pid, user->start_ns, now_ns, user->compute_ns, user->copy_ns};
        uint64_t from_ns = last != NULL ? last->at_ns : user->start_ns;
        uint64_t window_ns = now_ns > from_ns ? now_ns - from_ns : 0;
        uint64_t compute_ns = user->compute_ns - (last != NULL ? last->compute_ns : 0);
        uint64_t copy_ns = user->copy_ns - (last != NULL ? last->copy_ns : 0);
        out[i] = (nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = stamp_us,
            .pid = (unsigned)user->pid,
            .smUtil = percent(compute_ns, window_ns),
            .memUtil = percent(copy_ns, window_ns),
        };
    }
    memcpy(seen[dev], fresh, n * sizeof fresh[0]);
    seen_count[dev] = n;
    pthread_mutex_unlock(&seen_lock);
}

/* `room` 0 asks for the number only and starts no new window. Boards with instances do not answer,
 * as NVML documents. */
static nvmlReturn_t samples_of(nvmlDevice_t device, unsigned *count, unsigned room,
                               nvmlProcessUtilizationInfo_v1_t **out)
{
    BOARD_OR_RETURN(device, count);
    if (t.split)
        return NVML_ERROR_NOT_SUPPORTED;
    struct soft_user *users;
    unsigned n;
    nvmlReturn_t result = soft_nvml_users(&t, &n, &users);
    if (result != NVML_SUCCESS)
        return result;
    *count = n;
    *out = NULL;
    if (n == 0) {
        result = NVML_ERROR_NOT_FOUND;
    } else if (n > room) {
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    } else {
        *out = calloc(n, sizeof **out);
        if (*out == NULL)
            result = NVML_ERROR_MEMORY;
        else
            sample(t.dev, users, n, *out);
    }
    free(users);
    return result;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t *samples,
                                             unsigned int *count, unsigned long long since)
{
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlProcessUtilizationInfo_v1_t *infos = NULL;
    unsigned room = samples != NULL ? *count : 0;
    nvmlReturn_t result = samples_of(device, count, room, &infos);
    for (unsigned i = 0; result == NVML_SUCCESS && i < *count; i++)
        samples[i] = (nvmlProcessUtilizationSample_t){
            .pid = infos[i].pid,
            .timeStamp = infos[i].timeStamp,
            .smUtil = infos[i].smUtil,
            .memUtil = infos[i].memUtil,
        };
    free(infos);
    return result;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                   nvmlProcessesUtilizationInfo_t *info)
{
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (info->version != HARP_NVML_STRUCT(nvmlProcessesUtilizationInfo_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlProcessUtilizationInfo_v1_t *infos = NULL;
    unsigned room = info->procUtilArray != NULL ? info->processSamplesCount : 0;
    nvmlReturn_t result = samples_of(device, &info->processSamplesCount, room, &infos);
    if (result == NVML_SUCCESS)
        memcpy(info->procUtilArray, infos, info->processSamplesCount * sizeof *infos);
    free(infos);
    return result;
}
