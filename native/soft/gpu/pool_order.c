/* SPDX-License-Identifier: Apache-2.0
 *
 * What follows what: each stream remembers which places of other streams its commands waited for.
 * Who asks follows those edges backwards. Old edges are forgotten: then less is known, never what
 * is not so.
 */
#include "soft/gpu/pool.h"

#include <stdlib.h>

#define EDGES 64u
#define STEPS 256u /* edges looked at for one answer */

struct soft_order { /* guarded by order_lock */
    struct edge {
        uint64_t seq; /* the stream's command that waits */
        struct soft_stream *on;
        uint64_t on_seq;
    } edges[EDGES];
    uint64_t count; /* ever; the latest EDGES are there */
};

static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER; /* innermost but stream locks */

void soft_order_add(struct soft_stream *stream, uint64_t seq, struct soft_stream *on,
                    uint64_t on_seq)
{
    struct soft_stream *gone = NULL;
    struct edge *e;

    if (on == stream || on_seq == 0)
        return;
    pthread_mutex_lock(&order_lock);
    if (stream->order == NULL)
        stream->order = calloc(1, sizeof *stream->order);
    if (stream->order != NULL) {
        e = &stream->order->edges[stream->order->count++ % EDGES];
        gone = e->on;
        soft_stream_ref(on);
        *e = (struct edge){seq, on, on_seq};
    }
    pthread_mutex_unlock(&order_lock);
    if (gone != NULL)
        soft_stream_unref(gone);
}

void soft_order_note(struct soft_stream *stream, const struct soft_cmd *cmd)
{
    for (size_t i = 0; i < cmd->dep_count; i++)
        soft_order_add(stream, cmd->seq, cmd->deps[i].stream, cmd->deps[i].seq);
}

void soft_order_forget(struct soft_stream *stream)
{
    struct soft_order *order;

    pthread_mutex_lock(&order_lock);
    order = stream->order;
    stream->order = NULL;
    pthread_mutex_unlock(&order_lock);
    for (size_t i = 0; order != NULL && i < EDGES; i++)
        if (order->edges[i].on != NULL)
            soft_stream_unref(order->edges[i].on);
    free(order);
}

static bool follows(const struct soft_stream *stream, uint64_t at, const struct soft_stream *on,
                    uint64_t on_seq, unsigned *steps)
{
    const struct soft_order *order = stream->order;

    if (stream == on)
        return at >= on_seq;
    for (size_t i = 0; order != NULL && i < EDGES && *steps > 0; i++) {
        const struct edge *e = &order->edges[(order->count - 1 - i) % EDGES];

        if (e->on == NULL)
            break;
        if (e->seq > at)
            continue;
        --*steps;
        if (follows(e->on, e->on_seq, on, on_seq, steps))
            return true;
    }
    return false;
}

bool soft_order_follows(struct soft_stream *stream, uint64_t at, struct soft_stream *on,
                        uint64_t on_seq)
{
    unsigned steps = STEPS;
    bool yes;

    pthread_mutex_lock(&order_lock);
    yes = follows(stream, at, on, on_seq, &steps);
    pthread_mutex_unlock(&order_lock);
    return yes;
}

bool soft_order_complete(struct soft_stream *stream, uint64_t seq)
{
    bool complete;

    pthread_mutex_lock(&stream->lock);
    complete = stream->completed >= seq;
    pthread_mutex_unlock(&stream->lock);
    return complete;
}

uint64_t soft_order_submitted(struct soft_stream *stream)
{
    uint64_t seq;

    pthread_mutex_lock(&stream->lock);
    seq = stream->submitted;
    pthread_mutex_unlock(&stream->lock);
    return seq;
}
