/* SPDX-License-Identifier: Apache-2.0
 *
 * What the client of a remote session guards itself against: a worker that says what is not so,
 * threads that wait for each other, a child that finds a lock taken.
 */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"
#include "src/shim/remote/host.h"
#include "src/shim/remote/session_state.h"

#define MIB  (1ull << 20)
#define BASE 0x200000000000ull

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuCtxCreate_v2);
DECLARE(cuCtxSynchronize);
DECLARE(cuFuncSetAttribute);
DECLARE(cuGraphAddHostNode);
DECLARE(cuGraphAddNode);
DECLARE(cuGraphCreate);
DECLARE(cuLaunchHostFunc);
DECLARE(cuLaunchKernel);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemFree_v2);
DECLARE(cuMemcpyDtoH_v2);
DECLARE(cuModuleGetFunction);
DECLARE(cuModuleLoad);
DECLARE(cuModuleLoadData);
DECLARE(cuPointerGetAttribute);
DECLARE(cuStreamBeginCapture_v2);
DECLARE(cuStreamCreate);
DECLARE(cuStreamEndCapture);

static struct harp_remote_session *const session = &harp_remote_session;
static struct peer peer;
static uint32_t to_say; /* an op that the worker says when somebody synchronizes */

static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args, nothing[HARP_WIRE_SLOTS] = {0};
    switch (call->op) {
    case HARP_OP_harpSession:
        *(uint32_t *)(uintptr_t)a[0] = 1;
        return 0;
    case HARP_OP_harpSnapshot: {
        struct harp_wire_device *d = (struct harp_wire_device *)(uintptr_t)a[1];
        for (int i = 0; i < 3; i++)
            d->attributes[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i] = 100;
        return 0;
    }
    case HARP_OP_cuFuncGetParamInfo:
        return CUDA_ERROR_INVALID_VALUE; /* the kernel has none */
    case HARP_OP_cuMemAlloc_v2:
        *(uint64_t *)(uintptr_t)a[0] = BASE;
        return 0;
    case HARP_OP_cuLaunchHostFunc: {
        const uint64_t said[] = {a[1], a[0], 0};
        peer_say(p, HARP_OP_harpHostCall, 0, said, 3);
        return 0;
    }
    case HARP_OP_cuCtxSynchronize:
        if (to_say != 0)
            peer_say(p, to_say, 0, nothing, HARP_WIRE_SLOTS);
        return 0;
    default:
        return 0;
    }
}

static void begin(void)
{
    CUcontext ctx = NULL;
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS && ctx != NULL);
}

/* --- a worker that lies ----------------------------------------------------------------------- */

static void it_says_only_its_own(void)
{
    begin();
    to_say = HARP_OP_harpProgress;
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    to_say = HARP_OP_cuCtxSynchronize;
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    pthread_join(peer.thread, NULL); /* it has seen that nobody listens to it any more */
}

static void success_without_the_bytes_is_none(void)
{
    static uint8_t down[MIB];
    begin();
    CUdeviceptr at = 0;
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS);
    memset(down, 9, sizeof down);
    pthread_mutex_lock(&peer.lock);
    peer.silent = true;
    pthread_mutex_unlock(&peer.lock);
    CHECK(cuMemcpyDtoH_v2(down, at, sizeof down) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    for (size_t i = 0; i < sizeof down; i++)
        CHECK(down[i] == 9);
    CHECK(session->moving != NULL && session->moving->to == NULL);
}

static int done_with(uint64_t id)
{
    const struct harp_ring_record record = {.flags = HARP_FRAME_BULK | HARP_FRAME_END, .ack = id};
    pthread_mutex_lock(&session->answers);
    int err = harp_remote_bulk_came(&record, NULL);
    pthread_mutex_unlock(&session->answers);
    return err;
}

static void what_is_not_announced_is_not_its_own(void)
{
    static uint8_t data[MIB];
    uint64_t sent, fetched;
    begin();
    CHECK(harp_remote_send(data, sizeof data, &sent) == 0);
    CHECK(harp_remote_fetch(data, sizeof data, true, &fetched) == 0);
    CHECK(done_with(sent) == -EPROTO && done_with(fetched) == -EPROTO);
    CHECK(!session->moving->done);
    pthread_mutex_lock(&session->put);
    CHECK(harp_remote_announce(1, sent) == 0);
    pthread_mutex_unlock(&session->put);
    CHECK(done_with(sent) == 0 && done_with(sent) == -EPROTO);
    harp_remote_cancel(fetched);
    CHECK(session->moving == NULL);
}

