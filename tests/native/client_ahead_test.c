/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads that go along with the wait before them: how often the client waits, counted by itself and
 * by its peer, and that what it reads is what is there.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"
#include "src/shim/entry/api.h"

#define BASE 0x200000000000ull

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuCtxSetCurrent);
DECLARE(cuCtxSynchronize);
DECLARE(cuDevicePrimaryCtxRetain);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemcpyDtoH_v2);
DECLARE(cuMemcpyHtoD_v2);
DECLARE(cuStreamBeginCapture_v2);
DECLARE(cuStreamEndCapture);
DECLARE(cuStreamSynchronize);

static struct peer peer;
static CUdeviceptr memory;
static uint32_t waits;   /* that the device has seen: what is in its memory */
static uint32_t written; /* what the program has put there instead; 0: nothing */
static bool speaks;      /* the worker says something after a wait */
static uint64_t peek_ms; /* it takes so long */

static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args, progress[] = {0, 0};
    switch (call->op) {
    case HARP_OP_harpSession:
        *(uint32_t *)(uintptr_t)a[0] = 1;
        return 0;
    case HARP_OP_cuDevicePrimaryCtxRetain:
        *(uint64_t *)(uintptr_t)a[0] = (1ull << 63) + 1;
        return 0;
    case HARP_OP_cuMemAlloc_v2:
        *(uint64_t *)(uintptr_t)a[0] = BASE;
        return 0;
    case HARP_OP_cuCtxSynchronize:
    case HARP_OP_cuStreamSynchronize:
        waits++;
        written = 0;
        if (speaks)
            peer_say(p, HARP_OP_harpProgress, 1, progress, 2);
        return 0;
    case HARP_OP_cuMemcpyHtoD_v2:
        memcpy(&written, (const void *)(uintptr_t)a[1], sizeof written);
        return 0;
    case HARP_OP_harpMemPeek:
        usleep((useconds_t)peek_ms * 1000);
        /* fall through */
    case HARP_OP_cuMemcpyDtoH_v2: {
        uint32_t now = (written != 0 ? written : waits) + (uint32_t)(a[1] - BASE) * 1000;
        memset((void *)(uintptr_t)a[0], 0, a[2]);
        memcpy((void *)(uintptr_t)a[0], &now, sizeof now);
        return 0;
    }
    default:
        return 0;
    }
}

static unsigned count(uint32_t op)
{
    return peer_count(&peer, op, NULL);
}

static void begin(void)
{
    CUcontext ctx = NULL;
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(cuDevicePrimaryCtxRetain(&ctx, 0) == CUDA_SUCCESS);
    CHECK(cuCtxSetCurrent(ctx) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&memory, 1 << 20) == CUDA_SUCCESS);
}

static uint32_t read_at(uint64_t offset, size_t bytes)
{
    static uint32_t got[4096];
    CHECK(cuMemcpyDtoH_v2(got, memory + offset, bytes) == CUDA_SUCCESS);
    return got[0];
}

static void wait_and_read(void)
{
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(read_at(0, 4) == waits);
}

/* As often as makes it a habit. */
static void learnt(void)
{
    begin();
    wait_and_read();
    wait_and_read();
    CHECK(count(HARP_OP_harpMemPeek) == 0 && count(HARP_OP_cuMemcpyDtoH_v2) == 2);
}

static void a_habit_takes_one_round_trip(void)
{
    learnt();
    uint64_t before = harp_remote_trips();
    for (int i = 0; i < 100; i++)
        wait_and_read();
    CHECK(harp_remote_trips() - before == 100);
    CHECK(count(HARP_OP_harpMemPeek) == 100 && count(HARP_OP_cuMemcpyDtoH_v2) == 2);
    for (int i = 0; i < 3; i++) { /* of a stream as well */
        CHECK(cuStreamSynchronize(NULL) == CUDA_SUCCESS);
        CHECK(read_at(0, 4) == waits);
    }
    CHECK(count(HARP_OP_cuMemcpyDtoH_v2) == 2);
    CHECK(read_at(0, 4) == waits); /* once: the next one is a read of its own */
    CHECK(count(HARP_OP_cuMemcpyDtoH_v2) == 3);
}

static void what_was_written_since_is_read(void)
{
    learnt();
    for (uint32_t i = 1; i < 5; i++) {
        const uint32_t value = 1000000 + i;
        CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
        CHECK(cuMemcpyHtoD_v2(memory, &value, sizeof value) == CUDA_SUCCESS);
        CHECK(read_at(0, 4) == value);
    }
    CHECK(count(HARP_OP_cuMemcpyDtoH_v2) == 6);
}

