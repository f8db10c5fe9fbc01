/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts: made, current, poisoned, gone.
 */
#include "soft/gpu/context.h"
#include "soft/gpu/checkpoint.h"
#include "soft/gpu/managed.h"

#include "soft/gpu/fault.h"

#include <errno.h>
#include <stdlib.h>

#include "soft/gpu/capture.h"
#include "soft/gpu/pool.h"

struct soft_farewell {
    void (*fn)(void *);
    void *arg;
    struct soft_farewell *next;
};

static struct soft_ctx *all; /* guarded by soft_lock */
static _Atomic uint64_t next_id = 1;
/* What a context starts with. Nothing here is kept in L2 on demand: that limit is 0. */
static const size_t default_limits[SOFT_LIMITS] = {
    [CU_LIMIT_STACK_SIZE] = 1024,
    [CU_LIMIT_PRINTF_FIFO_SIZE] = 1u << 20,
    [CU_LIMIT_MALLOC_HEAP_SIZE] = 8u << 20,
    [CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2,
    [CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048,
    [CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64,
};

size_t soft_limit_usual(int limit)
{
    return default_limits[limit];
}

struct soft_ctx *soft_ctx_first(void)
{
    return all;
}

/* Brings `ctx` (device set) to life: a slot, a client, its overhead, its engines, its arena. With
 * soft_lock held, which is open in between: nobody else may know `ctx`, or be about to make it. */
CUresult soft_ctx_make(struct soft_ctx *ctx)
{
    struct soft_state *state = soft_the_state;
    bool known = false, charged;

    if (soft_broken() != CUDA_SUCCESS)
        return soft_broken();
    ctx->ordinal = soft_visible_ordinal(ctx->device);
    ctx->profile = state->profile[ctx->ordinal];
    if (soft_fault_lost(state, soft_at(ctx->ordinal))) {
        soft_log("device %d is lost: no context", ctx->ordinal);
        return CUDA_ERROR_UNKNOWN;
    }
    if (soft_present(state) < 0) {
        soft_log("the device has %d processes already", SOFT_MAX_SLOTS);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    ctx->client = soft_client_take(state, soft_at(ctx->ordinal));
    if (ctx->client < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_unlock(); /* it may wait for memory of the dead */
    do
        charged =
            soft_slot_charge(state, soft_at(ctx->ordinal), 0, ctx->profile->context_bytes) == 0;
    while (!charged && soft_reclaim(ctx->ordinal, ctx->profile->context_bytes));
    soft_lock();
    if (!charged)
        goto no_client;
    if (soft_arena_make(ctx) != 0)
        goto no_charge;
    ctx->id = atomic_fetch_add(&next_id, 1);
    ctx->api_version = 3020;
    ctx->peer_count = 0;
    ctx->closing = false;
    ctx->streams = ctx->legacy = NULL;
    ctx->farewells = NULL;
    atomic_store(&ctx->sticky, CUDA_SUCCESS);
    atomic_store(&ctx->deferred, CUDA_SUCCESS);
    ctx->limit_bytes = 0;
    for (int i = 0; i < SOFT_LIMITS; i++)
        ctx->limits[i] = default_limits[i];
    atomic_store(&ctx->stack_bytes, ctx->limits[CU_LIMIT_STACK_SIZE]);
    ctx->fence = ctx->recorder = NULL;
    ctx->fifo = (struct soft_fifo){.lock = PTHREAD_MUTEX_INITIALIZER};
    ctx->fence_seq = 0;
    ctx->usage = 1;
    atomic_store(&ctx->ending, 0);
    atomic_store(&ctx->working, 0);
    for (int i = 0; i < SOFT_LIMITS; i++)
        ctx->fixed_limits[i] = false;
    for (int e = 0; e < SOFT_ENGINES; e++)
        soft_turn_init(&ctx->turn[e], state, soft_at(ctx->ordinal), ctx->client,
                       (enum soft_engine)e);
    if (soft_handle_add(SOFT_H_CONTEXT, ctx) != 0) {
        soft_arena_end(ctx);
        goto no_charge;
    }
    for (struct soft_ctx *c = all; c != NULL; c = c->next)
        known = known || c == ctx;
    if (!known) {
        /* for good: who waits for all contexts may come to one that is just ending */
        pthread_mutex_init(&ctx->submit_lock, NULL);
        ctx->next = all;
        all = ctx;
    }
    atomic_store(&ctx->alive, 1);
    return CUDA_SUCCESS;
no_charge:
    soft_slot_release(state, soft_at(ctx->ordinal), 0, ctx->profile->context_bytes);
no_client:
    soft_client_leave(state, soft_at(ctx->ordinal), ctx->client);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static void end_streams(struct soft_ctx *ctx, bool inner)
{
    struct soft_stream *stream;

    while ((stream = soft_stream_unlink(ctx, inner)) != NULL) {
        soft_capture_forget_stream(stream);
        if (!stream->legacy && !stream->per_thread && !stream->inner)
            soft_handle_remove(SOFT_H_STREAM, stream);
        soft_stream_stop(stream);
    }
}

/* Ends it: what was submitted is carried out first, as the driver does; but a wait for a value that
 * nothing in the context can change any more is given up. Without soft_lock. */
void soft_ctx_end(struct soft_ctx *ctx)
{
    struct soft_state *state = soft_the_state;

    soft_handle_remove(SOFT_H_CONTEXT, ctx);
    atomic_store(&ctx->ending, 1);
    end_streams(ctx, false); /* a graph in one of them still submits to inner ones */
    end_streams(ctx, true);
    soft_fifo_flush(ctx);
    for (;;) {
        struct soft_farewell *f;

        soft_lock();
        f = ctx->farewells;
        if (f != NULL)
            ctx->farewells = f->next;
        soft_unlock();
        if (f == NULL)
            break;
        f->fn(f->arg);
        free(f);
    }
    soft_ctx_close(ctx);
    soft_lock();
    soft_events_forget(ctx);
    atomic_store(&ctx->alive, 0);
    for (int e = 0; e < SOFT_ENGINES; e++)
        soft_turn_destroy(&ctx->turn[e]);
    soft_client_leave(state, soft_at(ctx->ordinal), ctx->client);
    soft_pools_ctx_end(ctx);
    soft_arena_end(ctx);
    soft_slot_release(state, soft_at(ctx->ordinal), 0,
                      ctx->profile->context_bytes + ctx->limit_bytes);
    soft_unlock();
}

struct soft_ctx *soft_ctx_of(CUcontext handle)
{
    struct soft_ctx *ctx = (struct soft_ctx *)(void *)handle;

    return soft_handle_is(SOFT_H_CONTEXT, ctx) ? ctx : NULL;
}

CUcontext soft_ctx_handle(struct soft_ctx *ctx)
{
    return (CUcontext)(void *)ctx;
}

CUresult soft_current_any(struct soft_ctx **out)
{
    CUresult r = soft_ready();
    struct soft_thread *t;
    struct soft_ctx *ctx;

    if (r != CUDA_SUCCESS)
        return r;
    t = soft_thread();
    if (t == NULL || t->depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    ctx = t->stack[t->depth - 1];
    if (!atomic_load_explicit(&ctx->alive, memory_order_acquire) ||
        (!ctx->primary && ctx->id != t->stack_id[t->depth - 1]))
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *out = ctx;
    return CUDA_SUCCESS;
}

CUresult soft_current(struct soft_ctx **out)
{
    CUresult r = soft_current_any(out);

    return r != CUDA_SUCCESS ? r : soft_ctx_look(*out);
}

CUresult soft_ctx_look(struct soft_ctx *ctx)
{
    CUresult r = soft_ctx_sticky(ctx);

    if (r != CUDA_SUCCESS)
        soft_ctx_poison(ctx, r);
    return r;
}

/* What a kernel broke in one context is broken in all contexts of the process, those to come
 * included; only another process helps (documented with these codes, and seen on an H200). */
static _Atomic int broken;

static bool breaks_process(CUresult why)
{
    switch ((int)why) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default: /* a failed assertion is the context's alone */
        return false;
    }
}

CUresult soft_broken(void)
{
    return (CUresult)atomic_load_explicit(&broken, memory_order_relaxed);
}

CUresult soft_ctx_sticky(const struct soft_ctx *ctx)
{
    CUresult r = (CUresult)atomic_load_explicit(&ctx->sticky, memory_order_relaxed);

    if (r == CUDA_SUCCESS)
        r = soft_broken();
    if (r == CUDA_SUCCESS && atomic_load_explicit(&ctx->alive, memory_order_relaxed))
        r = (CUresult)soft_fault_killed(soft_the_state, soft_at(ctx->ordinal), ctx->client);
    return r;
}

CUresult soft_ctx_error(struct soft_ctx *ctx)
{
    soft_fifo_flush(ctx);
    return soft_ctx_told(ctx);
}

CUresult soft_ctx_told(struct soft_ctx *ctx)
{
    CUresult r = soft_ctx_look(ctx);

    return r != CUDA_SUCCESS ? r : (CUresult)atomic_exchange(&ctx->deferred, CUDA_SUCCESS);
}

void soft_ctx_poison(struct soft_ctx *ctx, CUresult why)
{
    int none = CUDA_SUCCESS;

    if (!atomic_compare_exchange_strong(&ctx->sticky, &none, (int)why))
        return;
    none = CUDA_SUCCESS;
    if (breaks_process(why))
        atomic_compare_exchange_strong(&broken, &none, (int)why);
    for (int e = 0; e < SOFT_ENGINES; e++)
        atomic_store(&ctx->turn[e].abandoned, true); /* what runs in it stops as well */
    soft_log("context %llu is unusable from now on: error %d", (unsigned long long)ctx->id,
             (int)why);
}

void soft_ctx_on_destroy(struct soft_ctx *ctx, void (*fn)(void *), void *arg)
{
    struct soft_farewell *f = malloc(sizeof *f);

    if (f == NULL)
        return; /* what it would free is the process's until it exits */
    soft_lock();
    *f = (struct soft_farewell){fn, arg, ctx->farewells};
    ctx->farewells = f;
    soft_unlock();
}

const struct soft_profile *soft_ctx_profile(const struct soft_ctx *ctx)
{
    return ctx->profile;
}

int soft_ctx_device(const struct soft_ctx *ctx)
{
    return ctx->device;
}

int soft_ctx_ordinal(const struct soft_ctx *ctx)
{
    return ctx->ordinal;
}

uint64_t soft_ctx_id(const struct soft_ctx *ctx)
{
    return ctx->id;
}

void soft_ledger_kernel(struct soft_ctx *ctx, uint64_t launches, uint64_t instructions)
{
    struct soft_shared_slot_dev *ledger = soft_slot_ledger(soft_the_state, soft_at(ctx->ordinal));

    if (atomic_load(&soft_ending))
        return;
    atomic_fetch_add_explicit(&ledger->launches, launches, memory_order_relaxed);
    atomic_fetch_add_explicit(&ledger->instructions, instructions, memory_order_relaxed);
}
