/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver for the shim's tests, one process wide: allocators that the software GPU does not have
 * yet, streams whose time is computed, and counters of what was called. Not the software GPU and no
 * judge of shares: it only answers, so that gates can be seen to ask before and to settle after.
 *
 * A launch takes gridDimX microseconds, a copy a microsecond for each KiB. FAKE_BYTES is a device's
 * size (default 4 GiB), FAKE_DEVICES their number (default 1); all of them share one clock.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "generated/cuda_abi.h"

#define GRANULE (2ull << 20)

struct stream {
    uint64_t end_ns;
    int capturing;
};

struct event {
    uint64_t at_ns;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

/* What hangs in a forked child is not this. */
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}
static uint64_t used, total = 4ull << 30, next_va = 0x700000000000ull, slab_at, slab_end;
static struct stream legacy;
static uint64_t device_end_ns;
static CUcontext primary;
static int primary_refs;
static pthread_key_t current_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int ready, events_recorded, launches, devices = 1;

struct context {
    CUdevice device;
};

static struct {
    uint64_t ptr, bytes, physical;
    int pooled;
} blocks[65536];

/* One pool, of all devices, that gives back what is freed at once. */
static struct pool {
    uint64_t reserved;
} the_pool;

static long launch_us; /* that a call of cuLaunchKernel takes */

