/* SPDX-License-Identifier: Apache-2.0
 *
 * The client of a remote session against a peer that notes what it is told: what goes over the
 * wire, how often it waits, and what it answers when the other end fails. Each scenario in a
 * process of its own, since a process has one session at a time.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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

static void keep_packed(uint64_t slot)
{
    const struct harp_wire_packed *p = (const struct harp_wire_packed *)(uintptr_t)slot;
    CHECK(p != NULL && p->bytes <= sizeof packed);
    packed_bytes = p->bytes;
    memcpy(packed, p->data, p->bytes);
}

static void out(struct harp_wire_call *call, unsigned slot, uint64_t value, size_t bytes)
{
    if (call->args[slot] != 0)
        memcpy((void *)(uintptr_t)call->args[slot], &value, bytes);
}

static void snapshot(struct harp_wire_device *d)
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
static uint32_t answer(struct peer *p, struct harp_wire_call *call)
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

static CUcontext begin(void)
{
    CUcontext ctx = NULL;
    device = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(device != MAP_FAILED);
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS && ctx != NULL);
    return ctx;
}

static unsigned count(uint32_t op)
{
    return peer_count(&peer, op, NULL);
}

/* --- scenarios -------------------------------------------------------------------------------- */

static void before_and_at_init(void)
{
    const char *text = NULL;
    CUuuid id;
    void *fn = NULL;
    const void *table = NULL;
    CUdriverProcAddressQueryResult found;
    CUdeviceptr ptr;
    char name[64];
    size_t total;
    int n = 0;
    memset(&id, 1, sizeof id);
    peer_start(&peer, answer);
    /* without a session */
    CHECK(cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED);
    CHECK(cuMemAlloc_v2(&ptr, 1) == CUDA_ERROR_NOT_INITIALIZED);
    CHECK(cuGetErrorName(CUDA_ERROR_INVALID_PTX, &text) == CUDA_SUCCESS);
    CHECK(strcmp(text, "CUDA_ERROR_INVALID_PTX") == 0);
    CHECK(cuGetErrorName((CUresult)4711, &text) == CUDA_ERROR_INVALID_VALUE && text == NULL);
    CHECK(cuGetExportTable(&table, &id) == CUDA_ERROR_NOT_FOUND && table == NULL);
    CHECK(cuGetProcAddress_v2("cuMemAlloc", &fn, 13000, 0, &found) == CUDA_SUCCESS);
    CHECK(fn == (void *)cuMemAlloc_v2 && found == CU_GET_PROC_ADDRESS_SUCCESS);
    CHECK(cuGetProcAddress_v2("cuMemAlloc", &fn, 1000, 0, &found) == CUDA_ERROR_NOT_FOUND);
    CHECK(fn == NULL && found == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    CHECK(cuGetProcAddress_v2("cuEventRecord", &fn, 13000, 2, NULL) == CUDA_SUCCESS);
    CHECK(fn == (void *)cuEventRecord_ptsz);
    CHECK(cuGetProcAddress_v2("cuMemAllocManaged", &fn, 13000, 0, &found) == CUDA_ERROR_NOT_FOUND);
    CHECK(found == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    CHECK(peer.notes == 0);

    CHECK(cuInit(1) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuInit(0) == CUDA_SUCCESS && cuInit(0) == CUDA_SUCCESS);
    CHECK(cuDeviceGetCount(&n) == CUDA_SUCCESS && n == 2);
    CHECK(cuDriverGetVersion(&n) == CUDA_SUCCESS && n == 13000);
    CHECK(cuDeviceGetName(name, 5, 0) == CUDA_SUCCESS && strcmp(name, "A de") == 0);
    CHECK(cuDeviceGetName(name, 64, 2) == CUDA_ERROR_INVALID_DEVICE);
    CHECK(cuDeviceTotalMem_v2(&total, 0) == CUDA_SUCCESS && total == 80ull << 30);
    CHECK(cuDeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0) == CUDA_SUCCESS && n == 32);
    CHECK(cuDeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_INTEGRATED, 0) == CUDA_SUCCESS && n == 0);
    /* what no GPU elsewhere can do, and asked what a snapshot cannot tell */
    CHECK(cuDeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0) == CUDA_SUCCESS);
    CHECK(n == 0 && peer_wanted(&peer) == 2);
    peer_fail(&peer, HARP_OP_cuDeviceGetAttribute, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuDeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_TCC_DRIVER, 0) == CUDA_ERROR_INVALID_VALUE);
    CHECK(peer_wanted(&peer) == 3);
    CHECK(cuMemAllocManaged(&ptr, 1, 1) == CUDA_ERROR_NOT_SUPPORTED);
    CHECK(peer_wanted(&peer) == 3);
}

