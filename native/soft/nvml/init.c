/* SPDX-License-Identifier: Apache-2.0
 *
 * Init, shutdown, errors, privilege.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/fault.h"
#include "soft/nvml/nvml.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned inits;             /* guarded by lock */
static struct soft_state *machine; /* guarded by lock; never closed once open */

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

/* Root of this user namespace: the driver asks no more for settings of a board. */
nvmlReturn_t soft_nvml_privilege(void)
{
    return geteuid() == 0 ? NVML_SUCCESS : NVML_ERROR_NO_PERMISSION;
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
