/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams, events and contexts that go while other threads work on them or wait for them.
 */
#include "soft_test_gate.h"

#include <pthread.h>

#include "soft/gpu/event.h"
#include "soft/gpu/pool.h"
#include "soft/gpu/space.h"

/* Many threads on many streams at once, and the context ends under their last work. */
static void *worker(void *arg)
{
    CUstream s;
    CUevent e;

    OK(cuCtxSetCurrent(arg));
    for (int i = 0; i < 20; i++) {
        s = stream((unsigned)i % 2);
        OK(cuEventCreate(&e, 0));
        for (int k = 0; k < 10; k++) {
            launch(s, MS / 50, 100000);
            OK(cuEventRecord(e, s));
            if (k % 3 == 0)
                launch(NULL, MS / 100, 0);
            OK(cuStreamWaitEvent(NULL, e, 0));
        }
        if (i % 3 == 0)
            OK(cuEventSynchronize(e));
        OK(cuEventDestroy_v2(e));
        OK(cuStreamDestroy_v2(s));
    }
    return NULL;
}

static void many_threads(void *arg)
{
    CUcontext ctx = context();
    pthread_t t[6];

    for (int i = 0; i < 6; i++)
        CHECK(pthread_create(&t[i], NULL, worker, ctx) == 0);
    for (int i = 0; i < 6; i++)
        pthread_join(t[i], NULL);
    OK(cuCtxDestroy_v2(ctx));
    CHECK_IS(6 * 20 * 14, my_ledger().launches);
}

struct waiter {
    CUcontext ctx;
    CUstream stream;
};

static void *wait_for_stream(void *arg)
{
    struct waiter *w = arg;

    OK(cuCtxSetCurrent(w->ctx));
    OK(cuStreamSynchronize(w->stream));
    return NULL;
}

/* Those who wait hold what they wait for. */
static void wait_for_refs(_Atomic int *refs, int count)
{
    for (uint64_t until = soft_now_ns() + 20000 * MS; atomic_load(refs) < count;) {
        CHECK(soft_now_ns() < until);
        sleep_ns(MS / 10);
    }
}

static void wait_for_stream_refs(CUstream handle, int count)
{
    struct soft_stream *s;

    OK(soft_stream_of(handle, &s));
    wait_for_refs(&s->refs, count);
}

/* What another thread waits for is gone for the client at once, but not under the waiter. */
static void streams_go_while_threads_wait(void *arg)
{
    struct waiter w = {.ctx = context()};

    for (int round = 0; round < 15; round++) {
        pthread_t t[4];
        CUstream other;

        OK(cuStreamCreate(&w.stream, CU_STREAM_NON_BLOCKING));
        gate(w.stream, round + 1);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&t[i], NULL, wait_for_stream, &w) == 0);
        wait_for_stream_refs(w.stream, 2 + 2 * 4); /* the context's and its thread's; waiters' */
        OK(cuStreamDestroy_v2(w.stream));
        open_gate(round + 1);
        for (int i = 0; i < 600; i++) { /* each of these clears away what is over */
            OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
            OK(cuStreamDestroy_v2(other));
            sleep_ns(20000);
        }
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
    }
}

/* The waiter looks at pools once more when its stream is done: that stream may be gone by then. */
static void a_stream_goes_before_its_waiter_has_looked_at_pools(void *arg)
{
    struct waiter w = {.ctx = context()};
    CUstream holds = stream(CU_STREAM_NON_BLOCKING), other;
    CUdeviceptr p;
    pthread_t t;

    OK(cuMemAllocAsync(&p, 4096, holds));
    gate(holds, 1);
    OK(cuMemFreeAsync(p, holds)); /* as long as this is not over, every wait looks at the pools */
    CHECK(atomic_load(&soft_pools_dirty));
    w.stream = stream(CU_STREAM_NON_BLOCKING);
    launch(w.stream, MS, 0);
    soft_space_lock(); /* the waiter stands before the pools */
    CHECK(pthread_create(&t, NULL, wait_for_stream, &w) == 0);
    wait_for_stream_refs(w.stream, 2 + 1); /* it holds it */
    sleep_ns(50 * MS);
    OK(cuStreamDestroy_v2(w.stream));
    for (int i = 0; i < 100; i++) { /* each of these clears away what is over */
        OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
        OK(cuStreamDestroy_v2(other));
        sleep_ns(20000);
    }
    soft_space_unlock();
    pthread_join(t, NULL);
    open_gate(1);
    OK(cuCtxSynchronize());
}

struct copier {
    CUcontext ctx;
    CUstream stream;
    CUdeviceptr from;
};

static void *copy_to_host(void *arg)
{
    struct copier *c = arg;
    char to[64];

    OK(cuCtxSetCurrent(c->ctx));
    OK(cuMemcpyDtoHAsync_v2(to, c->from, sizeof to, c->stream)); /* pageable: it waits */
    return NULL;
}

static void streams_go_while_copies_wait(void *arg)
{
    struct copier c = {.ctx = context()};

    OK(cuMemAlloc_v2(&c.from, 4096));
    for (int round = 0; round < 15; round++) {
        pthread_t t[4];
        CUstream other;

        c.stream = stream(CU_STREAM_NON_BLOCKING);
        gate(c.stream, round + 1);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&t[i], NULL, copy_to_host, &c) == 0);
        wait_for_stream_refs(c.stream, 2 + 2 * 4);
        OK(cuStreamDestroy_v2(c.stream));
        open_gate(round + 1);
        for (int i = 0; i < 200; i++) { /* each of these clears away what is over */
            OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
            OK(cuStreamDestroy_v2(other));
        }
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
    }
}

struct event_waiter {
    CUcontext ctx;
    CUevent event;
};

static void *wait_for_event(void *arg)
{
    struct event_waiter *w = arg;

    OK(cuCtxSetCurrent(w->ctx));
    OK(cuEventSynchronize(w->event));
    return NULL;
}

/* An event for other processes keeps its time stamp in memory that goes with it. */
static void events_go_while_threads_wait(void *arg)
{
    struct event_waiter w = {.ctx = context()};
    CUstream s = stream(CU_STREAM_NON_BLOCKING);

    for (int round = 0; round < 10; round++) {
        pthread_t t;

        OK(cuEventCreate(&w.event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
        gate(s, round + 1);
        OK(cuEventRecord(w.event, s));
        CHECK(pthread_create(&t, NULL, wait_for_event, &w) == 0);
        wait_for_refs(&((struct soft_event *)(void *)w.event)->refs, 3); /* the record's; its */
        sleep_ns(5 * MS);
        OK(cuEventDestroy_v2(w.event));
        open_gate(round + 1);
        pthread_join(t, NULL);
    }
}

int main(void)
{
    test_run("many threads", "tiny", "0", many_threads);
    test_run("streams go while threads wait", "tiny", "0", streams_go_while_threads_wait);
    test_run("a stream goes before its waiter has looked at pools", "tiny", "0",
             a_stream_goes_before_its_waiter_has_looked_at_pools);
    test_run("streams go while copies wait", "tiny", "0", streams_go_while_copies_wait);
    test_run("events go while threads wait", "tiny", "0", events_go_while_threads_wait);
    return 0;
}