static void contexts(void)
{
    CUcontext a = begin(), b = NULL, got = NULL;
    CUdevice dev = -1;
    struct peer_note last;
    CHECK(cuCtxGetCurrent(&got) == CUDA_SUCCESS && got == a);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    unsigned told = count(HARP_OP_cuCtxSetCurrent);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_cuCtxSetCurrent) == told);
    CHECK(cuCtxCreate_v2(&b, 0, 1) == CUDA_SUCCESS && b != a);
    CHECK(cuCtxGetDevice(&dev) == CUDA_SUCCESS && dev == 1);
    CHECK(cuCtxPopCurrent_v2(&got) == CUDA_SUCCESS && got == b);
    CHECK(count(HARP_OP_cuCtxSetCurrent) == told); /* nobody has asked for it yet */
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(peer_count(&peer, HARP_OP_cuCtxSetCurrent, &last) == told + 1);
    CHECK(!(last.flags & HARP_FRAME_WANTED));
    /* None current: the worker's stack has all that were made on it, and all are taken away. */
    CHECK(cuCtxPopCurrent_v2(NULL) == CUDA_SUCCESS);
    CHECK(cuCtxPopCurrent_v2(NULL) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(peer_count(&peer, HARP_OP_cuCtxSetCurrent, &last) >= told + 3 && last.args[0] == 0);
    CHECK(cuCtxSetCurrent(b) == CUDA_SUCCESS && cuCtxPushCurrent_v2(a) == CUDA_SUCCESS);
    CHECK(cuCtxDestroy_v2(a) == CUDA_SUCCESS); /* it was the top */
    CHECK(cuCtxGetCurrent(&got) == CUDA_SUCCESS && got == b);
    CHECK(cuCtxSetCurrent(a) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK(cuCtxDestroy_v2(a) == CUDA_ERROR_INVALID_CONTEXT);
    /* Destroyed by another's hand, it stays on a stack, and nothing is done in it. */
    CHECK(cuCtxPushCurrent_v2(b) == CUDA_SUCCESS && cuCtxDestroy_v2(b) == CUDA_SUCCESS);
    CHECK(cuCtxGetCurrent(&got) == CUDA_SUCCESS && got == b);
    unsigned notes = peer.notes;
    CHECK(cuCtxSynchronize() == CUDA_ERROR_CONTEXT_IS_DESTROYED && peer.notes == notes);
    CHECK(cuCtxCreate_v2(&a, 0, 0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&b, 1) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&got, 1) == CUDA_SUCCESS && got == b);
    CHECK(cuCtxSetCurrent(b) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    peer_count(&peer, HARP_OP_cuCtxSetCurrent, &last);
    CHECK(last.args[0] == PRIMARY);
    unsigned wanted = peer_wanted(&peer);
    CHECK(cuDevicePrimaryCtxRelease_v2(1) == CUDA_SUCCESS && peer_wanted(&peer) == wanted);
    CHECK(cuDevicePrimaryCtxRelease_v2(1) == CUDA_SUCCESS && peer_wanted(&peer) == wanted + 1);
}

static void handles(void)
{
    begin();
    CUevent e = NULL, f = NULL;
    CUstream s = NULL;
    struct peer_note last;
    unsigned wanted = peer_wanted(&peer);
    CHECK(cuEventCreate(&e, 0) == CUDA_SUCCESS && e != NULL);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS && s != NULL);
    CHECK(cuEventRecord(e, s) == CUDA_SUCCESS && cuEventRecord_ptsz(e, NULL) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted); /* nobody waited for any of these */
    CHECK(cuEventRecord((CUevent)&last, s) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuEventRecord((CUevent)s, s) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuEventRecord((CUevent)((char *)e + 1), s) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuEventDestroy_v2(e) == CUDA_SUCCESS);
    CHECK(cuEventDestroy_v2(e) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuEventRecord(e, s) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuEventCreate(&f, 0) == CUDA_SUCCESS && f != e);
    CHECK(cuEventQuery(f) == CUDA_SUCCESS);
    CHECK(peer_count(&peer, HARP_OP_cuEventRecord, &last) == 2);
    CHECK((last.flags & HARP_FRAME_PER_THREAD) && last.args[1] == 0);
    CHECK(peer_count(&peer, HARP_OP_cuEventQuery, &last) == 1);
    uint64_t id = last.args[0];
    CHECK(peer_count(&peer, HARP_OP_cuEventCreate, &last) == 2 && last.made == id);
    /* What was not made has no handle. */
    CUcontext c = (CUcontext)&last;
    peer_fail(&peer, HARP_OP_cuCtxCreate_v2, CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuCtxCreate_v2(&c, 0, 0) == CUDA_ERROR_OUT_OF_MEMORY && c == (CUcontext)&last);
    /* While a stream captures, each call answers for itself. */
    wanted = peer_wanted(&peer);
    CUgraph g = NULL;
    CHECK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
    peer_fail(&peer, HARP_OP_cuEventRecord, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(cuEventRecord(f, s) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(cuStreamEndCapture(s, &g) == CUDA_SUCCESS && g != NULL);
    CHECK(cuEventRecord(f, s) == CUDA_SUCCESS && peer_wanted(&peer) == wanted + 3);
}

static CUfunction kernel(void)
{
    static char image[9000000] = ".version 8.0 // a long text";
    CUmodule m = NULL;
    CUfunction f = NULL;
    memset(image + 27, 'x', sizeof image - 28);
    CHECK(cuModuleLoadData(&m, image) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS && f != NULL);
    return f;
}

static void launches(void)
{
    begin();
    CUfunction f = kernel();
    uint64_t pointer = 0x1122334455667788;
    uint32_t number = 42;
    void *params[] = {&pointer, &number, NULL}, *fewer[] = {&pointer, NULL};
    struct peer_note last;
    CHECK(count(HARP_OP_harpImagePut) == 1);
    kernel(); /* the same image: the server has it, and this process knows */
    CHECK(count(HARP_OP_harpImagePut) == 1 && count(HARP_OP_harpImageFind) == 1);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuFuncGetParamInfo) == 3); /* two, and that there is no third */
    CHECK(packed_bytes == 12 && memcmp(packed, &pointer, 8) == 0 &&
          memcmp(packed + 8, &number, 4) == 0);
    size_t size = 16; /* in the other form it is whatever the program says */
    uint8_t whole[16] = {1, 2, 3};
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, whole, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                     CU_LAUNCH_PARAM_END};
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra) == CUDA_SUCCESS);
    CHECK(packed_bytes == 16 && memcmp(packed, whole, 16) == 0);
    unsigned wanted = peer_wanted(&peer);
    for (unsigned i = 0; i < 1000; i++)
        CHECK(cuLaunchKernel(f, 1 + i % 10, 1, 1, 32, 1, 1, 0, NULL, params, NULL) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 1 && count(HARP_OP_cuLaunchKernel) == 1002);
    /* What the device may refuse is asked: another shape, a grid beyond its limits. */
    peer_fail(&peer, HARP_OP_cuLaunchKernel, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 2048, 1, 1, 0, NULL, params, NULL) ==
          CUDA_ERROR_INVALID_VALUE);
    peer_fail(&peer, HARP_OP_cuLaunchKernel, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 2048, 1, 1, 0, NULL, params, NULL) ==
          CUDA_ERROR_INVALID_VALUE);
    peer_fail(&peer, HARP_OP_cuLaunchKernel, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(f, 1, 101, 1, 32, 1, 1, 0, NULL, params, NULL) ==
          CUDA_ERROR_INVALID_VALUE);
    peer_fail(&peer, HARP_OP_cuLaunchKernel, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(f, 0, 1, 1, 32, 1, 1, 0, NULL, params, NULL) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, fewer, NULL) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL) ==
          CUDA_ERROR_INVALID_HANDLE);
    CHECK(peer_count(&peer, HARP_OP_cuLaunchKernel, &last) == 1006);
    (void)last;
}

