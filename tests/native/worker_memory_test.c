/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker's tables: memory of the session, and what it has to wipe.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/worker/held.h"
#include "src/worker/ranges.h"
#include "src/worker/worker.h"

static bool have(uint64_t address)
{
    return ranges_place(address) == RANGES_IN;
}

static void test_an_address_is_the_sessions_or_not(void)
{
    CHECK(!have(0x1000) && !have(0) && !have(UINT64_MAX));
    CHECK(ranges_add(0x2000, 0x1000) == 0 && ranges_add(0x8000, 0x1000) == 0);
    CHECK(ranges_add(0x1000, 0x100) == 0);
    CHECK(have(0x1000) && have(0x10ff) && !have(0x1100));
    CHECK(have(0x2fff) && !have(0x3000));
    CHECK(!have(0x1fff) && !have(0x7fff) && have(0x8000));
    CHECK(ranges_place(0x3000) == RANGES_END && ranges_place(0x3001) == RANGES_OUT);
    ranges_drop(0x2000);
    CHECK(!have(0x2800) && have(0x8800) && have(0x1080));
    ranges_drop(0x2800);                                   /* in the middle of nothing */
    CHECK(ranges_add(0x8000, 0x10) == 0 && !have(0x8800)); /* given out again */
    for (uint64_t i = 0; i < 3000; i++)
        CHECK(ranges_add(0x100000 + (i * 7919 % 3000) * 0x100, 0x80) == 0);
    for (uint64_t i = 0; i < 3000; i++)
        CHECK(have(0x100040 + i * 0x100) && !have(0x1000c0 + i * 0x100));
}

static void test_calls_add_and_take_away_memory(void)
{
    uint64_t at = 0x7000000, pitch = 512, bytes = 64;
    CUDA_MEM_ALLOC_NODE_PARAMS_v1 old = {.dptr = 0x7100000, .bytesize = 4096};
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    params.alloc.dptr = 0x7200000;
    params.alloc.bytesize = 4096;
    uint64_t args[HARP_WIRE_SLOTS] = {(uintptr_t)&at, (uintptr_t)&pitch, 500, 100};
    ranges_after(HARP_OP_cuMemAllocPitch_v2, args, 0);
    CHECK(have(at + 51199) && !have(at + 51200));
    args[4] = (uintptr_t)&old;
    ranges_after(HARP_OP_cuGraphAddMemAllocNode, args, 0);
    CHECK(have(0x7100fff) && !have(0x7101000));
    args[4] = args[5] = (uintptr_t)&params;
    ranges_after(HARP_OP_cuGraphAddNode, args, 0);
    CHECK(have(0x7200fff));
    params.alloc.dptr = 0x7300000;
    ranges_after(HARP_OP_cuGraphAddNode_v2, args, 0);
    CHECK(have(0x7300fff));
    params.type = CU_GRAPH_NODE_TYPE_KERNEL; /* what looks like an address there is none */
    params.alloc.dptr = 0x7400000;
    ranges_after(HARP_OP_cuGraphAddNode_v2, args, 0);
    CHECK(!have(0x7400000));
    at = 0x7500000;
    args[1] = (uintptr_t)&bytes;
    ranges_after(HARP_OP_cuModuleGetGlobal_v2, args, 0);
    CHECK(have(0x7500000 + 63) && !have(0x7500000 + 64));
    CHECK(ranges_add(0x7600000, 4096) == 0);
    args[0] = 0x7600000;
    const struct ranges_dropped dropped = ranges_before(HARP_OP_cuMemFreeAsync, args);
    CHECK(dropped.bytes == 4096 && !have(0x7600fff)); /* before the driver has freed it */
    ranges_failed(args, &dropped);
    CHECK(have(0x7600fff) && !have(0x7601000));
}

