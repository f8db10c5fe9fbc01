/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory pools at random against a model, in many threads, and their ends in every state.
 */
#include "soft_pool_test.h"

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
            sum += l->bytes;
            count++;
        } else if (dice < 93 && count > 0) {
            int i = rand_r(&seed) % count;
            struct live *l = &live[i];
            struct checkpoint *c = malloc(sizeof *c);

            *c = (struct checkpoint){l->p, (unsigned)(l->bytes / 4), l->stamp, &bad};
            OK(cuLaunchHostFunc(s[l->on], check_words, c));
            OK(cuMemFreeAsync(l->p, s[l->on]));
            sum -= l->bytes;
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
            OK(rand_r(&seed) % 8 == 0 ? (cuStreamSynchronize(s), cuMemFree_v2(p[i]))
                                      : cuMemFreeAsync(p[i], s));
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
    OK(cuMemsetD8Async(p, 1, MIB, s));
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
    test_run("random_against_a_model", "tiny", "0", random_against_a_model);
    test_run("eight_threads", "tiny", "0", eight_threads);
    test_run("ends", "tiny", "0", ends);
    test_run("two_devices", "tiny,tiny", "0", two_devices);
    test_run("maxima", "tiny", "0", maxima);
    test_run("killed", "tiny", "0", killed);
    return 0;
}
