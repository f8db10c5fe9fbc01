/* SPDX-License-Identifier: Apache-2.0
 *
 * Host memory, address space or threads run out at every single place, one after the other: the
 * n-th allocation that the library makes fails, for each n there is. A client sees a documented
 * code; nothing crashes, and when it has given back what it got, nothing is left, on the device or
 * (LeakSanitizer) on the host.
 */
#include "soft_test.h"

#include <pthread.h>

#include "soft/gpu/shared.h"

static const char ptx[] = ".version 8.0\n.target sm_75\n.address_size 64\n"
                          ".visible .global .align 4 .u32 counter;\n"
                          ".visible .entry touch(.param .u64 p)\n{\n.reg .b32 %r0;\n"
                          ".reg .b64 %d0;\nld.param.u64 %d0, [p];\n"
                          "atom.global.add.u32 %r0, [%d0], 1;\nret;\n}\n";

/* ------------------------------------------------------------------------ what runs out --------
 */
static _Atomic long count, fails_at; /* 0: none */

static bool fails(void)
{
    long at = atomic_load(&fails_at);

    return at != 0 && atomic_fetch_add(&count, 1) + 1 == at;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *p, size_t bytes)
{
    return fails() ? NULL : __real_realloc(p, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (!fails())
        return __real_mmap(at, bytes, prot, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    return fails() ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

/* ------------------------------------------------------------------------------ the program ----
 */
static bool refused; /* something was, so that what builds on it may be */

static bool did_(CUresult r, const char *what, int line)
{
    if (r == CUDA_SUCCESS)
        return true;
    /* 304: no file, 999: a stream could not remember what it waits for */
    if (r != CUDA_ERROR_OUT_OF_MEMORY && r != CUDA_ERROR_OPERATING_SYSTEM &&
        r != CUDA_ERROR_UNKNOWN && r != CUDA_ERROR_JIT_COMPILER_NOT_FOUND) {
        fprintf(stderr, "softmod_scarce.c:%d: allocation %ld failed: %s is %d\n", line,
                atomic_load(&fails_at), what, (int)r);
        _exit(1);
    }
    refused = true;
    return false;
}
#define DID(call) did_(call, #call, __LINE__)

static void nothing(void *data)
{
}

static void streams_and_events(void)
{
    CUstream s = NULL, t = NULL;
    CUevent e = NULL;
    CUdeviceptr p = 0;

    if (DID(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING)) && DID(cuStreamCreate(&t, 0)) &&
        DID(cuEventCreate(&e, 0)) && DID(cuMemAlloc_v2(&p, 3 << 20))) {
        DID(cuMemsetD8Async(p, 1, 3 << 20, s));
        DID(cuEventRecord(e, s));
        DID(cuStreamWaitEvent(t, e, 0));
        DID(cuMemcpyDtoDAsync_v2(p, p + (2 << 20), 4096, t));
        DID(cuStreamWriteValue32_v2(s, p, 1, 0));
        DID(cuLaunchHostFunc(t, nothing, NULL));
        DID(cuMemsetD8Async(p, 1, 4096, CU_STREAM_LEGACY));
        DID(cuMemsetD8Async(p, 1, 4096, CU_STREAM_PER_THREAD));
        DID(cuCtxSynchronize());
    }
    if (p != 0)
        DID(cuMemFree_v2(p));
    if (e != NULL)
        OK(cuEventDestroy_v2(e));
    if (t != NULL)
        OK(cuStreamDestroy_v2(t));
    if (s != NULL)
        OK(cuStreamDestroy_v2(s));
}

static void mapped(void)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle, again;
    CUdeviceptr at;
    int fd;

    if (!DID(cuMemAddressReserve(&at, 2 * GRANULE, 0, 0, 0)))
        return;
    if (DID(cuMemCreate(&handle, 2 * GRANULE, &prop, 0))) {
        if (DID(cuMemMap(at, 2 * GRANULE, 0, handle, 0))) {
            if (DID(cuMemSetAccess(at, 2 * GRANULE, &access, 1)))
                DID(cuMemsetD8_v2(at, 1, 2 * GRANULE));
            DID(cuCtxSynchronize());
            OK(cuMemUnmap(at, 2 * GRANULE));
        }
        if (DID(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                             0))) {
            if (DID(cuMemImportFromShareableHandle(&again, (void *)(intptr_t)fd,
                                                   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)))
                OK(cuMemRelease(again));
            close(fd);
        }
        OK(cuMemRelease(handle));
    }
    OK(cuMemAddressFree(at, 2 * GRANULE));
}

static void other_memory(void)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {300, 20, 0, CU_AD_FORMAT_FLOAT, 2, 0};
    CUdeviceptr small, managed;
    CUarray array;
    CUevent event;
    void *host;

    if (DID(cuMemAlloc_v2(&small, 100)))
        DID(cuMemFree_v2(small));
    if (DID(cuMemAllocManaged(&managed, 3 << 20, CU_MEM_ATTACH_GLOBAL))) {
        DID(cuMemAdvise(managed, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
        DID(cuMemPrefetchAsync(managed, 3 << 20, 0, NULL));
        OK(cuMemFree_v2(managed));
    }
    if (DID(cuMemHostAlloc(&host, 4096, 0)))
        DID(cuMemFreeHost(host));
    if (DID(cuArray3DCreate_v2(&array, &desc)))
        DID(cuArrayDestroy(array));
    if (DID(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING)))
        OK(cuEventDestroy_v2(event));
}

