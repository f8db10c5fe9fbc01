/* SPDX-License-Identifier: Apache-2.0
 *
 * How often a remote session's client waits, counted by its peer: what a program does at its start,
 * launches, and kernels whose image says how they take their parameters.
 */
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"
#include "made_cubin.h"
#include "src/shim/entry/api.h"

#define BASE 0x200000000000ull
#define MIB  (1ull << 20)

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuDriverGetVersion);
DECLARE(cuDeviceGet);
DECLARE(cuDeviceGetCount);
DECLARE(cuDeviceGetName);
DECLARE(cuDeviceGetUuid_v2);
DECLARE(cuDeviceGetAttribute);
DECLARE(cuDeviceTotalMem_v2);
DECLARE(cuDeviceGetPCIBusId);
DECLARE(cuDevicePrimaryCtxGetState);
DECLARE(cuDevicePrimaryCtxRetain);
DECLARE(cuCtxGetCurrent);
DECLARE(cuCtxSetCurrent);
DECLARE(cuCtxSynchronize);
DECLARE(cuGraphAddKernelNode_v2);
DECLARE(cuGraphCreate);
DECLARE(cuGraphExecDestroy);
DECLARE(cuGraphExecKernelNodeSetParams_v2);
DECLARE(cuGraphInstantiateWithFlags);
DECLARE(cuLaunchKernel);
DECLARE(cuLibraryGetKernel);
DECLARE(cuLibraryLoadData);
DECLARE(cuLinkAddData_v2);
DECLARE(cuLinkAddFile_v2);
DECLARE(cuLinkCreate_v2);
DECLARE(cuMemAlloc_v2);
DECLARE(cuModuleGetFunction);
DECLARE(cuModuleLoad);
DECLARE(cuModuleLoadData);
DECLARE(cuStreamCreate);

static struct peer peer;
static uint8_t packed[64];
static uint64_t packed_bytes;

/* A worker with two devices. */
static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    static uint64_t next = BASE;
    const uint64_t *a = call->args;
    (void)p;
    switch (call->op) {
    case HARP_OP_harpSession:
        *(uint32_t *)(uintptr_t)a[0] = 2;
        return 0;
    case HARP_OP_harpSnapshot: {
        struct harp_wire_device *d = (struct harp_wire_device *)(uintptr_t)a[1];
        for (int i = 0; i < 3; i++)
            d->attributes[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i] = 1000;
        memset(d->answered, 0xff, sizeof d->answered);
        return 0;
    }
    case HARP_OP_cuDevicePrimaryCtxRetain:
        *(uint64_t *)(uintptr_t)a[0] = (1ull << 63) + a[1] + 1;
        return 0;
    case HARP_OP_cuMemAlloc_v2:
        *(uint64_t *)(uintptr_t)a[0] = next;
        next += 2 * MIB;
        return 0;
    case HARP_OP_cuFuncGetParamInfo:
    case HARP_OP_cuKernelGetParamInfo:
        return CUDA_ERROR_INVALID_VALUE; /* it has none: wrong, if it is asked */
    case HARP_OP_cuLaunchKernel: {
        const struct harp_wire_packed *of = (const struct harp_wire_packed *)(uintptr_t)a[9];
        packed_bytes = of->bytes;
        memcpy(packed, of->data, of->bytes < sizeof packed ? of->bytes : sizeof packed);
        return 0;
    }
    default:
        return 0;
    }
}

static unsigned count(uint32_t op)
{
    return peer_count(&peer, op, NULL);
}

