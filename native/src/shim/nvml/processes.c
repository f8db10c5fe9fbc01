/* SPDX-License-Identifier: Apache-2.0
 *
 * The tenant's own processes in every list that NVML gives: those that were started with the same
 * HARP_GRANT. Their memory is shown without what a context is expected to cost, as the device's
 * used memory is: that is charged to the device and not to the tenant.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/nvml/twin.h"

enum { MOST_PROCESSES = 4096 };
#define NOT_SAID (~0ull) /* NVML_VALUE_NOT_AVAILABLE */

static bool ours(unsigned int pid)
{
    char path[64], buffer[8192];
    char want[600];
    size_t kept = 0;
    bool found = false;
    int n = snprintf(want, sizeof want, "HARP_GRANT=%s", harp_env()->grant);
    if (pid == (unsigned int)getpid() || n < 0 || (size_t)n >= sizeof want)
        return pid == (unsigned int)getpid();
    snprintf(path, sizeof path, "/proc/%u/environ", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && !found) { /* NUL-separated; a variable may lie across two reads */
        ssize_t got = read(fd, buffer + kept, sizeof buffer - kept);
        if (got <= 0)
            break;
        size_t length = kept + (size_t)got, from = 0;
        for (size_t i = 0; i < length && !found; i++) {
            if (buffer[i] != '\0')
                continue;
            found = strcmp(buffer + from, want) == 0;
            from = i + 1;
        }
        kept = length - from;
        if (kept == sizeof buffer) /* longer than what we look for */
            kept = 0;
        memmove(buffer, buffer + from, kept);
    }
    if (fd >= 0)
        close(fd);
    return found;
}

/* Expected cost of a context where the tenant has a limit, else 0: there all is shown as it is. */
static uint64_t context_bytes(nvmlDevice_t device)
{
    uint64_t free = 0, total = 0;
    struct harp_shim_memory own;
    return harp_twin_memory(device, &free, &total, &own) && own.limit_bytes != 0
               ? own.overhead_bytes
               : 0;
}

/* Lists of memory: each entry, whatever its generation, starts with the pid, and the bytes follow
 * at the same place. */
_Static_assert(offsetof(nvmlProcessInfo_v1_t, usedGpuMemory) == 8 &&
                   offsetof(nvmlProcessInfo_v2_t, usedGpuMemory) == 8 &&
                   offsetof(nvmlProcessDetail_v1_t, usedGpuMemory) == 8,
               "one place for all generations");

/* Keeps the tenant's of `all` entries; how many those are. */
static unsigned keep(char *list, unsigned all, size_t bytes, size_t pid_at)
{
    unsigned n = 0;
    for (unsigned i = 0; i < all; i++) {
        unsigned int pid;
        memcpy(&pid, list + i * bytes + pid_at, sizeof pid);
        if (ours(pid))
            memmove(list + n++ * bytes, list + i * bytes, bytes);
    }
    return n;
}

static unsigned keep_memory(nvmlDevice_t device, char *list, unsigned all, size_t bytes)
{
    unsigned n = keep(list, all, bytes, 0);
    uint64_t context = n != 0 ? context_bytes(device) : 0;
    for (unsigned i = 0; context != 0 && i < n; i++) {
        unsigned long long used;
        memcpy(&used, list + i * bytes + 8, sizeof used);
        if (used != NOT_SAID)
            used = used > context ? used - context : 0;
        memcpy(list + i * bytes + 8, &used, sizeof used);
    }
    return n;
}

/* NVML's protocol: too small a buffer is told the number needed. */
static nvmlReturn_t give(const char *list, unsigned n, size_t bytes, void *out, unsigned *count)
{
    nvmlReturn_t r = NVML_SUCCESS;
    if (*count < n || (out == NULL && n != 0))
        r = NVML_ERROR_INSUFFICIENT_SIZE;
    else if (n != 0)
        memcpy(out, list, n * bytes);
    *count = n;
    return r;
}

typedef nvmlReturn_t (*list_fn)(nvmlDevice_t, unsigned int *, void *);

