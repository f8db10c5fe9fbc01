/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream memory operations, fences of whole contexts and admission by priority under the
 * sanitizers: rings of streams that hand a value on, contexts that go while streams wait.
 */
#include "soft_test.h"

#include <pthread.h>

#include "soft/gpu/memop.h"

static CUstream stream(void)
{
    CUstream s;

    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    return s;
}

static _Atomic int hits;

static void hit(void *data)
{
    atomic_fetch_add(&hits, 1);
}

/* Each stream waits for its number and writes its neighbour's: only all together get round. */
static void a_ring_of_streams_turns(void *arg)
{
    enum { STREAMS = 6, ROUNDS = 40 };
    CUstream s[STREAMS];
    CUdeviceptr words;

    context();
    OK(cuMemAlloc_v2(&words, 4 * STREAMS));
    OK(cuMemsetD32_v2(words, 0, STREAMS));
    OK(cuCtxSynchronize());
    for (int i = STREAMS - 1; i >= 0; i--) {
        s[i] = stream();
        for (cuuint32_t round = 1; round <= ROUNDS; round++) {
            OK(cuStreamWaitValue32_v2(s[i], words + 4 * (unsigned)i, round,
                                      CU_STREAM_WAIT_VALUE_EQ));
            OK(cuLaunchHostFunc(s[i], hit, NULL));
            /* the last one starts the next round, but not one past the end */
            if (i < STREAMS - 1)
                OK(cuStreamWriteValue32_v2(s[i], words + 4 * (unsigned)(i + 1), round, 0));
            else if (round < ROUNDS)
                OK(cuStreamWriteValue32_v2(s[i], words, round + 1, 0));
        }
    }
    sleep_ns(5 * MS);
    CHECK_IS(0, atomic_load(&hits));
    OK(cuStreamWriteValue32_v2(stream(), words, 1, 0));
    OK(cuCtxSynchronize());
    CHECK_IS(STREAMS * ROUNDS, atomic_load(&hits));
}

static void *write_later(void *arg)
{
    sleep_ns(30 * MS);
    __atomic_store_n((uint32_t *)arg, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* A wait holds up its stream, but no other and no other context; the host ends it. */
static void waits_hold_nobody_up(void *arg)
{
    CUcontext one = context(), two;
    CUstream waiting = stream();
    uint32_t *word;
    pthread_t t;
    CUevent before, after;
    float ms;

    OK(cuMemHostAlloc((void **)&word, 4, 0));
    *word = 0;
    OK(cuEventCreate(&before, 0));
    OK(cuEventCreate(&after, 0));
    launch(waiting, MS, 1000000);
    OK(cuEventRecord(before, waiting));
    OK(cuStreamWaitValue32_v2(waiting, (CUdeviceptr)(uintptr_t)word, 1, 0));
    OK(cuEventRecord(after, waiting));
    launch(waiting, MS, 1000000);
    launch(stream(), MS, 1000000);
    OK(cuCtxCreate_v2(&two, 0, 0));
    launch(NULL, 2 * MS, 1000000);
    OK(cuCtxSynchronize());
    OK(cuCtxSetCurrent(one));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(waiting));
    CHECK(pthread_create(&t, NULL, write_later, word) == 0);
    OK(cuStreamSynchronize(waiting));
    pthread_join(t, NULL);
    OK(cuEventElapsedTime(&ms, before, after));
    CHECK_BETWEEN(20, 5000, ms);
    OK(cuCtxDestroy_v2(two));
}

/* Contexts go while streams of them wait for what never comes, from several threads at once. */
static void *make_and_break(void *arg)
{
    for (int i = 0; i < 3; i++) {
        CUcontext ctx;
        CUdeviceptr word;
        CUstream s[3];
        CUevent e;

        OK(cuCtxCreate_v2(&ctx, 0, 0));
        OK(cuMemAlloc_v2(&word, 64));
        OK(cuEventCreate(&e, 0));
        for (int k = 0; k < 3; k++) {
            s[k] = stream();
            OK(cuStreamWaitValue32_v2(s[k], word, 77, CU_STREAM_WAIT_VALUE_EQ));
            launch(s[k], MS, 1000);
            OK(cuEventRecord(e, s[k]));
            OK(cuStreamWaitEvent(NULL, e, 0));
            launch(NULL, MS, 1000);
        }
        OK(cuStreamDestroy_v2(s[1]));
        OK(cuCtxDestroy_v2(ctx));
    }
    return NULL;
}

static void vain_waits_end_with_the_context(void *arg)
{
    pthread_t t[4];

    context();
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&t[i], NULL, make_and_break, NULL) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    launch(NULL, MS, 1000);
    OK(cuCtxSynchronize());
    CHECK_IS(1, my_ledger().launches); /* nothing behind a wait has run */
}

static void *fence_and_record(void *arg)
{
    CUevent e;

    OK(cuCtxSetCurrent(arg));
    OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    for (int i = 0; i < 30; i++) {
        CUstream s = stream();

        launch(s, MS / 20, 1000);
        OK(cuCtxRecordEvent(NULL, e));
        launch(s, MS / 20, 1000);
        OK(cuCtxWaitEvent(NULL, e));
        launch(s, MS / 20, 1000);
        if (i % 4 == 0)
            OK(cuEventSynchronize(e));
        OK(cuStreamDestroy_v2(s));
    }
    OK(cuEventDestroy_v2(e));
    return NULL;
}

static void fences_from_many_threads(void *arg)
{
    CUcontext ctx = context();
    pthread_t t[5];

    for (int i = 0; i < 5; i++)
        CHECK(pthread_create(&t[i], NULL, fence_and_record, ctx) == 0);
    for (int i = 0; i < 5; i++)
        pthread_join(t[i], NULL);
    OK(cuCtxDestroy_v2(ctx));
    CHECK_IS(5 * 90, my_ledger().launches);
}

/* All kernels fill the device. Whoever waits with the best priority is next, in order of arrival
 * among equals, and nobody is forgotten. */
static void priorities_decide_who_is_next(void *arg)
{
    enum { EACH = 8 };
    static const int priority[] = {0, -1, -3, -5};
    CUevent begin, end[4];
    CUstream s[4];
    float last = 0;

    context();
    OK(cuEventCreate(&begin, 0));
    for (int i = 0; i < 4; i++) {
        OK(cuStreamCreateWithPriority(&s[i], CU_STREAM_NON_BLOCKING, priority[i]));
        OK(cuEventCreate(&end[i], 0));
    }
    OK(cuEventRecord(begin, s[0]));
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < EACH; k++)
            launch(s[i], 4 * MS, 1000000);
        OK(cuEventRecord(end[i], s[i]));
    }
    OK(cuCtxSynchronize());
    for (int i = 3; i >= 0; i--) { /* the most urgent stream is through first */
        float ms;

        OK(cuEventElapsedTime(&ms, begin, end[i]));
        CHECK(ms > last);
        last = ms;
    }
    CHECK_BETWEEN(4.0 * 4 * EACH, 40.0 * 4 * EACH, last);
}

int main(void)
{
    test_run("a ring of streams turns", "tiny", "0", a_ring_of_streams_turns);
    test_run("waits hold nobody up", "tiny", "0", waits_hold_nobody_up);
    test_run("vain waits end with the context", "tiny", "0", vain_waits_end_with_the_context);
    test_run("fences from many threads", "tiny", "0", fences_from_many_threads);
    test_run_noisy("priorities decide who is next", "tiny", "0", priorities_decide_who_is_next);
    return 0;
}
