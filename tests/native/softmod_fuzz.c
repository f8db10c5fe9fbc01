/* SPDX-License-Identifier: Apache-2.0
 *
 * Eight threads call at random what a client may call: contexts that come and go, streams, events,
 * every kind of memory, copies, kernels, graphs and captures, waits for values, copies between
 * devices. Nothing crashes, hangs, or answers what is not documented, and afterwards the machine
 * has all of its memory again. HARP_TEST_SEED repeats a run, HARP_FUZZ_STEPS makes it longer.
 */
#include "softmod_fuzz.h"

#include <pthread.h>

#include "soft/gpu/context.h"
#include "soft/gpu/shared.h"

#define THREADS 8
#define HOG     (880ull << 20) /* of a device's 1024 MiB */

static const char ptx[] =
    ".version 8.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry touch(.param .u64 p)\n{\n.reg .b32 %r0;\n.reg .b64 %d0;\n"
    "ld.param.u64 %d0, [p];\natom.global.add.u32 %r0, [%d0], 1;\n"
    "ld.global.u32 %r0, [%d0+4096];\nst.global.u32 [%d0+4096], %r0;\nret;\n}\n"
    ".visible .entry nap()\n{\nnanosleep.u32 200000;\nret;\n}\n";

struct fuzz fuzz;

/* A call whose arguments are good: it succeeds, or there is no memory, or the context, which this
 * thread has spoilt itself, says so. */
bool good_(struct player *p, CUresult r, const char *what, const char *file, int line)
{
    atomic_fetch_add(&fuzz.calls, 1);
    if (r == CUDA_SUCCESS)
        return true;
    if (r == CUDA_ERROR_OUT_OF_MEMORY) {
        atomic_fetch_add(&fuzz.short_of_memory, 1);
        return false;
    }
    if (r == CUDA_ERROR_ASSERT && p->poisoned)
        return false;
    fprintf(stderr, "%s:%d: thread %d: %s is %d\n", file, line, p->number, what, (int)r);
    _exit(1);
}

CUstream some_stream(struct player *p)
{
    unsigned i = below(p, SLOTS * 2);

    if (i < SLOTS && p->stream[i] != NULL && p->stream_ctx[i] == p->now)
        return p->stream[i];
    return i % 3 == 0 ? CU_STREAM_PER_THREAD : i % 3 == 1 ? CU_STREAM_LEGACY : NULL;
}

struct piece *some_piece(struct player *p)
{
    struct piece *piece = &p->piece[below(p, SLOTS * 2)];

    /* a context reaches its own memory and all that is nobody's own */
    return piece->kind == NOTHING || (piece->kind == LINEAR && piece->ctx != p->now) ? NULL : piece;
}

/* All is over that this thread may have started. */
void quiet(struct player *p)
{
    CUcontext all[] = {fuzz.ctx[0], fuzz.ctx[1], p->own};

    for (int i = 0; i < 3 && all[i] != NULL; i++) {
        GOOD(cuCtxPushCurrent_v2(all[i]));
        GOOD(cuCtxSynchronize());
        GOOD(cuCtxPopCurrent_v2(NULL));
    }
}

static void launch_one(struct player *p)
{
    struct piece *a = some_piece(p);
    uint64_t ptr = a != NULL ? a->ptr : fuzz.managed;
    void *params[] = {&ptr};

    if (p->now == p->own && !p->poisoned && below(p, 40) == 0) {
        p->poisoned = true; /* by what breaks a context alone; a fault would break the process */
        soft_lock();
        soft_ctx_poison(soft_ctx_of(p->own), CUDA_ERROR_ASSERT);
        soft_unlock();
    }
    if (below(p, 6) == 0)
        GOOD(cuLaunchKernel((CUfunction)fuzz.nap, 1, 1, 1, 1, 1, 1, 0, some_stream(p), NULL, NULL));
    GOOD(cuLaunchKernel((CUfunction)fuzz.touch, 1 + below(p, 5), 1, 1, 1 + below(p, 40), 1, 1, 0,
                        some_stream(p), params, NULL));
}

static void stream(struct player *p)
{
    unsigned i = below(p, SLOTS);

    if (p->stream[i] != NULL) {
        GOOD(cuStreamDestroy_v2(p->stream[i]));
        p->stream[i] = NULL;
    } else if (GOOD(cuStreamCreateWithPriority(&p->stream[i], below(p, 2), -(int)below(p, 3)))) {
        p->stream_ctx[i] = p->now;
    } else {
        p->stream[i] = NULL;
    }
}