/* Of a kernel whose PTX is a text that says how it takes them. */
static void layouts_by_the_image(void)
{
    static const char ptx[] = ".version 8.0\n.entry k(.param .u8 a, .param .u64 b) { ret; }";
    begin();
    CUmodule m = NULL;
    CUfunction f = NULL;
    uint8_t a = 7;
    uint64_t b = 8;
    void *params[] = {&a, &b};
    CHECK(cuModuleLoadData(&m, ptx) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuFuncGetParamInfo) == 0);
    CHECK(packed_bytes == 16 && packed[0] == 7 && packed[8] == 8);
    CHECK(cuModuleUnload(m) == CUDA_SUCCESS);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL) == CUDA_ERROR_INVALID_HANDLE);
}

static unsigned waits_of(CUresult r)
{
    static unsigned before;
    CHECK(r == CUDA_SUCCESS);
    unsigned now = peer_wanted(&peer), more = now - before;
    before = now;
    return more;
}

/* To be told is for calls with which nothing can be wrong: each of these has something. */
static void what_may_fail_is_asked(void)
{
    CUcontext a = begin(), b = NULL;
    CUstream s = NULL;
    CUevent e = NULL, other = NULL;
    CUgraph g = NULL;
    CUgraphExec x = NULL;
    CUdeviceptr at = 0;
    waits_of(CUDA_SUCCESS);
    CHECK(waits_of(cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_L1)) == 1); /* its row is async */
    CHECK(waits_of(cuStreamCreate(&s, 1)) == 0 && waits_of(cuStreamCreate(&s, 9)) == 1);
    CHECK(waits_of(cuEventCreate(&e, 0)) == 0 && waits_of(cuEventCreate(&e, 64)) == 1);
    CHECK(waits_of(cuEventRecord(e, s)) == 0 && waits_of(cuStreamWaitEvent(s, e, 0)) == 0);
    CHECK(waits_of(cuStreamWaitEvent(s, e, 8)) == 1);
    CHECK(cuGraphCreate(&g, 0) == CUDA_SUCCESS);
    CHECK(cuGraphInstantiateWithFlags(&x, g, 0) == CUDA_SUCCESS);
    waits_of(CUDA_SUCCESS);
    CHECK(waits_of(cuGraphLaunch(x, s)) == 1 && waits_of(cuGraphLaunch(x, s)) == 0);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS);
    CHECK(cuCtxCreate_v2(&b, 0, 0) == CUDA_SUCCESS && cuEventCreate(&other, 0) == CUDA_SUCCESS);
    waits_of(CUDA_SUCCESS);
    CHECK(waits_of(cuEventRecord(other, s)) == 1 && waits_of(cuEventRecord(other, NULL)) == 0);
    CHECK(waits_of(cuEventRecord(e, s)) == 0);
    /* With its context, memory has gone, and what was made of graphs may have. */
    CHECK(cuCtxDestroy_v2(a) == CUDA_SUCCESS);
    waits_of(CUDA_SUCCESS);
    CHECK(waits_of(cuMemFree_v2(at)) == 1 && waits_of(cuGraphLaunch(x, NULL)) == 1);
    CHECK(cuEventRecord(e, NULL) == CUDA_ERROR_INVALID_HANDLE);
    /* After an error that stays, everything would answer it. */
    CHECK(waits_of(cuEventRecord(other, NULL)) == 0);
    peer_fail(&peer, HARP_OP_cuCtxSynchronize, CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS);
    waits_of(CUDA_SUCCESS);
    CHECK(waits_of(cuEventRecord(other, NULL)) == 1);
}

