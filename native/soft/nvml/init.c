/* SPDX-License-Identifier: Apache-2.0
 *
 * Init, shutdown, handles, errors.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/fault.h"
#include "soft/nvml/nvml.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned inits;                 /* guarded by lock */
static struct soft_state *machine;     /* guarded by lock; never closed once open */
static char handles[SOFT_MAX_DEVICES]; /* a device's handle is the address of its byte */

static nvmlReturn_t init(void)
{
    nvmlReturn_t result = NVML_SUCCESS;
    char why[256] = "";
    pthread_mutex_lock(&lock);
    if (machine == NULL)
        machine = soft_state_open(why, sizeof why);
    if (machine != NULL) {
        soft_fault_attach(machine);
        inits++;
    } else {
        soft_log("nvml_init_failed why=\"%s\"", why);
        result = NVML_ERROR_DRIVER_NOT_LOADED;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t nvmlInit(void)
{
    return init();
}

nvmlReturn_t nvmlInit_v2(void)
{
    return init();
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    if ((flags & ~(unsigned)(NVML_INIT_FLAG_NO_GPUS | NVML_INIT_FLAG_NO_ATTACH)) != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    return init();
}

nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&lock);
    if (inits == 0)
        result = NVML_ERROR_UNINITIALIZED;
    else
        inits--;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t soft_nvml_state(struct soft_state **state)
{
    pthread_mutex_lock(&lock);
    *state = inits > 0 ? machine : NULL;
    pthread_mutex_unlock(&lock);
    return *state != NULL ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

nvmlDevice_t soft_nvml_handle(int dev)
{
    return (nvmlDevice_t)(void *)&handles[dev];
}

nvmlReturn_t soft_nvml_device(nvmlDevice_t handle, struct soft_state **state, int *dev)
{
    nvmlReturn_t result = soft_nvml_state(state);
    if (result != NVML_SUCCESS)
        return result;
    uintptr_t at = (uintptr_t)handle - (uintptr_t)handles;
    if (handle == NULL || at >= (uintptr_t)soft_state_device_count(*state))
        return NVML_ERROR_INVALID_ARGUMENT;
    *dev = (int)at;
    return NVML_SUCCESS;
}

nvmlReturn_t soft_nvml_text(const char *text, char *out, unsigned length)
{
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    size_t bytes = strlen(text) + 1;
    if (bytes > length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, bytes);
    return NVML_SUCCESS;
}

void soft_nvml_uuid(const struct soft_state *state, int dev, char text[48])
{
    uint8_t id[16];
    soft_state_uuid(state, dev, id);
    snprintf(text, 48, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10], id[11],
             id[12], id[13], id[14], id[15]);
}

/* Named once each: programs ask the same thing every second. */
void soft_nvml_unimplemented(const char *name)
{
    static const char *said[512]; /* guarded by lock */
    static size_t count;          /* guarded by lock */
    bool known = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count && !known; i++)
        known = said[i] == name;
    if (!known && count < sizeof said / sizeof said[0])
        said[count++] = name;
    pthread_mutex_unlock(&lock);
    if (!known)
        soft_log("nvml_not_supported name=%s", name);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = (unsigned)soft_state_device_count(state);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return nvmlDeviceGetCount_v2(count);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (device == NULL || index >= (unsigned)soft_state_device_count(state))
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = soft_nvml_handle((int)index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (uuid == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int dev = 0; dev < soft_state_device_count(state); dev++) {
        char text[48];
        soft_nvml_uuid(state, dev, text);
        if (strcmp(text, uuid) == 0) {
            *device = soft_nvml_handle(dev);
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

/* domain:bus:device.function, the domain and the function may be left out. */
nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (bus == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned domain = 0, number = 0, slot = 0;
    if (sscanf(bus, "%x:%x:%x", &domain, &number, &slot) != 3) {
        domain = 0;
        if (sscanf(bus, "%x:%x", &number, &slot) != 2)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    for (int dev = 0; dev < soft_state_device_count(state); dev++)
        if (domain == 0 && slot == 0 && number == soft_state_pci_bus(state, dev)) {
            *device = soft_nvml_handle(dev);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(bus, device);
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        "Success",
        "Not initialized",
        "Invalid argument",
        "Not supported by the software GPU",
        "No permission",
        "Already initialized",
        "Not found",
        "Buffer too small",
        "Power cable missing",
        "Driver not loaded",
        "Timed out",
        "Interrupt problem",
        "Library not found",
        "Function not found",
        "Inforom damaged",
        "GPU is lost",
        "GPU must be reset",
        "Refused by the operating system",
        "Driver and library differ in version",
        "In use",
        "Out of memory",
        "No data",
        "ECC not available",
        "Out of resources",
        "Frequency not supported",
        "Version of an argument does not match",
        "Deprecated",
        "Not ready",
        "No GPU found",
        "Invalid state",
        "Kind of reset not supported",
    };
    if ((unsigned)result < sizeof texts / sizeof texts[0])
        return texts[result];
    return "Unknown error";
}
