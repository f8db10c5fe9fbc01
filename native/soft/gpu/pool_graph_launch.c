/* SPDX-License-Identifier: Apache-2.0
 *
 * A launch of a graph with memory: which blocks it gets is settled when it is launched, the
 * addresses lead there when it is its turn. Commands before and behind its nodes say when.
 */
#include <stdlib.h>

#include "soft/gpu/pool_graph_state.h"

struct turn { /* a command before the nodes, or behind them */
    struct soft_cmd cmd;
    struct soft_graph_memory *memory; /* by reference */
    bool upload;
    size_t count; /* before the nodes: what its addresses lead to then */
    struct lead {
        struct soft_graph_segment *segment;
        size_t unit;
        struct soft_graph_block *block; /* there until the launch is over */
    } *leads;
};

static void turn_destroy(struct soft_cmd *cmd)
{
    soft_space_lock();
    soft_graph_memory_unref(((struct turn *)cmd)->memory);
    soft_space_unlock();
    free(((struct turn *)cmd)->leads);
    free(cmd);
}

/* ---------------------------------------------------------------------------------- before --- */
/* The launch before may have been in another stream, and its blocks others. */
static void begin_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct soft_graph_memory *m = ((struct turn *)cmd)->memory;

    soft_space_lock();
    if (m->last != NULL && m->last != stream && soft_cmd_depend(cmd, m->last, m->last_seq) != 0)
        soft_ctx_poison(stream->ctx, CUDA_ERROR_UNKNOWN); /* no memory for 16 bytes */
    soft_space_unlock();
}

static CUresult begin_run(struct soft_cmd *cmd, struct soft_run *run)
{
    const struct turn *t = (const struct turn *)cmd;
    int err = 0;

    soft_space_lock();
    for (size_t i = 0; i < t->count && err == 0; i++)
        err = soft_graph_unit_map(t->leads[i].segment, t->leads[i].unit, t->leads[i].block);
    soft_space_unlock();
    return err == 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static const struct soft_cmd_ops begin_ops = {.name = "graph_memory",
                                              .engine = SOFT_NO_ENGINE,
                                              .run = begin_run,
                                              .destroy = turn_destroy,
                                              .submitted = begin_submitted};

static void let_go(struct soft_graph_memory *m)
{
    for (struct soft_graph_segment *s = m->segments; s != NULL; s = s->next)
        for (size_t u = 0; u < s->units; u++)
            if (s->unit[u].taken) {
                s->unit[u].planned->launching--;
                s->unit[u].taken = false;
            }
}

/* May it be launched? What it frees must be alive, what it makes must not be. */
static CUresult check(const struct soft_graph_memory *m, bool auto_free)
{
    for (size_t i = 0; i < m->exec_free_count; i++)
        if (!m->frees[i]->living || m->frees[i]->claimed)
            return CUDA_ERROR_INVALID_VALUE;
    for (const struct soft_graph_alloc *a = m->allocs; a != NULL; a = a->next)
        if (a->living && (!auto_free || a->claimed))
            return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static CUresult take_blocks(struct soft_graph_memory *m, struct soft_stream *stream, struct turn *t)
{
    size_t units = 0;

    for (const struct soft_graph_segment *s = m->segments; s != NULL; s = s->next)
        units += s->units;
    t->leads = calloc(units + 1, sizeof *t->leads);
    for (struct soft_graph_segment *s = m->segments; s != NULL; s = s->next)
        for (size_t u = 0; u < s->units; u++) {
            struct soft_graph_block *b =
                t->leads != NULL ? soft_graph_block_take(m, s->ordinal, s->unit[u].planned, stream)
                                 : NULL;

            if (b == NULL)
                return CUDA_ERROR_OUT_OF_MEMORY;
            soft_graph_unit_plan(s, u, b);
            s->unit[u].taken = true;
            t->leads[t->count++] = (struct lead){s, u, b};
        }
    return CUDA_SUCCESS;
}

static struct turn *turn_new(struct soft_graph_memory *m, bool upload,
                             const struct soft_cmd_ops *ops)
{
    struct turn *t = calloc(1, sizeof *t);

    if (t == NULL)
        return NULL;
    soft_space_lock();
    soft_graph_memory_ref(m);
    soft_space_unlock();
    t->cmd.ops = ops;
    t->memory = m;
    t->upload = upload;
    return t;
}

static void give_up(struct soft_graph_memory *m)
{
    soft_space_lock();
    let_go(m);
    soft_space_unlock();
}

CUresult soft_graph_launch_begin(struct soft_graph_memory *m, struct soft_stream *stream,
                                 bool upload, bool auto_free)
{
    struct turn *t = turn_new(m, upload, &begin_ops);
    CUresult r;

    if (t == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_space_lock();
    /* while its allocations live, their blocks are spoken for: there is nothing to upload */
    r = check(m, auto_free && !upload);
    for (struct soft_graph_alloc *a = m->allocs; a != NULL && r == CUDA_SUCCESS; a = a->next)
        if (a->living) /* as a free in this stream, before the launch */
            soft_graph_pool_freed(a->start, stream, soft_order_submitted(stream));
    if (r == CUDA_SUCCESS)
        r = take_blocks(m, stream, t);
    soft_space_unlock();
    if (r == CUDA_SUCCESS)
        r = soft_submit(stream, &t->cmd);
    else
        turn_destroy(&t->cmd);
    if (r != CUDA_SUCCESS)
        give_up(m);
    return r;
}

/* ---------------------------------------------------------------------------------- behind --- */
static void end_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct turn *t = (struct turn *)cmd;
    struct soft_graph_memory *m = t->memory;
    struct soft_stream *before;

    soft_stream_ref(stream);
    soft_space_lock();
    let_go(m);
    for (struct soft_graph_segment *s = m->segments; s != NULL; s = s->next)
        for (size_t u = 0; u < s->units; u++)
            if (s->unit[u].planned != NULL)
                soft_graph_block_until(s->unit[u].planned, stream, cmd->seq);
    for (struct soft_graph_alloc *a = m->allocs; a != NULL && !t->upload; a = a->next)
        if (a->free_node == NULL && a->in_exec)
            soft_graph_alloc_live(a, true);
    for (size_t i = 0; i < m->exec_free_count && !t->upload; i++)
        soft_graph_pool_freed(m->frees[i]->start, stream, cmd->seq);
    before = m->last;
    m->last = stream;
    m->last_seq = cmd->seq;
    soft_space_unlock();
    if (before != NULL)
        soft_stream_unref(before);
}

static const struct soft_cmd_ops end_ops = {.name = "graph_memory end",
                                            .engine = SOFT_NO_ENGINE,
                                            .destroy = turn_destroy,
                                            .submitted = end_submitted};

CUresult soft_graph_launch_end(struct soft_graph_memory *m, struct soft_stream *stream, bool upload)
{
    struct turn *t = turn_new(m, upload, &end_ops);
    CUresult r = t != NULL ? soft_submit(stream, &t->cmd) : CUDA_ERROR_OUT_OF_MEMORY;

    if (r != CUDA_SUCCESS) /* the stream takes nothing more: its context ends */
        give_up(m);
    return r;
}