static void graph_nodes(void)
{
    begin();
    CUfunction f = kernel();
    CUgraph g = NULL;
    CUgraphNode n = NULL;
    uint64_t pointer = 77;
    uint32_t number = 8;
    void *params[] = {&pointer, &number};
    CUDA_KERNEL_NODE_PARAMS node = {.func = f,
                                    .gridDimX = 1,
                                    .gridDimY = 1,
                                    .gridDimZ = 1,
                                    .blockDimX = 1,
                                    .blockDimY = 1,
                                    .blockDimZ = 1,
                                    .kernelParams = params},
                            back;
    memset(&back, 0, sizeof back);
    CHECK(cuGraphCreate(&g, 0) == CUDA_SUCCESS);
    CHECK(cuGraphAddKernelNode_v2(&n, g, NULL, 0, &node) == CUDA_SUCCESS);
    CHECK(packed_bytes == 12 && memcmp(packed, &pointer, 8) == 0);
    CHECK(node.kernelParams == params);
    CHECK(cuGraphKernelNodeGetParams_v2(n, &back) == CUDA_SUCCESS && back.func == f);
    CHECK(memcmp(back.kernelParams[0], &pointer, 8) == 0);
    CHECK(memcmp(back.kernelParams[1], &number, 4) == 0);
}

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int calls;
    CUresult inside;
    CUstream stream;
} host = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void called(void *data)
{
    pthread_mutex_lock(&host.lock);
    host.inside = cuCtxSynchronize();
    host.calls += *(int *)data;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.lock);
}

