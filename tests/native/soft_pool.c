/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory pools: what is reserved and used, what a device gets back, who may have freed memory when.
 */
#include "soft_pool_test.h"

/* --------------------------------------------------------------------------------- accounting --
 */
static void reserved_is_what_the_device_lacks(void *arg)
{
    CUdeviceptr p, q;
    CUmemoryPool pool;
    cuuint64_t zero = 0, one = 1;
    CUstream s;

    context();
    pool = default_pool();
    s = stream();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocAsync(&p, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocAsync(NULL, 1, s));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuMemAllocAsync(&p, 1, (CUstream)(void *)&p));
    CHECK_IS(0, reserved(pool));
    OK(cuMemAllocAsync(&p, 1, s));
    CHECK_IS(0, p % 512);
    CHECK_IS(UNIT, reserved(pool));
    CHECK_IS(UNIT, device_used());
    CHECK_IS(UNIT, my_ledger().mem_bytes);
    CHECK_IS(1, used(pool));
    OK(cuMemAllocAsync(&q, UNIT + 1, s));
    CHECK_IS(3 * UNIT, reserved(pool));
    CHECK_IS(3 * UNIT, device_used());
    CHECK_IS(UNIT + 2, used(pool));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(q + 512, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(0, s));
    OK(cuMemFreeAsync(q, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(q, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(q));
    CHECK_IS(1, used(pool));
    CHECK_IS(3 * UNIT, reserved(pool)); /* until a wait */
    OK(cuStreamSynchronize(s));
    CHECK_IS(UNIT, reserved(pool)); /* the threshold is 0 */
    CHECK_IS(UNIT, device_used());
    CHECK_IS(3 * UNIT, attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH));
    CHECK_IS(UNIT + 2, attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &one));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &zero));
    CHECK_IS(UNIT, attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH));
    CHECK_IS(1, attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &zero));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPoolGetAttribute(pool, (CUmemPool_attribute)9, &zero));
    OK(cuMemFree_v2(p)); /* waits for nothing, and gives nothing back by itself */
    CHECK_IS(0, used(pool));
    CHECK_IS(UNIT, device_used());
    OK(cuCtxSynchronize());
    CHECK_IS(0, reserved(pool));
    CHECK_IS(0, device_used());
}

static void threshold_and_trim(void *arg)
{
    CUdeviceptr p[8];
    CUmemoryPool pool;
    CUstream s;
    CUevent e;

    context();
    pool = default_pool();
    s = stream();
    OK(cuEventCreate(&e, 0));
    set_threshold(pool, 3 * UNIT);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 8; i++)
            OK(cuMemAllocAsync(&p[i], UNIT, s));
        CHECK_IS(8 * UNIT, reserved(pool));
        for (int i = 0; i < 8; i++)
            OK(cuMemFreeAsync(p[i], s));
        OK(cuEventRecord(e, s));
        OK(cuEventSynchronize(e));
        CHECK_IS(3 * UNIT, reserved(pool));
        CHECK_IS(3 * UNIT, device_used());
    }
    OK(cuMemPoolTrimTo(pool, 4 * UNIT)); /* it has less */
    CHECK_IS(3 * UNIT, reserved(pool));
    OK(cuMemPoolTrimTo(pool, UNIT + 1));
    CHECK_IS(2 * UNIT, reserved(pool));
    OK(cuMemPoolTrimTo(pool, 0));
    CHECK_IS(0, device_used());
    /* what is not known to be over stays */
    set_threshold(pool, UINT64_MAX);
    OK(cuMemAllocAsync(&p[0], UNIT, s));
    hold(s);
    OK(cuMemFreeAsync(p[0], s));
    OK(cuMemPoolTrimTo(pool, 0));
    CHECK_IS(UNIT, reserved(pool));
    let_go();
    OK(cuStreamSynchronize(s));
    CHECK_IS(UNIT, reserved(pool));
    OK(cuMemPoolTrimTo(pool, 0));
    CHECK_IS(0, reserved(pool));
    /* a living allocation keeps its unit, not the rest of its chunk */
    OK(cuMemAllocAsync(&p[0], 4 * UNIT, s));
    OK(cuMemFreeAsync(p[0], s));
    OK(cuMemAllocAsync(&p[1], MIB, s));
    CHECK_IS(4 * UNIT, reserved(pool));
    OK(cuStreamSynchronize(s));
    OK(cuMemPoolTrimTo(pool, 0));
    CHECK_IS(UNIT, reserved(pool));
    OK(cuMemsetD8Async(p[1], 7, MIB, s));
    OK(cuMemFreeAsync(p[1], s));
    OK(cuStreamSynchronize(s));
    OK(cuMemPoolTrimTo(pool, 0));
    CHECK_IS(0, device_used());
}

