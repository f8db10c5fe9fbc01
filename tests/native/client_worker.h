/* SPDX-License-Identifier: Apache-2.0
 *
 * What a client calls in its tests, and a worker with two devices and one kernel that answers.
 */
#ifndef HARP_TESTS_CLIENT_WORKER_H
#define HARP_TESTS_CLIENT_WORKER_H

#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"

#define MIB     (1ull << 20)
#define BASE    0x200000000000ull
#define PRIMARY (1ull << 63 | 5)

/* What the exported names are; the header that programs include is not ours. */
#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuDriverGetVersion);
DECLARE(cuDeviceGet);
DECLARE(cuDeviceGetCount);
DECLARE(cuDeviceGetName);
DECLARE(cuDeviceGetAttribute);
DECLARE(cuDeviceTotalMem_v2);
DECLARE(cuDevicePrimaryCtxRetain);
DECLARE(cuDevicePrimaryCtxRelease_v2);
DECLARE(cuCtxCreate_v2);
DECLARE(cuCtxDestroy_v2);
DECLARE(cuCtxGetCurrent);
DECLARE(cuCtxGetDevice);
DECLARE(cuCtxSetCurrent);
DECLARE(cuCtxPushCurrent_v2);
DECLARE(cuCtxPopCurrent_v2);
DECLARE(cuCtxSynchronize);
DECLARE(cuEventCreate);
DECLARE(cuEventDestroy_v2);
DECLARE(cuEventRecord);
DECLARE(cuEventRecord_ptsz);
DECLARE(cuEventQuery);
DECLARE(cuStreamCreate);
DECLARE(cuStreamSynchronize);
DECLARE(cuStreamBeginCapture_v2);
DECLARE(cuStreamEndCapture);
DECLARE(cuModuleLoadData);
DECLARE(cuModuleGetFunction);
DECLARE(cuModuleUnload);
DECLARE(cuLaunchKernel);
DECLARE(cuLaunchHostFunc);
DECLARE(cuStreamAddCallback);
DECLARE(cuCtxSetCacheConfig);
DECLARE(cuStreamWaitEvent);
DECLARE(cuGraphLaunch);
DECLARE(cuGraphInstantiateWithFlags);
DECLARE(cuGraphCreate);
DECLARE(cuGraphAddKernelNode_v2);
DECLARE(cuGraphKernelNodeGetParams_v2);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemFree_v2);
DECLARE(cuMemAllocHost_v2);
DECLARE(cuMemFreeHost);
DECLARE(cuMemAllocManaged);
DECLARE(cuMemcpyHtoD_v2);
DECLARE(cuMemcpyDtoH_v2);
DECLARE(cuMemcpyHtoDAsync_v2);
DECLARE(cuMemcpyDtoHAsync_v2);
DECLARE(cuMemcpy2D_v2);
DECLARE(cuMemsetD32_v2);
DECLARE(cuPointerGetAttribute);
DECLARE(cuGetErrorName);
DECLARE(cuGetExportTable);
DECLARE(cuGetProcAddress_v2);

static struct peer peer;
static uint64_t next_address = BASE;
static uint8_t *device; /* what lies at BASE */

static uint8_t packed[64]; /* the last kernel parameters that came */
static uint64_t packed_bytes, made_function;

static inline void keep_packed(uint64_t slot)
{
    const struct harp_wire_packed *p = (const struct harp_wire_packed *)(uintptr_t)slot;
    CHECK(p != NULL && p->bytes <= sizeof packed);
    packed_bytes = p->bytes;
    memcpy(packed, p->data, p->bytes);
}

static inline void out(struct harp_wire_call *call, unsigned slot, uint64_t value, size_t bytes)
{
    if (call->args[slot] != 0)
        memcpy((void *)(uintptr_t)call->args[slot], &value, bytes);
}

static inline void snapshot(struct harp_wire_device *d)
{
    snprintf(d->name, sizeof d->name, "A device");
    d->total_bytes = 80ull << 30;
    d->attributes[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X] = 1000;
    d->attributes[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y] = 100;
    d->attributes[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z] = 10;
    d->attributes[CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY] = 1;
    d->attributes[CU_DEVICE_ATTRIBUTE_WARP_SIZE] = 32;
    memset(d->answered, 0xff, sizeof d->answered);
    d->answered[CU_DEVICE_ATTRIBUTE_TCC_DRIVER / 8] = 0; /* what another driver may not know */
}

/* A worker with two devices and one kernel (uint64, uint32). */
static inline uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args;
    switch (call->op) {
    case HARP_OP_harpSession:
        out(call, 0, 2, 4);
        out(call, 1, 13000, 4);
        return 0;
    case HARP_OP_harpSnapshot:
        snapshot((struct harp_wire_device *)(uintptr_t)a[1]);
        return 0;
    case HARP_OP_cuDevicePrimaryCtxRetain:
        out(call, 0, PRIMARY, 8);
        return 0;
    case HARP_OP_cuFuncGetParamInfo:
        if (a[1] > 1)
            return CUDA_ERROR_INVALID_VALUE;
        out(call, 2, a[1] == 0 ? 0 : 8, 8);
        out(call, 3, a[1] == 0 ? 8 : 4, 8);
        return 0;
    case HARP_OP_cuLaunchKernel:
        keep_packed(a[9]);
        return 0;
    case HARP_OP_cuGraphAddKernelNode_v2:
        keep_packed((uintptr_t)((CUDA_KERNEL_NODE_PARAMS *)(uintptr_t)a[4])->kernelParams);
        return 0;
    case HARP_OP_cuGraphKernelNodeGetParams_v2: {
        static struct harp_wire_packed back;
        back = (struct harp_wire_packed){packed_bytes, packed};
        CUDA_KERNEL_NODE_PARAMS *node = (CUDA_KERNEL_NODE_PARAMS *)(uintptr_t)a[1];
        node->func = (CUfunction)(uintptr_t)made_function;
        node->kernelParams = (void **)&back;
        return 0;
    }
    case HARP_OP_cuModuleGetFunction:
        made_function = call->made_id;
        return 0;
    case HARP_OP_cuLaunchHostFunc:
    case HARP_OP_cuStreamAddCallback: {
        const uint64_t said[] = {a[1], a[0], 0};
        peer_say(p, HARP_OP_harpHostCall, 0, said, 3);
        return 0;
    }
    case HARP_OP_cuMemAlloc_v2:
        out(call, 0, next_address, 8);
        next_address += (a[1] + 2 * MIB - 1) & ~(2 * MIB - 1);
        return 0;
    case HARP_OP_cuMemcpyHtoD_v2:
    case HARP_OP_cuMemcpyHtoDAsync_v2:
        memcpy(device + (a[0] - BASE), (void *)(uintptr_t)a[1], a[2]);
        return 0;
    case HARP_OP_cuMemcpyDtoH_v2:
    case HARP_OP_cuMemcpyDtoHAsync_v2:
        memcpy((void *)(uintptr_t)a[0], device + (a[1] - BASE), a[2]);
        return 0;
    default:
        return 0;
    }
}

static inline CUcontext begin(void)
{
    CUcontext ctx = NULL;
    device = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(device != MAP_FAILED);
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS && ctx != NULL);
    return ctx;
}

static inline unsigned count(uint32_t op)
{
    return peer_count(&peer, op, NULL);
}

#endif