/* While it runs, other answers come. */
static void held(void *data)
{
    pthread_mutex_lock(&host.lock);
    while (host.calls < 1000)
        pthread_cond_wait(&host.changed, &host.lock);
    host.calls++;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.lock);
    (void)data;
}

static void called_back(CUstream stream, CUresult status, void *data)
{
    host.stream = stream;
    called(data);
}

static void until(int calls)
{
    pthread_mutex_lock(&host.lock);
    while (host.calls < calls)
        pthread_cond_wait(&host.changed, &host.lock);
    pthread_mutex_unlock(&host.lock);
}

/* They run though nobody waits in a call, and while somebody does. */
static void host_functions(void)
{
    begin();
    CUstream s = NULL;
    int one = 1, ten = 10;
    struct peer_note last = {.flags = 0};
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    CHECK(cuLaunchHostFunc(s, called, &one) == CUDA_SUCCESS);
    until(1);
    CHECK(host.inside == CUDA_ERROR_NOT_PERMITTED);
    CHECK(cuStreamAddCallback(s, called_back, &ten, 0) == CUDA_SUCCESS);
    until(11);
    CHECK(host.stream == s);
    for (int i = 0; i < 200; i++) {
        CHECK(cuLaunchHostFunc(s, called, &one) == CUDA_SUCCESS);
        CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    }
    until(211);
    while (peer_count(&peer, HARP_OP_harpHostCall, &last) < 202)
        usleep(1000);
    CHECK(last.flags == (HARP_FRAME_REVERSE | HARP_FRAME_REPLY));
    CHECK(cuLaunchHostFunc(s, NULL, &one) == CUDA_ERROR_INVALID_VALUE);
    /* The answer says which call it is for, whatever has been taken in since. */
    CHECK(cuLaunchHostFunc(s, held, NULL) == CUDA_SUCCESS);
    for (int i = 0; i < 10; i++)
        CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    pthread_mutex_lock(&host.lock);
    host.calls = 1000;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.lock);
    until(1001);
    while (peer_count(&peer, HARP_OP_harpHostCall, &last) < 203)
        usleep(1000);
    CHECK(last.args[0] == peer.said);
}

