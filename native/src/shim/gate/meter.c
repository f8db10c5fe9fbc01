/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver's side of the service thread: which events have passed, what they tell, and brackets
 * that were left open. No lock is held in a call of the driver; `polling` is set meanwhile.
 *
 * A turn is charged from its first event to its last: gaps within one's own turn are one's own.
 * Alone, one launch in 10 ms is measured and stands for those between.
 */
#include "src/shim/gate/meter.h"

#include <stdlib.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/edge.h"
#include "src/shim/gate/profile.h"
#include "src/shim/gate/session.h"
#include "src/shim/trace/trace.h"

#define REFERENCE_NS 1000000000ull /* a difference of events is a float of ms */
#define STALE_NS     100000ull     /* an open bracket with no launch for so long is closed */

static bool enter_context(CUcontext ctx)
{
    static CUcontext current; /* of the service thread, the only caller */
    static bool relaxed;
    if (!relaxed && HARP_HAS(cuThreadExchangeStreamCaptureMode)) {
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        relaxed = HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode) == CUDA_SUCCESS;
    }
    if (current != ctx && HARP_REAL(cuCtxSetCurrent)(ctx) != CUDA_SUCCESS)
        return false;
    current = ctx;
    return true;
}

static uint64_t elapsed(const struct harp_mark *start, const struct harp_mark *end)
{
    float ms = 0;
    if (start == NULL || end == NULL ||
        HARP_REAL(cuEventElapsedTime)(&ms, start->event, end->event) != CUDA_SUCCESS || ms <= 0)
        return 0;
    return (uint64_t)((double)ms * 1e6);
}

enum verdict { NOT_YET, DONE, LOST };

static enum verdict query(const struct harp_bracket *b)
{
    if (!enter_context(b->end->ctx->ctx))
        return LOST;
    CUresult r = HARP_REAL(cuEventQuery)(b->end->event);
    if (r == CUDA_ERROR_DEINITIALIZED)
        __atomic_store_n(&harp_time_exiting, 1, __ATOMIC_RELAXED);
    return r == CUDA_SUCCESS ? DONE : r == CUDA_ERROR_NOT_READY ? NOT_YET : LOST;
}

/* --- brackets left open ---------------------------------------------------------------------- */

bool harp_meter_may_end(const struct harp_meter_stream *s, bool draining)
{
    if (s->stream == CU_STREAM_PER_THREAD)
        return false;
    return (uintptr_t)s->stream > 2 || s->ctx->only_legacy || draining;
}

static bool capturing(CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    return HARP_HAS(cuStreamIsCapturing) &&
           (HARP_REAL(cuStreamIsCapturing)(stream, &status) != CUDA_SUCCESS ||
            status != CU_STREAM_CAPTURE_STATUS_NONE);
}

/* A capture that the stream joins between the question and the record gets the event, and asking
 * for such an event would spoil the capture: then it is as if it had not been recorded. */
static bool record_outside(CUevent event, CUstream stream)
{
    if (!harp_edge_enter())
        return false;
    bool recorded = !capturing(stream) && HARP_REAL(cuEventRecord)(event, stream) == CUDA_SUCCESS;
    harp_edge_leave();
    return recorded && !capturing(stream);
}

static bool to_end(const struct harp_timegate *g, const struct harp_meter_stream *s, unsigned lane,
                   uint64_t now)
{
    const struct harp_gatelane *l = &g->lane[lane];
    bool draining = l->state == GATE_CLOSING && l->inside == 0;
    if (!s->dirty[lane] || !harp_meter_may_end(s, draining))
        return false;
    return draining || ((l->state == GATE_QUANTUM || l->state == GATE_OFFLINE) && s->inside == 0 &&
                        now - s->touched_ns > STALE_NS);
}

bool harp_meter_end_one(struct harp_timegate *g, uint64_t now)
{
    struct harp_meter_stream *s = g->streams;
    unsigned lane = 0;
    for (; s != NULL; s = s->next) {
        for (lane = 0; lane < g->lanes && !to_end(g, s, lane, now); lane++)
            continue;
        if (lane < g->lanes)
            break;
    }
    if (s == NULL)
        return false;
    bool mine = s->open != NULL && s->open->lane == lane;
    struct harp_bracket *b = mine ? s->open : calloc(1, sizeof *b);
    struct harp_mark *end = b != NULL ? harp_mark_take(s->ctx) : NULL;
    s->dirty[lane] = false;
    if (mine)
        s->open = NULL;
    if (end == NULL) {
        if (b != NULL)
            harp_bracket_free(b);
        return true;
    }
    b->stream = s;
    b->lane = lane;
    b->end = end;
    CUstream stream = s->stream;
    uint64_t touched_ns = s->touched_ns;
    harp_mark_unref(s->last); /* no bracket may start before this one's work */
    s->last = NULL;
    pthread_mutex_unlock(&g->lock);
    bool ok = enter_context(end->ctx->ctx) && record_outside(end->event, stream);
    pthread_mutex_lock(&g->lock); /* streams go only while we do not poll */
    if (ok && s->touched_ns == touched_ns && s->last == NULL) {
        s->last = end;
        end->refs++;
    }
    if (ok)
        harp_gate_push(g, b);
    else
        harp_bracket_free(b);
    return true;
}

