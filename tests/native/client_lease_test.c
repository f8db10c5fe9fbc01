/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations that the client answers by itself: what the worker is told of them, in which order,
 * and when all of it goes back.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"

#ifndef BASE /* TSan has it elsewhere */
#define BASE 0x200000000000ull
#endif
#define KIB     (1ull << 10)
#define MIB     (1ull << 20)
#define APART   (64 * MIB) /* no smaller than any that is asked for */
#define PRIMARY (1ull << 63 | 5)

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuCtxCreate_v2);
DECLARE(cuCtxDestroy_v2);
DECLARE(cuCtxSetCurrent);
DECLARE(cuCtxSynchronize);
DECLARE(cuDevicePrimaryCtxReset_v2);
DECLARE(cuDevicePrimaryCtxRetain);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemAllocAsync);
DECLARE(cuMemAllocPitch_v2);
DECLARE(cuMemFree_v2);
DECLARE(cuMemGetInfo_v2);
DECLARE(cuMemsetD8_v2);
DECLARE(cuStreamBeginCapture_v2);
DECLARE(cuStreamEndCapture);

static struct peer peer;
static uint64_t next_address = BASE;
static unsigned granted = 100; /* spare ones, at most */
static unsigned refusals;      /* calls for memory that are answered with none */
static bool recalls;           /* with the next answer */

static uint64_t address(void)
{
    next_address += APART;
    return next_address - APART;
}

static uint32_t no_memory(void)
{
    if (refusals == 0)
        return CUDA_SUCCESS;
    refusals--;
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args;
    if (recalls) {
        const uint64_t left[1] = {MIB};
        recalls = false;
        peer_say(p, HARP_OP_harpMemRecall, 1, left, 1);
    }
    switch (call->op) {
    case HARP_OP_harpSession:
        *(uint32_t *)(uintptr_t)a[0] = 1;
        return 0;
    case HARP_OP_cuDevicePrimaryCtxRetain:
        *(uint64_t *)(uintptr_t)a[0] = PRIMARY;
        return 0;
    case HARP_OP_harpMemLease:
        if (no_memory() != CUDA_SUCCESS)
            return CUDA_ERROR_OUT_OF_MEMORY;
        for (uint64_t i = 0; i < a[1] && i <= granted; i++)
            ((uint64_t *)(uintptr_t)a[2])[i] = address();
        return 0;
    case HARP_OP_cuMemAlloc_v2:
    case HARP_OP_cuMemAllocAsync:
    case HARP_OP_cuMemAllocPitch_v2:
        if (no_memory() != CUDA_SUCCESS)
            return CUDA_ERROR_OUT_OF_MEMORY;
        *(uint64_t *)(uintptr_t)a[0] = address();
        if (call->op == HARP_OP_cuMemAllocPitch_v2)
            *(uint64_t *)(uintptr_t)a[1] = a[2];
        return 0;
    default:
        return 0;
    }
}

static unsigned count(uint32_t op)
{
    return peer_count(&peer, op, NULL);
}

static struct peer_note last(uint32_t op)
{
    struct peer_note note;
    CHECK(peer_count(&peer, op, &note) != 0);
    return note;
}

/* How many records with this op came after the last one with that. */
static unsigned after(uint32_t that, uint32_t op)
{
    unsigned found = 0;
    pthread_mutex_lock(&peer.lock);
    for (unsigned i = peer.notes; i > 0 && peer.note[i - 1].op != that; i--)
        found += peer.note[i - 1].op == op;
    pthread_mutex_unlock(&peer.lock);
    return found;
}

static CUcontext begin(void)
{
    CUcontext ctx = NULL;
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&ctx, 0) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
    return ctx;
}

