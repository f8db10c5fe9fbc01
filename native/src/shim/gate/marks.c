/* SPDX-License-Identifier: Apache-2.0
 *
 * Events in use and in store, brackets of launches between them. The gate's lock is held, but in
 * harp_marks_fill.
 */
#include <stdlib.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/session.h"
#include "src/shim/trace/trace.h"

static void unsee(const struct harp_timegate *g, enum harp_work work)
{
    for (int i = 0; i < HARP_SEEN; i++)
        if (__atomic_load_n(&harp_time_seen[work][i], __ATOMIC_RELAXED) != 0)
            __atomic_store_n(&harp_time_seen[work][i], 0, __ATOMIC_RELAXED);
    harp_ctx_unsee(g, work);
}

void harp_gate_unsee(const struct harp_timegate *g, unsigned lane)
{
    for (enum harp_work work = 0; work < HARP_WORKS; work++)
        if (harp_lane_of(g, work) == lane)
            unsee(g, work);
}

void harp_time_unsee_all(void)
{
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (!harp_gate_on(g))
            continue;
        pthread_mutex_lock(&g->lock);
        for (unsigned lane = 0; lane < g->lanes; lane++)
            harp_gate_unsee(g, lane);
        pthread_mutex_unlock(&g->lock);
    }
}

void harp_gate_update(struct harp_timegate *g)
{
    for (enum harp_work work = 0; work < HARP_WORKS; work++) {
        bool shut = g->on && g->lane[harp_lane_of(g, work)].state != GATE_FREE;
        if (shut && !g->shut[work])
            __atomic_fetch_add(&harp_time_shut[work], 1u, __ATOMIC_SEQ_CST);
        else if (!shut && g->shut[work])
            __atomic_fetch_sub(&harp_time_shut[work], 1u, __ATOMIC_SEQ_CST);
        if (shut) /* after the count: see see() in time.c */
            unsee(g, work);
        g->shut[work] = shut;
    }
}

struct harp_msg harp_gate_msg(const struct harp_timegate *g, unsigned lane, uint16_t op)
{
    return (struct harp_msg){.op = op, .dev = g->dev, .cls = lane, .epoch = g->lane[lane].epoch};
}

struct harp_mark *harp_mark_take(struct harp_meter_ctx *ctx)
{
    struct harp_mark *mark = ctx->pool;
    if (mark == NULL)
        return NULL;
    ctx->pool = mark->next;
    ctx->pooled--;
    mark->refs = 1;
    mark->done = false;
    return mark;
}

void harp_mark_unref(struct harp_mark *mark)
{
    if (mark == NULL || --mark->refs != 0)
        return;
    mark->next = mark->ctx->pool;
    mark->ctx->pool = mark;
    mark->ctx->pooled++;
}

void harp_bracket_free(struct harp_bracket *b)
{
    harp_mark_unref(b->start);
    harp_mark_unref(b->end);
    free(b);
}

void harp_gate_push(struct harp_timegate *g, struct harp_bracket *b)
{
    b->next = NULL;
    if (g->pending == NULL)
        g->pending_tail = &g->pending;
    *g->pending_tail = b;
    g->pending_tail = &b->next;
    g->lane[b->lane].brackets++;
}

uint64_t harp_time_launches(enum harp_work work)
{
    uint64_t sum = 0;
    for (int i = 0; i < HARP_SHARDS; i++)
        sum += __atomic_load_n(&harp_time_shards[i].launches[work], __ATOMIC_RELAXED);
    return sum;
}

uint64_t harp_gate_launches(const struct harp_timegate *g, unsigned lane)
{
    uint64_t sum = 0;
    for (enum harp_work work = 0; work < HARP_WORKS; work++)
        if (harp_lane_of(g, work) == lane)
            sum += harp_time_launches(work);
    return sum;
}

/* --- a turn's time ---------------------------------------------------------------------------- */

/* Streams that stop being told apart by a long turn's first event, for a difference of events is a
 * float of ms. */
#define REBASE_NS 1000000000ull

static void rebase(struct harp_timegate *g, unsigned lane)
{
    for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
        if (c->lane[lane].latest == NULL || !harp_span_known(&c->lane[lane].span))
            continue;
        harp_mark_unref(c->lane[lane].first);
        c->lane[lane].first = c->lane[lane].latest;
        c->lane[lane].latest = NULL;
        harp_span_rebase(&c->lane[lane].span);
    }
    g->lane[lane].rebased_ns += g->lane[lane].told_ns;
    g->lane[lane].told_ns = g->lane[lane].free_ns = 0;
}

/* used_ns: from the turn's first event to the latest that is done, over all contexts, less what was
 * said before. */