void harp_meter_sync_per_thread(struct harp_timegate *g, unsigned lane)
{
    for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
        if (!c->lane[lane].per_thread)
            continue;
        for (unsigned any = 0; any < HARP_TIME_LANES; any++)
            if (g->lane[any].state != GATE_FREE)
                c->lane[any].per_thread = false;
        CUcontext ctx = c->ctx;
        pthread_mutex_unlock(&g->lock);
        if (enter_context(ctx))
            HARP_REAL(cuCtxSynchronize)();
        pthread_mutex_lock(&g->lock);
        return;
    }
}

/* --- what has ended -------------------------------------------------------------------------- */

/* Alone: one launch was measured, and stands for all since the last one. */
static void sampled(struct harp_timegate *g, const struct harp_bracket *b, uint64_t ns)
{
    struct harp_gatelane *l = &g->lane[b->lane];
    uint64_t launches = harp_gate_launches(g, b->lane);
    uint64_t stands_for = launches - l->sampled_launches;
    l->sampled_launches = launches;
    struct harp_msg msg = harp_gate_msg(g, b->lane, HARP_USED_TIME);
    uint64_t now = harp_now_ns(), wall = now - l->reported_ns;
    uint64_t used = stands_for != 0 && ns > wall / stands_for ? wall : ns * stands_for;
    if (g->lanes < 2 && b->work == HARP_WORK_COPY)
        msg.copy_ns = used;
    else
        msg.used_ns = used;
    msg.b = 1;
    msg.launches = launches - l->reported_launches;
    l->reported_launches = launches;
    l->reported_ns = now;
    harp_session_tell(&msg);
    if (b->work == HARP_WORK_COMPUTE)
        harp_profile_stand(harp_profile_page());
    l->sample_ns = now + HARP_SAMPLE_NS;
}

/* Its kernels' rows take what it took, but for what a turn's first launches waited for the device
 * (span.h). Streams that overlap count in full, each. Lock held. */
static void profiled(const struct harp_bracket *b, uint64_t ns, bool first)
{
    uint64_t weight[HARP_BATCH_LAUNCHES], led_in = ns > b->ns ? ns - b->ns : 0;
    if (b->launches != b->n || ns == 0)
        return;
    if (first && b->unmeasured == 0)
        ns -= led_in < HARP_LEAD_IN_NS ? led_in : HARP_LEAD_IN_NS;
    for (unsigned i = 0; i < b->n; i++)
        weight[i] = b->parts[i]->ns;
    harp_profile_measured(b->rows, weight, b->n, ns);
}

struct told {
    uint64_t call, begin_ns, ns;
};

/* What a trace is told: how long, and about when. An event cannot have passed before it was
 * recorded, nor after its bracket was seen done: the two bound where the device's clock is on the
 * host's. Lock held. `after_ns`: the start after the reference. */
static void traced(const struct harp_bracket *b, uint64_t ns, uint64_t after_ns, uint64_t ready_ns,
                   struct told *out)
{
    struct harp_meter_ctx *c = b->end->ctx;
    if (b->start == NULL)
        return;
    if (c->reference.mark == NULL || after_ns > REFERENCE_NS) {
        c->reference.at_ns =
            c->reference.mark == NULL ? b->begin_ns : c->reference.at_ns + after_ns;
        harp_mark_unref(c->reference.mark);
        c->reference.mark = b->start;
        b->start->refs++;
        after_ns = 0;
    }
    uint64_t begin_ns = c->reference.at_ns + after_ns;
    if (begin_ns < b->begin_ns)
        begin_ns = b->begin_ns;
    if (begin_ns + ns > ready_ns)
        begin_ns = ready_ns - ns;
    c->reference.at_ns = begin_ns - after_ns;
    *out = (struct told){b->call, begin_ns, ns};
}