static void fill(uint8_t *at, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

static void copies(void)
{
    static uint8_t up[10 * MIB + 77], down[10 * MIB + 77];
    begin();
    CUdeviceptr at = 0;
    CUstream s = NULL;
    void *pinned = NULL;
    fill(up, sizeof up, 1);
    CHECK(cuMemAlloc_v2(&at, sizeof up) == CUDA_SUCCESS && at == BASE);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    unsigned wanted = peer_wanted(&peer);
    CHECK(cuMemcpyHtoD_v2(at, up, 100) == CUDA_SUCCESS && peer_wanted(&peer) == wanted);
    CHECK(cuMemcpyDtoH_v2(down, at, 100) == CUDA_SUCCESS && memcmp(up, down, 100) == 0);
    CHECK(peer_wanted(&peer) == wanted + 1 && peer.pieces == 0);
    /* In pieces of a fourth of the bulk area; one answer for all of them. */
    CHECK(cuMemcpyHtoD_v2(at, up, sizeof up) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 2 && peer.pieces == 3);
    CHECK(memcmp(device, up, sizeof up) == 0);
    CHECK(cuMemcpyDtoH_v2(down, at, sizeof down) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 3 && memcmp(up, down, sizeof up) == 0);
    /* Asynchronous: to pageable memory it waits for the bytes, to pinned memory it does not. */
    memset(down, 0, sizeof down);
    CHECK(cuMemcpyDtoHAsync_v2(down, at, 5 * MIB, s) == CUDA_SUCCESS);
    CHECK(memcmp(up, down, 5 * MIB) == 0);
    CHECK(cuMemAllocHost_v2(&pinned, 5 * MIB) == CUDA_SUCCESS);
    fill(pinned, 5 * MIB, 2);
    CHECK(cuMemcpyHtoDAsync_v2(at, pinned, 5 * MIB, s) == CUDA_SUCCESS);
    fill(pinned, 5 * MIB, 3); /* not allowed of a program, but the bytes have been read */
    CHECK(cuMemcpyDtoHAsync_v2(pinned, at + MIB, 3 * MIB, s) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 3);
    CHECK(cuStreamSynchronize(s) == CUDA_SUCCESS && peer_wanted(&peer) == wanted + 4);
    fill(down, 5 * MIB, 2);
    CHECK(memcmp(pinned, down + MIB, 3 * MIB) == 0);
    /* A chain through the same pinned bytes: they must have come before they are read again. */
    CHECK(cuMemcpyDtoHAsync_v2(pinned, at + MIB, 2 * MIB, s) == CUDA_SUCCESS);
    CHECK(cuMemcpyHtoDAsync_v2(at, pinned, 2 * MIB, s) == CUDA_SUCCESS);
    CHECK(cuStreamSynchronize(s) == CUDA_SUCCESS && memcmp(device, down + MIB, 2 * MIB) == 0);
    CHECK(cuMemFreeHost(pinned) == CUDA_SUCCESS);
    CHECK(cuMemFreeHost(pinned) == CUDA_ERROR_INVALID_VALUE);
    /* Of a copy that fails, nothing is written. */
    memset(down, 9, sizeof down);
    peer_fail(&peer, HARP_OP_cuMemcpyDtoH_v2, CUDA_ERROR_LAUNCH_FAILED);
    CHECK(cuMemcpyDtoH_v2(down, at, MIB) == CUDA_ERROR_LAUNCH_FAILED);
    for (size_t i = 0; i < MIB; i++)
        CHECK(down[i] == 9);
    /* More than all regions, with nobody waiting for any. */
    for (int i = 0; i < 20; i++)
        CHECK(cuMemcpyHtoDAsync_v2(at, up, 4 * MIB, s) == CUDA_SUCCESS);
    CHECK(cuStreamSynchronize(s) == CUDA_SUCCESS && memcmp(device, up, 4 * MIB) == 0);
}

static void memory(void)
{
    begin();
    CUdeviceptr at = 0, other = 0;
    unsigned type = 0, wanted;
    /* Where the driver's first answer lies, this process has something. */
    void *taken = mmap((void *)BASE, 4096, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(taken == (void *)BASE);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == BASE + 2 * MIB);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 2);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 1);
    CHECK(mmap((void *)at, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
               0) == MAP_FAILED); /* nothing of ours will ever lie there */
    next_address = at + MIB;      /* beside it, in the same chunk of the driver's */
    CHECK(cuMemAlloc_v2(&other, 4096) == CUDA_SUCCESS && other == at + MIB);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, other + 1) ==
          CUDA_SUCCESS);
    CHECK(type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (uintptr_t)&at) ==
          CUDA_ERROR_INVALID_VALUE);
    wanted = peer_wanted(&peer);
    CHECK(cuMemsetD32_v2(at, 7, MIB / 4) == CUDA_SUCCESS && peer_wanted(&peer) == wanted);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    peer_fail(&peer, HARP_OP_cuMemsetD32_v2, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemsetD32_v2(at, 7, MIB) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS && peer_wanted(&peer) == wanted + 2);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    peer_fail(&peer, HARP_OP_cuMemFree_v2, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemFree_v2(at) == CUDA_ERROR_INVALID_VALUE && peer_wanted(&peer) == wanted + 4);
    /* All addresses that it is offered are taken: out of memory, and nothing is kept. */
    next_address = BASE;
    CHECK(mmap((void *)(BASE + 4 * MIB), 64 * MIB, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
               0) == (void *)(BASE + 4 * MIB));
    next_address = BASE + 4 * MIB;
    unsigned allocs = count(HARP_OP_cuMemAlloc_v2), frees = count(HARP_OP_cuMemFree_v2);
    CHECK(cuMemAlloc_v2(&at, 2 * MIB) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == allocs + 9 && count(HARP_OP_cuMemFree_v2) == frees + 9);
}

