/* SPDX-License-Identifier: Apache-2.0
 *
 * Who uses a device, and how much of it: lists in all struct generations, with NVML's protocol
 * (too small a buffer: the number needed and INSUFFICIENT_SIZE).
 *
 * A process that died is listed until the device has given its memory back, as drivers do. On a
 * board with instances each row says which instance it is of.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/nvml/nvml.h"

struct soft_slot *soft_nvml_slots(struct soft_state *state, int *count)
{
    struct soft_slot *slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    *count = slots != NULL ? soft_state_slots(state, slots, SOFT_MAX_SLOTS) : 0;
    return slots;
}

nvmlReturn_t soft_nvml_users(const struct soft_target *target, unsigned *count,
                             struct soft_user **users)
{
    int all = 0;
    struct soft_slot *slots = soft_nvml_slots(target->state, &all);
    *users = slots != NULL ? calloc((size_t)(all * target->size) + 1, sizeof **users) : NULL;
    *count = 0;
    for (int dev = target->dev; *users != NULL && dev < target->dev + target->size; dev++)
        for (int i = 0; i < all; i++) {
            const struct soft_slot_dev *use = &slots[i].dev[dev];
            if (slots[i].state == SOFT_SLOT_FREE || use->mem_bytes + use->context_bytes == 0)
                continue;
            (*users)[(*count)++] = (struct soft_user){
                .pid = slots[i].pid,
                .dev = dev,
                .start_ns = slots[i].start_ns,
                .bytes = use->mem_bytes + use->context_bytes,
                .compute_ns = use->busy_ns[SOFT_COMPUTE],
                .copy_ns = use->busy_ns[SOFT_COPY_IN] + use->busy_ns[SOFT_COPY_OUT],
            };
        }
    free(slots);
    return *users != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

static unsigned compute_instance(const struct soft_state *state, int dev)
{
    return soft_state_instance(state, dev) == SOFT_NO_INSTANCE ? SOFT_NO_INSTANCE : 0;
}

static nvmlReturn_t list_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *infos)
{
    ANY_OR_RETURN(device, count);
    if (infos == NULL && *count != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct soft_user *users;
    unsigned n, room = *count;
    nvmlReturn_t result = soft_nvml_users(&t, &n, &users);
    if (result != NVML_SUCCESS)
        return result;
    *count = n;
    if (n > room)
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; result == NVML_SUCCESS && i < n; i++)
        infos[i] = (nvmlProcessInfo_v2_t){
            .pid = (unsigned)users[i].pid,
            .usedGpuMemory = users[i].bytes,
            .gpuInstanceId = soft_state_instance(t.state, users[i].dev),
            .computeInstanceId = compute_instance(t.state, users[i].dev),
        };
    free(users);
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
    ANY_OR_RETURN(device, count);
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
    ANY_OR_RETURN(device, list);
    if (list->version != HARP_NVML_STRUCT(nvmlProcessDetailList_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (list->mode > 2) /* compute, graphics, MPS */
        return NVML_ERROR_INVALID_ARGUMENT;
    struct soft_user *users;
    unsigned n, room = list->procArray != NULL ? list->numProcArrayEntries : 0;
    nvmlReturn_t result = soft_nvml_users(&t, &n, &users);
    if (result != NVML_SUCCESS)
        return result;
    if (list->mode != 0)
        n = 0;
    list->numProcArrayEntries = n;
    if (n > room)
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; result == NVML_SUCCESS && i < n; i++)
        list->procArray[i] = (nvmlProcessDetail_v1_t){
            .pid = (unsigned)users[i].pid,
            .usedGpuMemory = users[i].bytes,
            .gpuInstanceId = soft_state_instance(t.state, users[i].dev),
            .computeInstanceId = compute_instance(t.state, users[i].dev),
        };
    free(users);
    return result;
}