void harp_gate_report(struct harp_timegate *g, unsigned lane, uint64_t now, struct harp_msg *msg)
{
    struct harp_gatelane *l = &g->lane[lane];
    struct harp_envelope all = {0};
    for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
        const struct harp_span *span = &c->lane[lane].span;
        if (harp_span_known(span))
            harp_envelope_add(&all, harp_span_begin_ns(span), harp_span_until_ns(span));
    }
    if (l->free_ns != 0 && l->last_end_ns > l->free_ns)
        harp_envelope_add(&all, l->free_ns, l->last_end_ns);
    uint64_t used = harp_envelope_ns(&all);
    if (used > l->told_ns) {
        msg->used_ns = used - l->told_ns;
        l->told_ns = used;
    }
    msg->age_ns = all.until_ns != 0 && all.until_ns < now ? now - all.until_ns : 0;
    uint64_t launches = harp_gate_launches(g, lane);
    msg->launches = launches - l->reported_launches;
    l->reported_launches = l->sampled_launches = launches;
    l->reported_ns = now;
    if (used > REBASE_NS)
        rebase(g, lane);
}

void harp_gate_turn_over(struct harp_timegate *g, unsigned lane)
{
    for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
        harp_mark_unref(c->lane[lane].first);
        harp_mark_unref(c->lane[lane].latest);
        c->lane[lane].first = c->lane[lane].latest = NULL;
        c->lane[lane].span = (struct harp_span){0};
    }
    for (struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->open != NULL && s->open->lane == lane && !s->open->sample) {
            harp_bracket_free(s->open);
            s->open = NULL;
        }
    g->lane[lane].told_ns = g->lane[lane].rebased_ns = 0;
    g->lane[lane].last_end_ns = g->lane[lane].free_ns = 0;
    g->lane[lane].announced = false;
}

uint64_t harp_gate_unended(const struct harp_timegate *g, unsigned lane)
{
    const struct harp_gatelane *l = &g->lane[lane];
    uint64_t n = l->inside + (g->away ? 0 : l->waiters); /* else some wait for memory */
    for (const struct harp_bracket *b = g->pending; b != NULL; b = b->next)
        if (b->lane == lane && !b->sample)
            n += b->launches;
    for (const struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->open != NULL && s->open->lane == lane && !s->open->sample)
            n += s->open->launches;
    return n;
}

static bool queued(const struct harp_timegate *g, unsigned lane)
{
    if (g->lane[lane].brackets != 0)
        return true;
    for (const struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->dirty[lane])
            return true;
    return g->lane[lane].inside != 0;
}

void harp_gate_closing(struct harp_timegate *g, unsigned lane, uint64_t now, bool backlogged,
                       bool announce)
{
    struct harp_gatelane *l = &g->lane[lane];
    if (l->state != GATE_QUANTUM && l->state != GATE_FREE)
        return;
    if (l->state == GATE_FREE)
        l->free_ns = now;
    l->state = GATE_CLOSING;
    l->backlogged = backlogged;
    l->closing_ns = l->extended_ns = now;
    l->extend = l->extensions = 0;
    l->alive_ns = now;
    l->sample_due = false;
    harp_gate_update(g);
    if (announce && !l->announced && queued(g, lane)) {
        struct harp_msg msg = harp_gate_msg(g, lane, HARP_USED_TIME);
        harp_gate_report(g, lane, now, &msg);
        msg.a = 1;
        msg.c = backlogged;
        msg.window_ns = l->q.queue_end_ns > now ? l->q.queue_end_ns - now : 0;
        l->announced = true;
        harp_session_tell(&msg);
    }
    harp_session_wake();
}

void harp_marks_fill(struct harp_timegate *g, struct harp_meter_ctx *ctx)
{
    CUcontext current = NULL;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    harp_enter();
    bool relaxed = HARP_HAS(cuThreadExchangeStreamCaptureMode) &&
                   HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode) == CUDA_SUCCESS;
    bool pushed = HARP_REAL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != ctx->ctx &&
                  HARP_REAL(cuCtxPushCurrent_v2)(ctx->ctx) == CUDA_SUCCESS;
    for (int i = 0; i < 2 * HARP_POOL_LOW; i++) {
        struct harp_mark *mark = calloc(1, sizeof *mark);
        if (mark == NULL || HARP_REAL(cuEventCreate)(&mark->event, 0) != CUDA_SUCCESS) {
            free(mark);
            break;
        }
        mark->ctx = ctx;
        mark->refs = 1;
        pthread_mutex_lock(&g->lock);
        harp_mark_unref(mark);
        pthread_mutex_unlock(&g->lock);
    }
    if (pushed)
        HARP_REAL(cuCtxPopCurrent_v2)(&current);
    if (relaxed)
        HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode);
    harp_leave();
}