/* Three of a size: the third was asked for with the second. One of them is spare again. */
static void warm(CUdeviceptr *at, uint64_t bytes)
{
    for (unsigned i = 0; i < 3; i++)
        CHECK(cuMemAlloc_v2(&at[i], bytes) == CUDA_SUCCESS);
    CHECK(cuMemFree_v2(at[2]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(last(HARP_OP_harpMemKeep).args[0] == at[2]);
}

static void fewer_and_fewer_wait(void)
{
    CUdeviceptr at[100];
    begin();
    unsigned waited = peer_wanted(&peer);
    for (unsigned i = 0; i < 100; i++) {
        CHECK(cuMemAlloc_v2(&at[i], 1000) == CUDA_SUCCESS);
        CHECK(cuMemsetD8_v2(at[i], 1, 1000) == CUDA_SUCCESS);
        for (unsigned k = 0; k < i; k++)
            CHECK(at[k] != at[i]);
    }
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 1 && count(HARP_OP_harpMemLease) == 7);
    CHECK(peer_wanted(&peer) == waited + 8);
    CHECK(last(HARP_OP_harpMemLease).args[0] == 1000 && last(HARP_OP_harpMemLease).args[1] == 32);
    /* The worker has heard of each before it is used. */
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_harpMemTake) == 92);
    CHECK(last(HARP_OP_harpMemTake).args[0] == at[99]);
    CHECK(after(HARP_OP_harpMemTake, HARP_OP_cuMemsetD8_v2) == 1);
    /* And they are there again when they are freed, each once. */
    for (unsigned i = 0; i < 100; i++)
        CHECK(cuMemFree_v2(at[i]) == CUDA_SUCCESS);
    waited = peer_wanted(&peer);
    for (unsigned i = 0; i < 100; i++)
        CHECK(cuMemAlloc_v2(&at[i], 1000) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && peer_wanted(&peer) == waited + 1);
    CHECK(count(HARP_OP_harpMemKeep) == 100 && count(HARP_OP_cuMemFree_v2) == 0);
    for (unsigned i = 0; i < 100; i++)
        for (unsigned k = 0; k < i; k++)
            CHECK(at[k] != at[i]);
}

/* Nor what is another kind's: its size may be the same. */
static void what_is_wanted_once_is_freed(void)
{
    CUdeviceptr at = 0, three[3];
    size_t pitch = 0;
    begin();
    for (unsigned i = 1; i < 40; i++)
        CHECK(cuMemAlloc_v2(&at, i * KIB) == CUDA_SUCCESS && cuMemFree_v2(at) == CUDA_SUCCESS);
    for (unsigned i = 0; i < 4; i++)
        CHECK(cuMemAlloc_v2(&at, 2 * MIB) == CUDA_SUCCESS && cuMemFree_v2(at) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 43);
    CHECK(count(HARP_OP_harpMemLease) == 0 && count(HARP_OP_harpMemKeep) == 0);
    warm(three, 5000);
    CHECK(cuMemAllocPitch_v2(&at, &pitch, 625, 8, 4) == CUDA_SUCCESS && pitch == 625);
    CHECK(cuMemFree_v2(at) == CUDA_SUCCESS);
    CHECK(cuMemAllocAsync(&at, 5000, NULL) == CUDA_SUCCESS && cuMemFree_v2(at) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_harpMemKeep) == 1);
    CHECK(count(HARP_OP_cuMemFree_v2) == 46);
}

static void no_memory_is_said_when_nothing_is_spare(void)
{
    CUdeviceptr three[3], large = 0;
    begin();
    warm(three, 4096);
    refusals = 1;
    CHECK(cuMemAlloc_v2(&large, 64 * MIB) == CUDA_SUCCESS && large != 0);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 3 && last(HARP_OP_cuMemFree_v2).args[0] == three[2]);
    CHECK(last(HARP_OP_harpMemTake).args[0] == three[2] && count(HARP_OP_harpMemTake) == 2);
    CHECK(after(HARP_OP_harpMemTake, HARP_OP_cuMemFree_v2) == 1);
    CHECK(after(HARP_OP_cuMemFree_v2, HARP_OP_cuMemAlloc_v2) == 1);
    /* There is none, and nothing to give back: once is enough. */
    refusals = 1;
    CHECK(cuMemAlloc_v2(&large, 64 * MIB) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 4);
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS);
    refusals = 2;
    CHECK(cuMemAllocAsync(&large, 64 * MIB, NULL) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(count(HARP_OP_cuMemAllocAsync) == 2 && count(HARP_OP_cuMemFree_v2) == 2);
    refusals = 1;
    CHECK(cuMemAlloc_v2(&large, 4096) == CUDA_ERROR_OUT_OF_MEMORY); /* with others */
    CHECK(count(HARP_OP_harpMemLease) == 2 && large != 0);
}

