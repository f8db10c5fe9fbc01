/* SPDX-License-Identifier: Apache-2.0
 *
 * Order: streams, events, default streams, host functions, contexts, errors that stick.
 */
#include "soft_test_gate.h"

#include <pthread.h>

static _Atomic int trace_count;
static int trace[64];

static void mark(void *data)
{
    trace[atomic_fetch_add(&trace_count, 1)] = (int)(intptr_t)data;
}

static void at(CUstream s, int number)
{
    OK(cuLaunchHostFunc(s, mark, (void *)(intptr_t)number));
}

static void expect_trace(const int *want, int count)
{
    CHECK_IS(count, atomic_load(&trace_count));
    for (int i = 0; i < count; i++)
        CHECK_IS(want[i], trace[i]);
    atomic_store(&trace_count, 0);
}

#define EXPECT(...)                                                                                \
    do {                                                                                           \
        int want_[] = {__VA_ARGS__};                                                               \
        expect_trace(want_, (int)(sizeof want_ / sizeof want_[0]));                                \
    } while (0)

static void legacy_stream_is_a_barrier(void *arg)
{
    CUstream blocking, free_running;

    context();
    blocking = stream(CU_STREAM_DEFAULT);
    free_running = stream(CU_STREAM_NON_BLOCKING);
    /* a blocking stream, then legacy, then blocking: in that order */
    launch(blocking, 20 * MS, 1000);
    at(blocking, 1);
    at(NULL, 2);
    at(blocking, 3);
    OK(cuCtxSynchronize());
    EXPECT(1, 2, 3);
    /* the non-blocking one waits for nobody */
    launch(NULL, MS, 1000);
    gate(NULL, 1);
    at(NULL, 1);
    at(free_running, 2);
    OK(cuStreamSynchronize(free_running));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    open_gate(1);
    OK(cuCtxSynchronize());
    EXPECT(2, 1);
    /* synchronising the legacy stream waits for blocking ones, not for the other */
    gate(free_running, 2);
    launch(blocking, 10 * MS, 1000);
    at(blocking, 1);
    OK(cuStreamSynchronize(NULL));
    EXPECT(1);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(free_running));
    OK(cuStreamQuery(blocking));
    OK(cuStreamQuery(NULL));
    open_gate(2);
    OK(cuCtxSynchronize());
    OK(cuStreamQuery(free_running));
    /* the legacy stream is as busy as the blocking ones, though it holds nothing itself */
    gate(blocking, 3);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    open_gate(3);
    OK(cuCtxSynchronize());
}

static void *other_thread(void *arg)
{
    OK(cuCtxSetCurrent(arg));
    gate(CU_STREAM_PER_THREAD, 1);
    at(CU_STREAM_PER_THREAD, 1);
    return NULL;
}

static void per_thread_streams(void *arg)
{
    CUcontext ctx = context();
    pthread_t t;
    struct soft_stream *a, *b;

    CHECK(pthread_create(&t, NULL, other_thread, ctx) == 0);
    pthread_join(t, NULL); /* its work outlives it */
    at(CU_STREAM_PER_THREAD, 2);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    EXPECT(2);
    open_gate(1);
    OK(cuCtxSynchronize());
    EXPECT(1);
    /* it is ordered with the legacy stream */
    launch(CU_STREAM_PER_THREAD, 20 * MS, 1000);
    at(CU_STREAM_PER_THREAD, 1);
    at(CU_STREAM_LEGACY, 2);
    at(CU_STREAM_PER_THREAD, 3);
    OK(cuCtxSynchronize());
    EXPECT(1, 2, 3);
    /* NULL means the one or the other by the entry point's flavour */
    OK(soft_stream_of(NULL, &a));
    soft_per_thread_default_set(true);
    OK(soft_stream_of(NULL, &b));
    soft_per_thread_default_set(false);
    CHECK(soft_stream_is_legacy(a) && !soft_stream_is_legacy(b));
}

static void events_order_streams(void *arg)
{
    CUstream a, b;
    CUevent e;

    context();
    a = stream(CU_STREAM_NON_BLOCKING);
    b = stream(CU_STREAM_NON_BLOCKING);
    OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    OK(cuStreamWaitEvent(b, e, 0)); /* never recorded: no wait */
    OK(cuEventQuery(e));
    gate(a, 1);
    at(a, 1);
    OK(cuEventRecord(e, a));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuEventQuery(e));
    OK(cuStreamWaitEvent(b, e, 0));
    at(b, 2);
    /* recorded again: the wait above means the first record */
    gate(a, 2);
    OK(cuEventRecord(e, a));
    open_gate(1);
    OK(cuStreamSynchronize(b));
    EXPECT(1, 2);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuEventQuery(e));
    /* a record that is replaced by one in an idle stream */
    OK(cuEventRecord(e, b));
    OK(cuEventSynchronize(e));
    OK(cuEventQuery(e));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    /* a stream destroyed with work: the work is done all the same */
    at(a, 3);
    OK(cuStreamDestroy_v2(a));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(a));
    OK(cuEventDestroy_v2(e));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuEventQuery(e));
    open_gate(2);
    OK(cuCtxSynchronize());
    EXPECT(3);
}

