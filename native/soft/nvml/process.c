/* SPDX-License-Identifier: Apache-2.0
 *
 * Who uses a device, and how much of it: lists in all struct generations, with NVML's protocol
 * (too small a buffer: the number needed and INSUFFICIENT_SIZE).
 *
 * A process that died is listed until the device has given its memory back, as drivers do.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "soft/nvml/nvml.h"

#define NO_INSTANCE 0xffffffffu

struct soft_slot *soft_nvml_slots(struct soft_state *state, int *count)
{
    struct soft_slot *slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    *count = slots != NULL ? soft_state_slots(state, slots, SOFT_MAX_SLOTS) : 0;
    return slots;
}

static uint64_t held_bytes(const struct soft_slot *slot, int dev)
{
    return slot->dev[dev].mem_bytes + slot->dev[dev].context_bytes;
}

/* Those that hold something on `dev`, at the front; returns their number. */
static unsigned keep_users(struct soft_slot *slots, int count, int dev)
{
    unsigned kept = 0;
    for (int i = 0; i < count; i++)
        if (slots[i].state != SOFT_SLOT_FREE && held_bytes(&slots[i], dev) > 0)
            slots[kept++] = slots[i];
    return kept;
}

/* Slots of the users of a device; *count becomes their number. The caller frees them. */
static nvmlReturn_t users_of(nvmlDevice_t device, unsigned *count, struct soft_slot **slots,
                             int *dev)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_device(device, &state, dev);
    if (result != NVML_SUCCESS)
        return result;
    int all = 0;
    *slots = soft_nvml_slots(state, &all);
    if (*slots == NULL)
        return NVML_ERROR_MEMORY;
    *count = keep_users(*slots, all, *dev);
    return NVML_SUCCESS;
}

static nvmlReturn_t list_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *infos)
{
    if (count == NULL || (infos == NULL && *count != 0))
        return NVML_ERROR_INVALID_ARGUMENT;
    struct soft_slot *slots = NULL;
    unsigned users = 0, room = *count;
    int dev = 0;
    nvmlReturn_t result = users_of(device, &users, &slots, &dev);
    if (result != NVML_SUCCESS)
        return result;
    *count = users;
    if (users > room)
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; result == NVML_SUCCESS && i < users; i++)
        infos[i] = (nvmlProcessInfo_v2_t){
            .pid = (unsigned)slots[i].pid,
            .usedGpuMemory = held_bytes(&slots[i], dev),
            .gpuInstanceId = NO_INSTANCE,
            .computeInstanceId = NO_INSTANCE,
        };
    free(slots);
    return result;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *infos)
{
    return list_v2(device, count, infos);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_v2_t *infos)
{
    return list_v2(device, count, infos);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                  nvmlProcessInfo_v1_t *infos)
{
    if (count == NULL || (infos == NULL && *count != 0))
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned room = *count < SOFT_MAX_SLOTS ? *count : SOFT_MAX_SLOTS;
    nvmlProcessInfo_v2_t *wide = calloc(room + 1, sizeof *wide);
    if (wide == NULL)
        return NVML_ERROR_MEMORY;
    *count = room;
    nvmlReturn_t result = list_v2(device, count, wide);
    for (unsigned i = 0; result == NVML_SUCCESS && i < *count; i++)
        infos[i] = (nvmlProcessInfo_v1_t){wide[i].pid, wide[i].usedGpuMemory};
    free(wide);
    return result;
}

