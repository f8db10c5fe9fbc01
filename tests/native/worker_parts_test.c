/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker's tables: ids and handles, memory of the session, what it has to wipe, images in memory
 * and in a folder.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "soft/ptxc/sha256.h"
#include "src/worker/handles.h"
#include "src/worker/held.h"
#include "src/worker/ranges.h"
#include "src/worker/store.h"
#include "src/worker/worker.h"

#define STREAM HARP_HANDLE_CUstream
#define EVENT  HARP_HANDLE_CUevent

static void test_an_id_stands_for_one_handle_of_its_kind(void)
{
    uint64_t value = 0;
    CHECK(handles_free(3) == 0 && handles_free(0) == -EEXIST && handles_free(2) == -EEXIST);
    CHECK(handles_free(HARP_WORKER_ID) == -EEXIST && handles_free(HARP_WORKER_ID - 1) == 0);
    CHECK(handles_bind(STREAM, 3, 0x1000) == 0);
    CHECK(handles_free(3) == -EEXIST && handles_bind(EVENT, 3, 0x2000) == -EEXIST);
    CHECK(handles_value(STREAM, 3, &value) == 0 && value == 0x1000);
    CHECK(handles_value(EVENT, 3, &value) == -ENOENT);
    CHECK(handles_value(STREAM, 4, &value) == -ENOENT);
    CHECK(handles_bind(EVENT, 4, 0x1000) == 0); /* the same number, another kind */
    handles_drop(handles_take(STREAM, 0x1000));
    CHECK(handles_value(STREAM, 3, &value) == -ENOENT);
    CHECK(handles_value(EVENT, 4, &value) == 0 && value == 0x1000);
    handles_drop(handles_take(EVENT, 0x1000));
}

static void test_a_kernel_is_taken_for_a_function_and_not_the_other_way(void)
{
    uint64_t value;
    CHECK(handles_bind(HARP_HANDLE_CUkernel, 10, 0x77) == 0);
    CHECK(handles_value(HARP_HANDLE_CUfunction, 10, &value) == 0 && value == 0x77);
    CHECK(handles_bind(HARP_HANDLE_CUfunction, 11, 0x78) == 0);
    CHECK(handles_value(HARP_HANDLE_CUkernel, 11, &value) == -ENOENT);
}

static void test_what_a_driver_answers_has_one_id(void)
{
    uint64_t first, again, value;
    CHECK(handles_id(EVENT, 0x5000, &first) == 0 && first >= HARP_WORKER_ID);
    CHECK(handles_id(EVENT, 0x5000, &again) == 0 && again == first);
    CHECK(handles_value(EVENT, first, &value) == 0 && value == 0x5000);
    CHECK(handles_id(STREAM, 0x5000, &again) == 0 && again != first);
    handles_drop(handles_take(EVENT, 0x5000));
    CHECK(handles_id(EVENT, 0x5000, &again) == 0 && again != first); /* another one by then */
    CHECK(handles_bind(HARP_HANDLE_CUfunction, 20, 0x6000) == 0);
    CHECK(handles_bind(HARP_HANDLE_CUfunction, 21, 0x6000) == 0); /* asked for twice */
    CHECK(handles_value(HARP_HANDLE_CUfunction, 20, &value) == 0 && value == 0x6000);
    CHECK(handles_id(HARP_HANDLE_CUfunction, 0x6000, &again) == 0 && again == 21);
    handles_drop(handles_take(HARP_HANDLE_CUfunction, 0x6000));
    CHECK(handles_value(HARP_HANDLE_CUfunction, 20, &value) == -ENOENT);
    CHECK(handles_value(HARP_HANDLE_CUfunction, 21, &value) == -ENOENT);
}

static void test_a_handle_that_a_call_ends_is_none_until_it_fails(void)
{
    uint64_t value, last;
    CHECK(handles_bind(EVENT, 30, 0x7000) == 0 && handles_bind(EVENT, 31, 0x7000) == 0);
    struct node *taken = handles_take(EVENT, 0x7000);
    CHECK(handles_value(EVENT, 30, &value) == -ENOENT && handles_take(EVENT, 0x7000) == NULL);
    /* another lane has been given the same: its id is not the one that ends */
    CHECK(handles_bind(EVENT, 32, 0x7000) == 0);
    handles_drop(taken);
    CHECK(handles_value(EVENT, 32, &value) == 0 && value == 0x7000);
    CHECK(handles_value(EVENT, 31, &value) == -ENOENT);
    CHECK(handles_bind(EVENT, 33, 0x7000) == 0);
    handles_put_back(handles_take(EVENT, 0x7000));
    CHECK(handles_value(EVENT, 32, &value) == 0 && handles_value(EVENT, 33, &value) == 0);
    CHECK(handles_id(EVENT, 0x7000, &last) == 0 && last == 33);
    handles_drop(handles_take(EVENT, 0x7000));
}

