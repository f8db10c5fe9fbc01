/* SPDX-License-Identifier: Apache-2.0
 *
 * The client of a remote session against a peer that notes what it is told: what goes over the
 * wire, and how often it waits. Each scenario in a process of its own, since a process has one
 * session at a time.
 */
#include <errno.h>
#include <string.h>

#include "client_worker.h"

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

static const struct peer_scenario scenarios[] = {
    {"before_and_at_init", before_and_at_init},
    {"contexts", contexts},
    {"handles", handles},
    {"launches", launches},
    {"layouts_by_the_image", layouts_by_the_image},
    {"what_may_fail_is_asked", what_may_fail_is_asked},
    {"graph_nodes", graph_nodes},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