static nvmlReturn_t filtered(list_fn real, nvmlDevice_t device, unsigned int *count, void *infos,
                             size_t bytes)
{
    unsigned int all = MOST_PROCESSES;
    char *list = count != NULL ? malloc(MOST_PROCESSES * bytes) : NULL;
    if (list == NULL)
        return real(device, count, infos);
    nvmlReturn_t r = real(device, &all, list);
    if (r == NVML_SUCCESS)
        r = give(list, keep_memory(device, list, all, bytes), bytes, infos, count);
    free(list);
    return r;
}

#define LIST(name, type)                                                                           \
    nvmlReturn_t harp_hook_##name(nvmlDevice_t device, unsigned int *count, type *infos)           \
    {                                                                                              \
        return filtered((list_fn)harp_real[HARP_SYM_##name], device, count, infos, sizeof *infos); \
    }

LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

nvmlReturn_t harp_hook_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                             nvmlProcessDetailList_t *list)
{
    const size_t bytes = sizeof(nvmlProcessDetail_v1_t);
    char *all = list != NULL ? malloc(MOST_PROCESSES * bytes) : NULL;
    if (all == NULL)
        return REAL(nvmlDeviceGetRunningProcessDetailList)(device, list);
    nvmlProcessDetailList_t whole = *list;
    whole.numProcArrayEntries = MOST_PROCESSES;
    whole.procArray = (nvmlProcessDetail_v1_t *)(void *)all;
    nvmlReturn_t r = REAL(nvmlDeviceGetRunningProcessDetailList)(device, &whole);
    if (r == NVML_SUCCESS)
        r = give(all, keep_memory(device, all, whole.numProcArrayEntries, bytes), bytes,
                 list->procArray, &list->numProcArrayEntries);
    free(all);
    return r;
}

/* --- use of the engines ----------------------------------------------------------------------- */

/* Who asks for the number alone opens no new window of measurement; the number is the most there
 * can be, with others' processes in it: a hint for the size of a buffer. */
static nvmlReturn_t engines(nvmlReturn_t r, char *list, unsigned all, size_t bytes, size_t pid_at,
                            void *out, unsigned *count)
{
    if (r != NVML_SUCCESS)
        return r;
    unsigned n = keep(list, all, bytes, pid_at);
    if (n != 0)
        return give(list, n, bytes, out, count);
    *count = 0;
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t harp_hook_nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                       nvmlProcessUtilizationSample_t *samples,
                                                       unsigned int *count,
                                                       unsigned long long since)
{
    unsigned all = MOST_PROCESSES;
    const size_t bytes = sizeof *samples;
    char *list = count != NULL && samples != NULL ? malloc(MOST_PROCESSES * bytes) : NULL;
    if (list == NULL)
        return REAL(nvmlDeviceGetProcessUtilization)(device, samples, count, since);
    nvmlReturn_t r = REAL(nvmlDeviceGetProcessUtilization)(
        device, (nvmlProcessUtilizationSample_t *)(void *)list, &all, since);
    r = engines(r, list, all, bytes, offsetof(nvmlProcessUtilizationSample_t, pid), samples, count);
    free(list);
    return r;
}

nvmlReturn_t harp_hook_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                             nvmlProcessesUtilizationInfo_t *info)
{
    const size_t bytes = sizeof(nvmlProcessUtilizationInfo_v1_t);
    char *list =
        info != NULL && info->procUtilArray != NULL ? malloc(MOST_PROCESSES * bytes) : NULL;
    if (list == NULL)
        return REAL(nvmlDeviceGetProcessesUtilizationInfo)(device, info);
    nvmlProcessesUtilizationInfo_t whole = *info;
    whole.processSamplesCount = MOST_PROCESSES;
    whole.procUtilArray = (nvmlProcessUtilizationInfo_v1_t *)(void *)list;
    nvmlReturn_t r = REAL(nvmlDeviceGetProcessesUtilizationInfo)(device, &whole);
    r = engines(r, list, whole.processSamplesCount, bytes,
                offsetof(nvmlProcessUtilizationInfo_v1_t, pid), info->procUtilArray,
                &info->processSamplesCount);
    free(list);
    return r;
}