static void test_what_ends_with_a_handle_ends_with_that(void)
{
    const struct owner library = {.kind = HARP_HANDLE_CUlibrary, .value = 0xa100};
    const struct owner module = {.kind = HARP_HANDLE_CUmodule, .value = 0xa200};
    /* The same number, another kind. */
    const struct owner graph = {.kind = HARP_HANDLE_CUgraph, .value = 0xa100};
    uint64_t value, id;
    struct owner o;
    unsigned count = 0;
    CHECK(handles_bind_in(module, HARP_HANDLE_CUfunction, 40, 0xa300) == -ENOENT);
    CHECK(handles_bind(HARP_HANDLE_CUlibrary, 40, 0xa100) == 0);
    CHECK(handles_bind(HARP_HANDLE_CUgraph, 41, 0xa100) == 0);
    CHECK(handles_bind_in(library, HARP_HANDLE_CUmodule, 42, 0xa200) == 0);
    CHECK(handles_bind_in(module, HARP_HANDLE_CUfunction, 43, 0xa300) == 0);
    CHECK(handles_id_in(graph, HARP_HANDLE_CUgraphNode, 0xa400, &id) == 0);
    o = handles_owner(HARP_HANDLE_CUfunction, 0xa300);
    CHECK(o.kind == module.kind && o.value == module.value);
    struct node *taken = handles_take(HARP_HANDLE_CUlibrary, 0xa100);
    for (const struct node *n = NULL; (n = handles_next(taken, n, &o)) != NULL;)
        count++;
    CHECK(count == 3 && handles_value(HARP_HANDLE_CUfunction, 43, &value) == -ENOENT);
    CHECK(handles_value(HARP_HANDLE_CUmodule, 42, &value) == -ENOENT);
    CHECK(handles_value(HARP_HANDLE_CUgraphNode, id, &value) == 0);
    handles_put_back(taken); /* refused */
    CHECK(handles_value(HARP_HANDLE_CUfunction, 43, &value) == 0 && value == 0xa300);
    handles_drop(handles_take_of(library));
    CHECK(handles_value(HARP_HANDLE_CUlibrary, 40, &value) == 0);
    CHECK(handles_value(HARP_HANDLE_CUfunction, 43, &value) == -ENOENT);
    handles_drop(handles_take(HARP_HANDLE_CUlibrary, 0xa100));
    handles_drop(handles_take(HARP_HANDLE_CUgraph, 0xa100));
    CHECK(handles_value(HARP_HANDLE_CUgraphNode, id, &value) == -ENOENT);
    CHECK(!handles_known(HARP_HANDLE_CUgraphNode, 0xa400, &id));
}

static void test_many_handles_and_a_bound(void)
{
    uint64_t value;
    for (uint64_t i = 0; i < 100000; i++)
        CHECK(handles_bind(EVENT, 1000 + i, 0x100000 + 16 * i) == 0);
    for (uint64_t i = 0; i < 100000; i += 2)
        handles_drop(handles_take(EVENT, 0x100000 + 16 * i));
    for (uint64_t i = 0; i < 100000; i++)
        CHECK(handles_value(EVENT, 1000 + i, &value) == (i % 2 == 0 ? -ENOENT : 0));
    int err = 0;
    uint64_t bound = 0;
    for (uint64_t i = 0; err == 0 && bound < 2000000; i++, bound++)
        err = handles_bind(EVENT, 1000000 + i, 0x80000000 + i);
    CHECK(err == -ENOMEM && bound > 900000 && bound <= 1 << 20);
}

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