/* Else it might lie where the next one, which is of another size, would be put. */
static void another_size_is_placed_without_it(void)
{
    CUdeviceptr three[3], at = 0;
    size_t pitch;
    begin();
    warm(three, 4096);
    CHECK(cuMemAlloc_v2(&at, 8192) == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[2]);
    CHECK(after(HARP_OP_cuMemFree_v2, HARP_OP_cuMemAlloc_v2) == 1);
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS);
    CHECK(cuMemAllocPitch_v2(&at, &pitch, 512, 8, 4) == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[1]);
    CHECK(after(HARP_OP_cuMemFree_v2, HARP_OP_cuMemAllocPitch_v2) == 1);
    /* A large one lies by itself. */
    CHECK(cuMemFree_v2(three[0]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, 2 * MIB) == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 2);
    CHECK(cuMemAlloc_v2(&at, 4096) == CUDA_SUCCESS && at == three[0]);
}

static void how_much_there_is_is_asked_without_it(void)
{
    CUdeviceptr three[3];
    size_t free, total;
    begin();
    warm(three, 4096);
    CHECK(cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[2]);
    CHECK(after(HARP_OP_cuMemFree_v2, HARP_OP_cuMemGetInfo_v2) == 1);
}

static void it_is_recalled(void)
{
    CUdeviceptr three[3], at = 0;
    begin();
    warm(three, 4096);
    recalls = true;
    CHECK(cuMemAlloc_v2(&at, 32 * MIB) == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 0);
    CHECK(cuMemsetD8_v2(at, 0, 16) == CUDA_SUCCESS); /* whatever comes next */
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 1);
    CHECK(after(HARP_OP_cuMemFree_v2, HARP_OP_cuMemsetD8_v2) == 1);
    /* Nothing stays here until some is granted again. */
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_harpMemKeep) == 1 && count(HARP_OP_cuMemFree_v2) == 2);
    granted = 0;
    CHECK(cuMemAlloc_v2(&three[1], 4096) == CUDA_SUCCESS);
    CHECK(last(HARP_OP_harpMemLease).args[1] == 2);
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_harpMemKeep) == 1 && count(HARP_OP_cuMemFree_v2) == 3);
    granted = 100;
    CHECK(cuMemAlloc_v2(&three[1], 4096) == CUDA_SUCCESS);
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_harpMemKeep) == 2 && count(HARP_OP_cuMemFree_v2) == 3);
}

static void it_goes_back_after_a_while(void)
{
    const struct timespec a_while = {.tv_sec = 1, .tv_nsec = 200000000};
    CUdeviceptr three[3];
    begin();
    warm(three, 4096);
    nanosleep(&a_while, NULL);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_cuMemFree_v2) == 1);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[2]);
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(count(HARP_OP_harpMemKeep) == 2 && count(HARP_OP_cuMemFree_v2) == 1);
}