static void *in_thread(void *arg)
{
    CUcontext ctx = arg;
    CUevent e = NULL;
    CUstream s = NULL;
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    for (int i = 0; i < 300; i++) {
        CHECK(cuEventCreate(&e, 0) == CUDA_SUCCESS);
        CHECK(cuEventRecord(e, s) == CUDA_SUCCESS);
        CHECK(cuEventQuery(e) == CUDA_SUCCESS);
        CHECK(cuEventDestroy_v2(e) == CUDA_SUCCESS);
    }
    return NULL;
}

static void threads(void)
{
    CUcontext ctx = begin();
    pthread_t all[3];
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&all[i], NULL, in_thread, ctx) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(all[i], NULL);
    CHECK(count(HARP_OP_cuEventQuery) == 900 && count(HARP_OP_cuEventRecord) == 900);
}

static void forked_child(void)
{
    begin();
    int status = 0, n;
    pid_t pid = fork();
    if (pid == 0) {
        bool right = cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED &&
                     cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED &&
                     cuInit(0) == CUDA_ERROR_NOT_INITIALIZED;
        _exit(right ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
}

static void *waits(void *arg)
{
    CHECK(cuCtxSetCurrent(arg) == CUDA_SUCCESS);
    CUresult r;
    while ((r = cuCtxSynchronize()) == CUDA_SUCCESS)
        ;
    CHECK(r == CUDA_ERROR_DEVICE_UNAVAILABLE);
    return NULL;
}

/* The other end goes away: whoever waits is told, and nobody waits again. */
static void death(void)
{
    CUcontext ctx = begin();
    CUdeviceptr at;
    pthread_t all[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&all[i], NULL, waits, ctx) == 0);
    usleep(20000);
    pthread_mutex_lock(&peer.lock);
    peer.leave = true;
    pthread_mutex_unlock(&peer.lock);
    for (int i = 0; i < 2; i++)
        pthread_join(all[i], NULL);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuMemAlloc_v2(&at, 1) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuInit(0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
}

static void nonsense(void)
{
    begin();
    pthread_mutex_lock(&peer.lock);
    peer.nonsense = true;
    pthread_mutex_unlock(&peer.lock);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
}

static void nobody(void)
{
    int n;
    setenv("HARP_REMOTE", "/tmp/no-such-folder/of-harp", 1);
    CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE && cuInit(0) == CUDA_ERROR_NO_DEVICE);
    CHECK(cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED);
}

static const struct peer_scenario scenarios[] = {
    {"before_and_at_init", before_and_at_init},
    {"contexts", contexts},
    {"handles", handles},
    {"launches", launches},
    {"layouts_by_the_image", layouts_by_the_image},
    {"what_may_fail_is_asked", what_may_fail_is_asked},
    {"graph_nodes", graph_nodes},
    {"host_functions", host_functions},
    {"copies", copies},
    {"memory", memory},
    {"threads", threads},
    {"forked_child", forked_child},
    {"death", death},
    {"nonsense", nonsense},
    {"nobody", nobody},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
