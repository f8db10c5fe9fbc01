/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory pools against a model: who may have freed memory when, what is reserved and used, what a
 * device gets back, ends in every state, many threads.
 */
#include "soft_test.h"

#include "soft/gpu/pool.h"

#define MIB  (1ull << 20)
#define UNIT (32 * MIB)

static uint64_t device_used(void)
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    return t - f - 24 * MIB;
}

static CUmemoryPool default_pool(void)
{
    CUmemoryPool pool;

    OK(cuDeviceGetDefaultMemPool(&pool, 0));
    return pool;
}

static uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute which)
{
    cuuint64_t value = 0;

    OK(cuMemPoolGetAttribute(pool, which, &value));
    return value;
}

static uint64_t reserved(CUmemoryPool pool)
{
    return attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
}

static uint64_t used(CUmemoryPool pool)
{
    return attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
}

static void set_policy(CUmemoryPool pool, int follow, int opportunistic, int internal)
{
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &follow));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC, &opportunistic));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &internal));
}

static void set_threshold(CUmemoryPool pool, cuuint64_t bytes)
{
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &bytes));
}

static CUstream stream(void)
{
    CUstream s;

    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    return s;
}

/* Holds its stream until it is let go. */
static atomic_int gate;

static void wait_for_gate(void *arg)
{
    while (atomic_load(&gate) == 0)
        sleep_ns(200000);
}

static void hold(CUstream s)
{
    atomic_store(&gate, 0);
    OK(cuLaunchHostFunc(s, wait_for_gate, NULL));
}

static void let_go(void)
{
    atomic_store(&gate, 1);
}

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
    CHECK_IS(512, used(pool));
    OK(cuMemAllocAsync(&q, UNIT + 1, s));
    CHECK_IS(3 * UNIT, reserved(pool));
    CHECK_IS(3 * UNIT, device_used());
    CHECK_IS(UNIT + 1024, used(pool));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(q + 512, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(0, s));
    OK(cuMemFreeAsync(q, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(q, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(q));
    CHECK_IS(512, used(pool));
    CHECK_IS(3 * UNIT, reserved(pool)); /* until a wait */
    OK(cuStreamSynchronize(s));
    CHECK_IS(UNIT, reserved(pool)); /* the threshold is 0 */
    CHECK_IS(UNIT, device_used());
    CHECK_IS(3 * UNIT, attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH));
    CHECK_IS(UNIT + 1024, attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &one));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &zero));
    CHECK_IS(UNIT, attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH));
    CHECK_IS(512, attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH));
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
    OK(cuMemsetD8_v2(p[1], 7, MIB));
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

/* ------------------------------------------------------------------------------------- a model --
 */
#define MODEL_STREAMS 4
#define MODEL_LIVE    300

struct checkpoint { /* one write or check of a whole allocation, on its stream */
    CUdeviceptr p;
    unsigned words, stamp;
    atomic_int *bad;
};

static void check_words(void *arg)
{
    struct checkpoint *c = arg;
    const unsigned *at = (const unsigned *)(const void *)soft_space_host(c->p);

    for (unsigned i = 0; i < c->words; i += 61)
        if (at[i] != c->stamp)
            atomic_fetch_add(c->bad, 1);
    free(c);
}

/* Each allocation is filled in its stream, and checked there before its free, while the streams run
 * far behind the host: memory had twice at a time, in stream order, shows. */