static void it_is_of_its_context(void)
{
    CUcontext first = begin(), other = NULL;
    CUdeviceptr three[3], at = 0;
    warm(three, 4096);
    CHECK(cuCtxCreate_v2(&other, 0, 0) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, 4096) == CUDA_SUCCESS && at != three[2]);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[2]); /* in the other one */
    CHECK(after(HARP_OP_cuCtxCreate_v2, HARP_OP_cuCtxSetCurrent) == 2);
    /* Freed from elsewhere, it is freed. */
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[1]);
    CUdeviceptr its[2];
    CHECK(cuMemAlloc_v2(&its[0], 4096) == CUDA_SUCCESS && cuMemFree_v2(at) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && last(HARP_OP_harpMemKeep).args[0] == at);
    CHECK(cuMemFree_v2(three[0]) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[0]);
    CHECK(cuCtxDestroy_v2(other) == CUDA_SUCCESS);
    /* What was of it has gone with it. */
    unsigned frees = count(HARP_OP_cuMemFree_v2);
    CHECK(cuCtxSetCurrent(first) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&its[0], 4096) == CUDA_SUCCESS && its[0] != at);
    CHECK(count(HARP_OP_cuMemFree_v2) == frees);
    /* Ours goes back where it is ours, also by a thread that has none. */
    CHECK(cuMemAlloc_v2(&its[1], 4096) == CUDA_SUCCESS && cuMemFree_v2(its[0]) == CUDA_SUCCESS);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && last(HARP_OP_harpMemKeep).args[0] == its[0]);
    CHECK(cuCtxSetCurrent(NULL) == CUDA_SUCCESS);
    recalls = true;
    unsigned waited = peer_wanted(&peer);
    CHECK(cuDevicePrimaryCtxRetain(&first, 0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&first, 0) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemFree_v2) > frees && peer_wanted(&peer) == waited + 2);
    CHECK(cuCtxSetCurrent(first) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
}

/* A primary context's handle is good again, what was in it is not. */
static void none_outlasts_a_reset(void)
{
    CUdeviceptr three[3], at = 0;
    begin();
    warm(three, 4096);
    unsigned takes = count(HARP_OP_harpMemTake);
    CHECK(cuDevicePrimaryCtxReset_v2(0) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, 4096) == CUDA_SUCCESS && at != three[2]);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS && count(HARP_OP_harpMemTake) == takes);
}

static void nothing_is_spare_in_a_capture(void)
{
    CUdeviceptr three[3];
    CUgraph graph = NULL;
    begin();
    warm(three, 4096);
    CHECK(cuStreamBeginCapture_v2(NULL, 0) == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[2]);
    CHECK(after(HARP_OP_cuMemFree_v2, HARP_OP_cuStreamBeginCapture_v2) == 1);
    unsigned waited = peer_wanted(&peer);
    CHECK(cuMemFree_v2(three[1]) == CUDA_SUCCESS && peer_wanted(&peer) == waited + 1);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == three[1]);
    CHECK(cuMemAlloc_v2(&three[1], 4096) == CUDA_SUCCESS && peer_wanted(&peer) == waited + 2);
    CHECK(count(HARP_OP_harpMemLease) == 1 && count(HARP_OP_cuMemAlloc_v2) == 2);
    CHECK(cuStreamEndCapture(NULL, &graph) == CUDA_SUCCESS);
}

/* A spare one may lie where this process has something. */
static void a_place_that_is_taken_goes_back(void)
{
    CUdeviceptr at = 0, other = 0;
    begin();
    CHECK(cuMemAlloc_v2(&at, 4096) == CUDA_SUCCESS && at == BASE);
    void *taken = (void *)(uintptr_t)(BASE + 2 * APART);
    CHECK(mmap(taken, 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
               0) == taken);
    CHECK(cuMemAlloc_v2(&at, 4096) == CUDA_SUCCESS && at == BASE + APART);
    CHECK(cuMemAlloc_v2(&other, 4096) == CUDA_SUCCESS && other != (uintptr_t)taken);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(last(HARP_OP_cuMemFree_v2).args[0] == (uintptr_t)taken);
}

