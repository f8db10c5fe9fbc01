/* SPDX-License-Identifier: Apache-2.0
 *
 * The tenant's own memory as the device's. Numbers come from libharp in the same process: it has
 * the connection, or asks on one of its own if the process uses no device.
 */
#include "src/shim/nvml/twin.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "src/shim/entry/api.h"
#include "src/shim/entry/entry.h"

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

bool harp_twin_memory(nvmlDevice_t device, uint64_t *free, uint64_t *total,
                      struct harp_shim_memory *memory)
{
    char text[96] = "";
    uint8_t uuid[16];
    pthread_once(&api_once, find_api);
    return api != NULL && REAL(nvmlDeviceGetUUID) != NULL &&
           REAL(nvmlDeviceGetUUID)(device, text, sizeof text) == NVML_SUCCESS &&
           parse_uuid(text, uuid) && api->memory(uuid, free, total, memory) == 0;
}

nvmlReturn_t harp_hook_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlReturn_t r = REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    struct harp_shim_memory own;
    if (r != NVML_SUCCESS || memory == NULL)
        return r;
    uint64_t free = memory->free, total = memory->total;
    if (!harp_twin_memory(device, &free, &total, &own))
        return r;
    *memory = (nvmlMemory_t){.total = total, .free = free, .used = total - free};
    return r;
}

/* What the driver keeps for itself is nothing that a limit has in it. */
nvmlReturn_t harp_hook_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlReturn_t r = REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    struct harp_shim_memory own;
    if (r != NVML_SUCCESS || memory == NULL)
        return r;
    uint64_t free = memory->free, total = memory->total;
    if (!harp_twin_memory(device, &free, &total, &own))
        return r;
    memory->reserved = own.limit_bytes != 0 ? 0 : memory->reserved;
    memory->total = total;
    memory->free = free;
    memory->used = total - free - memory->reserved;
    return r;
}