/* --- threads ---------------------------------------------------------------------------------- */

static void *one_more(void *data)
{
    uint64_t id;
    CHECK(harp_remote_fetch(data, harp_remote_piece(), true, &id) == 0);
    return NULL;
}

/* All room is taken. What frees some is no record of the worker's. */
static void room_comes_from(void (*by)(uint64_t id), bool done)
{
    static uint8_t data[4][4 * MIB];
    uint64_t id[4];
    pthread_t thread;
    bool waits = false;
    begin();
    for (int i = 0; i < 4; i++)
        CHECK(harp_remote_fetch(data[i], harp_remote_piece(), true, &id[i]) == 0);
    for (struct harp_moving *m = session->moving; m != NULL; m = m->next)
        m->announced = m->done = done;
    CHECK(pthread_create(&thread, NULL, one_more, data[0]) == 0);
    while (!waits) {
        pthread_mutex_lock(&session->answers);
        waits = session->waiters > 0 || session->reading;
        pthread_mutex_unlock(&session->answers);
    }
    by(id[2]);
    pthread_join(thread, NULL);
}

static void collected(uint64_t id)
{
    CHECK(harp_remote_collect(id, true, true) == 0);
}

static void room_that_is_collected_is_seen(void)
{
    room_comes_from(collected, true);
}

static void room_that_is_not_used_is_seen(void)
{
    room_comes_from(harp_remote_cancel, false);
}

static bool deep;

static __attribute__((noinline)) void needs_stack(void *data)
{
    volatile uint8_t much[MIB];
    for (size_t i = 0; i < sizeof much; i += 4096)
        much[i] = 1;
    __atomic_store_n(&deep, much[0] == 1, __ATOMIC_RELEASE);
    (void)data;
}

static void a_host_function_has_a_stack(void)
{
    begin();
    CHECK(cuLaunchHostFunc(NULL, needs_stack, NULL) == CUDA_SUCCESS);
    while (!__atomic_load_n(&deep, __ATOMIC_ACQUIRE))
        usleep(1000);
}

static CUdeviceptr shared;

static void *asks_for_ever(void *unused)
{
    unsigned type;
    CUcontext ctx = NULL;
    CHECK(cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS);
    for (;;)
        cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, shared);
    return unused;
}

/* Whatever another thread of the parent held when it was made. */
static void a_forked_child_takes_no_lock(void)
{
    pthread_t thread;
    unsigned type;
    begin();
    CHECK(cuMemAlloc_v2(&shared, MIB) == CUDA_SUCCESS);
    CHECK(cuMemFree_v2(0) == CUDA_SUCCESS); /* the names have been looked up */
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, shared) == CUDA_SUCCESS);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&thread, NULL, asks_for_ever, NULL) == 0);
    for (int i = 0; i < 100; i++) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(10);
            _exit(cuMemFree_v2(shared) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    _exit(0); /* the threads go on for ever */
}

/* --- what is left behind ---------------------------------------------------------------------- */

static void nothing_to_call(void *data)
{
    (void)data;
}

static void host_nodes(void)
{
    CUgraph g = NULL;
    CUgraphNode n = NULL;
    int data = 1;
    CUDA_HOST_NODE_PARAMS host = {.fn = nothing_to_call, .userData = &data};
    CUgraphNodeParams any = {.type = CU_GRAPH_NODE_TYPE_HOST};
    begin();
    any.host.fn = nothing_to_call;
    any.host.userData = &data;
    CHECK(cuGraphCreate(&g, 0) == CUDA_SUCCESS && !harp_remote_host_may_write());
    peer_fail(&peer, HARP_OP_cuGraphAddHostNode, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuGraphAddHostNode(&n, g, NULL, 0, &host) == CUDA_ERROR_INVALID_VALUE);
    CHECK(!harp_remote_host_may_write());
    peer_fail(&peer, HARP_OP_cuGraphAddNode, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuGraphAddNode(&n, g, NULL, 0, &any) == CUDA_ERROR_INVALID_VALUE);
    CHECK(!harp_remote_host_may_write());
    CHECK(cuGraphAddNode(&n, g, NULL, 0, &any) == CUDA_SUCCESS && n != NULL);
    CHECK(harp_remote_host_may_write() && any.host.userData == &data);
}

