/* SPDX-License-Identifier: Apache-2.0
 *
 * libnvidia-ml.so.1 as a tenant sees it: its own limit as the device's memory, its own processes.
 * Everything else is a jump to the real library.
 *
 * Numbers come from libharp in the same process (it has the connection); names of processes from
 * the environment they were started with: the tenant's are those with the same HARP_GRANT.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generated/nvml_abi.h"
#include "generated/shim_nvml_symbols.h"
#include "src/shim/backend/table.h"
#include "src/shim/entry/api.h"
#include "src/shim/entry/entry.h"

#define REAL(name) ((__typeof__(&(name)))harp_real[HARP_SYM_##name])

enum { MOST_PROCESSES = 4096 };

static const struct harp_shim_api *api; /* written once under `api_once` */
static pthread_once_t api_once = PTHREAD_ONCE_INIT;

static void find_api(void)
{
    const char *path = harp_sibling_path();
    void *handle = *path != '\0' ? harp_env()->dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    const struct harp_shim_api *(*get)(void) = NULL;
    if (handle != NULL)
        get = (const struct harp_shim_api *(*)(void))dlsym(handle, "harp_shim_v1");
    if (get != NULL)
        api = get();
    else
        harp_log("nvml_without_libharp path=\"%s\" effect=\"real numbers are shown\"", path);
}

/* "GPU-01234567-89ab-...": the 16 bytes that CUDA knows the device by. */
static bool parse_uuid(const char *text, uint8_t out[16])
{
    const char *at = strchr(text, '-');
    int n = 0;
    for (; at != NULL && *at != '\0' && n < 32; at++) {
        int digit = *at >= '0' && *at <= '9'   ? *at - '0'
                    : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10
                    : *at >= 'A' && *at <= 'F' ? *at - 'A' + 10
                                               : -1;
        if (digit < 0)
            continue;
        out[n / 2] = (uint8_t)(n % 2 == 0 ? digit << 4 : out[n / 2] | digit);
        n++;
    }
    return n == 32;
}

/* What the tenant has on `device`; false: no limit there, or not known: show the real numbers. */
static bool own_memory(nvmlDevice_t device, struct harp_shim_memory *memory)
{
    char text[96] = "";
    uint8_t uuid[16];
    pthread_once(&api_once, find_api);
    return api != NULL && REAL(nvmlDeviceGetUUID) != NULL &&
           REAL(nvmlDeviceGetUUID)(device, text, sizeof text) == NVML_SUCCESS &&
           parse_uuid(text, uuid) && api->memory(uuid, memory) == 0 && memory->limit_bytes != 0;
}

nvmlReturn_t harp_hook_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlReturn_t r = REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    struct harp_shim_memory own;
    if (r != NVML_SUCCESS || memory == NULL || !own_memory(device, &own))
        return r;
    memory->total = own.limit_bytes;
    memory->used = own.used_bytes;
    memory->free = own.used_bytes < own.limit_bytes ? own.limit_bytes - own.used_bytes : 0;
    return r;
}

nvmlReturn_t harp_hook_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlReturn_t r = REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    struct harp_shim_memory own;
    if (r != NVML_SUCCESS || memory == NULL || !own_memory(device, &own))
        return r;
    memory->total = own.limit_bytes;
    memory->reserved = 0;
    memory->used = own.used_bytes;
    memory->free = own.used_bytes < own.limit_bytes ? own.limit_bytes - own.used_bytes : 0;
    return r;
}

/* --- processes -------------------------------------------------------------------------------- */

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

typedef nvmlReturn_t (*list_fn)(nvmlDevice_t, unsigned int *, void *);

/* `bytes` is the size of one entry of this generation; each starts with the pid. */
static nvmlReturn_t filtered(list_fn real, nvmlDevice_t device, unsigned int *count, void *infos,
                             size_t bytes)
{
    unsigned int all = MOST_PROCESSES, n = 0;
    char *list = count != NULL ? malloc(MOST_PROCESSES * bytes) : NULL;
    if (list == NULL)
        return real(device, count, infos);
    nvmlReturn_t r = real(device, &all, list);
    for (unsigned int i = 0; r == NVML_SUCCESS && i < all; i++) {
        unsigned int pid;
        memcpy(&pid, list + i * bytes, sizeof pid);
        if (ours(pid))
            memmove(list + n++ * bytes, list + i * bytes, bytes);
    }
    if (r == NVML_SUCCESS) {
        if (*count < n || (infos == NULL && n != 0))
            r = NVML_ERROR_INSUFFICIENT_SIZE;
        else if (n != 0)
            memcpy(infos, list, n * bytes);
        *count = n;
    }
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
