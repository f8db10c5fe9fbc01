/* SPDX-License-Identifier: Apache-2.0
 *
 * A second session in a process whose first one has ended: when there may be one, and that nothing
 * is left of the first. Each scenario in a process of its own.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"

#ifndef BASE /* TSan has it elsewhere */
#define BASE 0x200000000000ull
#endif
#define MIB     (1ull << 20)
#define PRIMARY (1ull << 63 | 5) /* every worker's names begin there */

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuDeviceGet);
DECLARE(cuDeviceGetCount);
DECLARE(cuDeviceGetName);
DECLARE(cuDeviceGetAttribute);
DECLARE(cuDevicePrimaryCtxRetain);
DECLARE(cuDevicePrimaryCtxRelease_v2);
DECLARE(cuDevicePrimaryCtxReset_v2);
DECLARE(cuCtxCreate_v2);
DECLARE(cuCtxDestroy_v2);
DECLARE(cuCtxGetCurrent);
DECLARE(cuCtxSetCurrent);
DECLARE(cuCtxSynchronize);
DECLARE(cuEventCreate);
DECLARE(cuEventQuery);
DECLARE(cuEventRecord);
DECLARE(cuGraphCreate);
DECLARE(cuGraphDestroy);
DECLARE(cuGraphAddMemAllocNode);
DECLARE(cuGraphInstantiateWithFlags);
DECLARE(cuGraphLaunch);
DECLARE(cuStreamCreate);
DECLARE(cuStreamBeginCapture_v2);
DECLARE(cuStreamSynchronize);
DECLARE(cuModuleLoadData);
DECLARE(cuModuleGetFunction);
DECLARE(cuLaunchHostFunc);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemAllocHost_v2);
DECLARE(cuMemFreeHost);
DECLARE(cuMemsetD8Async);
DECLARE(cuMemcpyHtoD_v2);
DECLARE(cuMemcpyHtoDAsync_v2);
DECLARE(cuOccupancyMaxPotentialBlockSize);

static struct peer one, two;
static struct peer many[8];

static void out(struct harp_wire_call *call, unsigned slot, uint64_t value, size_t bytes)
{
    if (call->args[slot] != 0)
        memcpy((void *)(uintptr_t)call->args[slot], &value, bytes);
}

/* The first has two devices, the others one. */
static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args;
    switch (call->op) {
    case HARP_OP_harpSession:
        out(call, 0, p == &one ? 2 : 1, 4);
        out(call, 1, 13000, 4);
        return 0;
    case HARP_OP_harpSnapshot: {
        struct harp_wire_device *d = (struct harp_wire_device *)(uintptr_t)a[1];
        snprintf(d->name, sizeof d->name, "%s", p == &one ? "The first" : "Another");
        d->attributes[CU_DEVICE_ATTRIBUTE_WARP_SIZE] = 32;
        memset(d->answered, 0xff, sizeof d->answered);
        return 0;
    }
    case HARP_OP_cuDevicePrimaryCtxRetain:
        out(call, 0, PRIMARY, 8);
        return 0;
    case HARP_OP_cuFuncGetAttribute:
        out(call, 0, 64, 4);
        return 0;
    case HARP_OP_cuMemAlloc_v2:
        out(call, 0, BASE, 8);
        return 0;
    case HARP_OP_cuLaunchHostFunc: {
        const uint64_t said[] = {a[1], a[0], 0};
        peer_say(p, HARP_OP_harpHostCall, 0, said, 3);
        return 0;
    }
    default:
        return 0;
    }
}

/* The other end is gone, and nobody here has looked yet. */
static void dies(struct peer *p)
{
    shutdown(p->sock, SHUT_RDWR);
    pthread_join(p->thread, NULL);
}

static CUcontext begin(void)
{
    CUcontext ctx = NULL;
    peer_start(&one, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS && cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS);
    return ctx;
}