/* -------------------------------------------------------------------------------- who may have it
 */
/* Memory freed in `f`, which is held; then the same size asked for in `s`. True: the same memory.
 */
static bool is_reused(CUstream f, CUstream s, CUdeviceptr *out)
{
    CUdeviceptr p;

    OK(cuMemAllocAsync(&p, UNIT, f));
    hold(f);
    OK(cuMemFreeAsync(p, f));
    OK(cuMemAllocAsync(out, UNIT, s));
    return *out == p;
}

static void done(CUstream f, CUdeviceptr p)
{
    let_go();
    OK(cuMemFree_v2(p));
    OK(cuStreamSynchronize(f));
    OK(cuCtxSynchronize());
    CHECK_IS(0, device_used());
}

static void reuse_by_order(void *arg)
{
    CUdeviceptr p, q;
    CUmemoryPool pool;
    CUstream f, s, via;
    CUevent e, e2;

    context();
    pool = default_pool();
    f = stream();
    s = stream();
    via = stream();
    OK(cuEventCreate(&e, 0));
    OK(cuEventCreate(&e2, 0));
    CHECK(is_reused(f, f, &p)); /* the same stream, at once */
    done(f, p);
    CHECK(!is_reused(f, s, &p)); /* another one, without an order */
    done(f, p);
    CHECK(is_reused(f, f, &p)); /* freed at once, while the stream is where it was */
    OK(cuMemFree_v2(p));
    OK(cuMemAllocAsync(&q, UNIT, s));
    CHECK(q != p);
    done(f, q);
    /* behind an event, also by way of a third stream; not behind one recorded before the free */
    for (int follow = 0; follow < 2; follow++)
        for (int hops = 0; hops < 2; hops++) {
            set_policy(pool, follow, 0, 0);
            OK(cuMemAllocAsync(&p, UNIT, f));
            hold(f);
            OK(cuMemFreeAsync(p, f));
            OK(cuEventRecord(e, f));
            OK(cuStreamWaitEvent(hops == 0 ? s : via, e, 0));
            if (hops == 1) {
                OK(cuEventRecord(e2, via));
                OK(cuStreamWaitEvent(s, e2, 0));
            }
            OK(cuMemAllocAsync(&q, UNIT, s));
            CHECK_IS(follow, q == p);
            done(f, q);
        }
    set_policy(pool, 1, 0, 0);
    OK(cuMemAllocAsync(&p, UNIT, f));
    OK(cuEventRecord(e, f));
    hold(f);
    OK(cuMemFreeAsync(p, f));
    OK(cuStreamWaitEvent(s, e, 0));
    OK(cuMemAllocAsync(&q, UNIT, s));
    CHECK(q != p);
    done(f, q);
    /* an event that was reached already when it was waited for */
    OK(cuMemAllocAsync(&p, UNIT, f));
    OK(cuMemFreeAsync(p, f));
    OK(cuEventRecord(e, f));
    while (cuEventQuery(e) == CUDA_ERROR_NOT_READY)
        sleep_ns(100000);
    OK(cuMemAllocAsync(&q, UNIT, s));
    CHECK(q != p); /* nothing ties `s` to it, and nobody waited */
    OK(cuMemFreeAsync(q, s));
    OK(cuStreamWaitEvent(s, e, 0));
    OK(cuMemAllocAsync(&q, 2 * UNIT, s));
    OK(cuMemFree_v2(q));
    OK(cuCtxSynchronize());
    /* the legacy stream and a blocking one wait for each other */
    OK(cuStreamCreate(&via, CU_STREAM_DEFAULT));
    CHECK(is_reused(via, NULL, &p));
    done(via, p);
    CHECK(is_reused(NULL, via, &p));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(via)); /* the allocation itself waits */
    done(NULL, p);
    set_policy(pool, 0, 0, 0);
    CHECK(!is_reused(via, NULL, &p));
    done(via, p);
}

