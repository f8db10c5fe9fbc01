/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream's thread, which starts with the first command: takes commands in order, waits for what
 * they wait for, takes their engine, runs them, and says when they were over.
 */
#include "soft/gpu/context.h"

#include <sys/prctl.h>
#include <unistd.h>

static uint64_t max_ns(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The engines it kept are given up before it waits for anything. */
static void let_go(struct soft_stream *stream, enum soft_engine but)
{
    for (int e = 0; e < SOFT_ENGINES; e++)
        if (stream->held[e] && e != (int)but) {
            stream->held[e] = false;
            soft_turn_let_go(&stream->ctx->turn[e]);
        }
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

static void latch(struct soft_ctx *ctx, CUresult r)
{
    int none = CUDA_SUCCESS;

    if (r == CUDA_SUCCESS)
        return;
    if (is_sticky(r))
        soft_ctx_poison(ctx, r);
    else
        atomic_compare_exchange_strong(&ctx->deferred, &none, (int)r);
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
    if (cmd->ops->run == NULL || (atomic_load(&ctx->sticky) != CUDA_SUCCESS && !cmd->ops->blocks)) {
        cmd->abandoned = cmd->ops->run != NULL;
        return ready_ns;
    }
    if (engine >= SOFT_ENGINES) {
        if (cmd->ops->blocks)
            let_go(stream, SOFT_NO_ENGINE);
        latch(ctx, cmd->ops->run(cmd, &run));
        return cmd->ops->blocks ? max_ns(ready_ns, soft_now_ns()) : ready_ns;
    }
    let_go(stream, engine);
    turn = &ctx->turn[engine];
    run.start_ns = soft_turn_begin(turn, &use, ready_ns, cmd->sm_ppm, stream->held[engine]);
    run.use = &use;
    latch(ctx, cmd->ops->run(cmd, &run));
    pthread_mutex_lock(&stream->lock);
    keep = turn->preempts && stream->head != NULL;
    pthread_mutex_unlock(&stream->lock);
    stream->held[engine] = keep;
    return soft_turn_finish(turn, &use, run.modelled_ns + run.moved_ns, keep);
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
        end = carry_out(stream, cmd, ready);
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
