/* SPDX-License-Identifier: Apache-2.0
 *
 * What a kernel gets of its host: the device clock, its memory, the end of its slice, and the math
 * that a compiler cannot open-code.
 */
#include "soft/gpu/arena.h"

#include <math.h>
#include <string.h>

static int poll_launch(const struct ptx_launch *launch)
{
    return soft_run_poll(launch->host_data);
}

/* Not in the context's map: pinned host memory, whole, or nothing. */
static void *translate(const struct ptx_launch *launch, uint64_t addr, uint64_t bytes, int write)
{
    struct soft_span span;

    if (soft_is_device_range(addr) || !soft_host_find(addr, &span) ||
        bytes > span.bytes - (addr - span.start))
        return NULL;
    return span.host + (addr - span.start);
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
