/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy IPC of memory and events between processes that know of each other only the 64 bytes.
 */
#include "soft_test.h"

#include <sys/stat.h>

#define LAZY CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS

struct shared {
    _Atomic int step; /* whose turn it is, told by the next number */
    CUipcMemHandle mem, other;
    CUipcEventHandle event;
    uint64_t word;
};

static struct shared *sh;

static void await(int step)
{
    while (atomic_load(&sh->step) < step)
        sleep_ns(MS / 5);
}

static void tell(int step)
{
    atomic_store(&sh->step, step);
}

static unsigned word_at(CUdeviceptr p)
{
    unsigned word;

    OK(cuMemcpyDtoH_v2(&word, p, 4));
    return word;
}

static void mem_exporter(void *arg)
{
    CUdeviceptr small[3], large, back;

    context();
    OK(cuMemAlloc_v2(&large, 5000000));
    OK(cuMemsetD32_v2(large, 11, 1250000));
    for (int i = 0; i < 3; i++) {
        OK(cuMemAlloc_v2(&small[i], 1000));
        OK(cuMemsetD32_v2(small[i], 20 + (unsigned)i, 250));
    }
    OK(cuCtxSynchronize());
    OK(cuIpcGetMemHandle(&sh->mem, large));
    OK(cuIpcGetMemHandle(&sh->other, small[1]));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenMemHandle_v2(&back, sh->mem, LAZY));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(NULL, large));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&sh->mem, large + 5000000));
    tell(1);
    await(2);
    CHECK_IS(777, word_at(large + 4999996));
    OK(cuMemFree_v2(large)); /* while it is mapped there */
    OK(cuMemFree_v2(small[1]));
    CHECK_IS(2 * CONTEXT + GRANULE, used_with_context());
    tell(3);
    await(4);
    OK(cuMemAlloc_v2(&back, 1000)); /* may lie where the other lay: another handle */
    OK(cuIpcGetMemHandle(&sh->mem, back));
    CHECK(memcmp(&sh->mem, &sh->other, sizeof sh->mem) != 0);
    tell(5);
    for (;;)
        sleep_ns(1000 * MS);
}

static void memory(void *arg)
{
    CUipcMemHandle bad;
    CUdeviceptr large, small, again, base;
    CUcontext first, second;
    size_t n;
    pid_t pid;

    sh = shared_page();
    pid = child(mem_exporter, NULL);
    first = context();
    await(1);
    CHECK_IS(2 * CONTEXT + 4 * GRANULE, used_with_context());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcOpenMemHandle_v2(&large, sh->mem, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcOpenMemHandle_v2(NULL, sh->mem, LAZY));
    memset(&bad, 0, sizeof bad);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcOpenMemHandle_v2(&large, bad, LAZY));
    OK(cuIpcOpenMemHandle_v2(&large, sh->mem, LAZY));
    OK(cuIpcOpenMemHandle_v2(&again, sh->mem, LAZY));
    CHECK_IS(large, again);
    OK(cuIpcOpenMemHandle_v2(&small, sh->other, LAZY));
    CHECK_IS(2 * CONTEXT + 4 * GRANULE, used_with_context()); /* importers are not charged */
    CHECK_IS(0, my_ledger().mem_bytes);
    CHECK_IS(11, word_at(large + 2000000));
    CHECK_IS(21, word_at(small + 996));
    OK(cuMemGetAddressRange_v2(&base, &n, large + 4000000));
    CHECK_IS(large, base);
    CHECK_IS(5000000, n);
    OK(cuMemGetAddressRange_v2(&base, &n, small)); /* the whole block */
    CHECK_IS(GRANULE, n);
    CHECK_IS(512 * ((small - base) / 512), small - base);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(large + 4999997, &n, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(large));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&bad, large));
    OK(cuCtxCreate_v2(&second, 0, 0)); /* one context of a device only */
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenMemHandle_v2(&again, sh->mem, LAZY));
    OK(cuCtxDestroy_v2(second));
    OK(cuCtxSetCurrent(first));
    OK(cuMemsetD32_v2(large + 4999996, 777, 1));
    OK(cuCtxSynchronize());
    tell(2);
    await(3);
    word_at(large); /* freed there: nobody's bytes, but no crash */
    OK(cuMemsetD32_v2(large, 5, 1000));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenMemHandle_v2(&again, sh->mem, LAZY));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenMemHandle_v2(&again, sh->other, LAZY));
    tell(4);
    await(5);
    OK(cuIpcOpenMemHandle_v2(&again, sh->mem, LAZY));
    OK(cuIpcCloseMemHandle(again));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    OK(cuMemsetD32_v2(large, 6, 1000));
    CHECK_IS(6, word_at(large + 400));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenMemHandle_v2(&again, sh->mem, LAZY));
    CHECK_IS(CONTEXT, used_with_context());
    OK(cuIpcCloseMemHandle(large));
    CHECK_IS(6, word_at(large + 400)); /* opened twice */
    OK(cuIpcCloseMemHandle(large));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcCloseMemHandle(large));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2(&n, large, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcCloseMemHandle(small + 512));
    OK(cuIpcCloseMemHandle(small));
}

