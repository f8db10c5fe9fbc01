/* SPDX-License-Identifier: Apache-2.0
 *
 * Managed memory on its way: where granules count as being, who is charged, what is evicted.
 */
#include "soft_managed_test.h"

#include <pthread.h>

/* 1.5 GiB of managed memory on a device of 1 GiB. */
static void more_than_the_device(void *arg)
{
    const uint64_t bytes = 1536 * MIB;
    CUdeviceptr p, q, extra;
    uint64_t ns, before;
    unsigned sum = 0;
    CUcontext other;
    size_t f, t;

    context();
    before = used_with_context();
    p = managed(bytes);
    OK(cuMemGetInfo_v2(&f, &t));
    touch(p, bytes, 1, NULL);
    CHECK_IS(t, used_with_context()); /* full, and no more */
    OK(cuCtxCreate_v2(&other, 0, 0)); /* a context finds its room all the same */
    CHECK_IS(t, used_with_context());
    OK(cuCtxDestroy_v2(other));
    touch(p, bytes, 1, NULL);
    CHECK_IS(t, used_with_context());
    for (uint64_t at = 0; at < bytes; at += GRANULE) /* pages there are: what moves costs time */
        CHECK_IS(1, host(p)[at]);
    ns = touch(p, bytes, -1, &sum);
    CHECK_IS(bytes / 4096, sum);
    /* all of it came in, and as much went out: 3 GiB over 10 bytes/ns */
    CHECK_BETWEEN(300e6, 340e6, ns);
    /* what asked last stays: the first granules are on the host, the last on the device */
    CHECK(touch(p + bytes - 100 * GRANULE, 100 * GRANULE, -1, NULL) == 0);
    CHECK(touch(p, GRANULE, -1, NULL) > 0);
    /* memory that cannot be evicted goes before memory that can */
    OK(cuMemAlloc_v2(&q, 900 * MIB));
    CHECK_IS(t, used_with_context());
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&extra, 101 * MIB));
    CHECK_IS(before + 900 * MIB, used_with_context()); /* it tried */
    sum = 0;
    touch(p, bytes, -1, &sum);
    CHECK_IS(bytes / 4096, sum);
    OK(cuMemAlloc_v2(&extra, 100 * MIB));
    CHECK_IS(t, used_with_context());
    /* nothing left for managed memory: it is reached on the host */
    sum = 0;
    touch(p, 50 * GRANULE, -1, &sum);
    CHECK_IS(50 * GRANULE / 4096, sum);
    CHECK_IS(t, used_with_context());
    OK(cuMemFree_v2(q));
    OK(cuMemFree_v2(extra));
    OK(cuMemFree_v2(p));
    CHECK_IS(before, used_with_context());
}

static int last_prefetch(CUdeviceptr p, uint64_t bytes)
{
    int to = 99;

    OK(cuMemRangeGetAttribute(&to, 4, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, p, bytes));
    return to;
}