/* More than there are shelves for, and given back in another order. */
static void many_tickets(void)
{
    static uint64_t ticket[5000];
    CUhostFn fn;
    void *data;
    begin();
    for (uintptr_t i = 0; i < 5000; i++)
        CHECK(harp_remote_ticket(nothing_to_call, (void *)(i + 1), true, &ticket[i]) ==
              CUDA_SUCCESS);
    for (uintptr_t i = 0; i < 5000; i += 2)
        harp_remote_ticket_end(ticket[i]);
    for (uintptr_t i = 0; i < 5000; i++) {
        harp_remote_ticket_of(ticket[i], &fn, &data);
        CHECK(fn == (i % 2 == 0 ? NULL : nothing_to_call));
        CHECK((uintptr_t)data == (i % 2 == 0 ? 0 : i + 1));
        CHECK(harp_remote_host_may_write());
        harp_remote_ticket_end(ticket[i]);
        harp_remote_ticket_end(ticket[i]);
    }
    CHECK(!harp_remote_host_may_write());
}

static void memory_whose_free_fails(void)
{
    CUdeviceptr at = 0;
    CUstream s = NULL;
    CUgraph g = NULL;
    unsigned type = 0;
    begin();
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    CHECK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
    peer_fail(&peer, HARP_OP_cuMemFree_v2, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(cuMemFree_v2(at) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(cuStreamEndCapture(s, &g) == CUDA_SUCCESS);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at) == CUDA_SUCCESS);
    CHECK(type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at) ==
          CUDA_ERROR_INVALID_VALUE);
}

static unsigned waits_of_a_launch(CUfunction f)
{
    unsigned before = peer_wanted(&peer);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 4096, NULL, NULL, NULL) == CUDA_SUCCESS);
    return peer_wanted(&peer) - before;
}

/* A launch that went may be refused once less is allowed. */
static void limits_of_a_function(void)
{
    static const char ptx[] = ".version 8.0\n.entry k() { ret; }";
    const CUfunction_attribute most = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    CUmodule m = NULL;
    CUfunction f = NULL;
    begin();
    CHECK(cuModuleLoad(&m, NULL) == CUDA_ERROR_INVALID_VALUE);
    errno = 4711;
    CHECK(cuModuleLoad(&m, "/no-such-file") == CUDA_ERROR_FILE_NOT_FOUND && errno == 4711);
    CHECK(cuModuleLoadData(&m, ptx) == CUDA_SUCCESS);
    CHECK(cuModuleGetFunction(&f, m, "k") == CUDA_SUCCESS);
    CHECK(waits_of_a_launch(f) != 0 && waits_of_a_launch(f) == 0);
    CHECK(cuFuncSetAttribute(f, most, 8192) == CUDA_SUCCESS);
    CHECK(waits_of_a_launch(f) == 1 && waits_of_a_launch(f) == 0);
    CHECK(cuFuncSetAttribute(f, most, 8192) == CUDA_SUCCESS); /* nothing has changed */
    CHECK(waits_of_a_launch(f) == 0);
    CHECK(cuFuncSetAttribute(f, most, 0) == CUDA_SUCCESS);
    CHECK(waits_of_a_launch(f) == 1 && waits_of_a_launch(f) == 0);
}

static const struct peer_scenario scenarios[] = {
    {"it_says_only_its_own", it_says_only_its_own},
    {"success_without_the_bytes_is_none", success_without_the_bytes_is_none},
    {"what_is_not_announced_is_not_its_own", what_is_not_announced_is_not_its_own},
    {"room_that_is_collected_is_seen", room_that_is_collected_is_seen},
    {"room_that_is_not_used_is_seen", room_that_is_not_used_is_seen},
    {"a_host_function_has_a_stack", a_host_function_has_a_stack},
    {"a_forked_child_takes_no_lock", a_forked_child_takes_no_lock},
    {"host_nodes", host_nodes},
    {"many_tickets", many_tickets},
    {"memory_whose_free_fails", memory_whose_free_fails},
    {"limits_of_a_function", limits_of_a_function},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