static void event(struct player *p)
{
    unsigned i = below(p, SLOTS);
    CUresult r;

    if (p->event[i] == NULL) {
        if (GOOD(cuEventCreate(&p->event[i], below(p, 2) ? CU_EVENT_DISABLE_TIMING : 0)))
            p->event_ctx[i] = p->now;
        else
            p->event[i] = NULL;
        return;
    }
    if (below(p, 4) == 0) {
        GOOD(cuEventDestroy_v2(p->event[i]));
        p->event[i] = NULL;
        return;
    }
    if (p->event_ctx[i] == p->now)
        GOOD(cuEventRecord(p->event[i], some_stream(p)));
    GOOD(cuStreamWaitEvent(some_stream(p), below(p, 3) ? p->event[i] : fuzz.event, 0));
    r = cuEventQuery(p->event[i]);
    if (r != CUDA_ERROR_NOT_READY)
        GOOD(r);
    if (below(p, 3) == 0)
        GOOD(cuEventSynchronize(p->event[i]));
    if (p->now == fuzz.ctx[0])
        GOOD(cuEventRecord(fuzz.event, some_stream(p)));
}

/* A write to one stream is what another waits for. Neither heeds the legacy stream: a third
 * thread's command in that could come between the two, and then nothing would ever move. */
static void values(struct player *p)
{
    CUstream waits, writes;
    CUdeviceptr cell = fuzz.cells + (CUdeviceptr)p->number * 256;

    if (p->poisoned)
        return;
    if (!GOOD(cuStreamCreate(&waits, CU_STREAM_NON_BLOCKING)))
        return;
    if (GOOD(cuStreamCreate(&writes, CU_STREAM_NON_BLOCKING))) {
        GOOD(cuStreamWriteValue32_v2(waits, cell, 0, 0));
        GOOD(cuStreamSynchronize(waits));
        GOOD(cuStreamWaitValue32_v2(waits, cell, 1, CU_STREAM_WAIT_VALUE_EQ));
        GOOD(cuStreamWriteValue32_v2(writes, cell, 1, 0));
        if (below(p, 2))
            GOOD(cuStreamSynchronize(waits));
        GOOD(cuStreamDestroy_v2(writes));
    }
    GOOD(cuStreamDestroy_v2(waits));
}

static void array(struct player *p)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {300, 20, 0, CU_AD_FORMAT_FLOAT, 2, 0};
    CUarray array;
    struct piece *a = some_piece(p);

    if (!GOOD(cuArray3DCreate_v2(&array, &desc)))
        return;
    if (a != NULL) {
        CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                              .srcDevice = a->ptr,
                              .srcPitch = 2400,
                              .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                              .dstArray = array,
                              .WidthInBytes = 2400,
                              .Height = 20};
        GOOD(cuMemcpy2DAsync_v2(&copy, some_stream(p)));
    }
    GOOD(cuArrayDestroy(array));
}

static void use(struct player *p, CUcontext ctx)
{
    GOOD(cuCtxSetCurrent(ctx));
    p->now = ctx;
}

/* With it go its streams, its events, and the memory allocated in it. */
static void end_own(struct player *p)
{
    CUcontext gone = p->own;

    quiet(p); /* pinned and managed memory goes with it, whoever still uses it */
    GOOD(cuCtxDestroy_v2(gone));
    for (int i = 0; i < SLOTS; i++) {
        if (p->stream_ctx[i] == gone)
            p->stream[i] = NULL;
        if (p->event_ctx[i] == gone)
            p->event[i] = NULL;
        p->stream_ctx[i] = p->stream[i] == NULL ? NULL : p->stream_ctx[i];
        p->event_ctx[i] = p->event[i] == NULL ? NULL : p->event_ctx[i];
    }
    for (int i = 0; i < SLOTS * 2; i++)
        if (p->piece[i].kind != MAPPED && p->piece[i].ctx == gone)
            p->piece[i].kind = NOTHING;
    p->own = NULL;
    p->poisoned = false;
    use(p, fuzz.ctx[below(p, 2)]);
}

static void context_step(struct player *p)
{
    CUcontext unused;

    if (p->own == NULL) {
        if (GOOD(cuCtxCreate_v2(&p->own, 0, (CUdevice)below(p, 2)))) {
            GOOD(cuCtxPopCurrent_v2(&unused));
            use(p, p->own);
        } else {
            p->own = NULL;
        }
    } else if (p->poisoned || below(p, 4) == 0) {
        end_own(p);
    } else {
        use(p, below(p, 2) ? p->own : fuzz.ctx[below(p, 2)]);
    }
}