static void event_times(void *arg)
{
    CUevent a, b, silent;
    CUstream s;
    float ms;

    context();
    s = stream(CU_STREAM_NON_BLOCKING);
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, CU_EVENT_BLOCKING_SYNC));
    OK(cuEventCreate(&silent, CU_EVENT_DISABLE_TIMING));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&a, 64));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, b)); /* not recorded */
    gate(s, 1);
    OK(cuEventRecord(a, s));
    OK(cuEventRecord(silent, s));
    launch(s, 25 * MS, 0);
    OK(cuEventRecord(b, s));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&ms, a, b));
    open_gate(1);
    OK(cuEventSynchronize(b));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, silent, b));
    OK(cuEventElapsedTime(&ms, a, b));
    CHECK_BETWEEN(25.0, 45, ms);
    OK(cuEventElapsedTime_v2(&ms, b, a));
    CHECK_BETWEEN(-45, -25.0, ms);
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuEventRecord((CUevent)(void *)&ms, s));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuStreamWaitEvent((CUstream)(void *)&ms, a, 0));
}

/* What is queued behind an engine's work starts at that work's end, not when a thread woke: a chain
 * over two streams and both copy engines adds up. */
static void chains_add_up(void *arg)
{
    CUstream s[2];
    CUevent first, last, link;
    float ms;

    context();
    OK(cuEventCreate(&first, 0));
    OK(cuEventCreate(&last, 0));
    OK(cuEventCreate(&link, CU_EVENT_DISABLE_TIMING));
    for (int i = 0; i < 2; i++)
        s[i] = stream(CU_STREAM_NON_BLOCKING);
    gate(s[0], 1);       /* all is submitted before any of it starts */
    launch(s[0], MS, 0); /* gets the engine, which may take a while */
    OK(cuEventRecord(first, s[0]));
    for (int i = 0; i < 20; i++) {
        launch(s[i % 2], MS, 1000);
        OK(cuEventRecord(link, s[i % 2]));
        OK(cuStreamWaitEvent(s[(i + 1) % 2], link, 0));
    }
    OK(cuEventRecord(last, s[0]));
    open_gate(1);
    OK(cuCtxSynchronize());
    OK(cuEventElapsedTime(&ms, first, last));
    /* a thread that stood still while its kernel executed made it longer, as the ledger tells */
    CHECK_BETWEEN(19.99, 21 + (double)my_ledger().overrun_ns / 1e6, ms);
}

static void *open_first_gate_later(void *arg)
{
    sleep_ns(50 * MS);
    open_gate(1);
    return NULL;
}

static void full_queue_blocks(void *arg)
{
    pthread_t later;
    CUstream s;

    context();
    s = stream(CU_STREAM_NON_BLOCKING);
    gate(s, 1);
    for (int i = 0; i < SOFT_QUEUE_DEPTH - 1; i++)
        launch(s, 1000, 0);
    CHECK(pthread_create(&later, NULL, open_first_gate_later, NULL) == 0);
    launch(s, 1000, 0);
    CHECK_IS(1, atomic_load(&gates_open));
    launch(s, 1000, 0);
    OK(cuCtxSynchronize());
    pthread_join(later, NULL);
    CHECK_IS(SOFT_QUEUE_DEPTH + 1, my_ledger().launches);
}

static CUresult inside[4];
static CUresult told;

static void naughty(void *data)
{
    CUdeviceptr p;

    inside[0] = cuMemAlloc_v2(&p, 4);
    inside[1] = cuStreamSynchronize(NULL);
    inside[2] = cuCtxSynchronize();
}

static void callback(CUstream s, CUresult status, void *data)
{
    told = status;
    mark(data);
}

static void host_functions(void *arg)
{
    CUstream s;

    context();
    s = stream(CU_STREAM_NON_BLOCKING);
    OK(cuLaunchHostFunc(s, naughty, NULL));
    OK(cuStreamSynchronize(s));
    for (int i = 0; i < 3; i++)
        CHECK_IS(CUDA_ERROR_NOT_PERMITTED, inside[i]);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuStreamAddCallback(s, callback, NULL, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuLaunchHostFunc(s, NULL, NULL));
    told = CUDA_ERROR_UNKNOWN;
    OK(cuStreamAddCallback(s, callback, (void *)7, 0));
    OK(cuStreamSynchronize(s));
    EXPECT(7);
    OK(told);
}

/* An error in a kernel kills the context: every call says so, later work is not run, and only a
 * new context helps. */