/* All that a program asks of each device before it begins, as frameworks do. */
static void devices(void)
{
    CUdevice d = 0;
    CUuuid id;
    char text[64];
    size_t bytes;
    unsigned flags;
    int n = 0, active, value;
    CHECK(cuDriverGetVersion(&n) == CUDA_SUCCESS);
    CHECK(cuDeviceGetCount(&n) == CUDA_SUCCESS && n == 2);
    for (int i = 0; i < n; i++) {
        CHECK(cuDeviceGet(&d, i) == CUDA_SUCCESS && d == i);
        CHECK(cuDeviceGetName(text, sizeof text, d) == CUDA_SUCCESS);
        CHECK(cuDeviceGetUuid_v2(&id, d) == CUDA_SUCCESS);
        CHECK(cuDeviceTotalMem_v2(&bytes, d) == CUDA_SUCCESS);
        CHECK(cuDeviceGetPCIBusId(text, sizeof text, d) == CUDA_SUCCESS);
        CHECK(cuDevicePrimaryCtxGetState(d, &flags, &active) == CUDA_SUCCESS);
        for (int k = 1; k < HARP_WIRE_ATTRIBUTES; k++)
            cuDeviceGetAttribute(&value, (CUdevice_attribute)k, d);
    }
}

static void begin(void)
{
    CUcontext ctx = NULL;
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&ctx, 0) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
}

static void from_init_to_the_first_allocation(void)
{
    CUcontext ctx = NULL;
    CUdeviceptr at = 0;
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    devices();
    devices();
    CHECK(cuDevicePrimaryCtxRetain(&ctx, 0) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS && cuCtxGetCurrent(&ctx) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == BASE);
    if (peer_wanted(&peer) > 10)
        fprintf(stderr, "%u round trips\n", peer_wanted(&peer));
    CHECK(peer_wanted(&peer) <= 10);
    /* What libharp says of it, which tests of whole programs go by, is what the peer counts. */
    CHECK(harp_remote_trips() == peer_wanted(&peer));
}

static const struct made_kernel two[] = {{"k", {{0, 8}, {8, 4}}, 12, 0, 0},
                                         {"none", {{0}}, -1, 0, 0}};

static void launch(CUfunction f, CUstream stream)
{
    uint64_t pointer = 0x1122334455667788;
    uint32_t number = 42;
    void *params[] = {&pointer, &number};
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS); /* a launch that is told comes before it */
    CHECK(packed_bytes == 12 && memcmp(packed, &pointer, 8) == 0);
    CHECK(memcmp(packed + 8, &number, 4) == 0);
}

static void a_thousand_launches_are_one(void)
{
    static uint8_t image[4096];
    CUmodule m = NULL;
    CUfunction f = NULL;
    CUstream streams[2] = {NULL, NULL};
    uint64_t pointer = 1;
    uint32_t number = 2;
    void *params[] = {&pointer, &number};
    begin();
    made_cubin(image, two, 2);
    CHECK(cuModuleLoadData(&m, image) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
    CHECK(cuStreamCreate(&streams[1], 1) == CUDA_SUCCESS);
    launch(f, streams[0]);
    launch(f, streams[1]);
    unsigned before = peer_wanted(&peer), launches = count(HARP_OP_cuLaunchKernel);
    for (unsigned i = 0; i < 1000; i++)
        CHECK(cuLaunchKernel(f, 1 + i, 1, 1, 32, 1, 1, 0, streams[i % 2], params, NULL) ==
              CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == before + 1);
    CHECK(count(HARP_OP_cuLaunchKernel) == launches + 1000);
    CHECK(harp_remote_trips() == peer_wanted(&peer));
}

#define NODES 40

static CUgraphExec graph_of(CUgraphNode node[NODES], const CUDA_KERNEL_NODE_PARAMS *kernel)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    CHECK(cuGraphCreate(&graph, 0) == CUDA_SUCCESS);
    for (unsigned i = 0; i < NODES; i++)
        CHECK(cuGraphAddKernelNode_v2(&node[i], graph, NULL, 0, kernel) == CUDA_SUCCESS);
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0) == CUDA_SUCCESS);
    return exec;
}

