/* SPDX-License-Identifier: Apache-2.0
 *
 * Devices: all that does not change is told once, when it is first asked for. What no kernel and no
 * process elsewhere can do (share memory with this host) is not claimed, whatever the device says.
 */
#include "src/shim/remote/snapshot.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards filling; read after `known` */

struct facts {
    bool known;
    struct harp_wire_device is;
};
static struct {
    unsigned devices;                 /* set once a session, before `initialised` */
    int driver_version, loading_mode; /* the first: atomic, read at any time */
    struct facts *facts;
} all;

/* --- cuInit ----------------------------------------------------------------------------------- */

static CUresult first_words(void)
{
    int version = 0;
    const uint64_t args[] = {(uintptr_t)&all.devices, (uintptr_t)&version,
                             (uintptr_t)&all.loading_mode};
    CUresult r = harp_remote_make(HARP_OP_harpSession, args, 3);
    if (r != CUDA_SUCCESS)
        return r;
    __atomic_store_n(&all.driver_version, version, __ATOMIC_RELAXED);
    if (all.devices == 0 || all.devices > 1024)
        return CUDA_ERROR_NO_DEVICE;
    all.facts = calloc(all.devices, sizeof *all.facts);
    if (all.facts == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    harp_remote_initialised();
    return CUDA_SUCCESS;
}

/* The worker has called its own. */
CUresult harp_remote_cuInit(unsigned int Flags)
{
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult r = harp_remote_open();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&lock);
    if (harp_remote_ready() == CUDA_ERROR_NOT_INITIALIZED)
        r = first_words();
    pthread_mutex_unlock(&lock);
    return r;
}

void harp_remote_forget_devices(void)
{
    pthread_mutex_lock(&lock);
    free(all.facts);
    all.facts = NULL;
    all.devices = 0;
    pthread_mutex_unlock(&lock);
}

int harp_remote_driver_version(void)
{
    return harp_remote_ready() == CUDA_SUCCESS
               ? __atomic_load_n(&all.driver_version, __ATOMIC_RELAXED)
               : HARP_WIRE_CUDA;
}

CUresult harp_remote_cuDriverGetVersion(int *driverVersion)
{
    if (driverVersion == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = harp_remote_driver_version();
    return CUDA_SUCCESS;
}

CUresult harp_remote_cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && mode == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        *mode = (CUmoduleLoadingMode)all.loading_mode;
    return r;
}

/* --- facts ------------------------------------------------------------------------------------ */

static const int never[] = {
    CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY,
    CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY,
    CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
    CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST,
    CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS,
    CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
    CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES,
    CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED,
};

static CUresult fill(CUdevice dev)
{
    struct facts *f = &all.facts[dev];
    const uint64_t args[] = {(uint64_t)dev, (uintptr_t)&f->is};
    CUresult r = harp_remote_make(HARP_OP_harpSnapshot, args, 2);
    if (r != CUDA_SUCCESS)
        return r;
    f->is.name[sizeof f->is.name - 1] = '\0';
    f->is.pci_bus_id[sizeof f->is.pci_bus_id - 1] = '\0';
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        f->is.attributes[never[i]] = 0;
        f->is.answered[never[i] / 8] |= (unsigned char)(1u << never[i] % 8);
    }
    __atomic_store_n(&f->known, true, __ATOMIC_RELEASE);
    return CUDA_SUCCESS;
}

static struct facts *facts_of(CUdevice dev, CUresult *r)
{
    *r = harp_remote_ready();
    if (*r == CUDA_SUCCESS && (dev < 0 || (unsigned)dev >= all.devices))
        *r = CUDA_ERROR_INVALID_DEVICE;
    if (*r != CUDA_SUCCESS)
        return NULL;
    if (!__atomic_load_n(&all.facts[dev].known, __ATOMIC_ACQUIRE)) {
        pthread_mutex_lock(&lock);
        if (!all.facts[dev].known)
            *r = fill(dev);
        pthread_mutex_unlock(&lock);
    }
    return *r == CUDA_SUCCESS ? &all.facts[dev] : NULL;
}

const struct harp_wire_device *harp_remote_device(CUdevice dev, CUresult *r)
{
    struct facts *f = facts_of(dev, r);
    return f != NULL ? &f->is : NULL;
}

/* As drivers check: initialised, the output, the device. */
static const struct harp_wire_device *asked(CUdevice dev, const void *out, CUresult *r)
{
    *r = harp_remote_ready();
    if (*r == CUDA_SUCCESS && out == NULL)
        *r = CUDA_ERROR_INVALID_VALUE;
    return *r == CUDA_SUCCESS ? harp_remote_device(dev, r) : NULL;
}

CUresult harp_remote_cuDeviceGetCount(int *count)
{
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && count == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        *count = (int)all.devices;
    return r;
}

CUresult harp_remote_cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && device == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS && (ordinal < 0 || (unsigned)ordinal >= all.devices))
        r = CUDA_ERROR_INVALID_DEVICE;
    if (r == CUDA_SUCCESS)
        *device = ordinal;
    return r;
}

CUresult harp_remote_cuDeviceGetName(char *name, int len, CUdevice dev)
{
    CUresult r;
    const struct harp_wire_device *is = asked(dev, name, &r);
    if (is != NULL && len <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (is != NULL)
        snprintf(name, (size_t)len, "%s", is->name);
    return r;
}

CUresult harp_remote_cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
    CUresult r;
    const struct harp_wire_device *is = asked(dev, bytes, &r);
    if (is != NULL)
        *bytes = is->total_bytes;
    return r;
}

CUresult harp_remote_cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
    CUresult r;
    const struct harp_wire_device *is = asked(dev, uuid, &r);
    if (is != NULL)
        memcpy(uuid, is->uuid, sizeof is->uuid);
    return r;
}

CUresult harp_remote_cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
    return harp_remote_cuDeviceGetUuid_v2(uuid, dev);
}

CUresult harp_remote_cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
    CUresult r;
    const struct harp_wire_device *is = asked(dev, major, &r);
    if (is != NULL && minor == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (is != NULL) {
        *major = (int)is->compute_major;
        *minor = (int)is->compute_minor;
    }
    return r;
}

CUresult harp_remote_cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
    CUresult r;
    const struct harp_wire_device *is = asked(dev, pciBusId, &r);
    if (is != NULL && len <= (int)strlen(is->pci_bus_id))
        return CUDA_ERROR_INVALID_VALUE;
    if (is != NULL)
        memcpy(pciBusId, is->pci_bus_id, strlen(is->pci_bus_id) + 1);
    return r;
}

/* What the driver has not answered is asked: it says why. */
CUresult harp_remote_cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
    CUresult r;
    const struct harp_wire_device *is = asked(dev, pi, &r);
    int at = (int)attrib;
    if (is == NULL)
        return r;
    if (at <= 0 || at >= HARP_WIRE_ATTRIBUTES || !(is->answered[at / 8] >> at % 8 & 1))
        return harp_sent_cuDeviceGetAttribute(pi, attrib, dev);
    *pi = is->attributes[at];
    return CUDA_SUCCESS;
}