static void start(void)
{
    pthread_key_create(&current_key, NULL);
    if (getenv("FAKE_BYTES") != NULL)
        total = strtoull(getenv("FAKE_BYTES"), NULL, 0);
    if (getenv("FAKE_DEVICES") != NULL)
        devices = atoi(getenv("FAKE_DEVICES"));
    if (getenv("FAKE_LAUNCH_US") != NULL)
        launch_us = atol(getenv("FAKE_LAUNCH_US"));
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

CUresult cuInit(unsigned int flags)
{
    pthread_once(&once, start);
    ready = 1;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *v)
{
    *v = 13000;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *n)
{
    *n = devices;
    return ready ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

CUresult cuDeviceGet(CUdevice *d, int i)
{
    *d = i;
    return i < devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice d)
{
    memcpy(uuid, "fake-device-0001", 16);
    if (d < devices) /* any other is the first one */
        uuid->bytes[15] = (char)('1' + d);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice d)
{
    *bytes = total;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d)
{
    *v = a == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 10 : 1024;
    return CUDA_SUCCESS;
}

/* --- contexts --------------------------------------------------------------------------------- */

CUresult cuCtxGetCurrent(CUcontext *c)
{
    *c = pthread_getspecific(current_key);
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext c)
{
    pthread_setspecific(current_key, c);
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext c)
{
    return cuCtxSetCurrent(c);
}

CUresult cuCtxPopCurrent_v2(CUcontext *c)
{
    cuCtxGetCurrent(c);
    return cuCtxSetCurrent(NULL);
}

CUresult cuCtxGetDevice(CUdevice *d)
{
    struct context *c = pthread_getspecific(current_key);
    if (c == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *d = c->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate_v2(CUcontext *c, unsigned int flags, CUdevice d)
{
    if (!ready)
        return CUDA_ERROR_NOT_INITIALIZED;
    struct context *made = calloc(1, sizeof *made);
    made->device = d;
    *c = (CUcontext)made;
    return cuCtxSetCurrent(*c);
}

CUresult cuCtxDestroy_v2(CUcontext c)
{
    CUcontext now;
    cuCtxGetCurrent(&now);
    if (now == c)
        cuCtxSetCurrent(NULL);
    free(c);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < 65536; i++)
        if (blocks[i].ptr != 0) {
            used -= blocks[i].physical;
            blocks[i].ptr = 0;
        }
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d)
{
    if (primary_refs++ == 0)
        primary = calloc(1, sizeof(struct context));
    *c = primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d)
{
    if (primary_refs == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (--primary_refs == 0)
        free(primary);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned int *flags, int *active)
{
    *flags = 0;
    *active = primary_refs > 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void)
{
    uint64_t left = device_end_ns > now_ns() ? device_end_ns - now_ns() : 0;
    struct timespec t = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    nanosleep(&t, NULL);
    return CUDA_SUCCESS;
}

static size_t limits[8] = {1024, 1 << 20, 8 << 20};

CUresult cuCtxGetLimit(size_t *v, CUlimit l)
{
    *v = limits[l & 7];
    return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit l, size_t v)
{
    limits[l & 7] = v;
    return CUDA_SUCCESS;
}

/* --- memory ----------------------------------------------------------------------------------- */

static CUresult take(CUdeviceptr *p, size_t bytes, bool small_ones_share)
{
    if (bytes == 0 || p == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult r = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    uint64_t need = (bytes + GRANULE - 1) & ~(GRANULE - 1);
    bool shares = small_ones_share && bytes <= GRANULE / 2;
    bytes = (bytes + 511) & ~(size_t)511;
    if (shares && slab_at + bytes <= slab_end)
        need = 0;
    if (used + need <= total) {
        if (shares && need != 0) {
            slab_at = next_va;
            slab_end = next_va + GRANULE;
        }
        size_t i = 0;
        while (i < 65536 && blocks[i].ptr != 0)
            i++;
        if (i < 65536) {
            blocks[i].ptr = shares ? slab_at : next_va;
            blocks[i].bytes = bytes;
            blocks[i].physical = shares ? 0 : need; /* slabs stay */
            blocks[i].pooled = 0;
            if (shares)
                slab_at += bytes;
            next_va += need;
            used += need;
            *p = blocks[i].ptr;
            r = CUDA_SUCCESS;
        }
    }
    pthread_mutex_unlock(&lock);
    return r;
}

static CUresult give(CUdeviceptr p)
{
    CUresult r = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; p != 0 && i < 65536; i++)
        if (blocks[i].ptr == p) {
            used -= blocks[i].physical;
            if (blocks[i].pooled)
                the_pool.reserved -= blocks[i].physical;
            blocks[i].ptr = 0;
            r = CUDA_SUCCESS;
            break;
        }
    pthread_mutex_unlock(&lock);
    return r;
}

CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t bytes)
{
    return take(p, bytes, true);
}

CUresult cuMemFree_v2(CUdeviceptr p)
{
    return give(p);
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *p, size_t *pitch, size_t w, size_t h, unsigned int e)
{
    *pitch = (w + 511) & ~(size_t)511;
    return take(p, *pitch * h, true);
}

CUresult cuMemAllocManaged(CUdeviceptr *p, size_t bytes, unsigned int flags)
{
    return take(p, bytes, true);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t bytes, CUmemoryPool pool, CUstream s)
{
    CUresult r = take(p, bytes, false);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; r == CUDA_SUCCESS && i < 65536; i++)
        if (blocks[i].ptr == *p) {
            blocks[i].pooled = 1;
            the_pool.reserved += blocks[i].physical;
            break;
        }
    pthread_mutex_unlock(&lock);
    return r;
}

CUresult cuMemAllocAsync(CUdeviceptr *p, size_t bytes, CUstream s)
{
    return cuMemAllocFromPoolAsync(p, bytes, (CUmemoryPool)&the_pool, s);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice d)
{
    *pool = (CUmemoryPool)&the_pool;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice d)
{
    return cuDeviceGetDefaultMemPool(pool, d);
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    if (pool != (CUmemoryPool)&the_pool)
        return CUDA_ERROR_INVALID_VALUE;
    *(cuuint64_t *)value = attr == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT ? the_pool.reserved : 0;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep)
{
    return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr p, CUstream s)
{
    return give(p);
}

CUresult cuMemGetInfo_v2(size_t *f, size_t *t)
{
    *t = total;
    *f = total - used;
    return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *h, size_t bytes, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    CUdeviceptr p;
    CUresult r = take(&p, bytes, false);
    *h = p;
    return r;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle h)
{
    return CUDA_SUCCESS; /* mappings may live on: the tests look at the ledger alone */
}

CUresult cuMemMap(CUdeviceptr p, size_t n, size_t o, CUmemGenericAllocationHandle h,
                  unsigned long long f)
{
    return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr p, size_t n)
{
    return CUDA_SUCCESS;
}

static CUresult array(void **out, size_t bytes)
{
    CUdeviceptr p;
    CUresult r = take(&p, bytes, false);
    if (r == CUDA_SUCCESS)
        *out = (void *)(uintptr_t)p;
    return r;
}

CUresult cuArrayCreate_v2(CUarray *a, const CUDA_ARRAY_DESCRIPTOR *d)
{
    return array((void **)a, d->Width * (d->Height != 0 ? d->Height : 1) * 4);
}

CUresult cuArray3DCreate_v2(CUarray *a, const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    return array((void **)a, d->Width * 4);
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray *a, const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned n)
{
    return array((void **)a, d->Width * 8);
}

CUresult cuArrayDestroy(CUarray a)
{
    return give((CUdeviceptr)(uintptr_t)a);
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray a)
{
    return give((CUdeviceptr)(uintptr_t)a);
}

#include "shim_fake_time.h"

/* --- by name ---------------------------------------------------------------------------------- */

CUresult cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status);
CUresult cuSomethingNew(void);

CUresult cuSomethingNew(void)
{
    return CUDA_SUCCESS;
}

CUresult cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status)
{
    static const struct {
        const char *name;
        void *at;
    } table[] = {{"cuInit", (void *)cuInit},
                 {"cuMemAlloc", (void *)cuMemAlloc_v2},
                 {"cuMemGetInfo", (void *)cuMemGetInfo_v2},
                 {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
                 {"cuLaunchKernel", (void *)cuLaunchKernel},
                 {"cuSomethingNew", (void *)cuSomethingNew}};
    *out = NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            *out = table[i].at;
    if (status != NULL)
        *status = *out != NULL ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *out != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* What the tests ask of the fake itself: FAKE_EVENTS names a file for the number of events. */
__attribute__((destructor)) static void told(void)
{
    FILE *out = getenv("FAKE_EVENTS") != NULL ? fopen(getenv("FAKE_EVENTS"), "w") : NULL;
    if (out == NULL)
        return;
    fprintf(out, "%d\n", events_recorded);
    fclose(out);
}

__attribute__((visibility("default"))) uint64_t fake_used_bytes(void)
{
    return used;
}