static void errors_stick(void *arg)
{
    struct soft_stream *s;
    struct test_kernel *bad = kernel_new(MS, 0), *later = kernel_new(MS, 0);
    _Atomic int ran = 0;
    CUcontext ctx = context();
    CUdeviceptr p;
    size_t f, t;

    OK(cuMemAlloc_v2(&p, 4096));
    OK(soft_stream_of(NULL, &s));
    bad->result = CUDA_ERROR_ILLEGAL_ADDRESS;
    later->ran = &ran;
    gate(NULL, 1); /* all is submitted before it faults */
    launch(NULL, MS, 0);
    OK(soft_submit(s, &bad->cmd));
    OK(soft_submit(s, &later->cmd));
    at(NULL, 1);
    OK(cuStreamAddCallback(NULL, callback, (void *)2, 0));
    open_gate(1);
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    EXPECT(2); /* callbacks hear of it, host functions are left out */
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, told);
    CHECK_IS(0, atomic_load(&ran));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc_v2(&p, 4096));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemGetInfo_v2(&f, &t));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamQuery(NULL));
    OK(cuCtxDestroy_v2(ctx));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxCreate_v2(&ctx, 0, 0)); /* the process is broken */
    CHECK_IS(2, my_ledger().launches);
}

static void contexts(void *arg)
{
    CUcontext a, b, got, prim, again;
    CUdevice dev;
    unsigned flags;
    int active;
    size_t f, t, v;
    CUdeviceptr p;

    OK(cuInit(0));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc_v2(&p, 4));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxGetDevice(&dev));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent_v2(&got));
    OK(cuCtxGetCurrent(&got));
    CHECK(got == NULL);
    OK(cuCtxCreate_v2(&a, CU_CTX_SCHED_SPIN, 0));
    OK(cuCtxCreate_v4(&b, NULL, 0, 0));
    OK(cuCtxGetCurrent(&got));
    CHECK(got == b);
    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(2 * (24ull << 20), t - f);
    OK(cuMemAlloc_v2(&p, 64 << 20));
    OK(cuCtxPopCurrent_v2(&got));
    CHECK(got == b);
    OK(cuCtxGetFlags(&flags));
    CHECK_IS(CU_CTX_SCHED_SPIN, flags);
    OK(cuCtxSetCurrent(b));
    OK(cuCtxDestroy_v2(b)); /* frees what it has, and leaves the stack */
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxSetCurrent(b));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(b));
    OK(cuCtxSetCurrent(a));
    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(24ull << 20, t - f);
    OK(cuCtxPushCurrent_v2(a));
    OK(cuCtxDestroy_v2(a));
    CHECK_IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc_v2(&p, 4)); /* below it on the stack */
    OK(cuCtxSetCurrent(NULL));
    OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_IS(0, active);
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(0));
    OK(cuDevicePrimaryCtxRetain(&prim, 0));
    OK(cuDevicePrimaryCtxRetain(&again, 0));
    CHECK(prim == again);
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(prim));
    OK(cuCtxSetCurrent(prim));
    OK(cuMemAlloc_v2(&p, 4));
    OK(cuDevicePrimaryCtxRelease_v2(0));
    OK(cuMemFree_v2(p));
    OK(cuMemAlloc_v2(&p, 4));
    OK(cuDevicePrimaryCtxRelease_v2(0));
    CHECK_IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemFree_v2(p));
    OK(cuDevicePrimaryCtxRetain(&again, 0));
    CHECK(prim == again);
    OK(cuMemGetInfo_v2(&f, &t)); /* still on the stack, alive again, empty */
    CHECK_IS(24ull << 20, t - f);
    OK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 32 << 20));
    OK(cuCtxGetLimit(&v, CU_LIMIT_MALLOC_HEAP_SIZE));
    CHECK_IS(32 << 20, v);
    CHECK_IS(CUDA_ERROR_UNSUPPORTED_LIMIT, cuCtxGetLimit(&v, CU_LIMIT_MAX));
    OK(cuDevicePrimaryCtxReset_v2(0));
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuDevicePrimaryCtxRetain(&again, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuCtxCreate_v2(&a, 3, 0));
}

int main(void)
{
    test_run("legacy stream is a barrier", "tiny", "0", legacy_stream_is_a_barrier);
    test_run("per-thread streams", "tiny", "0", per_thread_streams);
    test_run("events order streams", "tiny", "0", events_order_streams);
    test_run("event times", "tiny", "0", event_times);
    test_run("chains add up", "tiny", "0", chains_add_up);
    test_run("full queue blocks", "tiny", "0", full_queue_blocks);
    test_run("host functions", "tiny", "0", host_functions);
    test_run("errors stick", "tiny", "0", errors_stick);
    test_run("contexts", "tiny", "0", contexts);
    return 0;
}
