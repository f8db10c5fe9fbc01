/* SPDX-License-Identifier: Apache-2.0
 *
 * The same client: host functions, host bytes, threads and forked children, and what it answers
 * when the other end fails.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client_worker.h"

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int calls;
    CUresult inside;
    CUstream stream;
} host = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void called(void *data)
{
    pthread_mutex_lock(&host.lock);
    host.inside = cuCtxSynchronize();
    host.calls += *(int *)data;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.lock);
}

/* While it runs, other answers come. */
static void held(void *data)
{
    pthread_mutex_lock(&host.lock);
    while (host.calls < 1000)
        pthread_cond_wait(&host.changed, &host.lock);
    host.calls++;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.lock);
    (void)data;
}

static void called_back(CUstream stream, CUresult status, void *data)
{
    host.stream = stream;
    called(data);
}

static void until(int calls)
{
    pthread_mutex_lock(&host.lock);
    while (host.calls < calls)
        pthread_cond_wait(&host.changed, &host.lock);
    pthread_mutex_unlock(&host.lock);
}

/* They run though nobody waits in a call, and while somebody does. */
static void host_functions(void)
{
    begin();
    CUstream s = NULL;
    int one = 1, ten = 10;
    struct peer_note last = {.flags = 0};
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    CHECK(cuLaunchHostFunc(s, called, &one) == CUDA_SUCCESS);
    until(1);
    CHECK(host.inside == CUDA_ERROR_NOT_PERMITTED);
    CHECK(cuStreamAddCallback(s, called_back, &ten, 0) == CUDA_SUCCESS);
    until(11);
    CHECK(host.stream == s);
    for (int i = 0; i < 200; i++) {
        CHECK(cuLaunchHostFunc(s, called, &one) == CUDA_SUCCESS);
        CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    }
    until(211);
    while (peer_count(&peer, HARP_OP_harpHostCall, &last) < 202)
        usleep(1000);
    CHECK(last.flags == (HARP_FRAME_REVERSE | HARP_FRAME_REPLY));
    CHECK(cuLaunchHostFunc(s, NULL, &one) == CUDA_ERROR_INVALID_VALUE);
    /* The answer says which call it is for, whatever has been taken in since. */
    CHECK(cuLaunchHostFunc(s, held, NULL) == CUDA_SUCCESS);
    for (int i = 0; i < 10; i++)
        CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    pthread_mutex_lock(&host.lock);
    host.calls = 1000;
    pthread_cond_broadcast(&host.changed);
    pthread_mutex_unlock(&host.lock);
    until(1001);
    while (peer_count(&peer, HARP_OP_harpHostCall, &last) < 203)
        usleep(1000);
    CHECK(last.args[0] == peer.said);
}

static void fill(uint8_t *at, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

static void copies(void)
{
    static uint8_t up[10 * MIB + 77], down[10 * MIB + 77];
    begin();
    CUdeviceptr at = 0;
    CUstream s = NULL;
    void *pinned = NULL;
    fill(up, sizeof up, 1);
    CHECK(cuMemAlloc_v2(&at, sizeof up) == CUDA_SUCCESS && at == BASE);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    unsigned wanted = peer_wanted(&peer);
    CHECK(cuMemcpyHtoD_v2(at, up, 100) == CUDA_SUCCESS && peer_wanted(&peer) == wanted);
    CHECK(cuMemcpyDtoH_v2(down, at, 100) == CUDA_SUCCESS && memcmp(up, down, 100) == 0);
    CHECK(peer_wanted(&peer) == wanted + 1 && peer.pieces == 0);
    /* In pieces of a fourth of the bulk area; one answer for all of them. */
    CHECK(cuMemcpyHtoD_v2(at, up, sizeof up) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 2 && peer.pieces == 3);
    CHECK(memcmp(device, up, sizeof up) == 0);
    CHECK(cuMemcpyDtoH_v2(down, at, sizeof down) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 3 && memcmp(up, down, sizeof up) == 0);
    /* Asynchronous: to pageable memory it waits for the bytes, to pinned memory it does not. */
    memset(down, 0, sizeof down);
    CHECK(cuMemcpyDtoHAsync_v2(down, at, 5 * MIB, s) == CUDA_SUCCESS);
    CHECK(memcmp(up, down, 5 * MIB) == 0);
    CHECK(cuMemAllocHost_v2(&pinned, 5 * MIB) == CUDA_SUCCESS);
    fill(pinned, 5 * MIB, 2);
    CHECK(cuMemcpyHtoDAsync_v2(at, pinned, 5 * MIB, s) == CUDA_SUCCESS);
    fill(pinned, 5 * MIB, 3); /* not allowed of a program, but the bytes have been read */
    CHECK(cuMemcpyDtoHAsync_v2(pinned, at + MIB, 3 * MIB, s) == CUDA_SUCCESS);
    CHECK(peer_wanted(&peer) == wanted + 3);
    CHECK(cuStreamSynchronize(s) == CUDA_SUCCESS && peer_wanted(&peer) == wanted + 4);
    fill(down, 5 * MIB, 2);
    CHECK(memcmp(pinned, down + MIB, 3 * MIB) == 0);
    /* A chain through the same pinned bytes: they must have come before they are read again. */
    CHECK(cuMemcpyDtoHAsync_v2(pinned, at + MIB, 2 * MIB, s) == CUDA_SUCCESS);
    CHECK(cuMemcpyHtoDAsync_v2(at, pinned, 2 * MIB, s) == CUDA_SUCCESS);
    CHECK(cuStreamSynchronize(s) == CUDA_SUCCESS && memcmp(device, down + MIB, 2 * MIB) == 0);
    CHECK(cuMemFreeHost(pinned) == CUDA_SUCCESS);
    CHECK(cuMemFreeHost(pinned) == CUDA_ERROR_INVALID_VALUE);
    /* Of a copy that fails, nothing is written. */
    memset(down, 9, sizeof down);
    peer_fail(&peer, HARP_OP_cuMemcpyDtoH_v2, CUDA_ERROR_LAUNCH_FAILED);
    CHECK(cuMemcpyDtoH_v2(down, at, MIB) == CUDA_ERROR_LAUNCH_FAILED);
    for (size_t i = 0; i < MIB; i++)
        CHECK(down[i] == 9);
    /* More than all regions, with nobody waiting for any. */
    for (int i = 0; i < 20; i++)
        CHECK(cuMemcpyHtoDAsync_v2(at, up, 4 * MIB, s) == CUDA_SUCCESS);
    CHECK(cuStreamSynchronize(s) == CUDA_SUCCESS && memcmp(device, up, 4 * MIB) == 0);
}

static void memory(void)
{
    begin();
    CUdeviceptr at = 0, other = 0;
    unsigned type = 0, wanted;
    /* Where the driver's first answer lies, this process has something. */
    void *taken = mmap((void *)BASE, 4096, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(taken == (void *)BASE);
    CHECK(cuMemAlloc_v2(&at, MIB) == CUDA_SUCCESS && at == BASE + 2 * MIB);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 2);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 1);
    CHECK(mmap((void *)at, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
               0) == MAP_FAILED); /* nothing of ours will ever lie there */
    next_address = at + MIB;      /* beside it, in the same chunk of the driver's */
    CHECK(cuMemAlloc_v2(&other, 4096) == CUDA_SUCCESS && other == at + MIB);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, other + 1) ==
          CUDA_SUCCESS);
    CHECK(type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (uintptr_t)&at) ==
          CUDA_ERROR_INVALID_VALUE);
    wanted = peer_wanted(&peer);
    CHECK(cuMemsetD32_v2(at, 7, MIB / 4) == CUDA_SUCCESS && peer_wanted(&peer) == wanted);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    peer_fail(&peer, HARP_OP_cuMemsetD32_v2, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemsetD32_v2(at, 7, MIB) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS && peer_wanted(&peer) == wanted + 2);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    peer_fail(&peer, HARP_OP_cuMemFree_v2, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemFree_v2(at) == CUDA_ERROR_INVALID_VALUE && peer_wanted(&peer) == wanted + 4);
    /* All addresses that it is offered are taken: out of memory, and nothing is kept. */
    next_address = BASE;
    CHECK(mmap((void *)(BASE + 4 * MIB), 64 * MIB, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
               0) == (void *)(BASE + 4 * MIB));
    next_address = BASE + 4 * MIB;
    unsigned allocs = count(HARP_OP_cuMemAlloc_v2), frees = count(HARP_OP_cuMemFree_v2);
    CHECK(cuMemAlloc_v2(&at, 2 * MIB) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == allocs + 9 && count(HARP_OP_cuMemFree_v2) == frees + 9);
}