static void reuse_when_over(void *arg)
{
    CUdeviceptr p, q;
    CUmemoryPool pool;
    CUstream f, s;

    context();
    pool = default_pool();
    f = stream();
    s = stream();
    set_threshold(pool, UINT64_MAX);
    for (int opportunistic = 0; opportunistic < 2; opportunistic++) {
        set_policy(pool, 0, opportunistic, 0);
        OK(cuMemAllocAsync(&p, UNIT, f));
        OK(cuMemFreeAsync(p, f));
        while (cuStreamQuery(f) == CUDA_ERROR_NOT_READY)
            sleep_ns(100000);
        OK(cuMemAllocAsync(&q, UNIT, s));
        CHECK_IS(opportunistic, q == p);
        OK(cuMemFree_v2(q));
        OK(cuCtxSynchronize());
        OK(cuMemPoolTrimTo(pool, 0));
    }
    /* a wait of the host makes it everybody's, whatever the policy */
    set_policy(pool, 0, 0, 0);
    OK(cuMemAllocAsync(&p, UNIT, f));
    OK(cuMemFreeAsync(p, f));
    OK(cuStreamSynchronize(f));
    OK(cuMemAllocAsync(&q, UNIT, s));
    CHECK_IS(p, q);
    OK(cuMemFreeAsync(q, s));
    OK(cuStreamSynchronize(f)); /* which says nothing of `s` */
    OK(cuMemAllocAsync(&p, UNIT, f));
    CHECK(p != q);
}

static void count_one(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void full_device(void *arg)
{
    CUdeviceptr p, q, r;
    CUmemoryPool pool;
    CUstream f, s;
    atomic_int before = 0;
    size_t free_bytes, total;
    uint64_t most;

    context();
    pool = default_pool();
    f = stream();
    s = stream();
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    most = free_bytes / UNIT * UNIT;
    OK(cuMemAllocAsync(&p, most, f));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocAsync(&q, UNIT, f));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&q, UNIT));
    /* only a wait for the other stream's free gives room: it is put into this one */
    set_policy(pool, 0, 0, 1);
    hold(f);
    OK(cuLaunchHostFunc(f, count_one, &before));
    OK(cuMemFreeAsync(p, f));
    OK(cuMemAllocAsync(&q, most, s));
    CHECK_IS(p, q);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
    let_go();
    OK(cuStreamSynchronize(s));
    CHECK_IS(1, before);
    /* not with that policy off */
    set_policy(pool, 0, 0, 0);
    hold(f);
    OK(cuMemFreeAsync(q, f));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocAsync(&q, most, s));
    let_go();
    OK(cuStreamSynchronize(f));
    /* pieces of several chunks, none of them enough: they are made into one */
    set_policy(pool, 1, 1, 1);
    set_threshold(pool, UINT64_MAX);
    OK(cuMemAllocAsync(&p, most / UNIT / 2 * UNIT, s));
    OK(cuMemAllocAsync(&q, most - most / UNIT / 2 * UNIT - UNIT, s));
    OK(cuMemAllocAsync(&r, UNIT, s));
    OK(cuMemFreeAsync(p, s));
    OK(cuMemFreeAsync(q, s));
    OK(cuMemAllocAsync(&p, most - UNIT, s));
    CHECK_IS(most, reserved(pool));
    /* unused pool memory is the pool's until it is trimmed */
    OK(cuMemFreeAsync(p, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&q, 2 * UNIT));
    OK(cuMemPoolTrimTo(pool, 0));
    OK(cuMemAlloc_v2(&q, 2 * UNIT));
    CHECK_IS(3 * UNIT, device_used());
}

int main(void)
{
    test_run("reserved_is_what_the_device_lacks", "tiny", "0", reserved_is_what_the_device_lacks);
    test_run("threshold_and_trim", "tiny", "0", threshold_and_trim);
    test_run("reuse_by_order", "tiny", "0", reuse_by_order);
    test_run("reuse_when_over", "tiny", "0", reuse_when_over);
    test_run("full_device", "tiny", "0", full_device);
    return 0;
}
