/* SPDX-License-Identifier: Apache-2.0
 *
 * Eight threads call at random what a client may call: contexts that come and go, streams, events,
 * every kind of memory, copies, kernels, graphs and captures, waits for values, copies between
 * devices. Nothing crashes, hangs, or answers what is not documented, and afterwards the machine
 * has all of its memory again. HARP_TEST_SEED repeats a run, HARP_FUZZ_STEPS makes it longer.
 */
#include "soft_test.h"

#include <pthread.h>

#include "soft/gpu/shared.h"

#define THREADS 8
#define SLOTS   4
#define BYTES   (3u << 20)     /* more than a granule */
#define HOG     (880ull << 20) /* of a device's 1024 MiB */

static const char ptx[] =
    ".version 8.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry touch(.param .u64 p)\n{\n.reg .b32 %r0;\n.reg .b64 %d0;\n"
    "ld.param.u64 %d0, [p];\natom.global.add.u32 %r0, [%d0], 1;\n"
    "ld.global.u32 %r0, [%d0+4096];\nst.global.u32 [%d0+4096], %r0;\nret;\n}\n"
    ".visible .entry nap()\n{\nnanosleep.u32 200000;\nret;\n}\n";

enum memory { NOTHING, LINEAR, MANAGED, PINNED, MAPPED };

struct piece {
    enum memory kind;
    CUdeviceptr ptr;
    CUcontext ctx; /* LINEAR, PINNED */
    CUmemGenericAllocationHandle handle;
};

struct player {
    int number;
    unsigned seed;
    CUcontext own, now; /* a context of its own (NULL: none now); what is current */
    bool poisoned;      /* the own one */
    CUstream stream[SLOTS];
    CUcontext stream_ctx[SLOTS];
    CUevent event[SLOTS];
    CUcontext event_ctx[SLOTS];
    struct piece piece[SLOTS * 2];
};

static CUcontext shared[2]; /* one on each device, peers of each other */
static CUgraphExec shared_exec;
static CUevent shared_event;
static CUdeviceptr shared_managed, cells; /* a thread writes its own cell only */
static CUkernel touch, nap;
static _Atomic uint64_t calls, short_of_memory;

static unsigned below(struct player *p, unsigned most)
{
    return (unsigned)rand_r(&p->seed) % most;
}

/* A call whose arguments are good: it succeeds, or there is no memory, or the context, which this
 * thread has spoilt itself, says so. */
static bool good_(struct player *p, CUresult r, const char *what, int line)
{
    atomic_fetch_add(&calls, 1);
    if (r == CUDA_SUCCESS)
        return true;
    if (r == CUDA_ERROR_OUT_OF_MEMORY) {
        atomic_fetch_add(&short_of_memory, 1);
        return false;
    }
    if (r == CUDA_ERROR_ILLEGAL_ADDRESS && p->poisoned)
        return false;
    fprintf(stderr, "softmod_fuzz.c:%d: thread %d: %s is %d\n", line, p->number, what, (int)r);
    _exit(1);
}
#define GOOD(call) good_(p, call, #call, __LINE__)

static CUstream some_stream(struct player *p)
{
    unsigned i = below(p, SLOTS * 2);

    if (i < SLOTS && p->stream[i] != NULL && p->stream_ctx[i] == p->now)
        return p->stream[i];
    return i % 3 == 0 ? CU_STREAM_PER_THREAD : i % 3 == 1 ? CU_STREAM_LEGACY : NULL;
}

static struct piece *some_piece(struct player *p)
{
    struct piece *piece = &p->piece[below(p, SLOTS * 2)];

    /* a context reaches its own memory and all that is nobody's own */
    return piece->kind == NOTHING || (piece->kind == LINEAR && piece->ctx != p->now) ? NULL : piece;
}

/* All is over that this thread may have started. */
static void quiet(struct player *p)
{
    CUcontext all[] = {shared[0], shared[1], p->own};

    for (int i = 0; i < 3 && all[i] != NULL; i++) {
        GOOD(cuCtxPushCurrent_v2(all[i]));
        GOOD(cuCtxSynchronize());
        GOOD(cuCtxPopCurrent_v2(NULL));
    }
}