static void random_against_a_model(void *arg)
{
    struct live {
        CUdeviceptr p;
        size_t bytes;
        unsigned stamp;
        int on;
    } live[MODEL_LIVE];
    CUstream s[MODEL_STREAMS];
    CUmemoryPool pool;
    CUevent e;
    atomic_int bad = 0;
    unsigned seed = 815, stamp = 1;
    int count = 0;
    uint64_t sum = 0;

    context();
    pool = default_pool();
    OK(cuEventCreate(&e, 0));
    for (int i = 0; i < MODEL_STREAMS; i++)
        s[i] = stream();
    for (int step = 0; step < 6000; step++) {
        int dice = rand_r(&seed) % 100;

        if (step % 500 == 0) {
            set_policy(pool, rand_r(&seed) % 2, rand_r(&seed) % 2, rand_r(&seed) % 2);
            set_threshold(pool, (unsigned)rand_r(&seed) % 4u * UNIT);
        }
        if (dice < 50 && count < MODEL_LIVE) {
            struct live *l = &live[count];
            CUresult r;

            l->bytes = 4 + (size_t)(rand_r(&seed) % (dice < 3 ? 40000000 : 60000)) / 4 * 4;
            l->on = rand_r(&seed) % MODEL_STREAMS;
            l->stamp = stamp++;
            r = cuMemAllocAsync(&l->p, l->bytes, s[l->on]);
            if (r == CUDA_ERROR_OUT_OF_MEMORY)
                continue;
            OK(r);
            OK(cuMemsetD32Async(l->p, l->stamp, l->bytes / 4, s[l->on]));
            sum += (l->bytes + 511) / 512 * 512;
            count++;
        } else if (dice < 93 && count > 0) {
            int i = rand_r(&seed) % count;
            struct live *l = &live[i];
            struct checkpoint *c = malloc(sizeof *c);

            *c = (struct checkpoint){l->p, (unsigned)(l->bytes / 4), l->stamp, &bad};
            OK(cuLaunchHostFunc(s[l->on], check_words, c));
            OK(cuMemFreeAsync(l->p, s[l->on]));
            sum -= (l->bytes + 511) / 512 * 512;
            *l = live[--count];
        } else if (dice < 97) {
            int from = rand_r(&seed) % MODEL_STREAMS, to = rand_r(&seed) % MODEL_STREAMS;

            OK(cuEventRecord(e, s[from]));
            OK(cuStreamWaitEvent(s[to], e, 0));
        } else if (dice < 99) {
            OK(cuStreamSynchronize(s[rand_r(&seed) % MODEL_STREAMS]));
        } else {
            OK(cuMemPoolTrimTo(pool, 0));
        }
        CHECK_IS(sum, used(pool));
        if (step % 16 == 0) {
            CHECK_IS(reserved(pool), device_used());
            CHECK(used(pool) <= reserved(pool));
            for (int i = 0; i < count; i++) /* no two overlap at any time, by address */
                for (int j = 0; j < i; j++)
                    CHECK(live[i].p + live[i].bytes <= live[j].p ||
                          live[j].p + live[j].bytes <= live[i].p);
        }
    }
    while (count > 0) {
        count--;
        OK(cuMemFreeAsync(live[count].p, s[live[count].on]));
    }
    set_threshold(pool, 0);
    OK(cuCtxSynchronize());
    CHECK_IS(0, bad);
    CHECK_IS(0, used(pool));
    CHECK_IS(0, device_used());
}

static void *one_thread(void *arg)
{
    CUmemoryPool pool = arg;
    CUcontext ctx;
    unsigned seed = (unsigned)(uintptr_t)&ctx;
    CUstream s;
    CUdeviceptr p[16] = {0};

    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    s = stream();
    for (int step = 0; step < 800; step++) {
        int i = rand_r(&seed) % 16;

        if (p[i] == 0) {
            OK(cuMemAllocFromPoolAsync(&p[i], 1 + (size_t)rand_r(&seed) % 300000, pool, s));
            OK(cuMemsetD8Async(p[i], 1, 1, s));
        } else {
            OK(rand_r(&seed) % 8 == 0 ? cuMemFree_v2(p[i]) : cuMemFreeAsync(p[i], s));
            p[i] = 0;
        }
        if (step % 64 == 0)
            OK(cuStreamSynchronize(s));
        if (step % 100 == 0)
            OK(cuMemPoolTrimTo(pool, 0));
    }
    for (int i = 0; i < 16; i++)
        if (p[i] != 0)
            OK(cuMemFreeAsync(p[i], s));
    OK(cuStreamSynchronize(s));
    OK(cuStreamDestroy_v2(s));
    return NULL;
}