static void test_memory_of_earlier_hides_no_later_one(void)
{
    CHECK(ranges_add(0x8100000, 0x100) == 0 && ranges_add(0x8200000, 0x100) == 0);
    CHECK(ranges_add(0x80f0000, 0x100000) == 0); /* over the first: it was free */
    CHECK(have(0x8100101) && have(0x8180000) && have(0x8200080));
    CHECK(ranges_drop(0x8100000) == 0 && ranges_drop(0x80f0000) == 0x100000);
    CHECK(!have(0x8100080) && have(0x8200080));
    CHECK(ranges_add(0x8300000, 0x10000) == 0 && ranges_add(0x8308000, 0x10000) == 0);
    CHECK(ranges_add(0x8304000, 0x100) == 0); /* in the middle, as the first has not been freed */
    CHECK(have(0x8304200) && have(0x8317fff) && !have(0x8318000));
    CHECK(ranges_drop(0x8308000) == 0x10000);
    CHECK(have(0x830ffff) && !have(0x8310000));
    for (uint64_t i = 0; i < 1000; i++)
        CHECK(ranges_add(0x9000000 + i * 0x1000, 0x1000) == 0);
    CHECK(ranges_add(0x9000800, 998 * 0x1000) == 0); /* all but the first and the last two */
    CHECK(ranges_drop(0x9001000) == 0 && ranges_drop(0x9000000) == 0x1000);
    CHECK(ranges_drop(0x93e6000) == 0x1000 && ranges_drop(0x93e7000) == 0x1000);
    CHECK(!have(0x9000400) && have(0x93e67ff) && !have(0x93e6800));
}

static void test_globals_go_with_their_module(void)
{
    uint64_t at = 0xa000000, bytes = 256;
    uint64_t args[HARP_WIRE_SLOTS] = {(uintptr_t)&at, (uintptr_t)&bytes, 0x51};
    ranges_after(HARP_OP_cuModuleGetGlobal_v2, args, 0);
    ranges_after(HARP_OP_cuModuleGetGlobal_v2, args, 0); /* asked for twice */
    at = 0xa001000;
    args[2] = 0x52;
    ranges_after(HARP_OP_cuLibraryGetGlobal, args, 0);
    args[0] = 0xa000000;
    CHECK(ranges_before(HARP_OP_cuMemFree_v2, args).bytes == 0 && have(0xa000080));
    args[0] = 0x51;
    CHECK(ranges_before(HARP_OP_cuModuleUnload, args).bytes == 0);
    CHECK(!have(0xa000080) && have(0xa001080));
    args[0] = 0x52;
    CHECK(ranges_before(HARP_OP_cuLibraryUnload, args).bytes == 0 && !have(0xa001080));
}

/* Memory of a graph's node: there again with each launch, and that of the last may be kept. */
static void test_memory_of_a_graph_goes_with_what_launches_it(void)
{
    CUDA_MEM_ALLOC_NODE_PARAMS_v1 params = {.dptr = 0xb000000, .bytesize = 4096};
    uint64_t exec = 0x62, add[HARP_WIRE_SLOTS] = {0, 0x61, 0, 0, (uintptr_t)&params};
    uint64_t make[HARP_WIRE_SLOTS] = {(uintptr_t)&exec, 0x61}, at[HARP_WIRE_SLOTS] = {0xb000000};
    uint64_t graph[HARP_WIRE_SLOTS] = {0x61}, launched[HARP_WIRE_SLOTS] = {0x62};
    ranges_after(HARP_OP_cuGraphAddMemAllocNode, add, 0);
    ranges_before(HARP_OP_cuGraphDestroy, graph); /* never launched */
    CHECK(!have(0xb000800));
    ranges_after(HARP_OP_cuGraphAddMemAllocNode, add, 0);
    params.bytesize = 64; /* another node, later in the graph */
    ranges_after(HARP_OP_cuGraphAddMemAllocNode, add, 0);
    CHECK(have(0xb000800));
    ranges_after(HARP_OP_cuGraphInstantiateWithFlags, make, 0);
    CHECK(ranges_before(HARP_OP_cuMemFreeAsync, at).bytes == 0 && have(0xb000800));
    ranges_before(HARP_OP_cuGraphDestroy, graph);
    CHECK(ranges_before(HARP_OP_cuMemFreeAsync, at).bytes == 0 && have(0xb000800));
    ranges_before(HARP_OP_cuGraphExecDestroy, launched);
    CHECK(have(0xb000800));
    CHECK(ranges_before(HARP_OP_cuMemFreeAsync, at).bytes == 4096 && !have(0xb000800));
}