static void prefetches(void *arg)
{
    CUmemLocation nowhere = {0}, node9 = {CU_MEM_LOCATION_TYPE_HOST_NUMA, 9};
    CUmemLocation where[2] = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, {CU_MEM_LOCATION_TYPE_HOST, 0}};
    CUdeviceptr p, q, ptrs[2];
    size_t sizes[2] = {4 * GRANULE, 2 * GRANULE}, first[2] = {0, 1};
    CUevent a, b;
    CUstream s;
    uint64_t before;
    float ms;

    context();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    before = used_with_context();
    p = managed(8 * GRANULE);
    q = managed(4 * GRANULE);
    CHECK_IS(CU_DEVICE_INVALID, last_prefetch(p, 8 * GRANULE));
    memset(host(p), 3, 8 * GRANULE);
    OK(cuEventRecord(a, s));
    OK(cuMemPrefetchAsync(p, 8 * GRANULE, 0, s));
    OK(cuEventRecord(b, s));
    OK(cuStreamSynchronize(s));
    OK(cuEventElapsedTime(&ms, a, b));
    CHECK_BETWEEN(1.67, 30.0, ms); /* 16 MiB over 10 bytes/ns */
    CHECK_IS(before + 8 * GRANULE, used_with_context());
    CHECK_IS(0, last_prefetch(p, 8 * GRANULE));
    CHECK_IS(0, touch(p, 8 * GRANULE, 4, NULL));
    OK(cuMemPrefetchAsync(p, GRANULE, CU_DEVICE_CPU, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 7 * GRANULE, used_with_context());
    CHECK_IS(CU_DEVICE_CPU, last_prefetch(p, GRANULE));
    CHECK_IS(CU_DEVICE_INVALID, last_prefetch(p, 2 * GRANULE));
    CHECK_IS(4, host(p)[4096]);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuMemPrefetchAsync(p, GRANULE, 1, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(p, 0, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(p, 8 * GRANULE + 1, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(p, GRANULE, where[0], 1, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(p, GRANULE, nowhere, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(p, GRANULE, node9, 0, s));
    /* batches: p's first half stays or comes, q's is nowhere and goes to the host */
    ptrs[0] = p;
    ptrs[1] = q;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 0, NULL));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 1, s));
    first[1] = 2;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 0, s));
    first[1] = 1;
    OK(cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 0, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 8 * GRANULE, used_with_context());
    CHECK_IS(CU_DEVICE_CPU, last_prefetch(q, 2 * GRANULE));
    OK(cuMemDiscardBatchAsync(ptrs, sizes, 2, 0, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 4 * GRANULE, used_with_context());
    OK(cuMemDiscardAndPrefetchBatchAsync(ptrs, sizes, 2, where, first, 1, 0, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 10 * GRANULE, used_with_context());
    CHECK_IS(4, host(p)[4 * GRANULE]); /* what was not discarded */
    /* freed before it runs: nothing to do */
    OK(cuMemPrefetchAsync(q, 4 * GRANULE, 0, s));
    OK(cuMemFree_v2(q));
    OK(cuMemFree_v2(p));
    CHECK_IS(before, used_with_context());
}

/* Copies of read-mostly memory are dropped like others when room is wanted, and come back. */
static void duplicates_are_evicted(void *arg)
{
    const uint64_t bytes = 600 * MIB;
    CUdeviceptr p, q;
    unsigned sum = 0;
    uint64_t before;

    context();
    before = used_with_context();
    p = managed(bytes);
    q = managed(bytes);
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    memset(host(p), 1, bytes);
    touch(p, bytes, -1, NULL);
    CHECK_IS(before + bytes, used_with_context());
    touch(q, bytes, 1, NULL); /* 200 MiB too much */
    CHECK_IS(1024 * MIB, used_with_context());
    CHECK(touch(p, 200 * MIB, -1, &sum) >= 200 * MIB / 10);
    CHECK_IS(200 * MIB / 4096, sum);
    CHECK_IS(1024 * MIB, used_with_context());
    OK(cuMemFree_v2(q));
    CHECK(used_with_context() < before + bytes + 1);
    touch(p, bytes, -1, NULL);
    CHECK_IS(before + bytes, used_with_context());
}

/* A kernel runs while another thread evicts what it uses, over and over: no byte is lost. */
static void *pull(void *arg)
{
    CUdeviceptr p = *(CUdeviceptr *)arg;
    CUcontext ctx;
    CUstream s;

    OK(cuCtxCreate_v2(&ctx, 0, 0));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 300; i++) {
        OK(cuMemPrefetchAsync(p, 8 * GRANULE, i % 2 == 0 ? CU_DEVICE_CPU : 0, s));
        OK(cuStreamSynchronize(s));
    }
    return NULL;
}

static void pulled_away(void *arg)
{
    CUdeviceptr p;
    pthread_t thread;
    unsigned rounds = 0;

    context();
    p = managed(8 * GRANULE);
    CHECK_IS(0, pthread_create(&thread, NULL, pull, &p));
    for (; rounds < 200; rounds++) {
        unsigned sum = 0;

        touch(p, 8 * GRANULE, (int)(rounds % 100), NULL);
        touch(p, 8 * GRANULE, -1, &sum);
        CHECK_IS(8 * GRANULE / 4096 * (rounds % 100), sum);
    }
    CHECK_IS(0, pthread_join(thread, NULL));
}

static void hold(void *arg)
{
    volatile int *ready = arg;
    CUdeviceptr p;

    context();
    p = managed(64 * GRANULE);
    touch(p, 64 * GRANULE, 1, NULL);
    *ready = 1;
    pause();
}

/* A killed process leaves nothing charged. */
static void killed(void *arg)
{
    volatile int *ready = shared_page();
    pid_t pid = child(hold, (void *)(uintptr_t)ready);
    uint64_t before;
    size_t f, t;

    while (*ready == 0)
        sleep_ns(MS);
    context();
    OK(cuMemGetInfo_v2(&f, &t));
    before = t - f;
    CHECK_IS(64 * GRANULE + 2 * (24ull << 20), before);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
    for (int i = 0; i < 200 && used_with_context() != 24ull << 20; i++)
        sleep_ns(10 * MS);
    CHECK_IS(24ull << 20, used_with_context());
}

int main(void)
{
    test_run("more than the device", "tiny", "0", more_than_the_device);
    test_run_noisy("prefetches", "tiny", "0", prefetches);
    test_run("duplicates are evicted", "tiny", "0", duplicates_are_evicted);
    test_run("pulled away", "tiny", "0", pulled_away);
    test_run("killed", "tiny", "0", killed);
    return 0;
}
