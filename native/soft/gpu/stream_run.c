/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream's thread, which starts with the first command: takes commands in order, waits for what
 * they wait for, takes their engine, runs them, and says when they were over.
 */
#include "soft/gpu/context.h"
#include "soft/gpu/fault.h"

#include <sys/prctl.h>
#include <unistd.h>

static uint64_t max_ns(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void let_go(struct soft_stream *stream, enum soft_engine but)
{
    for (int e = 0; e < SOFT_ENGINES; e++)
        if (stream->held[e] && e != (int)but) {
            stream->held[e] = false;
            soft_turn_let_go(&stream->ctx->turn[e], &stream->next_up);
        }
}

void soft_stream_let_go(struct soft_stream *stream)
{
    let_go(stream, SOFT_NO_ENGINE);
}

static uint64_t wait_dep(struct soft_stream *stream, const struct soft_dep *dep)
{
    struct soft_stream *on = dep->stream;
    uint64_t end;

    pthread_mutex_lock(&on->lock);
    if (on->completed < dep->seq) {
        pthread_mutex_unlock(&on->lock);
        let_go(stream, SOFT_NO_ENGINE);
        pthread_mutex_lock(&on->lock);
        while (on->completed < dep->seq)
            pthread_cond_wait(&on->done, &on->lock);
    }
    end = on->completed - dep->seq < SOFT_ENDS ? on->ends[dep->seq % SOFT_ENDS] : 0;
    pthread_mutex_unlock(&on->lock);
    return end;
}

static bool is_sticky(CUresult r)
{
    switch ((int)r) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}

/* The driver's message about it, as NVML's events tell it: 31 is the memory unit's, 43 what
 * software itself raises, 13 all other exceptions of the SMs. */
static void tell_xid(const struct soft_ctx *ctx, CUresult r)
{
    uint64_t xid = 13;

    if (r == CUDA_ERROR_ILLEGAL_ADDRESS)
        xid = 31;
    else if (r == CUDA_ERROR_ASSERT)
        xid = 43;
    soft_state_event_post(soft_the_state, soft_at(ctx->ordinal), SOFT_EVENT_XID, xid,
                          (int32_t)getpid());
}

static void latch(struct soft_ctx *ctx, CUresult r)
{
    int none = CUDA_SUCCESS;

    if (r == CUDA_SUCCESS)
        return;
    if (is_sticky(r)) {
        if (soft_ctx_sticky(ctx) == CUDA_SUCCESS)
            tell_xid(ctx, r);
        soft_ctx_poison(ctx, r);
    } else {
        atomic_compare_exchange_strong(&ctx->deferred, &none, (int)r);
    }
}

/* Another command for the same engine stands in the queue; `priority` is its. */
static bool follows(struct soft_stream *stream, enum soft_engine engine, int *priority)
{
    const struct soft_cmd *next;

    pthread_mutex_lock(&stream->lock);
    next = stream->head;
    while (next != NULL && next->ops->engine >= SOFT_ENGINES && !next->ops->blocks)
        next = next->next;
    if (next != NULL)
        *priority = next->priority;
    pthread_mutex_unlock(&stream->lock);
    return next != NULL && next->ops->engine == engine;
}

static uint64_t carry_out(struct soft_stream *stream, struct soft_cmd *cmd, uint64_t ready_ns)
{
    struct soft_ctx *ctx = stream->ctx;
    struct soft_run run = {.ctx = ctx, .stream = stream, .start_ns = ready_ns};
    struct soft_use use;
    struct soft_turn *turn;
    enum soft_engine engine = cmd->ops->engine;
    bool keep;

    /* after a sticky error nothing is run any more; host functions are (the driver calls them) */
    if (cmd->ops->run == NULL || (soft_ctx_look(ctx) != CUDA_SUCCESS && !cmd->ops->always)) {
        cmd->abandoned = cmd->ops->run != NULL;
        return ready_ns;
    }
    if (engine >= SOFT_ENGINES) {
        if (cmd->ops->blocks)
            let_go(stream, SOFT_NO_ENGINE);
        latch(ctx, cmd->ops->run(cmd, &run));
        return max_ns(ready_ns, cmd->ops->always ? soft_now_ns() : run.end_ns);
    }
    let_go(stream, engine);
    turn = &ctx->turn[engine];
    run.start_ns = soft_turn_begin(turn, &use, ready_ns, cmd->sm_ppm, cmd->priority,
                                   &stream->next_up, stream->held[engine]);
    run.use = &use;
    latch(ctx, cmd->ops->run(cmd, &run));
    keep = turn->preempts && follows(stream, engine, &stream->next_up.priority);
    stream->held[engine] = keep;
    return soft_turn_finish(
        turn, &use,
        soft_fault_stretch(soft_the_state, soft_at(ctx->ordinal), run.modelled_ns + run.moved_ns),
        keep ? &stream->next_up : NULL);
}

static struct soft_cmd *next_cmd(struct soft_stream *stream)
{
    struct soft_cmd *cmd;

    pthread_mutex_lock(&stream->lock);
    while (stream->head == NULL && !stream->stopping) {
        pthread_mutex_unlock(&stream->lock);
        let_go(stream, SOFT_NO_ENGINE);
        pthread_mutex_lock(&stream->lock);
        if (stream->head != NULL || stream->stopping)
            break;
        pthread_cond_wait(&stream->work, &stream->lock);
    }
    cmd = stream->head;
    if (cmd != NULL) {
        stream->head = cmd->next;
        if (stream->head == NULL)
            stream->tail = NULL;
    }
    pthread_mutex_unlock(&stream->lock);
    return cmd;
}

void *soft_stream_main(void *arg)
{
    struct soft_stream *stream = arg;
    struct soft_cmd *cmd;

    prctl(PR_SET_NAME, "harp-soft-strm", 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* ends are met to the microsecond */
    while ((cmd = next_cmd(stream)) != NULL) {
        uint64_t ready = max_ns(cmd->submit_ns, stream->end_ns), end, seq = cmd->seq;

        while (atomic_load(&soft_ending))
            usleep(100000); /* exit() has begun: nothing more is carried out */
        for (size_t i = 0; i < cmd->dep_count; i++)
            ready = max_ns(ready, wait_dep(stream, &cmd->deps[i]));
        atomic_fetch_add(&stream->ctx->working, 1);
        end = carry_out(stream, cmd, ready);
        atomic_fetch_sub(&stream->ctx->working, 1);
        if (cmd->ops->ended != NULL)
            cmd->ops->ended(cmd, end);
        soft_cmd_drop(cmd);
        pthread_mutex_lock(&stream->lock);
        stream->completed = seq;
        stream->end_ns = end;
        stream->ends[seq % SOFT_ENDS] = end;
        pthread_cond_broadcast(&stream->done);
        pthread_mutex_unlock(&stream->lock);
    }
    let_go(stream, SOFT_NO_ENGINE);
    soft_stream_unref(stream); /* the thread's own */
    return NULL;
}