/* Nobody draws, and there is no MPS. */
static nvmlReturn_t nobody(nvmlDevice_t device, unsigned *count)
{
    struct soft_state *state;
    int dev;
    nvmlReturn_t result = soft_nvml_device(device, &state, &dev);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                      nvmlProcessInfo_t *infos)
{
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                      nvmlProcessInfo_v2_t *infos)
{
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                   nvmlProcessInfo_v1_t *infos)
{
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                        nvmlProcessInfo_t *infos)
{
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                        nvmlProcessInfo_v2_t *infos)
{
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_v1_t *infos)
{
    return nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                   nvmlProcessDetailList_t *list)
{
    if (list == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (list->version != HARP_NVML_STRUCT(nvmlProcessDetailList_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (list->mode > 2)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (list->mode != 0) /* 1 graphics, 2 MPS */
        return nobody(device, &list->numProcArrayEntries);
    struct soft_slot *slots = NULL;
    unsigned users = 0, room = list->procArray != NULL ? list->numProcArrayEntries : 0;
    int dev = 0;
    nvmlReturn_t result = users_of(device, &users, &slots, &dev);
    if (result != NVML_SUCCESS)
        return result;
    list->numProcArrayEntries = users;
    if (users > room)
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; result == NVML_SUCCESS && i < users; i++)
        list->procArray[i] = (nvmlProcessDetail_v1_t){
            .pid = (unsigned)slots[i].pid,
            .usedGpuMemory = held_bytes(&slots[i], dev),
            .gpuInstanceId = NO_INSTANCE,
            .computeInstanceId = NO_INSTANCE,
        };
    free(slots);
    return result;
}

/* ------------------------------------------------------------- utilisation of each process ---- */
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

static const struct seen *before(int dev, const struct soft_slot *slot)
{
    for (unsigned i = 0; i < seen_count[dev]; i++)
        if (seen[dev][i].pid == slot->pid && seen[dev][i].start_ns == slot->start_ns)
            return &seen[dev][i];
    return NULL;
}

/* Share of each process since this was last asked here, or since the process began. */
static void sample(int dev, const struct soft_slot *slots, unsigned users,
                   nvmlProcessUtilizationInfo_v1_t *out)
{
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    uint64_t stamp_us = (uint64_t)wall.tv_sec * 1000000u + (uint64_t)wall.tv_nsec / 1000u;
    uint64_t now_ns = soft_now_ns();
    static struct seen fresh[SOFT_MAX_SLOTS]; /* guarded by seen_lock */
    pthread_mutex_lock(&seen_lock);
    for (unsigned i = 0; i < users; i++) {
        const struct soft_slot_dev *use = &slots[i].dev[dev];
        const struct seen *last = before(dev, &slots[i]);
        fresh[i] =
            (struct seen){slots[i].pid, slots[i].start_ns, now_ns, use->busy_ns[SOFT_COMPUTE],
                          use->busy_ns[SOFT_COPY_IN] + use->busy_ns[SOFT_COPY_OUT]};
        uint64_t from_ns = last != NULL ? last->at_ns : slots[i].start_ns;
        uint64_t window_ns = now_ns > from_ns ? now_ns - from_ns : 0;
        uint64_t compute_ns = fresh[i].compute_ns - (last != NULL ? last->compute_ns : 0);
        uint64_t copy_ns = fresh[i].copy_ns - (last != NULL ? last->copy_ns : 0);
        out[i] = (nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = stamp_us,
            .pid = (unsigned)slots[i].pid,
            .smUtil = percent(compute_ns, window_ns),
            .memUtil = percent(copy_ns, window_ns),
        };
    }
    memcpy(seen[dev], fresh, users * sizeof fresh[0]);
    seen_count[dev] = users;
    pthread_mutex_unlock(&seen_lock);
}

/* `room` 0 asks for the number only and starts no new window. */
static nvmlReturn_t samples_of(nvmlDevice_t device, unsigned *count, unsigned room,
                               nvmlProcessUtilizationInfo_v1_t **out)
{
    struct soft_slot *slots = NULL;
    unsigned users = 0;
    int dev = 0;
    nvmlReturn_t result = users_of(device, &users, &slots, &dev);
    if (result != NVML_SUCCESS)
        return result;
    *count = users;
    *out = NULL;
    if (users == 0) {
        result = NVML_ERROR_NOT_FOUND;
    } else if (users > room) {
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    } else {
        *out = calloc(users, sizeof **out);
        if (*out == NULL)
            result = NVML_ERROR_MEMORY;
        else
            sample(dev, slots, users, *out);
    }
    free(slots);
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