static void eight_threads(void *arg)
{
    pthread_t threads[8];
    CUmemoryPool pool;
    CUcontext ctx;

    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    pool = default_pool();
    for (int i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, one_thread, pool) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    CHECK_IS(0, used(pool));
    OK(cuCtxSynchronize());
    CHECK_IS(0, reserved(pool));
    CHECK_IS(0, device_used());
}

/* ---------------------------------------------------------------------------------------- ends --
 */
static CUmemPoolProps props_of(CUmemAllocationHandleType handles)
{
    return (CUmemPoolProps){.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .handleTypes = handles,
                            .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
}

static void ends(void *arg)
{
    CUmemPoolProps props = props_of(CU_MEM_HANDLE_TYPE_NONE);
    CUcontext ctx = context(), second;
    CUmemoryPool pool, now;
    CUdeviceptr p, q, linear;
    CUstream s = stream();

    /* destroyed with an allocation: it goes when that is freed, and that free is over */
    OK(cuMemPoolCreate(&pool, &props));
    OK(cuDeviceSetMemPool(0, pool));
    OK(cuMemAllocAsync(&p, MIB, s));
    OK(cuMemPoolDestroy(pool));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPoolDestroy(pool));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPoolTrimTo(pool, 0));
    OK(cuDeviceGetMemPool(&now, 0));
    CHECK(now == default_pool());
    CHECK_IS(UNIT, device_used());
    OK(cuMemsetD8_v2(p, 1, MIB));
    hold(s);
    OK(cuMemFreeAsync(p, s));
    CHECK_IS(UNIT, device_used());
    let_go();
    for (int i = 0; device_used() != 0 && i < 2000; i++)
        sleep_ns(MS); /* no wait is needed */
    CHECK_IS(0, device_used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPoolDestroy(default_pool()));
    /* memory of cuMemAlloc, freed in stream order */
    OK(cuMemAlloc_v2(&linear, 3 * MIB));
    hold(s);
    OK(cuMemFreeAsync(linear, s));
    CHECK_IS(4 * MIB, device_used());
    let_go();
    OK(cuStreamSynchronize(s));
    CHECK_IS(0, device_used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(linear));
    /* a stream destroyed behind its free */
    OK(cuMemAllocAsync(&p, MIB, s));
    hold(s);
    OK(cuMemFreeAsync(p, s));
    OK(cuStreamDestroy_v2(s));
    let_go();
    OK(cuCtxSynchronize());
    CHECK_IS(0, device_used());
    /* contexts: pools are the device's, until its last one goes */
    s = stream();
    OK(cuMemAllocAsync(&p, MIB, s));
    OK(cuMemPoolCreate(&pool, &props));
    OK(cuMemAllocFromPoolAsync(&q, 3 * UNIT, pool, s));
    OK(cuCtxCreate_v2(&second, 0, 0));
    OK(cuCtxDestroy_v2(ctx));
    CHECK_IS(4 * UNIT, device_used());
    OK(cuMemsetD8_v2(p, 3, MIB));
    OK(cuMemFree_v2(q));
    OK(cuMemPoolDestroy(pool));
    OK(cuMemPoolCreate(&pool, &props));
    s = stream();
    OK(cuMemAllocFromPoolAsync(&q, MIB, pool, s));
    hold(s);
    OK(cuMemFreeAsync(q, s));
    let_go();
    OK(cuCtxDestroy_v2(second));
    CHECK_IS(0, reserved(pool));
    CHECK_IS(0, reserved(default_pool()));
    context();
    CHECK_IS(0, device_used());
    s = stream();
    OK(cuMemAllocFromPoolAsync(&q, MIB, pool, s)); /* and goes on */
    CHECK_IS(UNIT, device_used());
}

