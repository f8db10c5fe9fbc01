/* SPDX-License-Identifier: Apache-2.0
 *
 * What a kernel gets of its host: the device clock, its memory, the end of its slice, and the math
 * that a compiler cannot open-code.
 */
#include "soft/gpu/arena.h"
#include "soft/gpu/managed.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#define PAGE           4096u
#define PAGE_NAME_BITS 45 /* addresses of 57 bits */

/* Of the thread; by a key: thread.c. */
static pthread_key_t asked_key;
static pthread_once_t asked_once = PTHREAD_ONCE_INIT;

static void make_asked_key(void)
{
    pthread_key_create(&asked_key, NULL);
}

void soft_run_asked_lately(void)
{
    pthread_once(&asked_once, make_asked_key);
    pthread_setspecific(asked_key, &asked_key);
}

static int poll_launch(const struct ptx_launch *launch)
{
    struct soft_run *run = launch->host_data;

    pthread_once(&asked_once, make_asked_key);
    if (pthread_getspecific(asked_key) != NULL) {
        pthread_setspecific(asked_key, NULL);
        return atomic_load_explicit(&run->stop, memory_order_relaxed) != 0;
    }
    return soft_run_poll(run);
}

/* Pinned host memory has the same address for host and device. What a kernel reached once is
 * remembered by host pages that lie whole in it, until some is freed, so that most accesses look
 * nothing up. Slots are chosen by a hash: buffers are apart by powers of two. */
static void *pinned(struct soft_run *run, uint64_t addr, uint64_t bytes)
{
    uint64_t page = addr / PAGE;
    uint64_t name = (soft_host_changes + 1) << PAGE_NAME_BITS | page;
    _Atomic uint64_t *known = &run->pinned[page * 0x9e3779b97f4a7c15ull >> (64 - SOFT_PINNED_LOG2)];
    struct soft_span span;

    if (page != 0 && atomic_load_explicit(known, memory_order_relaxed) == name)
        return (void *)(uintptr_t)addr; /* aligned: it does not leave the page */
    if (!soft_host_find(addr, &span) || bytes > span.bytes - (addr - span.start))
        return NULL;
    if (page * PAGE >= span.start && (page + 1) * PAGE <= span.start + span.bytes)
        atomic_store_explicit(known, name, memory_order_relaxed);
    return span.host + (addr - span.start);
}

/* Not in the context's map: managed memory that is elsewhere, pinned host memory, or nothing. */
static void *translate(const struct ptx_launch *launch, uint64_t addr, uint64_t bytes, int write)
{
    struct soft_run *run = launch->host_data;

    if (soft_is_device_range(addr))
        return soft_managed_fault(run, addr, bytes, write != 0);
    return pinned(run, addr, bytes);
}

static int no_printf(const struct ptx_launch *launch, const char *format, const void *args)
{
    return -1;
}

const struct ptx_host soft_ptx_host = {
    .now_ns = soft_now_ns,
    .poll = poll_launch,
    .translate = translate,
    .vprintf = no_printf,
    .sin = sin,
    .cos = cos,
    .exp2 = exp2,
    .log2 = log2,
    .tanh = tanh,
    .sinf = sinf,
    .cosf = cosf,
    .exp2f = exp2f,
    .log2f = log2f,
    .tanhf = tanhf,
    .fma = fma,
    .fmaf = fmaf,
    .sqrt = sqrt,
    .sqrtf = sqrtf,
    .memcpy = memcpy,
    .memset = memset,
    .heap_take = soft_heap_take,
    .heap_give = soft_heap_give,
};

void soft_launch_bind(struct soft_run *run, struct ptx_launch *launch)
{
    launch->sm_count = (uint32_t)run->ctx->profile->sm_count;
    launch->arena_base = soft_space.base;
    launch->arena_bytes = soft_space.bytes;
    launch->arena_delta = soft_space.delta;
    launch->arena_map = run->ctx->arena->map;
    launch->host = &soft_ptx_host;
    launch->host_data = run;
}

int soft_run_poll(struct soft_run *run)
{
    int gone = soft_turn_poll(run->use);

    return gone != 0 || atomic_load_explicit(&run->stop, memory_order_relaxed) != 0;
}

void soft_run_enter(struct soft_run *run)
{
    soft_turn_enter(run->use);
}

void soft_run_leave(struct soft_run *run)
{
    soft_turn_leave(run->use);
}