/* ------------------------------------------------------------------------------------ events -- */
static void recorder(void *arg)
{
    CUevent event, local;
    CUipcEventHandle h;
    CUevent same;

    context();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&event, CU_EVENT_INTERPROCESS));
    OK(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&local, CU_EVENT_DISABLE_TIMING));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcGetEventHandle(&h, local));
    OK(cuEventQuery(event)); /* never recorded */
    OK(cuIpcGetEventHandle(&sh->event, event));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenEventHandle(&same, sh->event));
    tell(1);
    await(2);
    launch(NULL, 200 * MS, 0);
    OK(cuEventRecord(event, NULL));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    tell(3);
    OK(cuEventSynchronize(event));
    await(4); /* the other records now */
    OK(cuStreamWaitEvent(NULL, event, 0));
    OK(cuCtxSynchronize());
    CHECK(atomic_load((_Atomic uint64_t *)&sh->word) != 0);
    tell(5);
    await(6);
    launch(NULL, 100000 * MS, 0);
    OK(cuEventRecord(event, NULL));
    tell(7);
    for (;;)
        sleep_ns(1000 * MS);
}

static void set_word(void *arg)
{
    atomic_store((_Atomic uint64_t *)&sh->word, soft_now_ns());
}

static void events(void *arg)
{
    CUevent event, copy;
    CUipcEventHandle bad;
    CUstream stream;
    float ms;
    uint64_t t;
    pid_t pid;

    sh = shared_page();
    pid = child(recorder, NULL);
    context();
    await(1);
    OK(cuIpcOpenEventHandle(&event, sh->event));
    OK(cuIpcOpenEventHandle(&copy, sh->event));
    OK(cuEventDestroy_v2(copy));
    memset(&bad, 0, sizeof bad);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcOpenEventHandle(&copy, bad));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcGetEventHandle(&bad, event));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, event, event));
    OK(cuEventQuery(event));
    tell(2);
    await(3);
    t = soft_now_ns();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuStreamWaitEvent(stream, event, 0));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    OK(cuEventSynchronize(event));
    OK(cuStreamSynchronize(stream));
    CHECK_BETWEEN(20 * MS, 2000 * MS, soft_now_ns() - t);
    OK(cuEventQuery(event));
    launch(stream, 100 * MS, 0);
    OK(cuLaunchHostFunc(stream, set_word, NULL));
    OK(cuEventRecord(event, stream)); /* whoever has it may record it */
    tell(4);
    await(5);
    OK(cuStreamSynchronize(stream));
    tell(6);
    await(7);
    OK(cuStreamWaitEvent(stream, event, 0));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    t = soft_now_ns();
    OK(cuStreamSynchronize(stream)); /* nothing to wait for any more */
    OK(cuEventSynchronize(event));
    OK(cuEventQuery(event));
    CHECK_BETWEEN(0, 2000 * MS, soft_now_ns() - t);
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenEventHandle(&copy, sh->event));
    OK(cuEventRecord(event, stream)); /* and it goes on among those left */
    OK(cuEventSynchronize(event));
    OK(cuEventDestroy_v2(event));
}