static void put_number(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* A section, a segment, and 32 bytes that both name. */
static uint64_t make_elf(uint8_t *to)
{
    memset(to, 0, 64 + 56 + 128 + 32);
    memcpy(to, "\177ELF\2\1", 6);
    put_number(to + 32, 64, 8);
    put_number(to + 54, 56, 2);
    put_number(to + 56, 1, 2);
    put_number(to + 40, 120, 8);
    put_number(to + 58, 64, 2);
    put_number(to + 60, 2, 2);
    put_number(to + 64 + 8, 248, 8);
    put_number(to + 64 + 32, 32, 8);
    put_number(to + 120 + 24, 248, 8);
    put_number(to + 120 + 32, 32, 8);
    put_number(to + 184 + 4, 8, 4); /* in memory alone, and larger than the file */
    put_number(to + 184 + 32, 1u << 30, 8);
    return 280;
}

static uint64_t make_fatbin(uint8_t *to)
{
    memset(to, 0, 16 + 64);
    put_number(to, 0xba55ed50, 4);
    put_number(to + 6, 16, 2);
    uint64_t elf = make_elf(to + 80);
    put_number(to + 16, 2, 2);
    put_number(to + 20, 64, 4);
    put_number(to + 24, elf, 8);
    uint8_t *text = to + 80 + elf; /* and one that is packed */
    memset(text, 0, 64 + 8);
    put_number(text, 1, 2);
    put_number(text + 4, 64, 4);
    put_number(text + 8, 8, 8);
    put_number(text + 16, 7, 4);
    put_number(text + 40, 0x2011, 8);
    put_number(text + 56, 1000, 8);
    put_number(to + 8, 64 + elf + 72, 8);
    return 80 + elf + 72;
}

/* At its very size, so that a byte too many is seen. */
static bool is_whole(const uint8_t *data, uint64_t bytes)
{
    uint8_t *exact = malloc(bytes + (bytes == 0));
    CHECK(exact != NULL);
    memcpy(exact, data, bytes);
    bool whole = image_is_whole(exact, bytes);
    free(exact);
    return whole;
}

static void test_an_image_ends_where_it_says(void)
{
    uint8_t image[512];
    const uint64_t elf = make_elf(image);
    CHECK(is_whole(image, elf));
    for (uint64_t cut = 6; cut < elf; cut++)
        CHECK(!is_whole(image, cut));
    CHECK(is_whole(image, 4)); /* what that is supposed to be a driver has to say */
    put_number(image + 120 + 24, UINT64_MAX - 8, 8);
    CHECK(!is_whole(image, elf));
    make_elf(image);
    put_number(image + 40, elf - 2, 8); /* two rows of a byte each */
    put_number(image + 58, 1, 2);
    CHECK(!is_whole(image, elf));
    const uint64_t all = make_fatbin(image);
    CHECK(is_whole(image, all));
    for (uint64_t cut = 4; cut < all; cut++)
        CHECK(!is_whole(image, cut));
    put_number(image + 80 + 120 + 32, 33, 8); /* what machine code there says nobody looks at */
    CHECK(is_whole(image, all));
    make_fatbin(image);
    put_number(image + 24, UINT64_MAX - 63, 8);
    CHECK(!is_whole(image, all));
    make_fatbin(image);
    put_number(image + 80 + elf + 56, 1ull << 40, 8); /* a bomb, by its own word */
    CHECK(!is_whole(image, all));
    make_fatbin(image);
    put_number(image + 80 + elf + 16, 9, 4);
    CHECK(!is_whole(image, all));
    CHECK(is_whole((const uint8_t *)".version 7.0", 12) && is_whole(image, 3));
}

static void test_where_an_image_is_in_memory_is_none(void)
{
    uint8_t image[16] = {0};
    put_number(image, 0x466243b1, 4);
    put_number(image + 4, 1, 4);
    put_number(image + 8, (uintptr_t)image, 8);
    CHECK(!is_whole(image, 16) && !is_whole(image, 4) && is_whole(image, 3));
}

static void test_a_section_without_bytes_is_none_that_is_read(void)
{
    uint8_t image[512];
    const uint64_t elf = make_elf(image);
    put_number(image + 62, 1, 2); /* the names */
    CHECK(!is_whole(image, elf));
    put_number(image + 62, 2, 2);
    CHECK(!is_whole(image, elf));
    make_elf(image);
    put_number(image + 120 + 40, 1, 4); /* what another one's are in */
    CHECK(!is_whole(image, elf));
    put_number(image + 184 + 4, 1, 4);
    put_number(image + 184 + 32, 0, 8);
    CHECK(is_whole(image, elf));
}

static void test_no_byte_of_an_image_makes_it_read_beyond(void)
{
    uint8_t image[512], good[512];
    uint32_t seed = 6;
    const uint64_t all = make_fatbin(good);
    for (unsigned turn = 0; turn < 200000; turn++) {
        memcpy(image, good, all);
        for (unsigned i = 0; i < 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            image[(seed >> 8) % all] = (uint8_t)(seed & 1 ? seed >> 24 : 0xff);
        }
        (void)is_whole(image, all);
    }
}

static void hash(struct harp_wire_image *image, const char *data)
{
    struct sha256 sha;
    char hex[65];
    sha256_init(&sha);
    sha256_add(&sha, data, image->bytes);
    sha256_hex(&sha, hex);
    for (unsigned i = 0; i < 32; i++) {
        unsigned byte;
        CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        image->sha256[i] = (unsigned char)byte;
    }
}

static void test_an_image_is_what_its_hash_says(void)
{
    const char text[] = "version 7"; /* without its end: a driver finds one all the same */
    struct harp_wire_image image = {.bytes = 9}, other;
    hash(&image, text);
    CHECK(image_take(&image) == NULL);
    other = image;
    other.sha256[31] ^= 1;
    CHECK(image_put(&other, text, 9) == -EBADMSG && image_take(&other) == NULL);
    CHECK(image_put(&image, text, 8) == -EBADMSG && image_put(&image, text, 10) == -EBADMSG);
    CHECK(image_put(&image, text, 9) == 0 && image_put(&image, text, 9) == 0);
    struct image *found = image_take(&image);
    CHECK(found != NULL && strcmp(image_data(found), text) == 0);
    image_give(found);
    other = image;
    other.bytes = 10;
    CHECK(image_take(&other) == NULL);
}

static void test_the_image_used_longest_ago_goes_first(void)
{
    enum { BYTES = KEPT_MAX / 4 };
    static char data[BYTES];
    struct harp_wire_image images[6];
    struct image *held = NULL;
    for (unsigned i = 0; i < 6; i++) {
        images[i] = (struct harp_wire_image){.bytes = BYTES};
        data[0] = (char)i;
        hash(&images[i], data);
        CHECK(image_put(&images[i], data, BYTES) == 0);
        struct image *used = image_take(&images[0]); /* always the latest */
        CHECK(used != NULL);
        image_give(used);
        if (i == 1)
            held = image_take(&images[1]); /* in a call */
    }
    CHECK(held != NULL && *(const char *)image_data(held) == 1);
    CHECK(image_take(&images[2]) == NULL && image_take(&images[3]) == NULL);
    CHECK(image_take(&images[4]) != NULL || image_take(&images[5]) != NULL);
}

enum { PUTTERS = 8 };
static struct harp_wire_image put_images[PUTTERS];
static char put_data[PUTTERS][KEPT_MAX];

static void *put_one(void *arg)
{
    uintptr_t i = (uintptr_t)arg;
    for (unsigned turn = 0; turn < 5; turn++)
        CHECK(image_put(&put_images[i], put_data[i], KEPT_MAX) == 0);
    return NULL;
}

/* Each is as much as is kept: they are taken in one after the other. */
static void test_the_largest_images_are_put_by_many_at_once(void)
{
    pthread_t threads[PUTTERS];
    for (uintptr_t i = 0; i < PUTTERS; i++) {
        put_images[i] = (struct harp_wire_image){.bytes = KEPT_MAX};
        memset(put_data[i], (int)i + 1, KEPT_MAX);
        hash(&put_images[i], put_data[i]);
    }
    for (uintptr_t i = 0; i < PUTTERS; i++)
        CHECK(pthread_create(&threads[i], NULL, put_one, (void *)i) == 0);
    for (unsigned i = 0; i < PUTTERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* In the folder, which the first of these opens. */
static char folder[] = "/tmp/harp-store-XXXXXX";

static const char *path_of(const struct harp_wire_image *image)
{
    static char path[128];
    int n = snprintf(path, sizeof path, "%s/", folder);
    for (unsigned i = 0; i < 32; i++)
        n += snprintf(path + n, sizeof path - (size_t)n, "%02x", image->sha256[i]);
    return path;
}

static bool is_there(const struct harp_wire_image *image)
{
    return access(path_of(image), F_OK) == 0;
}

static void put_file(const struct harp_wire_image *image, const char *data, size_t bytes)
{
    FILE *f = fopen(path_of(image), "w");
    CHECK(f != NULL && fwrite(data, 1, bytes, f) == bytes && fclose(f) == 0);
}

static void test_a_folder_is_the_users_and_nobody_elses(void)
{
    char text[512] = "";
    CHECK(mkdtemp(folder) != NULL && chmod(folder, 0750) == 0);
    CHECK(store_open("/nowhere", getuid(), text, sizeof text) == -ENOENT);
    CHECK(store_open(folder, getuid(), text, sizeof text) == -EPERM);
    CHECK(strstr(text, "mode 750") != NULL);
    CHECK(chmod(folder, 0700) == 0);
    CHECK(store_open(folder, getuid() + 1, text, sizeof text) == -EPERM);
    CHECK(store_open(folder, getuid(), text, sizeof text) == 0);
}

static void test_an_image_of_the_folder_is_what_its_hash_says(void)
{
    const char text[] = "by somebody", lie[] = "by anybody!";
    struct harp_wire_image image = {.bytes = 11}, shorter = {.bytes = 10};
    char target[64];
    hash(&image, text);
    put_file(&image, lie, 11);
    CHECK(image_take(&image) == NULL && !is_there(&image)); /* and is gone */
    put_file(&image, text, 10);
    CHECK(image_take(&image) == NULL);
    snprintf(target, sizeof target, "%s/target", folder);
    CHECK(rename(path_of(&image), target) == 0 && symlink(target, path_of(&image)) == 0);
    CHECK(image_take(&image) == NULL);
    CHECK(unlink(path_of(&image)) == 0 && mkfifo(path_of(&image), 0600) == 0);
    CHECK(image_take(&image) == NULL); /* and nobody waits for a writer */
    CHECK(unlink(path_of(&image)) == 0 && unlink(target) == 0);
    put_file(&image, text, 11);
    memcpy(shorter.sha256, image.sha256, sizeof image.sha256);
    CHECK(image_take(&shorter) == NULL);
    struct image *found = image_take(&image);
    CHECK(found != NULL && strcmp(image_data(found), text) == 0);
    image_give(found);
}

/* STORE_MAX is 1000. */
static void test_the_folder_has_a_bound(void)
{
    char data[400] = "";
    struct harp_wire_image images[5];
    uint64_t there = 0;
    for (unsigned i = 0; i < 5; i++) {
        images[i] = (struct harp_wire_image){.bytes = sizeof data - i};
        data[0] = (char)(i + 100);
        hash(&images[i], data);
        CHECK(image_put(&images[i], data, images[i].bytes) == 0);
        CHECK(is_there(&images[i]));
        usleep(20000); /* files are as old as the kernel's clock ticks */
        if (i == 1) {  /* used again: now the other one is older */
            int fd = store_find(&images[0]);
            CHECK(fd >= 0 && store_read(fd, data, images[0].bytes) == 0);
            usleep(20000);
        }
        if (i == 2)
            CHECK(is_there(&images[0]) && !is_there(&images[1]));
    }
    for (unsigned i = 0; i < 5; i++)
        there += is_there(&images[i]) ? images[i].bytes : 0;
    CHECK(there > 400 && there <= 1000);
    for (unsigned i = 0; i < 5; i++)
        unlink(path_of(&images[i]));
}

static void test_images_of_a_few_bytes_are_bounded_by_number(void)
{
    struct harp_wire_image first = {.bytes = 4}, image = {.bytes = 4};
    hash(&first, "abcd");
    CHECK(image_put(&first, "abcd", 4) == 0);
    CHECK(unlink(path_of(&first)) == 0);
    for (uint32_t i = 0; i < 4096; i++) {
        hash(&image, (const char *)&i);
        CHECK(image_put(&image, &i, 4) == 0);
        CHECK(unlink(path_of(&image)) == 0);
    }
    CHECK(image_take(&first) == NULL);
}

int main(void)
{
    test_an_id_stands_for_one_handle_of_its_kind();
    test_a_kernel_is_taken_for_a_function_and_not_the_other_way();
    test_what_a_driver_answers_has_one_id();
    test_a_handle_that_a_call_ends_is_none_until_it_fails();
    test_what_ends_with_a_handle_ends_with_that();
    test_many_handles_and_a_bound();
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
    test_an_image_ends_where_it_says();
    test_where_an_image_is_in_memory_is_none();
    test_a_section_without_bytes_is_none_that_is_read();
    test_no_byte_of_an_image_makes_it_read_beyond();
    test_an_image_is_what_its_hash_says();
    test_the_image_used_longest_ago_goes_first();
    test_the_largest_images_are_put_by_many_at_once();
    test_a_folder_is_the_users_and_nobody_elses();
    test_an_image_of_the_folder_is_what_its_hash_says();
    test_the_folder_has_a_bound();
    test_images_of_a_few_bytes_are_bounded_by_number();
    CHECK(rmdir(folder) == 0);
    return 0;
}
