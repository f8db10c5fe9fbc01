/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of the program, and the stack of contexts that each has. The stack is this side's alone:
 * the worker hears of the current context when a call needs it (ask.c).
 */
#include <pthread.h>
#include <stdlib.h>

#include "src/shim/remote/state.h"

/* That have a number; [0]: number 1. Atomic, and no lock: a child made by fork has threads, too. */
static uint32_t threads[HARP_REMOTE_LANES];
/* Calls that are under way, by number: each on a line of its own, for threads write there all the
 * time. Atomic, and so is whether calls may begin. */
static struct {
    _Alignas(64) uint32_t calls;
} under_way[HARP_REMOTE_LANES];
static bool closed;
static uint32_t sessions; /* that have ended, and been forgotten; atomic */
static bool key_made;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lane_end(void *at)
{
    struct harp_lane *lane = at;
    if (lane->calls > 0) /* the thread has ended within one */
        __atomic_sub_fetch(&under_way[lane->number - 1].calls, 1, __ATOMIC_RELEASE);
    __atomic_sub_fetch(&threads[lane->number - 1], 1, __ATOMIC_RELAXED);
    free(lane->scratch);
    if (lane->lent_used == 0) /* else somebody may still read there */
        free(lane->lent);
    free(lane);
}

static void make_key(void)
{
    key_made = pthread_key_create(&key, lane_end) == 0;
}

/* The first of those that the fewest threads have: unless another thread takes it meanwhile. */
static uint32_t number(void)
{
    for (;;) {
        uint32_t best = 0, fewest = UINT32_MAX;
        for (uint32_t i = 0; i < HARP_REMOTE_LANES && fewest != 0; i++) {
            uint32_t have = __atomic_load_n(&threads[i], __ATOMIC_RELAXED);
            if (have < fewest) {
                fewest = have;
                best = i;
            }
        }
        if (__atomic_compare_exchange_n(&threads[best], &fewest, fewest + 1, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return best + 1;
    }
}

struct harp_lane *harp_lane(void)
{
    pthread_once(&once, make_key);
    struct harp_lane *lane = key_made ? pthread_getspecific(key) : NULL;
    if (lane != NULL || !key_made)
        return lane;
    lane = calloc(1, sizeof *lane);
    if (lane == NULL)
        return NULL;
    lane->scratch = malloc(HARP_REMOTE_SCRATCH);
    if (lane->scratch == NULL || pthread_setspecific(key, lane) != 0) {
        free(lane->scratch);
        free(lane);
        return NULL;
    }
    lane->number = number();
    lane->session = __atomic_load_n(&sessions, __ATOMIC_RELAXED);
    return lane;
}

/* --- calls under way -------------------------------------------------------------------------- */

/* Either this thread sees that it is closed, or who closes sees its call: both orders are total. */
bool harp_lane_enter(struct harp_lane *lane)
{
    uint32_t *own = &under_way[lane->number - 1].calls;
    if (lane->calls > 0) {
        lane->calls++;
        return true;
    }
    __atomic_add_fetch(own, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&closed, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(own, 1, __ATOMIC_RELEASE);
        return false;
    }
    lane->calls = 1;
    uint32_t now = __atomic_load_n(&sessions, __ATOMIC_RELAXED);
    if (lane->session != now) {
        lane->session = now;
        lane->depth = 0;
        lane->doubt = lane->hurry = lane->ahead = false;
    }
    return true;
}

void harp_lane_leave(struct harp_lane *lane)
{
    if (--lane->calls == 0)
        __atomic_sub_fetch(&under_way[lane->number - 1].calls, 1, __ATOMIC_RELEASE);
}

void harp_lanes_close(bool close)
{
    __atomic_store_n(&closed, close, __ATOMIC_SEQ_CST);
}

void harp_lanes_forget(void)
{
    __atomic_add_fetch(&sessions, 1, __ATOMIC_RELAXED);
}

bool harp_lanes_idle(void)
{
    uint32_t calls = 0;
    for (uint32_t i = 0; i < HARP_REMOTE_LANES; i++)
        calls += __atomic_load_n(&under_way[i].calls, __ATOMIC_SEQ_CST);
    return calls == 0;
}

/* --- lending, and the stack ------------------------------------------------------------------- */

bool harp_lane_lends(struct harp_lane *lane, uint64_t bytes)
{
    if (lane->lent_size - lane->lent_used >= bytes)
        return true;
    uint64_t size = bytes > HARP_REMOTE_LENT ? bytes : HARP_REMOTE_LENT;
    uint8_t *more = malloc(size); /* one that is used stays: somebody may still read there */
    if (more == NULL)
        return false;
    if (lane->lent_used == 0)
        free(lane->lent);
    lane->lent = more;
    lane->lent_size = size;
    lane->lent_used = 0;
    return true;
}

uint64_t harp_lane_current(const struct harp_lane *lane)
{
    return lane->depth == 0 ? 0 : lane->stack[lane->depth - 1].id;
}

static CUresult put(struct harp_lane *lane, unsigned at, CUcontext ctx)
{
    struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUcontext, (uintptr_t)ctx);
    if (thing == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (at == HARP_REMOTE_STACK)
        return CUDA_ERROR_OUT_OF_MEMORY;
    lane->stack[at].ctx = ctx;
    lane->stack[at].id = thing->id;
    if (lane->depth == at)
        lane->depth++;
    return CUDA_SUCCESS;
}

CUresult harp_lane_push(struct harp_lane *lane, CUcontext ctx)
{
    return put(lane, lane->depth, ctx);
}

CUresult harp_lane_pop(struct harp_lane *lane, CUcontext *ctx)
{
    if (lane->depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    lane->depth--;
    if (ctx != NULL)
        *ctx = lane->stack[lane->depth].ctx;
    return CUDA_SUCCESS;
}

CUresult harp_lane_set(struct harp_lane *lane, CUcontext ctx)
{
    if (ctx != NULL)
        return put(lane, lane->depth == 0 ? 0 : lane->depth - 1, ctx);
    if (lane->depth > 0)
        lane->depth--;
    return CUDA_SUCCESS;
}

void harp_lane_lost(struct harp_lane *lane, uint64_t id)
{
    if (harp_lane_current(lane) == id)
        lane->depth--;
}