static void drop_piece(struct player *p, struct piece *piece)
{
    switch (piece->kind) {
    case LINEAR:
        GOOD(cuCtxPushCurrent_v2(piece->ctx));
        GOOD(cuMemFree_v2(piece->ptr));
        GOOD(cuCtxPopCurrent_v2(NULL));
        break;
    case MANAGED:
        GOOD(cuMemFree_v2(piece->ptr));
        break;
    case PINNED:
        GOOD(cuMemFreeHost((void *)(uintptr_t)piece->ptr));
        break;
    case MAPPED:
        quiet(p); /* unmapping waits for nothing */
        GOOD(cuMemUnmap(piece->ptr, 2 * GRANULE));
        GOOD(cuMemRelease(piece->handle));
        GOOD(cuMemAddressFree(piece->ptr, 2 * GRANULE));
        break;
    case NOTHING:
        break;
    }
    piece->kind = NOTHING;
}

static void map_piece(struct player *p, struct piece *piece)
{
    CUdevice device = (CUdevice)below(p, 2);
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes =
                                    below(p, 2) ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
    CUmemAccessDesc access[2] = {
        {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE},
        {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE}};

    if (!GOOD(cuMemAddressReserve(&piece->ptr, 2 * GRANULE, 0, 0, 0)))
        return;
    if (!GOOD(cuMemCreate(&piece->handle, 2 * GRANULE, &prop, 0))) {
        GOOD(cuMemAddressFree(piece->ptr, 2 * GRANULE));
        return;
    }
    CHECK(GOOD(cuMemMap(piece->ptr, 2 * GRANULE, 0, piece->handle, 0)));
    CHECK(GOOD(cuMemSetAccess(piece->ptr, 2 * GRANULE, access, 2)));
    piece->kind = MAPPED;
}

static void memory(struct player *p)
{
    struct piece *piece = &p->piece[below(p, SLOTS * 2)];
    void *host;

    if (piece->kind != NOTHING) {
        drop_piece(p, piece);
        return;
    }
    piece->ctx = p->now;
    switch (below(p, 4)) {
    case 0:
        if (GOOD(cuMemAlloc_v2(&piece->ptr, BYTES)))
            piece->kind = LINEAR;
        break;
    case 1:
        if (GOOD(cuMemAllocManaged(&piece->ptr, BYTES, CU_MEM_ATTACH_GLOBAL)))
            piece->kind = MANAGED;
        break;
    case 2:
        if (GOOD(cuMemHostAlloc(&host, BYTES, 0))) {
            piece->ptr = (CUdeviceptr)(uintptr_t)host;
            piece->kind = PINNED;
        }
        break;
    default:
        map_piece(p, piece);
    }
}

static void move(struct player *p)
{
    struct piece *a = some_piece(p), *b = some_piece(p);
    unsigned bytes = below(p, BYTES - 4096);

    if (a == NULL)
        return;
    if (b != NULL && b != a && below(p, 2) == 0)
        GOOD(cuMemcpyAsync(a->ptr, b->ptr + below(p, 4096), bytes + 1, some_stream(p)));
    else if (a->kind != PINNED && below(p, 2) == 0)
        GOOD(cuMemsetD8Async(a->ptr + below(p, 4096), 7, bytes, some_stream(p)));
    else if (a->kind == LINEAR && below(p, 2) == 0 && a->ctx == shared[0])
        GOOD(cuMemcpyPeerAsync(shared_managed, shared[1], a->ptr, shared[0], 4096, some_stream(p)));
    else if (a->kind == MANAGED)
        GOOD(cuMemPrefetchAsync(a->ptr, bytes + 1,
                                below(p, 3) == 0 ? CU_DEVICE_CPU : (CUdevice)below(p, 2),
                                some_stream(p)));
    else {
        char text[64];
        GOOD(cuMemcpyDtoH_v2(text, a->ptr, sizeof text));
    }
}