static void *in_thread(void *arg)
{
    CUcontext ctx = arg;
    CUevent e = NULL;
    CUstream s = NULL;
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    for (int i = 0; i < 300; i++) {
        CHECK(cuEventCreate(&e, 0) == CUDA_SUCCESS);
        CHECK(cuEventRecord(e, s) == CUDA_SUCCESS);
        CHECK(cuEventQuery(e) == CUDA_SUCCESS);
        CHECK(cuEventDestroy_v2(e) == CUDA_SUCCESS);
    }
    return NULL;
}

static void threads(void)
{
    CUcontext ctx = begin();
    pthread_t all[3];
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&all[i], NULL, in_thread, ctx) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(all[i], NULL);
    CHECK(count(HARP_OP_cuEventQuery) == 900 && count(HARP_OP_cuEventRecord) == 900);
}

static void forked_child(void)
{
    begin();
    int status = 0, n;
    pid_t pid = fork();
    if (pid == 0) {
        bool right = cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED &&
                     cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED &&
                     cuInit(0) == CUDA_ERROR_NOT_INITIALIZED;
        _exit(right ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
}

static void *waits(void *arg)
{
    CHECK(cuCtxSetCurrent(arg) == CUDA_SUCCESS);
    CUresult r;
    while ((r = cuCtxSynchronize()) == CUDA_SUCCESS)
        ;
    CHECK(r == CUDA_ERROR_DEVICE_UNAVAILABLE);
    return NULL;
}

/* The other end goes away: whoever waits is told, and nobody waits again. */
static void death(void)
{
    CUcontext ctx = begin();
    CUdeviceptr at;
    pthread_t all[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&all[i], NULL, waits, ctx) == 0);
    usleep(20000);
    pthread_mutex_lock(&peer.lock);
    peer.leave = true;
    pthread_mutex_unlock(&peer.lock);
    for (int i = 0; i < 2; i++)
        pthread_join(all[i], NULL);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuMemAlloc_v2(&at, 1) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuInit(0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
}

static void nonsense(void)
{
    begin();
    pthread_mutex_lock(&peer.lock);
    peer.nonsense = true;
    pthread_mutex_unlock(&peer.lock);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
}

static void nobody(void)
{
    int n;
    setenv("HARP_REMOTE", "/tmp/no-such-folder/of-harp", 1);
    CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE && cuInit(0) == CUDA_ERROR_NO_DEVICE);
    CHECK(cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED);
}

static const struct peer_scenario scenarios[] = {
    {"host_functions", host_functions},
    {"copies", copies},
    {"memory", memory},
    {"threads", threads},
    {"forked_child", forked_child},
    {"death", death},
    {"nonsense", nonsense},
    {"nobody", nobody},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