static void graphs(CUfunction touch, CUdeviceptr p)
{
    CUgraph graph, captured;
    CUgraphExec exec;
    CUgraphNode first, branch[2], last;
    CUDA_HOST_NODE_PARAMS host = {nothing, NULL};
    void *params[] = {&p};
    CUDA_KERNEL_NODE_PARAMS kernel = {.gridDimX = 1,
                                      .gridDimY = 1,
                                      .gridDimZ = 1,
                                      .blockDimX = 1,
                                      .blockDimY = 1,
                                      .blockDimZ = 1,
                                      .kernelParams = params,
                                      .func = touch};
    CUstream s;

    if (DID(cuGraphCreate(&graph, 0))) {
        if (DID(cuGraphAddHostNode(&first, graph, NULL, 0, &host)) &&
            DID(cuGraphAddKernelNode_v2(&branch[0], graph, &first, 1, &kernel)) &&
            DID(cuGraphAddKernelNode_v2(&branch[1], graph, &first, 1, &kernel)) &&
            DID(cuGraphAddEmptyNode(&last, graph, branch, 2)) &&
            DID(cuGraphInstantiateWithFlags(&exec, graph, 0))) {
            DID(cuGraphLaunch(exec, NULL));
            DID(cuGraphLaunch(exec, NULL));
            OK(cuGraphExecDestroy(exec));
        }
        OK(cuGraphDestroy(graph));
    }
    if (!DID(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING)))
        return;
    if (DID(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED))) {
        bool all = DID(cuMemsetD8Async(p, 1, 4, s)) && DID(cuLaunchHostFunc(s, nothing, NULL));
        CUresult r = cuStreamEndCapture(s, &captured);

        if (all || r != CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) {
            if (DID(r))
                OK(cuGraphDestroy(captured));
        }
    }
    DID(cuStreamDestroy_v2(s));
}

static void kernels(void)
{
    CUmodule module;
    CUfunction touch;
    CUdeviceptr p;
    size_t bytes;
    void *params[] = {&p};

    if (!DID(cuModuleLoadData(&module, ptx)))
        return;
    if (DID(cuModuleGetGlobal_v2(&p, &bytes, module, "counter")) &&
        DID(cuModuleGetFunction(&touch, module, "touch"))) {
        DID(cuLaunchKernel(touch, 3, 1, 1, 4, 1, 1, 0, NULL, params, NULL));
        graphs(touch, p);
        DID(cuCtxSynchronize());
    }
    DID(cuModuleUnload(module));
}

static void all_of_it(void *arg)
{
    CUcontext ctx;

    OK(cuInit(0));
    atomic_store(&count, 0);
    atomic_store(&fails_at, *(long *)arg);
    if (DID(cuCtxCreate_v2(&ctx, 0, 0))) {
        streams_and_events();
        mapped();
        other_memory();
        kernels();
        OK(cuCtxDestroy_v2(ctx));
    }
    atomic_store(&fails_at, 0);
    CHECK(!refused || atomic_load(&count) >= *(long *)arg);
    CHECK_IS(0, soft_hold_total(soft_the_state, 0));
    /* and all goes as ever */
    OK(cuCtxCreate_v2(&ctx, 0, 0));
    refused = false;
    streams_and_events();
    other_memory();
    mapped();
    CHECK(!refused);
    OK(cuCtxDestroy_v2(ctx));
    CHECK_IS(0, soft_hold_total(soft_the_state, 0));
}

static void each_place(void *arg)
{
    long *made = shared_page();
    const char *from = getenv("HARP_SCARCE_FROM");
    long most = 1000000, failed = 0;

    made[0] = 0;
    for (long n = from != NULL ? atol(from) : 1; n <= most && failed < 5; n++) {
        pid_t pid = fork();
        int status;

        CHECK(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            alarm(60);
            all_of_it(&n);
            made[0] = atomic_load(&count);
            exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        if (status != 0) {
            fprintf(stderr, "allocation %ld: status %x\n", n, (unsigned)status);
            failed++;
        }
        if (status == 0 && made[0] < n)
            break;
    }
    fprintf(stderr, "%ld allocations\n", made[0]);
    CHECK_IS(0, failed);
    CHECK(made[0] > 80);
}

static void slow(void *data)
{
    usleep(50 * 1000);
    atomic_fetch_add((_Atomic long *)data, 1);
}

/* What was waited for is unmapped next: a wait that gives up for want of memory is a crash. */
static void a_wait_needs_no_memory(void *arg)
{
    static _Atomic long ended;
    CUstream s[3];
    CUcontext ctx;

    OK(cuInit(0));
    OK(cuCtxCreate_v2(&ctx, 0, 0));
    for (int i = 0; i < 3; i++)
        OK(cuStreamCreate(&s[i], i == 1 ? CU_STREAM_NON_BLOCKING : 0));
    for (int i = 0; i < 3; i++)
        OK(cuLaunchHostFunc(s[i], slow, (void *)&ended));
    atomic_store(&count, 0);
    atomic_store(&fails_at, 1);
    OK(cuCtxSynchronize());
    CHECK_IS(3, atomic_load(&ended));
    CHECK(atomic_load(&count) >= 1); /* it was refused one */
    atomic_store(&fails_at, 0);
    OK(cuCtxDestroy_v2(ctx));
}

int main(void)
{
    test_run("a_wait_needs_no_memory", "tiny", "0", a_wait_needs_no_memory);
    test_run("each_place", "tiny", "0", each_place);
    return 0;
}