static void strict_waits_for_each(void)
{
    CUdeviceptr at[20];
    setenv("HARP_STRICT", "1", 1);
    begin();
    for (unsigned i = 0; i < 20; i++)
        CHECK(cuMemAlloc_v2(&at[i], 4096) == CUDA_SUCCESS);
    for (unsigned i = 0; i < 20; i++)
        CHECK(cuMemFree_v2(at[i]) == CUDA_SUCCESS);
    CHECK(count(HARP_OP_cuMemAlloc_v2) == 20 && count(HARP_OP_cuMemFree_v2) == 20);
    CHECK(count(HARP_OP_harpMemLease) == 0 && count(HARP_OP_harpMemKeep) == 0);
}

#ifdef __SANITIZE_THREAD__
/* A reply comes after its call by way of the peer, which has the ring mapped elsewhere. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:reply_came\n";
}
#endif

#define THREADS 4
#define TURNS   60
#define PLACES  4096

static char whose[PLACES]; /* by address; atomic */
static CUcontext theirs;

/* Two sizes, which the others want, too; some of it goes back in between. */
static void *in_thread(void *arg)
{
    const char own = *(const char *)arg;
    size_t free, total;
    CHECK(cuCtxSetCurrent(theirs) == CUDA_SUCCESS);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        CUdeviceptr at[3];
        for (unsigned i = 0; i < 3; i++) {
            CHECK(cuMemAlloc_v2(&at[i], (1 + (turn + i) % 2) * 4096) == CUDA_SUCCESS);
            const uint64_t place = (at[i] - BASE) / APART;
            CHECK(place < PLACES && at[i] % APART == 0);
            CHECK(__atomic_exchange_n(&whose[place], own, __ATOMIC_RELAXED) == 0);
        }
        if (turn % 16 == (unsigned char)own)
            CHECK(cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS);
        for (unsigned i = 0; i < 3; i++) {
            const uint64_t place = (at[i] - BASE) / APART;
            CHECK(__atomic_exchange_n(&whose[place], 0, __ATOMIC_RELAXED) == own);
            CHECK(cuMemFree_v2(at[i]) == CUDA_SUCCESS);
        }
    }
    return NULL;
}

static void no_two_threads_have_the_same(void)
{
    static const char number[THREADS] = {1, 2, 3, 4};
    pthread_t thread[THREADS];
    theirs = begin();
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, in_thread, (void *)(uintptr_t)&number[i]) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    size_t free, total;
    CHECK(cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS);
    /* The worker has heard of each in the order of what it was: nobody's, somebody's, nobody's. */
    pthread_mutex_lock(&peer.lock);
    for (unsigned i = 0; i < peer.notes; i++) {
        const struct peer_note *n = &peer.note[i];
        const char is = n->op == HARP_OP_harpMemTake ? 't' : n->op == HARP_OP_harpMemKeep ? 'k' : 0;
        const uint64_t place = (n->args[0] - BASE) / APART;
        CHECK(is == 0 || whose[place] != is);
        if (is != 0)
            whose[place] = is;
    }
    pthread_mutex_unlock(&peer.lock);
    /* Each that was made has gone back. */
    CHECK(count(HARP_OP_cuMemFree_v2) == (next_address - BASE) / APART);
}

static const struct peer_scenario scenarios[] = {
    {"fewer_and_fewer_wait", fewer_and_fewer_wait},
    {"what_is_wanted_once_is_freed", what_is_wanted_once_is_freed},
    {"no_memory_is_said_when_nothing_is_spare", no_memory_is_said_when_nothing_is_spare},
    {"another_size_is_placed_without_it", another_size_is_placed_without_it},
    {"how_much_there_is_is_asked_without_it", how_much_there_is_is_asked_without_it},
    {"it_is_recalled", it_is_recalled},
    {"it_goes_back_after_a_while", it_goes_back_after_a_while},
    {"it_is_of_its_context", it_is_of_its_context},
    {"none_outlasts_a_reset", none_outlasts_a_reset},
    {"nothing_is_spare_in_a_capture", nothing_is_spare_in_a_capture},
    {"a_place_that_is_taken_goes_back", a_place_that_is_taken_goes_back},
    {"strict_waits_for_each", strict_waits_for_each},
    {"no_two_threads_have_the_same", no_two_threads_have_the_same},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