static void look(struct player *p)
{
    size_t f, t;
    CUresult r;

    GOOD(cuMemGetInfo_v2(&f, &t));
    r = cuStreamQuery(some_stream(p));
    if (r != CUDA_ERROR_NOT_READY)
        GOOD(r);
    if (below(p, 3) == 0)
        GOOD(cuStreamSynchronize(some_stream(p)));
    else if (below(p, 10) == 0)
        GOOD(cuCtxSynchronize());
}

static void (*const moves[])(struct player *) = {
    stream, event, memory, memory,  move, move, launch_one,   launch_one, advise,
    values, graph, array,  capture, look, look, context_step, memory,     event};

static void *play(void *arg)
{
    struct player *p = arg;
    const char *text = getenv("HARP_FUZZ_STEPS");
    int steps = text != NULL ? atoi(text) : 2000;

    use(p, fuzz.ctx[p->number % 2]);
    for (int i = 0; i < steps; i++) {
        moves[below(p, sizeof moves / sizeof moves[0])](p);
        if (p->poisoned && below(p, 10) == 0)
            end_own(p);
    }
    if (p->own != NULL)
        end_own(p);
    for (int i = 0; i < SLOTS; i++) {
        if (p->stream[i] != NULL)
            GOOD(cuStreamDestroy_v2(p->stream[i]));
        if (p->event[i] != NULL)
            GOOD(cuEventDestroy_v2(p->event[i]));
    }
    for (int i = 0; i < SLOTS * 2; i++)
        drop_piece(p, &p->piece[i]);
    return NULL;
}

static void random_calls(void *arg)
{
    static struct player player[THREADS];
    struct player *p = &player[0];
    const char *text = getenv("HARP_TEST_SEED");
    unsigned seed = text != NULL ? (unsigned)strtoul(text, NULL, 10) : 20;
    pthread_t thread[THREADS];
    CUlibrary library;
    CUgraph graph;

    fprintf(stderr, "seed %u\n", seed);
    alarm(100); /* a hang is a failure */
    OK(cuInit(0));
    for (int i = 0; i < 2; i++)
        OK(cuCtxCreate_v2(&fuzz.ctx[i], 0, i));
    OK(cuCtxEnablePeerAccess(fuzz.ctx[0], 0));
    OK(cuCtxSetCurrent(fuzz.ctx[0]));
    OK(cuCtxEnablePeerAccess(fuzz.ctx[1], 0));
    OK(cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0));
    OK(cuLibraryGetKernel(&fuzz.touch, library, "touch"));
    OK(cuLibraryGetKernel(&fuzz.nap, library, "nap"));
    for (int i = 0; i < 2; i++) { /* little is left: memory runs out, and is moved */
        CUdeviceptr hog;

        OK(cuCtxSetCurrent(fuzz.ctx[i]));
        OK(cuMemAlloc_v2(&hog, HOG));
    }
    OK(cuCtxSetCurrent(fuzz.ctx[0]));
    OK(cuMemAllocManaged(&fuzz.managed, BYTES, CU_MEM_ATTACH_GLOBAL));
    OK(cuMemAllocManaged(&fuzz.cells, 4096, CU_MEM_ATTACH_GLOBAL));
    OK(cuEventCreate(&fuzz.event, CU_EVENT_DISABLE_TIMING));
    p->now = fuzz.ctx[0];
    CHECK(make_graph(p, fuzz.managed, &graph));
    OK(cuGraphInstantiateWithFlags(&fuzz.exec, graph, 0));
    for (int i = 0; i < THREADS; i++) {
        player[i].number = i;
        player[i].seed = seed * 1000 + (unsigned)i;
        CHECK(pthread_create(&thread[i], NULL, play, &player[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    OK(cuGraphExecDestroy(fuzz.exec));
    OK(cuGraphDestroy(graph));
    OK(cuEventDestroy_v2(fuzz.event));
    OK(cuMemFree_v2(fuzz.managed));
    OK(cuMemFree_v2(fuzz.cells));
    OK(cuLibraryUnload(library));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxDestroy_v2(fuzz.ctx[i]));
        CHECK_IS(0, soft_hold_total(soft_the_state, i));
    }
    fprintf(stderr, "%llu calls, %llu of them found no memory\n", (unsigned long long)fuzz.calls,
            (unsigned long long)fuzz.short_of_memory);
    CHECK(fuzz.calls > 1000);
}

int main(void)
{
    test_run("random_calls", "tiny,tiny", "0", random_calls);
    return 0;
}