/* What a training's step does to its graph before each launch. */
static void nodes_that_were_given_a_function_are_told(void)
{
    static uint8_t image[4096];
    CUmodule m = NULL;
    CUgraphNode node[NODES];
    uint64_t pointer = 1;
    uint32_t number = 2;
    void *params[] = {&pointer, &number};
    CUDA_KERNEL_NODE_PARAMS k = {.gridDimX = 1,
                                 .gridDimY = 1,
                                 .gridDimZ = 1,
                                 .blockDimX = 32,
                                 .blockDimY = 1,
                                 .blockDimZ = 1,
                                 .kernelParams = params};
    CUDA_KERNEL_NODE_PARAMS none;
    begin();
    made_cubin(image, two, 2);
    CHECK(cuModuleLoadData(&m, image) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&k.func, m, "k") == CUDA_SUCCESS);
    none = k;
    CHECK(cuModuleGetFunction(&none.func, m, "none") == CUDA_SUCCESS);
    CUgraphExec exec = graph_of(node, &k);
#define GIVE(n, kernel) cuGraphExecKernelNodeSetParams_v2(exec, node[n], kernel)
    /* The first of each node is asked, and one that was refused is none. */
    unsigned at = peer_wanted(&peer);
    peer_fail(&peer, HARP_OP_cuGraphExecKernelNodeSetParams_v2, CUDA_ERROR_INVALID_VALUE);
    CHECK(GIVE(0, &k) == CUDA_ERROR_INVALID_VALUE);
    k.gridDimY = 20;
    k.gridDimX = 20;
    for (unsigned i = 0; i < NODES; i++)
        CHECK(GIVE(i, &k) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == at + 1 + NODES);
    unsigned updates = count(HARP_OP_cuGraphExecKernelNodeSetParams_v2);
    at = peer_wanted(&peer);
    for (unsigned i = 0; i < 10 * NODES; i++) {
        k.gridDimX = 1 + i;
        k.gridDimY = 1;
        CHECK(GIVE(i % NODES, &k) == CUDA_SUCCESS);
    }
    CHECK(peer_wanted(&peer) == at);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS); /* by then they have come */
    CHECK(count(HARP_OP_cuGraphExecKernelNodeSetParams_v2) == updates + 10 * NODES);
    /* More blocks than any before (a cooperative launch may not have them), another function,
     * another shape, another graph: asked. */
    at = peer_wanted(&peer);
    k.gridDimX = 401;
    CHECK(GIVE(3, &k) == CUDA_SUCCESS && GIVE(3, &k) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == at + 1);
    at++;
    CHECK(GIVE(3, &none) == CUDA_SUCCESS && peer_wanted(&peer) == at + 1);
    CHECK(GIVE(3, &none) == CUDA_SUCCESS && peer_wanted(&peer) == at + 1);
    CHECK(GIVE(3, &k) == CUDA_SUCCESS && peer_wanted(&peer) == at + 2);
    k.blockDimX = 64;
    CHECK(GIVE(3, &k) == CUDA_SUCCESS && peer_wanted(&peer) == at + 3);
    CHECK(GIVE(3, &k) == CUDA_SUCCESS && peer_wanted(&peer) == at + 3);
    CUgraphExec old = exec;
    exec = graph_of(node, &k);
    at = peer_wanted(&peer);
    CHECK(GIVE(3, &k) == CUDA_SUCCESS && peer_wanted(&peer) == at + 1);
    CHECK(cuGraphExecDestroy(old) == CUDA_SUCCESS);
    exec = old;
    CHECK(GIVE(3, &k) == CUDA_ERROR_INVALID_VALUE);
}