static void maxima(void *arg)
{
    CUmemPoolProps props = props_of(CU_MEM_HANDLE_TYPE_NONE);
    CUmemoryPool pool;
    CUdeviceptr p, q;
    CUstream s;

    context();
    s = stream();
    props.maxSize = UNIT + 1; /* rounded up */
    OK(cuMemPoolCreate(&pool, &props));
    OK(cuMemAllocFromPoolAsync(&p, UNIT + 1, pool, s));
    OK(cuMemAllocFromPoolAsync(&q, MIB, pool, s));
    CHECK_IS(2 * UNIT, reserved(pool));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocFromPoolAsync(&q, UNIT, pool, s));
    OK(cuMemFreeAsync(p, s));
    OK(cuMemAllocFromPoolAsync(&q, UNIT, pool, s));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocFromPoolAsync(&q, SIZE_MAX, pool, s));
}

static void two_devices(void *arg)
{
    CUmemPoolProps props = props_of(CU_MEM_HANDLE_TYPE_NONE);
    CUmemAccessDesc peer = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_MAX;
    CUcontext ctx = context(), second;
    CUmemoryPool pool;
    CUdeviceptr p;
    CUstream s = stream();
    int can = 0, where = -1;

    OK(cuCtxCreate_v2(&second, 0, 1));
    props.location.id = 1;
    OK(cuMemPoolCreate(&pool, &props));
    OK(cuMemPoolGetAccess(&flags, pool, &peer.location));
    CHECK_IS(CU_MEM_ACCESS_FLAGS_PROT_NONE, flags);
    /* from a stream of the other device: the memory is where the pool is */
    OK(cuMemAllocFromPoolAsync(&p, MIB, pool, s));
    OK(cuPointerGetAttribute(&where, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, p));
    CHECK_IS(1, where);
    CHECK_IS(UNIT, device_used()); /* of device 1, whose context is current */
    OK(cuCtxSetCurrent(ctx));
    CHECK_IS(0, device_used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuDeviceSetMemPool(0, pool));
    OK(cuDeviceCanAccessPeer(&can, 0, 1));
    CHECK_IS(can ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE, cuMemPoolSetAccess(pool, &peer, 1));
    OK(cuMemPoolGetAccess(&flags, pool, &peer.location));
    CHECK_IS(can ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE, flags);
    OK(cuMemFreeAsync(p, s));
    OK(cuStreamSynchronize(s));
    OK(cuCtxSetCurrent(second));
    CHECK_IS(0, device_used());
    OK(cuMemAllocFromPoolAsync(&p, MIB, pool, s));
    OK(cuCtxDestroy_v2(second)); /* the last one of the pool's device */
    CHECK_IS(0, reserved(pool));
}

/* A child that is killed in the middle of it all leaves nothing behind. */
static void be_killed(void *arg)
{
    CUmemPoolProps props = props_of(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    CUmemoryPool pool;
    CUdeviceptr p;
    CUstream s;

    context();
    s = stream();
    OK(cuMemPoolCreate(&pool, &props));
    for (int i = 0; i < 4; i++) {
        OK(cuMemAllocAsync(&p, UNIT, s));
        OK(cuMemAllocFromPoolAsync(&p, UNIT, pool, s));
    }
    hold(s);
    OK(cuMemFreeAsync(p, s));
    CHECK_IS(8 * UNIT, device_used());
    kill(getpid(), SIGKILL);
}

static void killed(void *arg)
{
    pid_t pid = child(be_killed, NULL);
    int status;

    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    context();
    for (int i = 0; device_used() != 0 && i < 2000; i++)
        sleep_ns(MS);
    CHECK_IS(0, device_used());
}

int main(void)
{
    test_run("reserved_is_what_the_device_lacks", "tiny", "0", reserved_is_what_the_device_lacks);
    test_run("threshold_and_trim", "tiny", "0", threshold_and_trim);
    test_run("reuse_by_order", "tiny", "0", reuse_by_order);
    test_run("reuse_when_over", "tiny", "0", reuse_when_over);
    test_run("full_device", "tiny", "0", full_device);
    test_run("random_against_a_model", "tiny", "0", random_against_a_model);
    test_run("eight_threads", "tiny", "0", eight_threads);
    test_run("ends", "tiny", "0", ends);
    test_run("two_devices", "tiny,tiny", "0", two_devices);
    test_run("maxima", "tiny", "0", maxima);
    test_run("killed", "tiny", "0", killed);
    return 0;
}