/* One bracket has ended, or is lost. Lock held. `in_turn_ns`: from the turn's first event. */
static void settle(struct harp_timegate *g, struct harp_bracket *b, bool done, uint64_t ns,
                   uint64_t in_turn_ns, uint64_t after_ns, uint64_t ready_ns, struct told *told)
{
    struct harp_gatelane *l = &g->lane[b->lane];
    struct harp_meter_ctx *c = b->end->ctx;
    b->end->done = true;
    l->brackets--;
    if (b->call != 0 && done)
        traced(b, ns, after_ns, ready_ns, told);
    if (done)
        profiled(b, ns, !b->sample && b->start == c->lane[b->lane].first);
    if (b->sample) {
        if (!b->untold)
            sampled(g, b, ns);
    } else if (done) {
        /* Offline, others' slices are in all brackets: better what was learnt before. */
        bool first = b->start == c->lane[b->lane].first;
        if (first && b->unmeasured == 0 && b->n != 0 && b->start != NULL)
            harp_span_led_in(&c->lane[b->lane].span, ns, b->ns);
        if (b->n != 0 && ns != 0 && (l->state != GATE_OFFLINE || b->unmeasured != 0))
            harp_estimate_learn(b->parts, b->n, ns, first);
        uint64_t end_ns = ready_ns;
        if (b->unready_ns != 0)
            end_ns -= (ready_ns - b->unready_ns) / 2;
        if (in_turn_ns != 0) {
            bool latest = in_turn_ns > c->lane[b->lane].span.used_ns;
            harp_span_done(&c->lane[b->lane].span, in_turn_ns, b->unready_ns, ready_ns);
            end_ns = harp_span_from_ns(&c->lane[b->lane].span) + in_turn_ns;
            if (latest) {
                harp_mark_unref(c->lane[b->lane].latest);
                c->lane[b->lane].latest = b->end;
                b->end->refs++;
            }
        }
        if (end_ns > l->last_end_ns)
            l->last_end_ns = end_ns < ready_ns ? end_ns : ready_ns;
    }
    harp_bracket_free(b);
}

/* What is queued still, from the latest known end on. Lock held. */
static void observe(struct harp_timegate *g, unsigned lane, uint64_t now)
{
    struct harp_gatelane *l = &g->lane[lane];
    uint64_t rest = 0;
    uint32_t unmeasured = 0;
    for (struct harp_bracket *b = g->pending; b != NULL; b = b->next)
        if (b->lane == lane) {
            rest += b->ns;
            unmeasured += b->unmeasured;
        }
    for (struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->open != NULL && s->open->lane == lane)
            rest += s->open->ns;
    l->touched_ns = now;
    harp_quantum_observed(&l->q, l->last_end_ns != 0 ? l->last_end_ns : now, rest, unmeasured);
}

void harp_meter_collect(struct harp_timegate *g)
{
    struct harp_bracket *list = g->pending, *left = NULL, **tail = &left;
    bool any[HARP_TIME_LANES] = {false};
    uint64_t pass = ++g->pass;
    g->pending = NULL;
    g->pending_tail = &g->pending;
    while (list != NULL) {
        struct harp_bracket *b = list;
        list = b->next;
        b->next = NULL;
        /* Behind one that is not done on the same stream: no need to ask. */
        bool behind = b->stream != NULL && b->stream->pass == pass;
        struct harp_mark *first = b->end->ctx->lane[b->lane].first;
        struct harp_mark *reference = b->call != 0 ? b->end->ctx->reference.mark : NULL;
        pthread_mutex_unlock(&g->lock);
        uint64_t asked_ns = harp_now_ns();
        enum verdict v = behind ? NOT_YET : query(b);
        uint64_t ready_ns = v == NOT_YET ? 0 : harp_now_ns();
        uint64_t ns = v == DONE ? elapsed(b->start, b->end) : 0;
        uint64_t in_turn_ns = v != DONE || b->sample ? 0
                              : first == b->start    ? ns
                                                     : elapsed(first, b->end);
        uint64_t after_ns = v == DONE && b->call != 0 ? elapsed(reference, b->start) : 0;
        pthread_mutex_lock(&g->lock);
        if (v == NOT_YET) {
            if (b->stream != NULL)
                b->stream->pass = pass;
            b->unready_ns = asked_ns;
            *tail = b;
            tail = &b->next;
            continue;
        }
        any[b->lane] = true;
        struct told told = {0};
        settle(g, b, v == DONE, ns, in_turn_ns, after_ns, ready_ns, &told);
        if (told.call != 0) { /* to a file: nobody waits at the gate for a disk */
            pthread_mutex_unlock(&g->lock);
            harp_trace_measured(told.call, told.begin_ns, told.ns);
            pthread_mutex_lock(&g->lock);
        }
    }
    *tail = g->pending; /* what came meanwhile */
    if (g->pending == NULL)
        g->pending_tail = left == NULL ? &g->pending : tail;
    g->pending = left;
    uint64_t now = harp_now_ns();
    for (unsigned lane = 0; lane < HARP_TIME_LANES; lane++)
        if (any[lane])
            observe(g, lane, now);
    if ((any[0] && g->lane[0].waiters != 0) || (any[1] && g->lane[1].waiters != 0))
        pthread_cond_broadcast(&g->changed);
}
