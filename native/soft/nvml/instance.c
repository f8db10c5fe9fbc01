/* SPDX-License-Identifier: Apache-2.0
 *
 * GPU and compute instances, as who makes them sees them: none is made or destroyed here. Each GPU
 * instance has one compute instance, 0, that is all of it. Handles are addresses of bytes, by
 * device.
 */
#include <stdio.h>
#include <string.h>

#include "soft/nvml/nvml.h"

#define PROFILE_ID_3G      9u /* NVML's id of 3g.* GPU instances ... */
#define CI_PROFILE_ID_3C   2u /* ... and of compute instances that fill one */
#define MEMORY_SLICES_EACH 4u

static char gpu_instances[SOFT_MAX_DEVICES];
static char compute_instances[SOFT_MAX_DEVICES];

static nvmlGpuInstance_t gpu_handle(int dev)
{
    return (nvmlGpuInstance_t)(void *)&gpu_instances[dev];
}

static nvmlComputeInstance_t compute_handle(int dev)
{
    return (nvmlComputeInstance_t)(void *)&compute_instances[dev];
}

/* The instance behind a handle of one of the arrays, as the target of its MIG device. */
static nvmlReturn_t instance_of(const void *handle, const char *array, struct soft_target *t)
{
    uintptr_t at = (uintptr_t)handle - (uintptr_t)array;
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (at >= SOFT_MAX_DEVICES)
        return NVML_ERROR_INVALID_ARGUMENT;
    return soft_nvml_target(soft_nvml_instance_handle((int)at), t);
}

/* --------------------------------------------------------------------------- GPU instances --- */
/* What the instances of a board in MIG mode are. */
static const struct soft_profile *part(const struct soft_target *t)
{
    return soft_state_profile(t->state, t->dev);
}

nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int profile_id,
                                       nvmlGpuInstance_t *instances, unsigned int *count)
{
    SPLIT_OR_RETURN(device, count);
    if (instances == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = profile_id == PROFILE_ID_3G ? (unsigned)t.size : 0;
    for (unsigned i = 0; i < *count; i++)
        instances[i] = gpu_handle(t.dev + (int)i);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id,
                                          nvmlGpuInstance_t *instance)
{
    SPLIT_OR_RETURN(device, instance);
    for (int dev = t.dev; dev < t.dev + t.size; dev++)
        if (soft_state_instance(t.state, dev) == id) {
            *instance = gpu_handle(dev);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(instance, gpu_instances, &t);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned nth = (unsigned)(t.dev - soft_state_board_dev(t.state, t.board));
    *info = (nvmlGpuInstanceInfo_t){
        .device = soft_nvml_board_handle(t.board),
        .id = soft_state_instance(t.state, t.dev),
        .profileId = PROFILE_ID_3G,
        .placement = {.start = nth * MEMORY_SLICES_EACH, .size = MEMORY_SLICES_EACH},
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int profile,
                                                 nvmlGpuInstanceProfileInfo_t *info)
{
    SPLIT_OR_RETURN(device, info);
    if (profile >= NVML_GPU_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (profile != NVML_GPU_INSTANCE_PROFILE_3_SLICE)
        return NVML_ERROR_NOT_SUPPORTED;
    *info = (nvmlGpuInstanceProfileInfo_t){
        .id = PROFILE_ID_3G,
        .sliceCount = (unsigned)part(&t)->slices,
        .instanceCount = (unsigned)t.size,
        .multiprocessorCount = (unsigned)part(&t)->sm_count,
        .copyEngineCount = 2,
        .memorySizeMB = part(&t)->nvml_bytes >> 20,
    };
    return NVML_SUCCESS;
}

/* Both later structs begin with their version; the third has no isP2pSupported. */
nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int profile,
                                                  nvmlGpuInstanceProfileInfo_v2_t *info)
{
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned version = info->version;
    if (version != HARP_NVML_STRUCT(nvmlGpuInstanceProfileInfo_v2_t, 2) &&
        version != HARP_NVML_STRUCT(nvmlGpuInstanceProfileInfo_v3_t, 3))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlGpuInstanceProfileInfo_t old;
    nvmlReturn_t result = nvmlDeviceGetGpuInstanceProfileInfo(device, profile, &old);
    if (result != NVML_SUCCESS)
        return result;
    char name[96];
    snprintf(name, sizeof name, "MIG %ug.%llugb", old.sliceCount, (old.memorySizeMB + 1023) / 1024);
    if (version >> 24 == 2) {
        *info = (nvmlGpuInstanceProfileInfo_v2_t){
            .version = version,
            .id = old.id,
            .sliceCount = old.sliceCount,
            .instanceCount = old.instanceCount,
            .multiprocessorCount = old.multiprocessorCount,
            .copyEngineCount = old.copyEngineCount,
            .memorySizeMB = old.memorySizeMB,
        };
        memcpy(info->name, name, sizeof name);
    } else {
        nvmlGpuInstanceProfileInfo_v3_t third = {
            .version = version,
            .id = old.id,
            .sliceCount = old.sliceCount,
            .instanceCount = old.instanceCount,
            .multiprocessorCount = old.multiprocessorCount,
            .copyEngineCount = old.copyEngineCount,
            .memorySizeMB = old.memorySizeMB,
        };
        memcpy(third.name, name, sizeof name);
        memcpy(info, &third, sizeof third);
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned int profile_id,
                                                      nvmlGpuInstanceProfileInfo_v2_t *info)
{
    SPLIT_OR_RETURN(device, info);
    return profile_id == PROFILE_ID_3G ? nvmlDeviceGetGpuInstanceProfileInfoV(
                                             device, NVML_GPU_INSTANCE_PROFILE_3_SLICE, info)
                                       : NVML_ERROR_NOT_SUPPORTED;
}

/* All that there is was made with the machine. */
nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int profile_id,
                                                       unsigned int *count)
{
    SPLIT_OR_RETURN(device, count);
    if (profile_id != PROFILE_ID_3G)
        return NVML_ERROR_NOT_SUPPORTED;
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device,
                                                           unsigned int profile_id,
                                                           nvmlGpuInstancePlacement_t *placements,
                                                           unsigned int *count)
{
    SPLIT_OR_RETURN(device, count);
    if (profile_id != PROFILE_ID_3G)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned room = placements != NULL ? *count : 0;
    *count = (unsigned)t.size;
    if (placements != NULL && room < *count)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; placements != NULL && i < *count; i++)
        placements[i] = (nvmlGpuInstancePlacement_t){.start = i * MEMORY_SLICES_EACH,
                                                     .size = MEMORY_SLICES_EACH};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device,
                                                        unsigned int profile_id,
                                                        nvmlGpuInstancePlacement_t *placements,
                                                        unsigned int *count)
{
    return nvmlDeviceGetGpuInstancePossiblePlacements_v2(device, profile_id, placements, count);
}

nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int profile_id,
                                         nvmlGpuInstance_t *instance)
{
    CHANGE_OR_RETURN(device);
    return t.split && profile_id == PROFILE_ID_3G ? NVML_ERROR_INSUFFICIENT_RESOURCES
                                                  : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(instance, gpu_instances, &t);
    if (result == NVML_SUCCESS)
        result = soft_nvml_privilege();
    return result == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : result;
}

/* ----------------------------------------------------------------------- compute instances --- */
nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t instance, unsigned int profile_id,
                                                nvmlComputeInstance_t *instances,
                                                unsigned int *count)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(instance, gpu_instances, &t);
    if (result != NVML_SUCCESS)
        return result;
    if (instances == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = profile_id == CI_PROFILE_ID_3C;
    if (*count == 1)
        instances[0] = compute_handle(t.dev);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t instance, unsigned int id,
                                                   nvmlComputeInstance_t *compute)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(instance, gpu_instances, &t);
    if (result != NVML_SUCCESS)
        return result;
    if (compute == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (id != 0)
        return NVML_ERROR_NOT_FOUND;
    *compute = compute_handle(t.dev);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t compute,
                                           nvmlComputeInstanceInfo_t *info)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(compute, compute_instances, &t);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlComputeInstanceInfo_t){
        .device = soft_nvml_board_handle(t.board),
        .gpuInstance = gpu_handle(t.dev),
        .profileId = CI_PROFILE_ID_3C,
        .placement = {.size = (unsigned)t.profile->slices},
    };
    return NVML_SUCCESS;
}

