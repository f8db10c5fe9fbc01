/* SPDX-License-Identifier: Apache-2.0
 *
 * What a remote session's client knows by itself: handles, stacks of contexts, ranges of memory.
 */
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "src/shim/remote/ranges.h"
#include "src/shim/remote/state.h"

static uint64_t value(const struct harp_thing *thing)
{
    return (uintptr_t)thing;
}

static void handles(void)
{
    struct harp_thing *event = harp_thing_add(HARP_HANDLE_CUevent, harp_thing_mint(), 0);
    struct harp_thing *kernel = harp_thing_add(HARP_HANDLE_CUkernel, harp_thing_mint(), 0);
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, value(event)) == event);
    CHECK(harp_thing_of(HARP_HANDLE_CUstream, value(event)) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUfunction, value(kernel)) == kernel);
    CHECK(harp_thing_of(HARP_HANDLE_CUkernel, value(event)) == NULL);
    /* made up: within a record, behind the last one in use, anywhere */
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, value(event) + 8) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, value(kernel + 1)) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, 0) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, UINT64_MAX) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, (uintptr_t)&event) == NULL);

    uint64_t id = event->id;
    CHECK(harp_thing_by_id(HARP_HANDLE_CUevent, id, false) == event);
    CHECK(harp_thing_by_id(HARP_HANDLE_CUstream, id, true) == NULL);
    harp_thing_end(event);
    harp_thing_end(event);
    CHECK(harp_thing_of(HARP_HANDLE_CUevent, value(event)) == NULL);
    CHECK(harp_thing_by_id(HARP_HANDLE_CUevent, id, false) == NULL);
    /* what the worker names is made when it is first met, and then is the same */
    struct harp_thing *named = harp_thing_by_id(HARP_HANDLE_CUevent, 1ull << 63 | 7, true);
    CHECK(named != NULL && harp_thing_by_id(HARP_HANDLE_CUevent, 1ull << 63 | 7, true) == named);
    harp_thing_end(named);
    harp_thing_end(kernel);
}

/* Its memory is another's later, its id nobody's; and for a while not even its memory. */
static void ended_handles_stay_unknown(void)
{
    static struct harp_thing *all[5000];
    for (unsigned i = 0; i < 5000; i++) {
        all[i] = harp_thing_add(HARP_HANDLE_CUstream, harp_thing_mint(), i % 2);
        CHECK(all[i] != NULL);
    }
    uint64_t last = all[4999]->id;
    /* One that has just ended is nobody's, however many are made now. */
    harp_thing_end(all[1]);
    for (unsigned i = 0; i < 1000; i++) {
        struct harp_thing *next = harp_thing_add(HARP_HANDLE_CUstream, harp_thing_mint(), 0);
        CHECK(next != NULL && next != all[1]);
        harp_thing_end(next);
    }
    harp_thing_end_owned(1);
    for (unsigned i = 0; i < 5000; i++)
        CHECK((harp_thing_of(HARP_HANDLE_CUstream, value(all[i])) != NULL) == (i % 2 == 0));
    for (unsigned i = 0; i < 5000; i += 2) {
        harp_thing_end(all[i]);
        struct harp_thing *next = harp_thing_add(HARP_HANDLE_CUstream, harp_thing_mint(), 0);
        CHECK(next != all[i] && next->id > last);
        CHECK(harp_thing_by_id(HARP_HANDLE_CUstream, next->id, false) == next);
        harp_thing_end(next);
    }
}

static struct harp_thing *made_in(enum harp_handle kind, const struct harp_thing *in)
{
    struct harp_thing *thing = harp_thing_add(kind, harp_thing_mint(), in == NULL ? 0 : in->id);
    CHECK(thing != NULL);
    return thing;
}

