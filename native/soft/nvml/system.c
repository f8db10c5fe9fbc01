/* SPDX-License-Identifier: Apache-2.0
 *
 * nvmlSystem*: versions, names of processes; and what the machine has none of.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/driver.h"
#include "soft/nvml/nvml.h"

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    return result == NVML_SUCCESS
               ? soft_nvml_text(soft_driver_release(soft_driver_version()), version, length)
               : result;
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    char text[40];
    int cuda = soft_driver_version(); /* works before init, too */
    snprintf(text, sizeof text, "%d.%s", cuda / 1000, soft_driver_release(cuda));
    return soft_nvml_text(text, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    if (version == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = soft_driver_version();
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

static bool name_from_proc(unsigned pid, char *name, size_t bytes)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, name, bytes - 1);
    close(fd);
    if (n <= 0)
        return false;
    name[n] = '\0'; /* and the first argument ends earlier, with a NUL of its own */
    return true;
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (name == NULL || length == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    char text[1024] = "";
    bool found = name_from_proc(pid, text, sizeof text);
    if (!found) {
        int count = 0;
        struct soft_slot *slots = soft_nvml_slots(state, &count);
        if (slots == NULL)
            return NVML_ERROR_MEMORY;
        for (int i = 0; i < count && !found; i++)
            if ((unsigned)slots[i].pid == pid) {
                snprintf(text, sizeof text, "%s", slots[i].name);
                found = true;
            }
        free(slots);
    }
    if (!found)
        return NVML_ERROR_NOT_FOUND;
    snprintf(name, length, "%s", text); /* NVML cuts it */
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_v1_t *info, unsigned int length)
{
    struct soft_state *state;
    char branch[16];
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (info->version != HARP_NVML_STRUCT(nvmlSystemDriverBranchInfo_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    /* "r580_65" of "580.65.06" */
    snprintf(branch, sizeof branch, "r%.6s", soft_driver_release(soft_driver_version()));
    branch[4] = '_';
    return soft_nvml_text(branch, info->branch,
                          length < sizeof info->branch ? length : (unsigned)sizeof info->branch);
}

static nvmlReturn_t none(unsigned *count)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

/* Host interface cards, of S-class systems. */
nvmlReturn_t nvmlSystemGetHicVersion(unsigned int *count, nvmlHwbcEntry_t *entries)
{
    return none(count);
}

nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int *count)
{
    return none(count);
}

nvmlReturn_t nvmlGetBlacklistDeviceCount(unsigned int *count)
{
    return none(count);
}

nvmlReturn_t nvmlUnitGetCount(unsigned int *count)
{
    return none(count);
}

nvmlReturn_t nvmlUnitGetHandleByIndex(unsigned int index, nvmlUnit_t *unit)
{
    unsigned count;
    nvmlReturn_t result = none(&count);
    return result == NVML_SUCCESS ? NVML_ERROR_INVALID_ARGUMENT : result;
}