/* The older struct ends before the placement. */
nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t compute,
                                        nvmlComputeInstanceInfo_t *info)
{
    nvmlComputeInstanceInfo_t whole;
    nvmlReturn_t result = nvmlComputeInstanceGetInfo_v2(compute, &whole);
    if (result == NVML_SUCCESS && info == NULL)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        memcpy(info, &whole, offsetof(nvmlComputeInstanceInfo_t, placement));
    return result;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t instance,
                                                          unsigned int profile,
                                                          unsigned int engines,
                                                          nvmlComputeInstanceProfileInfo_t *info)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(instance, gpu_instances, &t);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL || profile >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT || engines != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (profile != NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE)
        return NVML_ERROR_NOT_SUPPORTED;
    *info = (nvmlComputeInstanceProfileInfo_t){
        .id = CI_PROFILE_ID_3C,
        .sliceCount = (unsigned)t.profile->slices,
        .instanceCount = 1,
        .multiprocessorCount = (unsigned)t.profile->sm_count,
        .sharedCopyEngineCount = 2,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t
nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance, unsigned int profile,
                                              unsigned int engines,
                                              nvmlComputeInstanceProfileInfo_v2_t *info)
{
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned version = info->version;
    if (version != HARP_NVML_STRUCT(nvmlComputeInstanceProfileInfo_v2_t, 2) &&
        version != HARP_NVML_STRUCT(nvmlComputeInstanceProfileInfo_v3_t, 3))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlComputeInstanceProfileInfo_t old;
    nvmlReturn_t result =
        nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, profile, engines, &old);
    if (result != NVML_SUCCESS)
        return result;
    memset(info, 0, version & 0xffffffu); /* the third only has a word more at its end */
    info->version = version;
    info->id = old.id;
    info->sliceCount = old.sliceCount;
    info->instanceCount = old.instanceCount;
    info->multiprocessorCount = old.multiprocessorCount;
    info->sharedCopyEngineCount = old.sharedCopyEngineCount;
    snprintf(info->name, sizeof info->name, "MIG %uc.%ug", old.sliceCount, old.sliceCount);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t instance,
                                                                unsigned int profile_id,
                                                                unsigned int *count)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(instance, gpu_instances, &t);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return profile_id == CI_PROFILE_ID_3C ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t compute)
{
    struct soft_target t;
    nvmlReturn_t result = instance_of(compute, compute_instances, &t);
    if (result == NVML_SUCCESS)
        result = soft_nvml_privilege();
    return result == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : result;
}