/* With a context its modules end, their functions, and what was made of those; nothing else. */
static void all_that_was_made_in_it_ends(void)
{
    struct harp_thing *a = made_in(HARP_HANDLE_CUcontext, NULL);
    struct harp_thing *b = made_in(HARP_HANDLE_CUcontext, NULL);
    /* a record is used again: what is made in it may lie before it */
    struct harp_thing *f = made_in(HARP_HANDLE_CUfunction, NULL);
    struct harp_thing *m = made_in(HARP_HANDLE_CUmodule, a);
    struct harp_thing *other = made_in(HARP_HANDLE_CUmodule, b);
    struct harp_thing *g = made_in(HARP_HANDLE_CUfunction, other);
    f->owner = m->id;
    uint64_t id = a->id;
    harp_thing_end(a);
    harp_thing_end_owned(id);
    CHECK(harp_thing_of(HARP_HANDLE_CUmodule, value(m)) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUfunction, value(f)) == NULL);
    CHECK(harp_thing_of(HARP_HANDLE_CUmodule, value(other)) == other);
    CHECK(harp_thing_of(HARP_HANDLE_CUfunction, value(g)) == g);
    CHECK(harp_thing_of(HARP_HANDLE_CUcontext, value(b)) == b);
    harp_thing_end(g);
    harp_thing_end(other);
    harp_thing_end(b);
}

static void *in_thread(void *number)
{
    struct harp_lane *lane = harp_lane();
    CHECK(lane != NULL && harp_lane() == lane && harp_lane_current(lane) == 0);
    *(uint32_t *)number = lane->number;
    return NULL;
}