static void test_memory_goes_with_its_context(void)
{
    uint64_t at = 0xb100000, bytes = 256;
    uint64_t args[HARP_WIRE_SLOTS] = {(uintptr_t)&at, 4096};
    ranges_after(HARP_OP_cuMemAlloc_v2, args, 71);
    at = 0xb200000;
    ranges_after(HARP_OP_cuMemAllocAsync, args, 71); /* a pool's */
    at = 0xb300000;
    ranges_after(HARP_OP_cuMemAddressReserve, args, 71);
    at = 0xb400000;
    args[1] = (uintptr_t)&bytes;
    args[2] = 0x53;
    ranges_after(HARP_OP_cuLibraryGetGlobal, args, 71);
    at = 0xb500000;
    args[1] = 4096;
    ranges_after(HARP_OP_cuMemAlloc_v2, args, 72);
    args[0] = at;
    const struct ranges_dropped dropped = ranges_before(HARP_OP_cuMemFree_v2, args);
    ranges_failed(args, &dropped);
    ranges_context_ended(71);
    CHECK(!have(0xb100000) && have(0xb200000) && have(0xb300000) && !have(0xb400000));
    CHECK(have(0xb500000));
    ranges_context_ended(72);
    CHECK(!have(0xb500000));
}

static void test_what_is_held_is_told_from_what_comes_after_it(void)
{
    struct held h = {.kind = HELD_LINEAR, .key = 0x1000, .bytes = 64, .context = 7}, got;
    CHECK(held_put(&h) == 0 && held_get(HELD_LINEAR, 0x1000, &got) && got.bytes == 64);
    CHECK(!held_get(HELD_POOL, 0x1000, &got) && !held_get(HELD_LINEAR, 0x1001, &got));
    struct held again = h;
    again.bytes = 128; /* the driver has given it out again */
    CHECK(held_put(&again) == 0 && again.serial > h.serial);
    held_drop(&h); /* by who has freed the one before */
    CHECK(held_get(HELD_LINEAR, 0x1000, &got) && got.bytes == 128);
    held_drop(&again);
    CHECK(!held_get(HELD_LINEAR, 0x1000, &got));
}

static void test_what_is_held_goes_by_its_counts_and_with_its_context(void)
{
    struct held p = {.kind = HELD_PHYSICAL, .key = 1, .uses = 1}, got;
    struct held context = {.kind = HELD_CONTEXT, .key = 7, .uses = 1};
    struct held of_it = {.kind = HELD_ARRAY, .key = 8, .context = 7};
    struct held pool = {.kind = HELD_POOL, .key = 9, .context = 7};
    size_t count;
    CHECK(held_put(&p) == 0 && held_count(HELD_PHYSICAL, 1, 0, 1, &got) && got.maps == 1);
    CHECK(held_count(HELD_PHYSICAL, 1, -1, 0, &got) && held_get(HELD_PHYSICAL, 1, &got));
    CHECK(held_count(HELD_PHYSICAL, 1, 0, -1, &got) && !held_get(HELD_PHYSICAL, 1, &got));
    CHECK(!held_count(HELD_PHYSICAL, 1, 0, -1, &got));
    CHECK(held_put(&context) == 0 && held_stream(7, 70) == 70 && held_stream(7, 71) == 70);
    const uint64_t generation = held_generation(7);
    CHECK(generation != 0 && held_put_or_use(&context) == 0 && held_generation(7) == generation);
    CHECK(held_count(HELD_CONTEXT, 7, -1, 0, &got) && got.uses == 1);
    CHECK(held_context(0, false, &got) && got.key == 7 && !held_context(0, true, &got));
    CHECK(!held_context(1, false, &got));
    CHECK(held_put(&of_it) == 0 && held_put(&pool) == 0);
    const uint64_t then = held_now();
    struct held later = {.kind = HELD_LINEAR, .key = 10, .context = 7}; /* of the next one there */
    CHECK(held_put(&later) == 0);
    held_drop_context(7, then);
    CHECK(!held_get(HELD_CONTEXT, 7, &got) && !held_get(HELD_ARRAY, 8, &got));
    CHECK(held_get(HELD_POOL, 9, &got) && held_get(HELD_LINEAR, 10, &got));
    struct held *all = held_all(&count);
    CHECK(all != NULL && count == 2);
    free(all);
    held_drop(&pool);
    held_drop(&later);
    CHECK(held_all(&count) == NULL && count == 0);
}