static void another_place_or_size_is_read_there(void)
{
    learnt();
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(read_at(8, 4) == waits + 8000);
    CHECK(count(HARP_OP_harpMemPeek) == 1 && count(HARP_OP_cuMemcpyDtoH_v2) == 3);
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    CHECK(read_at(0, 8) == waits);
    CHECK(count(HARP_OP_cuMemcpyDtoH_v2) == 4);
}

/* What the worker says before it answers the wait may be how the program knows of a change. */
static void what_has_come_since_spoils_it(void)
{
    learnt();
    speaks = true;
    for (unsigned i = 0; i < 3; i++)
        wait_and_read();
    CHECK(count(HARP_OP_harpMemPeek) >= 1 && count(HARP_OP_cuMemcpyDtoH_v2) == 5);
}

static void an_old_one_is_none(void)
{
    learnt();
    CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
    usleep(6000);
    CHECK(read_at(0, 4) == waits);
    CHECK(count(HARP_OP_harpMemPeek) == 1 && count(HARP_OP_cuMemcpyDtoH_v2) == 3);
}

static void one_that_is_not_there_yet_is_waited_for(void)
{
    peek_ms = 2;
    learnt();
    for (int i = 0; i < 20; i++)
        wait_and_read();
    CHECK(count(HARP_OP_harpMemPeek) > 0);
}

static void failures_are_the_reads_own(void)
{
    learnt();
    peer_fail(&peer, HARP_OP_harpMemPeek, CUDA_ERROR_INVALID_VALUE);
    wait_and_read(); /* the driver is asked again */
    CHECK(count(HARP_OP_cuMemcpyDtoH_v2) == 3);
    peer_fail(&peer, HARP_OP_cuCtxSynchronize, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_INVALID_VALUE);
    CHECK(read_at(0, 4) == waits);
    CHECK(count(HARP_OP_cuMemcpyDtoH_v2) == 4);
}

/* Whoever waits and does not read is asked less and less. */
static void in_vain_seldom(void)
{
    learnt();
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 2; i++)
            CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
        wait_and_read();
        wait_and_read();
    }
    CHECK(count(HARP_OP_harpMemPeek) < 20);
}

static void nothing_is_guessed_beside_a_capture(void)
{
    CUgraph graph;
    learnt();
    CHECK(cuStreamBeginCapture_v2((CUstream)2, CU_STREAM_CAPTURE_MODE_RELAXED) == CUDA_SUCCESS);
    CHECK(cuStreamEndCapture((CUstream)2, &graph) == CUDA_SUCCESS);
    for (int i = 0; i < 5; i++)
        wait_and_read();
    CHECK(count(HARP_OP_harpMemPeek) == 0);
}

static void nothing_is_guessed_where_each_call_answers_for_itself(void)
{
    setenv("HARP_STRICT", "1", 1);
    learnt();
    for (int i = 0; i < 5; i++)
        wait_and_read();
    CHECK(count(HARP_OP_harpMemPeek) == 0);
}

static void large_reads_are_not_guessed(void)
{
    begin();
    for (int i = 0; i < 5; i++) {
        CHECK(cuCtxSynchronize() == CUDA_SUCCESS);
        CHECK(read_at(0, 4097) == waits);
    }
    CHECK(count(HARP_OP_harpMemPeek) == 0);
}

static void a_worker_that_goes_meanwhile(void)
{
    uint32_t got;
    learnt();
    wait_and_read();
    pthread_mutex_lock(&peer.lock);
    peer.leave = true;
    pthread_mutex_unlock(&peer.lock);
    CHECK(cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(cuMemcpyDtoH_v2(&got, memory, 4) == CUDA_ERROR_DEVICE_UNAVAILABLE);
}

#define SCENARIO(name) {#name, name}
static const struct peer_scenario scenarios[] = {
    SCENARIO(a_habit_takes_one_round_trip),
    SCENARIO(what_was_written_since_is_read),
    SCENARIO(another_place_or_size_is_read_there),
    SCENARIO(what_has_come_since_spoils_it),
    SCENARIO(an_old_one_is_none),
    SCENARIO(one_that_is_not_there_yet_is_waited_for),
    SCENARIO(failures_are_the_reads_own),
    SCENARIO(in_vain_seldom),
    SCENARIO(nothing_is_guessed_beside_a_capture),
    SCENARIO(nothing_is_guessed_where_each_call_answers_for_itself),
    SCENARIO(large_reads_are_not_guessed),
    SCENARIO(a_worker_that_goes_meanwhile),
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