static void stacks(void)
{
    struct harp_lane *lane = harp_lane();
    struct harp_thing *a = harp_thing_add(HARP_HANDLE_CUcontext, harp_thing_mint(), 0);
    struct harp_thing *b = harp_thing_add(HARP_HANDLE_CUcontext, harp_thing_mint(), 0);
    CUcontext got = NULL;
    CHECK(lane->number == 1);
    CHECK(harp_lane_pop(lane, &got) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK(harp_lane_set(lane, NULL) == CUDA_SUCCESS && lane->depth == 0);
    CHECK(harp_lane_push(lane, (CUcontext)&got) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK(harp_lane_set(lane, (CUcontext)a) == CUDA_SUCCESS && lane->depth == 1);
    CHECK(harp_lane_push(lane, (CUcontext)b) == CUDA_SUCCESS && lane->depth == 2);
    CHECK(harp_lane_current(lane) == b->id);
    CHECK(harp_lane_set(lane, (CUcontext)a) == CUDA_SUCCESS && lane->depth == 2);
    CHECK(harp_lane_set(lane, (CUcontext)b) == CUDA_SUCCESS);
    harp_lane_lost(lane, a->id); /* not the top: it stays where it is */
    CHECK(lane->depth == 2);
    harp_lane_lost(lane, b->id);
    CHECK(lane->depth == 1 && harp_lane_current(lane) == a->id);
    harp_thing_end(a);
    CHECK(harp_lane_pop(lane, &got) == CUDA_SUCCESS && got == (CUcontext)a);
    for (unsigned i = 0; i < HARP_REMOTE_STACK; i++)
        CHECK(harp_lane_push(lane, (CUcontext)b) == CUDA_SUCCESS);
    CHECK(harp_lane_push(lane, (CUcontext)b) == CUDA_ERROR_OUT_OF_MEMORY);
    lane->depth = 0;

    pthread_t thread;
    uint32_t number[2] = {0, 0};
    for (int i = 0; i < 2; i++) { /* one after another: the second has the first's number again */
        CHECK(pthread_create(&thread, NULL, in_thread, &number[i]) == 0);
        pthread_join(thread, NULL);
    }
    CHECK(number[0] == 2 && number[1] == 2);
}

static void *ends_within_a_call(void *arg)
{
    CHECK(harp_lane_enter(harp_lane()) && !harp_lanes_idle());
    return arg;
}

/* Closed, no call begins; one that goes on may have another within it. */
static void calls_under_way(void)
{
    struct harp_lane *lane = harp_lane();
    struct harp_thing *a = harp_thing_add(HARP_HANDLE_CUcontext, harp_thing_mint(), 0);
    pthread_t thread;
    CHECK(harp_lanes_idle() && harp_lane_enter(lane) && !harp_lanes_idle());
    CHECK(harp_lane_push(lane, (CUcontext)a) == CUDA_SUCCESS);
    harp_lanes_close(true);
    CHECK(harp_lane_enter(lane));
    harp_lane_leave(lane);
    CHECK(!harp_lanes_idle());
    harp_lane_leave(lane);
    CHECK(harp_lanes_idle() && !harp_lane_enter(lane) && harp_lanes_idle());
    harp_lanes_close(false);
    CHECK(harp_lane_enter(lane) && lane->depth == 1);
    harp_lane_leave(lane);
    harp_lanes_forget();
    CHECK(harp_lane_enter(lane) && lane->depth == 0);
    harp_lane_leave(lane);
    CHECK(pthread_create(&thread, NULL, ends_within_a_call, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(harp_lanes_idle());
    harp_thing_end(a);
}

static void ranges(void)
{
    struct harp_ranges set = {NULL, 0, 0};
    for (uint64_t i = 0; i < 200; i++) { /* in no order */
        const struct harp_range r = {.base = 0x1000 * (1 + i * 37 % 200), .bytes = 0x800, .id = i};
        CHECK(harp_ranges_add(&set, &r));
        CHECK(!harp_ranges_add(&set, &r));
    }
    const struct harp_range over = {.base = 0x1400, .bytes = 0x2000},
                            before = {.base = 0xfff, .bytes = 2}, none = {.base = 1},
                            wraps = {.base = UINT64_MAX - 1, .bytes = 9},
                            between = {.base = 0x1800, .bytes = 0x800};
    CHECK(!harp_ranges_add(&set, &over) && !harp_ranges_add(&set, &before));
    CHECK(!harp_ranges_add(&set, &none) && !harp_ranges_add(&set, &wraps));
    CHECK(harp_ranges_add(&set, &between));
    CHECK(harp_ranges_find(&set, 0xfff) == NULL);
    CHECK(harp_ranges_find(&set, 0x1000)->id == 0 && harp_ranges_find(&set, 0x17ff)->id == 0);
    CHECK(harp_ranges_find(&set, 0x2800) == NULL);
    CHECK(harp_ranges_hold(&set, 0x1000, 0x800) && !harp_ranges_hold(&set, 0x1000, 0x801));
    CHECK(!harp_ranges_hold(&set, 0x1001, 0x800) && !harp_ranges_hold(&set, 0x1001, UINT64_MAX));
    CHECK(!harp_ranges_remove(&set, 0x1001) && harp_ranges_remove(&set, 0x1000));
    CHECK(harp_ranges_find(&set, 0x1000) == NULL && harp_ranges_find(&set, 0x1800) != NULL);
    free(set.at);
}

/* Room for more within one, between what is in use there. */
static void gaps(void)
{
    struct harp_ranges set = {NULL, 0, 0};
    const struct harp_range in = {.base = 0x1000, .bytes = 0x1000};
    const struct harp_range used[] = {{.base = 0x800, .bytes = 0x900},   /* over its beginning */
                                      {.base = 0x1300, .bytes = 0x100},  /* 0x200 before it */
                                      {.base = 0x1800, .bytes = 0x700},  /* 0x400 */
                                      {.base = 0x1f80, .bytes = 0x800}}; /* 0x80; over its end */
    CHECK(harp_ranges_gap(&set, &in, 0x1000) == 0x1000 && harp_ranges_gap(&set, &in, 0x1001) == 0);
    for (unsigned i = 0; i < sizeof used / sizeof *used; i++)
        CHECK(harp_ranges_add(&set, &used[i]));
    CHECK(harp_ranges_gap(&set, &in, 0x200) == 0x1100 && harp_ranges_gap(&set, &in, 1) == 0x1100);
    CHECK(harp_ranges_gap(&set, &in, 0x201) == 0x1400 && harp_ranges_gap(&set, &in, 0x401) == 0);
    CHECK(harp_ranges_remove(&set, 0x1800));
    CHECK(harp_ranges_gap(&set, &in, 0x401) == 0x1400 &&
          harp_ranges_gap(&set, &in, 0xb80) == 0x1400);
    CHECK(harp_ranges_gap(&set, &in, 0xb81) == 0);
    CHECK(harp_ranges_remove(&set, 0x1f80) && harp_ranges_gap(&set, &in, 0xc00) == 0x1400);
    CHECK(harp_ranges_gap(&set, &in, 0xc01) == 0);
    free(set.at);
}

int main(void)
{
    handles();
    ended_handles_stay_unknown();
    all_that_was_made_in_it_ends();
    stacks();
    calls_under_way();
    ranges();
    gaps();
    return 0;
}