static void destroyer(void *arg)
{
    CUevent event;

    context();
    OK(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    OK(cuIpcGetEventHandle(&sh->event, event));
    launch(NULL, 300 * MS, 0);
    OK(cuEventRecord(event, NULL));
    tell(1);
    await(2);
    OK(cuEventDestroy_v2(event));
    OK(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    OK(cuCtxSynchronize());
    tell(3);
    await(4);
}

/* Destroyed where it was made: waiting ends, a handle of it opens nothing. */
static void event_destroyed(void *arg)
{
    CUevent event, copy;
    pid_t pid;

    sh = shared_page();
    pid = child(destroyer, NULL);
    context();
    await(1);
    OK(cuIpcOpenEventHandle(&event, sh->event));
    tell(2);
    OK(cuEventSynchronize(event));
    await(3);
    OK(cuEventQuery(event));
    OK(cuEventRecord(event, NULL));
    OK(cuEventSynchronize(event));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenEventHandle(&copy, sh->event));
    tell(4);
    reap_ok(pid);
}

/* Another user's process: refused with the reason, not by a crash. */
static void other_user(void *arg)
{
    CUdeviceptr p;

    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    context();
    await(1);
    CHECK_IS(CUDA_ERROR_MAP_FAILED, cuIpcOpenMemHandle_v2(&p, sh->mem, LAZY));
}

static void two_users(void *arg)
{
    CUdeviceptr p;
    pid_t pid;

    if (geteuid() != 0) {
        fprintf(stderr, "  not root: left out\n");
        return;
    }
    sh = shared_page();
    CHECK(chmod(test_dir, 01777) == 0);
    pid = child(other_user, NULL);
    context();
    OK(cuMemAlloc_v2(&p, 3 << 20));
    OK(cuIpcGetMemHandle(&sh->mem, p));
    tell(1);
    reap_ok(pid);
}

static void far_exporter(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 3 << 20));
    OK(cuMemsetD32_v2(p, 55, 1000));
    OK(cuCtxSynchronize());
    OK(cuIpcGetMemHandle(&sh->mem, p));
    tell(1);
    await(2);
}

/* Opened on another device: as with peer access, where that can be. */
static void other_device(void *arg)
{
    CUdeviceptr p;
    CUcontext ctx;
    pid_t pid;

    sh = shared_page();
    pid = child(far_exporter, NULL);
    OK(cuInit(0));
    await(1);
    OK(cuCtxCreate_v2(&ctx, 0, 2));
    CHECK_IS(CUDA_ERROR_MAP_FAILED, cuIpcOpenMemHandle_v2(&p, sh->mem, LAZY));
    OK(cuCtxCreate_v2(&ctx, 0, 1));
    OK(cuIpcOpenMemHandle_v2(&p, sh->mem, LAZY));
    CHECK_IS(55, word_at(p + 400));
    OK(cuCtxDestroy_v2(ctx)); /* goes with its context */
    OK(cuCtxCreate_v2(&ctx, 0, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuIpcCloseMemHandle(p));
    tell(2);
    reap_ok(pid);
}

int main(void)
{
    test_run("memory", "tiny", "0", memory);
    test_run("events", "tiny", "0", events);
    test_run("event destroyed", "tiny", "0", event_destroyed);
    test_run("other device", "tiny,tiny,t4-16g", "0", other_device);
    test_run("two users", "tiny", "0", two_users);
    return 0;
}