static void advise(struct player *p)
{
    static const CUmem_advise advice[] = {
        CU_MEM_ADVISE_SET_READ_MOSTLY, CU_MEM_ADVISE_UNSET_READ_MOSTLY,
        CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION,
        CU_MEM_ADVISE_SET_ACCESSED_BY};
    struct piece *a = some_piece(p);
    CUdeviceptr ptr = a != NULL && a->kind == MANAGED ? a->ptr : shared_managed;

    GOOD(cuMemAdvise(ptr, BYTES / 2, advice[below(p, 5)], (CUdevice)below(p, 2)));
}

static void launch_one(struct player *p)
{
    struct piece *a = some_piece(p);
    uint64_t ptr = a != NULL ? a->ptr : shared_managed;
    void *params[] = {&ptr};

    if (p->now == p->own && !p->poisoned && below(p, 40) == 0) {
        ptr = 4096; /* nowhere */
        p->poisoned = true;
    }
    if (below(p, 6) == 0)
        GOOD(cuLaunchKernel((CUfunction)nap, 1, 1, 1, 1, 1, 1, 0, some_stream(p), NULL, NULL));
    GOOD(cuLaunchKernel((CUfunction)touch, 1 + below(p, 5), 1, 1, 1 + below(p, 40), 1, 1, 0,
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
    GOOD(cuStreamWaitEvent(some_stream(p), below(p, 3) ? p->event[i] : shared_event, 0));
    r = cuEventQuery(p->event[i]);
    if (r != CUDA_ERROR_NOT_READY)
        GOOD(r);
    if (below(p, 3) == 0)
        GOOD(cuEventSynchronize(p->event[i]));
    if (p->now == shared[0])
        GOOD(cuEventRecord(shared_event, some_stream(p)));
}

static void hello(void *data)
{
    CHECK_IS(CUDA_ERROR_NOT_PERMITTED, cuCtxSynchronize());
}

/* A write to one stream is what another waits for. Neither heeds the legacy stream: a third
 * thread's command in that could come between the two, and then nothing would ever move. */
static void values(struct player *p)
{
    CUstream waits, writes;
    CUdeviceptr cell = cells + (CUdeviceptr)p->number * 256;

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

static bool make_graph(struct player *p, CUdeviceptr at, CUgraph *graph)
{
    CUgraphNode first, branch[5];
    CUDA_HOST_NODE_PARAMS host = {hello, NULL};
    CUDA_MEMSET_NODE_PARAMS set = {at, 0, 1, 1, 4096, 1};
    void *params[] = {&at};
    CUDA_KERNEL_NODE_PARAMS kernel = {.gridDimX = 2,
                                      .gridDimY = 1,
                                      .gridDimZ = 1,
                                      .blockDimX = 3,
                                      .blockDimY = 1,
                                      .blockDimZ = 1,
                                      .kernelParams = params,
                                      .kern = touch,
                                      .ctx = p->now};

    if (!GOOD(cuGraphCreate(graph, 0)))
        return false;
    GOOD(cuGraphAddHostNode(&first, *graph, NULL, 0, &host));
    for (unsigned i = 0; i < 4; i++)
        if (i % 2 == 1)
            GOOD(cuGraphAddMemsetNode(&branch[i], *graph, &first, 1, &set, p->now));
        else if (!GOOD(cuGraphAddKernelNode_v2(&branch[i], *graph, &first, 1, &kernel)))
            branch[i] = first; /* no room for its code in this context */
    GOOD(cuGraphAddEmptyNode(&branch[4], *graph, branch + 1, 3));
    return true;
}

static void graph(struct player *p)
{
    struct piece *a = some_piece(p);
    CUgraph graph;
    CUgraphExec exec;

    if (p->now == shared[0] && below(p, 2) == 0)
        GOOD(cuGraphLaunch(shared_exec, some_stream(p)));
    if (p->poisoned || (a != NULL && a->kind == PINNED))
        return;
    if (!make_graph(p, a != NULL ? a->ptr : shared_managed, &graph))
        return;
    if (GOOD(cuGraphInstantiateWithFlags(&exec, graph, 0))) {
        for (unsigned i = below(p, 4); i > 0; i--)
            GOOD(cuGraphLaunch(exec, some_stream(p)));
        GOOD(cuGraphExecDestroy(exec));
    }
    GOOD(cuGraphDestroy(graph));
}

static void capture(struct player *p)
{
    struct piece *a = some_piece(p);
    CUstream s, t;
    CUevent fork;
    CUgraph graph;
    CUgraphExec exec;

    /* while a stream of it captures, nobody may wait for the context */
    if (p->now != p->own || p->poisoned || a == NULL || a->kind == PINNED)
        return;
    if (!GOOD(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING)))
        return;
    GOOD(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
    GOOD(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    GOOD(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    GOOD(cuMemsetD32Async(a->ptr, 1, 100, s));
    GOOD(cuEventRecord(fork, s));
    GOOD(cuStreamWaitEvent(t, fork, 0));
    GOOD(cuMemsetD32Async(a->ptr + 4096, 1, 100, t));
    GOOD(cuLaunchHostFunc(s, hello, NULL));
    if (below(p, 4) == 0) { /* left in the middle */
        GOOD(cuStreamDestroy_v2(s));
        GOOD(cuStreamDestroy_v2(t));
        GOOD(cuEventDestroy_v2(fork));
        return;
    }
    GOOD(cuEventRecord(fork, t));
    GOOD(cuStreamWaitEvent(s, fork, 0));
    GOOD(cuStreamEndCapture(s, &graph));
    GOOD(cuGraphInstantiateWithFlags(&exec, graph, 0));
    GOOD(cuGraphLaunch(exec, s));
    GOOD(cuGraphExecDestroy(exec));
    GOOD(cuGraphDestroy(graph));
    GOOD(cuStreamDestroy_v2(s));
    GOOD(cuStreamDestroy_v2(t));
    GOOD(cuEventDestroy_v2(fork));
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
    use(p, shared[below(p, 2)]);
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
        use(p, below(p, 2) ? p->own : shared[below(p, 2)]);
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

    use(p, shared[p->number % 2]);
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
        OK(cuCtxCreate_v2(&shared[i], 0, i));
    OK(cuCtxEnablePeerAccess(shared[0], 0));
    OK(cuCtxSetCurrent(shared[0]));
    OK(cuCtxEnablePeerAccess(shared[1], 0));
    OK(cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0));
    OK(cuLibraryGetKernel(&touch, library, "touch"));
    OK(cuLibraryGetKernel(&nap, library, "nap"));
    for (int i = 0; i < 2; i++) { /* little is left: memory runs out, and is moved */
        CUdeviceptr hog;

        OK(cuCtxSetCurrent(shared[i]));
        OK(cuMemAlloc_v2(&hog, HOG));
    }
    OK(cuCtxSetCurrent(shared[0]));
    OK(cuMemAllocManaged(&shared_managed, BYTES, CU_MEM_ATTACH_GLOBAL));
    OK(cuMemAllocManaged(&cells, 4096, CU_MEM_ATTACH_GLOBAL));
    OK(cuEventCreate(&shared_event, CU_EVENT_DISABLE_TIMING));
    p->now = shared[0];
    CHECK(make_graph(p, shared_managed, &graph));
    OK(cuGraphInstantiateWithFlags(&shared_exec, graph, 0));
    for (int i = 0; i < THREADS; i++) {
        player[i].number = i;
        player[i].seed = seed * 1000 + (unsigned)i;
        CHECK(pthread_create(&thread[i], NULL, play, &player[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    OK(cuGraphExecDestroy(shared_exec));
    OK(cuGraphDestroy(graph));
    OK(cuEventDestroy_v2(shared_event));
    OK(cuMemFree_v2(shared_managed));
    OK(cuMemFree_v2(cells));
    OK(cuLibraryUnload(library));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxDestroy_v2(shared[i]));
        CHECK_IS(0, soft_hold_total(soft_the_state, i));
    }
    fprintf(stderr, "%llu calls, %llu of them found no memory\n", (unsigned long long)calls,
            (unsigned long long)short_of_memory);
    CHECK(calls > 1000);
}

int main(void)
{
    test_run("random_calls", "tiny,tiny", "0", random_calls);
    return 0;
}