/* Nobody asks how a kernel of machine code takes its parameters, wherever that lies. */
static void layouts_by_machine_code(void)
{
    static uint8_t cubin[4096], fat[8192];
    char path[] = "/tmp/harp-cubin-XXXXXX";
    begin();
    size_t bytes = made_cubin(cubin, two, 2);
    const struct made_entry entries[] = {{MADE_PTX, 0x2000, "packed", 6},
                                         {MADE_CUBIN, 0, cubin, bytes}};
    made_fatbin(fat, entries, 2);
    const struct {
        uint32_t magic, version;
        const void *data, *name;
    } wrapper = {0x466243b1, 1, fat, NULL};
    const void *const images[] = {cubin, fat, &wrapper};
    CUmodule m = NULL;
    CUlibrary l = NULL;
    CUfunction f = NULL;
    CUkernel k = NULL;
    for (unsigned i = 0; i < 3; i++) {
        CHECK(cuModuleLoadData(&m, images[i]) == CUDA_SUCCESS);
        CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
        launch(f, NULL);
        CHECK(cuModuleGetFunction(&f, m, "none") == CUDA_SUCCESS);
        CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL) == CUDA_SUCCESS);
        CHECK(cuLibraryLoadData(&l, images[i], NULL, NULL, 0, NULL, NULL, 0) == CUDA_SUCCESS);
        CHECK(cuLibraryGetKernel(&k, l, "k") == CUDA_SUCCESS);
        launch((CUfunction)k, NULL);
    }
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, cubin, bytes) == (ssize_t)bytes && close(fd) == 0);
    CUresult r = cuModuleLoad(&m, path);
    unlink(path);
    CHECK(r == CUDA_SUCCESS && cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
    launch(f, NULL);
    CHECK(count(HARP_OP_cuFuncGetParamInfo) + count(HARP_OP_cuKernelGetParamInfo) == 0);
    /* What the image does not say is asked for. */
    const struct made_kernel odd = {"k", {{0, 8}, {8, 4}}, 16, 0, 0};
    made_cubin(cubin, &odd, 1);
    CHECK(cuModuleLoadData(&m, cubin) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuFuncGetParamInfo) == 1);
}

/* A wrapper is sent as what it wraps: at the other end its address is nobody's. */
static void what_is_wrapped_is_sent(void)
{
    static uint8_t fat[8192];
    const struct made_entry entries[] = {{MADE_PTX, 0x2000, "packed", 6}};
    const struct {
        uint32_t magic, version;
        const void *data, *name;
    } wrapper = {0x466243b1, 1, fat, NULL};
    char path[] = "/tmp/harp-wrapper-XXXXXX";
    struct peer_note note;
    CUlinkState link;
    CUmodule m;
    begin();
    const size_t bytes = made_fatbin(fat, entries, 1);
    CHECK(cuLinkCreate_v2(0, NULL, NULL, &link) == CUDA_SUCCESS);
    CHECK(cuLinkAddData_v2(link, CU_JIT_INPUT_FATBINARY, (void *)(uintptr_t)&wrapper,
                           sizeof wrapper, NULL, 0, NULL, NULL) == CUDA_SUCCESS);
    CHECK(peer_count(&peer, HARP_OP_harpImagePut, &note) == 1 && note.args[2] == bytes);
    CHECK(peer_count(&peer, HARP_OP_cuLinkAddData_v2, &note) == 1 && note.args[3] == bytes);
    int fd = mkstemp(path); /* in a file it is the address of nothing */
    CHECK(fd >= 0 && write(fd, &wrapper, sizeof wrapper) == sizeof wrapper && close(fd) == 0);
    CUresult loaded = cuModuleLoad(&m, path);
    CUresult added = cuLinkAddFile_v2(link, CU_JIT_INPUT_FATBINARY, path, 0, NULL, NULL);
    unlink(path);
    CHECK(loaded == CUDA_ERROR_INVALID_IMAGE && added == CUDA_ERROR_INVALID_IMAGE);
}

static const struct peer_scenario scenarios[] = {
    {"from_init_to_the_first_allocation", from_init_to_the_first_allocation},
    {"a_thousand_launches_are_one", a_thousand_launches_are_one},
    {"nodes_that_were_given_a_function_are_told", nodes_that_were_given_a_function_are_told},
    {"layouts_by_machine_code", layouts_by_machine_code},
    {"what_is_wrapped_is_sent", what_is_wrapped_is_sent},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