static void second(void)
{
    peer_start_at(&two, one.path, answer);
}

static bool mapped(uint64_t address)
{
    void *want = (void *)(uintptr_t)address;
    void *at =
        mmap(want, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != MAP_FAILED)
        munmap(at, 4096);
    return at != want;
}

/* --- scenarios -------------------------------------------------------------------------------- */

/* While a context of the first lives, all stays as it is, whoever listens. */
static void living_contexts(bool primary_first)
{
    CUcontext a = begin(), b = NULL, p = NULL;
    CUevent e = NULL;
    int n = 0;
    CHECK(cuCtxCreate_v2(&b, 0, 1) == CUDA_SUCCESS && cuEventCreate(&e, 0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&p, 0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&p, 0) == CUDA_SUCCESS);
    dies(&one);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    second();
    for (int left = 4; left > 0; left--) {
        CHECK(cuInit(0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK(cuDeviceGetCount(&n) == CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK(cuEventQuery(e) == CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK(left != 4 || cuCtxDestroy_v2(b) == CUDA_SUCCESS);
        CHECK(left != (primary_first ? 1 : 3) || cuCtxDestroy_v2(a) == CUDA_SUCCESS);
        CHECK(left == 4 || left == (primary_first ? 1 : 3) ||
              cuDevicePrimaryCtxRelease_v2(0) == CUDA_SUCCESS);
    }
    CHECK(cuCtxDestroy_v2(a) == CUDA_ERROR_DEVICE_UNAVAILABLE); /* it is none any more */
    CHECK(cuDevicePrimaryCtxRelease_v2(0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(two.notes == 0);
    CHECK(cuInit(0) == CUDA_SUCCESS && peer_count(&two, HARP_OP_harpSession, NULL) == 1);
}

static void not_under_living_contexts(void)
{
    living_contexts(false);
}

static void not_under_a_created_one(void)
{
    living_contexts(true);
}

/* Found out by the destruction itself, and what a reset leaves. */
static void contexts_of_a_dead_session_end_here(void)
{
    CUcontext a = begin(), p = NULL;
    CUdevice dev = -1;
    CHECK(cuDevicePrimaryCtxRetain(&p, 1) == CUDA_SUCCESS);
    dies(&one);
    CHECK(cuCtxDestroy_v2(a) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxReset_v2(1) == CUDA_SUCCESS);
    second();
    CHECK(cuDeviceGet(&dev, 0) == CUDA_SUCCESS && dev == 0);
    CHECK(cuDeviceGet(&dev, 1) == CUDA_ERROR_INVALID_DEVICE);
}

static int open_files(void)
{
    int n = 0;
    for (int fd = 0; fd < 200; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Without contexts, and without cuInit: a program that asks for a device gets one. */
static void each_way_to_begin(void)
{
    char name[32];
    CUcontext ctx = NULL, p = NULL;
    CUdevice dev;
    int n = 0, files = 0;
    peer_start(&one, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS && cuDeviceGetCount(&n) == CUDA_SUCCESS && n == 2);
    CHECK(cuDeviceGetName(name, sizeof name, 0) == CUDA_SUCCESS && strcmp(name, "The first") == 0);
    dies(&one);
    CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE); /* nobody listens */
    CHECK(cuDeviceGetCount(&n) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    for (int i = 0; i < 6; i++) {
        peer_start_at(&many[i], one.path, answer);
        CHECK(i != 0 || (cuDeviceGetCount(&n) == CUDA_SUCCESS && n == 1));
        CHECK(i != 1 || cuDeviceGet(&dev, 0) == CUDA_SUCCESS);
        CHECK(i != 2 || cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS);
        CHECK(i != 2 || cuCtxDestroy_v2(ctx) == CUDA_SUCCESS);
        CHECK(i != 3 || cuDevicePrimaryCtxRetain(&p, 0) == CUDA_SUCCESS);
        CHECK(i != 3 || cuDevicePrimaryCtxRelease_v2(0) == CUDA_SUCCESS);
        CHECK(i != 4 || cuInit(0) == CUDA_SUCCESS);
        /* i == 5: it is known that nobody is there, so this begins, too */
        CHECK(cuDeviceGetName(name, sizeof name, 0) == CUDA_SUCCESS);
        CHECK(strcmp(name, "Another") == 0);
        CHECK(peer_count(&many[i], HARP_OP_harpSession, NULL) == 1);
        dies(&many[i]);
        files = i == 0 ? open_files() : files;
        CHECK(open_files() == files + i); /* of each peer, where it listened */
        CHECK(i != 4 || cuDeviceGetAttribute(&n, (CUdevice_attribute)100000, 0) ==
                            CUDA_ERROR_DEVICE_UNAVAILABLE);
    }
}

static CUmodule loaded(void)
{
    CUmodule m = NULL;
    CHECK(cuModuleLoadData(&m, ".version 8.0 // a text") == CUDA_SUCCESS);
    return m;
}

static void nothing_is_left(void)
{
    CUcontext ctx = begin(), now = NULL, got = NULL;
    CUevent e = NULL;
    CUstream s = NULL;
    CUgraph g = NULL;
    CUfunction f = NULL;
    CUdeviceptr at = 0;
    void *pinned = NULL;
    CHECK(cuEventCreate(&e, 0) == CUDA_SUCCESS && cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    CHECK(cuGraphCreate(&g, 0) == CUDA_SUCCESS && g != NULL);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == BASE && mapped(BASE));
    CHECK(cuMemAllocHost_v2(&pinned, 4096) == CUDA_SUCCESS);
    memset(pinned, 7, 4096);
    CUmodule m = loaded();
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
    CHECK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
    peer_fail(&one, HARP_OP_cuCtxSynchronize, CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS);
    dies(&one);
    CHECK(cuCtxDestroy_v2(ctx) == CUDA_SUCCESS);
    second();
    CHECK(cuCtxCreate_v2(&now, 0, 0) == CUDA_SUCCESS && now != ctx);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK(cuEventQuery(e) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuStreamSynchronize(s) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuGraphDestroy(g) == CUDA_ERROR_INVALID_VALUE); /* a graph is in no context */
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_ERROR_INVALID_HANDLE);
    CHECK(!mapped(BASE));
    unsigned wanted = peer_wanted(&two);
    CHECK(cuEventCreate(&e, 0) == CUDA_SUCCESS && cuEventRecord(e, NULL) == CUDA_SUCCESS);
    CHECK(peer_wanted(&two) == wanted); /* no error stays, and nothing captures */
    CHECK(cuMemsetD8Async(BASE, 0, 16, NULL) == CUDA_SUCCESS);
    CHECK(peer_wanted(&two) == wanted + 1); /* what was allocated there is not any more */
    loaded();
    CHECK(peer_count(&two, HARP_OP_harpImageFind, NULL) == 1); /* this one may not have it */
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == BASE);
    CHECK(*(const char *)pinned == 7 && cuMemFreeHost(pinned) == CUDA_SUCCESS);
    CHECK(cuCtxGetCurrent(&got) == CUDA_SUCCESS && got == now);
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(cuInit(0) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void ignores(void *data)
{
    (void)data;
}

/* What is under way in the first when it ends: regions, functions that may still be called. */
static void nothing_is_under_way(void)
{
    static char data[4 * MIB];
    CUcontext ctx = begin();
    CUstream s = NULL;
    CUgraph g = NULL;
    CUgraphExec runs = NULL;
    CUgraphNode node = NULL;
    CUDA_MEM_ALLOC_NODE_PARAMS allocates;
    CUdeviceptr at = 0;
    void *pinned = NULL;
    memset(&allocates, 0, sizeof allocates);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS && cuGraphCreate(&g, 0) == CUDA_SUCCESS);
    cuGraphAddMemAllocNode(&node, g, NULL, 0, &allocates);
    CHECK(cuMemAllocHost_v2(&pinned, 4096) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, sizeof data) == CUDA_SUCCESS);
    pthread_mutex_lock(&one.lock);
    one.silent = true;
    pthread_mutex_unlock(&one.lock);
    for (int i = 0; i < 3; i++) /* all regions but one */
        CHECK(cuMemcpyHtoD_v2(at, data, sizeof data) == CUDA_SUCCESS);
    CHECK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
    CHECK(cuLaunchHostFunc(s, ignores, NULL) == CUDA_SUCCESS); /* for each time the graph runs */
    dies(&one);
    CHECK(cuCtxDestroy_v2(ctx) == CUDA_SUCCESS);
    second();
    CHECK(cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, sizeof data) == CUDA_SUCCESS);
    pthread_mutex_lock(&two.lock);
    two.silent = true;
    pthread_mutex_unlock(&two.lock);
    for (int i = 0; i < 3; i++)
        CHECK(cuMemcpyHtoD_v2(at, data, sizeof data) == CUDA_SUCCESS);
    CHECK(cuMemcpyHtoDAsync_v2(at, pinned, 4096, NULL) == CUDA_SUCCESS);
    CHECK(peer_count(&two, HARP_OP_cuStreamSynchronize, NULL) == 0); /* nobody may write there */
    CHECK(cuGraphCreate(&g, 0) == CUDA_SUCCESS);
    CHECK(cuGraphInstantiateWithFlags(&runs, g, 0) == CUDA_SUCCESS);
    CHECK(cuGraphLaunch(runs, NULL) == CUDA_SUCCESS);
    unsigned wanted = peer_wanted(&two);
    CHECK(cuGraphLaunch(runs, NULL) == CUDA_SUCCESS && peer_wanted(&two) == wanted);
}

static pthread_barrier_t step;

static void *has_a_stack(void *ctx)
{
    CUcontext got = ctx;
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    CHECK(cuCtxGetCurrent(&got) == CUDA_SUCCESS && got == NULL);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS); /* the peer's to refuse */
    return NULL;
}

/* The names that workers give are the same in each session: what was on a stack is not what another
 * calls so. */
static void stacks_are_of_one_session(void)
{
    CUcontext p = NULL, now = NULL, got = NULL;
    pthread_t other;
    peer_start(&one, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS && cuDevicePrimaryCtxRetain(&p, 0) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(p) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(pthread_barrier_init(&step, NULL, 2) == 0);
    CHECK(pthread_create(&other, NULL, has_a_stack, p) == 0);
    pthread_barrier_wait(&step);
    dies(&one);
    CHECK(cuDevicePrimaryCtxRelease_v2(0) == CUDA_SUCCESS);
    second();
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&now, 0) == CUDA_SUCCESS && now != p);
    pthread_barrier_wait(&step);
    pthread_join(other, NULL);
    CHECK(cuCtxGetCurrent(&got) == CUDA_SUCCESS && got == NULL);
    CHECK(peer_count(&two, HARP_OP_cuCtxSetCurrent, NULL) == 0);
    CHECK(cuCtxSetCurrent(now) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(peer_count(&two, HARP_OP_cuCtxSetCurrent, NULL) == 1);
}

static uint32_t ran, go_on; /* atomic */

static void waits_for_us(void *data)
{
    (void)data;
    __atomic_add_fetch(&ran, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&go_on, __ATOMIC_SEQ_CST))
        usleep(1000);
}

static size_t shared_of(int threads)
{
    (void)threads;
    waits_for_us(NULL);
    return 0;
}

static void *asks(void *ctx)
{
    int blocks = 0, threads = 0;
    CUfunction f = NULL;
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&f, loaded(), "k") == CUDA_SUCCESS);
    CHECK(cuOccupancyMaxPotentialBlockSize(&blocks, &threads, f, shared_of, 0, 0) != CUDA_SUCCESS);
    return NULL;
}

static void comes_back_first(CUcontext ctx)
{
    while (!__atomic_load_n(&ran, __ATOMIC_SEQ_CST))
        usleep(1000);
    dies(&one);
    CHECK(cuCtxDestroy_v2(ctx) == CUDA_SUCCESS);
    second();
    CHECK(cuInit(0) == CUDA_ERROR_DEVICE_UNAVAILABLE); /* in 2 s; the peer loses this client */
    pthread_join(two.thread, NULL);
    __atomic_store_n(&go_on, 1, __ATOMIC_SEQ_CST);
    peer_start_at(&many[0], one.path, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
}

static void a_call_comes_back_first(void)
{
    CUcontext ctx = begin();
    pthread_t other;
    CHECK(pthread_create(&other, NULL, asks, ctx) == 0);
    comes_back_first(ctx);
    pthread_join(other, NULL);
}

static void a_host_function_comes_back_first(void)
{
    CUcontext ctx = begin();
    CHECK(cuLaunchHostFunc(NULL, waits_for_us, NULL) == CUDA_SUCCESS);
    comes_back_first(ctx);
    CHECK(cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS);
    CHECK(cuLaunchHostFunc(NULL, waits_for_us, NULL) == CUDA_SUCCESS);
    while (__atomic_load_n(&ran, __ATOMIC_SEQ_CST) != 2)
        usleep(1000);
}

/* An answer is put where its call was read from: the peer has read it in between, through memory
 * that TSan does not follow. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:reply_came";
}

static uint32_t finished; /* atomic */

static void *calls_all_the_time(void *arg)
{
    char name[32];
    while (!__atomic_load_n(&finished, __ATOMIC_RELAXED)) {
        int n = 0;
        CUdeviceptr at;
        CUdevice dev;
        CUevent e;
        CUresult r = cuDeviceGetCount(&n);
        CHECK((r == CUDA_SUCCESS && n > 0) || r == CUDA_ERROR_DEVICE_UNAVAILABLE);
        r = cuDeviceGetName(name, sizeof name, 0);
        CHECK(r != CUDA_SUCCESS || strcmp(name, "Another") == 0 || strcmp(name, "The first") == 0);
        cuDeviceGet(&dev, 0);
        cuCtxSynchronize();
        cuEventCreate(&e, 0);
        cuMemAlloc_v2(&at, 4096);
    }
    return arg;
}

/* Others go on calling while sessions end and begin. */
static void with_threads_in_it(void)
{
    pthread_t all[3];
    peer_start(&one, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&all[i], NULL, calls_all_the_time, NULL) == 0);
    struct peer *last = &one;
    for (int i = 0; i < 8; i++) {
        usleep(20000);
        peer_start_at(&many[i], one.path, answer);
        dies(last);
        while (cuInit(0) != CUDA_SUCCESS)
            ;
        last = &many[i];
    }
    usleep(20000);
    __atomic_store_n(&finished, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++)
        pthread_join(all[i], NULL);
    CHECK(peer_wanted(last) > 0);
}

static const struct peer_scenario scenarios[] = {
    {"not_under_living_contexts", not_under_living_contexts},
    {"not_under_a_created_one", not_under_a_created_one},
    {"contexts_of_a_dead_session_end_here", contexts_of_a_dead_session_end_here},
    {"each_way_to_begin", each_way_to_begin},
    {"nothing_is_left", nothing_is_left},
    {"nothing_is_under_way", nothing_is_under_way},
    {"stacks_are_of_one_session", stacks_are_of_one_session},
    {"a_call_comes_back_first", a_call_comes_back_first},
    {"a_host_function_comes_back_first", a_host_function_comes_back_first},
    {"with_threads_in_it", with_threads_in_it},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