static void test_what_a_capture_forbids_is_known_until_it_is_over(void)
{
    enum { GLOBAL, OF_THREAD, RELAXED };
    struct held one = {.kind = HELD_CAPTURE, .key = 11, .context = 7, .lane = 1, .uses = GLOBAL};
    CHECK(!held_captures() && !held_forbids(1, GLOBAL));
    CHECK(held_put(&one) == 0 && held_put(&one) == 0 && held_captures());
    CHECK(held_forbids(1, GLOBAL) && held_forbids(2, GLOBAL) && held_forbids(1, OF_THREAD));
    CHECK(!held_forbids(2, OF_THREAD) && !held_forbids(1, RELAXED));
    one.uses = OF_THREAD;
    CHECK(held_put(&one) == 0 && held_forbids(1, GLOBAL) && !held_forbids(2, GLOBAL));
    one.uses = RELAXED;
    CHECK(held_put(&one) == 0 && !held_forbids(1, GLOBAL) && held_captures());
    held_drop(&one);
    CHECK(!held_captures() && held_put(&one) == 0 && held_captures());
    held_drop_context(7, held_now());
    CHECK(!held_captures());
}

/* Memory of the host's is mapped between those that are kept. */
static void test_all_mappings_of_a_range_are_found(void)
{
    struct held m = {.kind = HELD_MAPPING, .key = 0x1000, .bytes = 0x1000}, next = m, last = m;
    size_t count;
    next.key = 0x3000;
    last.key = 0x4000;
    CHECK(held_put(&m) == 0 && held_put(&next) == 0 && held_put(&last) == 0);
    free(held_mappings(0x1000, 0x2000, &count));
    CHECK(count == 1);
    free(held_mappings(0x1000, 0x4000, &count));
    CHECK(count == 2);
    free(held_mappings(0, 0x5000, &count));
    CHECK(count == 3);
    held_drop(&m);
    held_drop(&next);
    held_drop(&last);
    CHECK(held_mappings(0x1000, 0x4000, &count) == NULL && count == 0);
}

/* After all others of ranges. */
static void test_ranges_are_bounded(void)
{
    uint64_t made = 0;
    CHECK(ranges_admit(HARP_OP_cuMemAlloc_v2));
    while (made < 1u << 20 && ranges_add(0xc000000000 + made * 0x1000, 0x100) == 0)
        made++;
    CHECK(made > 250000 && made <= 1u << 18);
    CHECK(!have(0xc000000000 + made * 0x1000));
    CHECK(!ranges_admit(HARP_OP_cuMemAlloc_v2) && ranges_admit(HARP_OP_cuMemFree_v2));
    for (uint64_t i = 0; i < 2000; i++) /* the last ones: those before need not move */
        CHECK(ranges_drop(0xc000000000 + (made - 1 - i) * 0x1000) == 0x100);
    CHECK(ranges_admit(HARP_OP_cuMemAlloc_v2));
}

int main(void)
{
    test_an_address_is_the_sessions_or_not();
    test_calls_add_and_take_away_memory();
    test_memory_of_earlier_hides_no_later_one();
    test_globals_go_with_their_module();
    test_memory_of_a_graph_goes_with_what_launches_it();
    test_memory_goes_with_its_context();
    test_ranges_are_bounded();
    test_what_is_held_is_told_from_what_comes_after_it();
    test_what_is_held_goes_by_its_counts_and_with_its_context();
    test_what_a_capture_forbids_is_known_until_it_is_over();
    test_all_mappings_of_a_range_are_found();
    return 0;
}
