/* SPDX-License-Identifier: Apache-2.0
 *
 * The callers' side of the time gate: who may launch now, and events round what was launched.
 */
#include "src/shim/gate/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"
#include "src/shim/trace/trace.h"

uintptr_t harp_time_seen[HARP_WORKS][HARP_SEEN];
unsigned harp_time_shut[HARP_WORKS];
struct harp_shard harp_time_shards[HARP_SHARDS] __attribute__((aligned(64)));
struct harp_timegate harp_gates[HARP_MAX_DEVICES];
int harp_time_exiting;

/* --- which gate ------------------------------------------------------------------------------ */

struct harp_meter_ctx *harp_meter_of(struct harp_timegate *g, CUcontext ctx)
{
    struct harp_meter_ctx *c = g->ctxs;
    while (c != NULL && c->ctx != ctx)
        c = c->next;
    return c;
}

static bool own_handle(CUstream stream)
{
    return (uintptr_t)stream > 2; /* not the default ones */
}

CUcontext harp_stream_context(CUstream stream)
{
    CUcontext ctx = NULL, of = NULL;
    harp_enter();
    if (HARP_REAL(cuCtxGetCurrent)(&ctx) != CUDA_SUCCESS)
        ctx = NULL;
    if (own_handle(stream) && harp_gate_contexts() > 1 && HARP_HAS(cuStreamGetCtx) &&
        HARP_REAL(cuStreamGetCtx)(stream, &of) == CUDA_SUCCESS && of != NULL)
        ctx = of;
    harp_leave();
    return ctx;
}

static bool captured(CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (!HARP_HAS(cuStreamIsCapturing))
        return false;
    harp_enter();
    CUresult r = HARP_REAL(cuStreamIsCapturing)(stream, &status);
    harp_leave();
    return r != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

static struct harp_meter_stream *stream_in(struct harp_timegate *g, struct harp_meter_ctx *ctx,
                                           CUstream stream)
{
    struct harp_meter_stream *s = g->streams;
    while (s != NULL && (s->stream != stream || s->ctx != ctx))
        s = s->next;
    if (s != NULL || (s = calloc(1, sizeof *s)) == NULL)
        return s;
    s->stream = stream;
    s->ctx = ctx;
    s->next = g->streams;
    g->streams = s;
    if (own_handle(stream))
        ctx->only_legacy = false;
    return s;
}

/* --- begin and end --------------------------------------------------------------------------- */

void harp_mark_record(struct harp_mark *mark, CUstream stream)
{
    harp_enter();
    CUresult r = HARP_REAL(cuEventRecord)(mark->event, stream);
    harp_leave();
    if (r != CUDA_SUCCESS)
        harp_log("event_not_recorded result=%d", (int)r);
}

/* Whether the end of the latest bracket can be the start of the next: the stream has been busy
 * since (no gap to exclude), and nothing else came after it. */
static bool goes_on(const struct harp_meter_stream *s, uint64_t now)
{
    if (s->last == NULL || s->last->done || s->busy_until_ns <= now)
        return false;
    for (int lane = 0; lane < (int)HARP_TIME_LANES; lane++)
        if (s->dirty[lane])
            return false;
    return true;
}

/* A new bracket, in s->open. Returns the start mark to record; NULL: none is needed or to be had.
 */
static struct harp_mark *bracket_open(struct harp_meter_stream *s, unsigned lane, uint64_t now,
                                      bool sample, struct harp_mark *cut)
{
    struct harp_bracket *b = calloc(1, sizeof *b);
    struct harp_mark *fresh = NULL;
    if (b == NULL)
        return NULL;
    if (cut != NULL) {
        b->start = cut;
    } else if (!sample && goes_on(s, now)) {
        b->start = s->last;
    } else if ((fresh = harp_mark_take(s->ctx)) == NULL) {
        free(b);
        return NULL;
    } else {
        b->start = fresh;
    }
    if (fresh == NULL)
        b->start->refs++;
    b->stream = s;
    b->lane = lane;
    b->sample = sample;
    b->begin_ns = fresh != NULL ? now : 0;
    if (!sample && s->ctx->lane[lane].first == NULL) {
        s->ctx->lane[lane].first = b->start;
        b->start->refs++;
        /* recorded before now if it is an older one: then only what queries say is known */
        harp_span_start(&s->ctx->lane[lane].span, fresh != NULL ? now : 0);
    }
    s->open = b;
    return fresh;
}

/* Work of another lane follows: what is open must end before it. Its end mark is to be recorded. */
static struct harp_bracket *bracket_cut(struct harp_meter_stream *s, unsigned lane)
{
    struct harp_bracket *b = s->open;
    if (b == NULL || b->lane == lane)
        return NULL;
    s->open = NULL;
    if ((b->end = harp_mark_take(s->ctx)) == NULL) { /* stays dirty: the service thread ends it */
        harp_bracket_free(b);
        return NULL;
    }
    return b;
}

/* A context that no hook of ours saw made (a green one, say) is met at its first launch. */
static struct harp_timegate *late(CUcontext ctx)
{
    int dev;
    CUcontext current;
    if (harp_device_current(&dev, &current) != CUDA_SUCCESS || current != ctx || dev < 0 ||
        !harp_session_serve())
        return NULL;
    harp_time_context_made(ctx, dev);
    return harp_gate_of(ctx);
}

/* Work on this stream needs no gate until its lane closes or wants to measure. */
static void see(CUcontext ctx, CUstream stream, enum harp_work work)
{
    uintptr_t *place = &harp_time_seen[work][harp_seen_place(stream)];
    const struct harp_timegate *g = harp_gate_of(ctx);
    if (g == NULL || g->closable || harp_trace_measures())
        return;
    /* Due since this call began: who is seen now would never come by, and nothing be measured. */
    if (g->lane[harp_lane_of(g, work)].sample_due)
        return;
    if (!own_handle(stream)) {
        harp_ctx_see(ctx, stream, work);
        if (__atomic_load_n(&harp_time_shut[work], __ATOMIC_RELAXED) != 0)
            return;
    }
    __atomic_store_n(place, (uintptr_t)stream + 1, __ATOMIC_SEQ_CST);
    /* Another device's gate, whose lock is not ours, counts first and forgets then. */
    if (!own_handle(stream) && __atomic_load_n(&harp_time_shut[work], __ATOMIC_SEQ_CST) != 0)
        __atomic_store_n(place, 0, __ATOMIC_RELAXED);
}

/* The launch may go: notes it, and the mark to record before it. Returns what is to be ended then,
 * if anything is. Lock held. */
static struct harp_bracket *begin(struct harp_timegate *g, struct harp_turn *turn,
                                  struct harp_meter_ctx *meter, uint64_t ns, bool measured)
{
    struct harp_gatelane *l = &g->lane[turn->lane];
    struct harp_meter_stream *s = turn->stream;
    uint64_t now = harp_now_ns();
    bool free = l->state == GATE_FREE, untold = false;
    struct harp_bracket *cut = bracket_cut(s, turn->lane);
    turn->sample = free;
    if (free && l->sample_due && s->open == NULL) {
        l->sample_due = false;
        turn->measure = true;
    } else {
        turn->measure = !free || (turn->traced && s->open == NULL);
        untold = free;
    }
    if (turn->measure && s->open == NULL) {
        turn->start = bracket_open(s, turn->lane, now, free, cut != NULL ? cut->end : NULL);
        if (turn->start != NULL) /* the turn may be over before it is recorded */
            turn->start->refs++;
        if (s->open != NULL)
            s->open->untold = untold;
    }
    if (!free) {
        harp_quantum_launched(&l->q, now, ns, measured);
    } else {
        turn->see = true;
        if (turn->on == CU_STREAM_PER_THREAD)
            meter->lane[turn->lane].per_thread = true;
        if (!turn->measure)
            see(meter->ctx, turn->on, turn->work);
    }
    s->busy_until_ns = (s->busy_until_ns > now ? s->busy_until_ns : now) + ns;
    l->touched_ns = s->touched_ns = now;
    s->dirty[turn->lane] = true;
    s->inside++;
    l->inside++;
    return cut;
}

/* An end mark has been recorded. Lock held. */
static void ended(struct harp_timegate *g, struct harp_meter_stream *s, struct harp_bracket *b)
{
    g->lane[b->lane].touched_ns = harp_now_ns();
    if (s == NULL) {
        harp_bracket_free(b);
        return;
    }
    harp_mark_unref(s->last);
    s->last = b->end;
    s->last->refs++;
    harp_gate_push(g, b);
}

static struct harp_meter_stream *still_there(const struct harp_timegate *g,
                                             const struct harp_meter_stream *stream)
{
    struct harp_meter_stream *s = g->streams;
    while (s != NULL && s != stream)
        s = s->next;
    return s;
}

void harp_turn_begin(struct harp_turn *turn, CUstream stream, enum harp_work work, const void *what,
                     uint64_t size)
{
    memset(turn, 0, sizeof *turn);
    turn->on = stream;
    turn->work = work;
    turn->traced = harp_trace_measures();
    struct harp_shard *shard = harp_time_shard();
    __atomic_fetch_add(&shard->launches[work], 1, __ATOMIC_RELAXED);
    if (harp_inside() || __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED))
        return;
    int saved = errno;
    CUcontext ctx = harp_stream_context(stream);
    if (!own_handle(stream) && harp_ctx_seen(ctx, stream, work))
        goto out;
    __atomic_fetch_add(&shard->slow[work], 1, __ATOMIC_RELAXED);
    struct harp_timegate *g = ctx != NULL ? harp_gate_of(ctx) : NULL;
    if (g == NULL && ctx != NULL)
        g = late(ctx);
    if (g == NULL)
        goto out;
    if (captured(stream)) { /* nothing runs, but the driver looks at what is named */
        turn->touched = harp_touch_begin(ctx);
        harp_trace_captured();
        goto out;
    }
    pthread_mutex_lock(&g->lock);
    struct harp_meter_ctx *meter = harp_meter_of(g, ctx);
    bool fill = meter != NULL && meter->pooled < HARP_POOL_LOW;
    pthread_mutex_unlock(&g->lock);
    if (fill)
        harp_marks_fill(g, meter);

    pthread_mutex_lock(&g->lock);
    turn->estimate = g->predictor != NULL ? harp_predict(g->predictor, what, size) : NULL;
    uint64_t ns = turn->estimate != NULL ? harp_estimate_ns(turn->estimate) : HARP_ESTIMATE_UNKNOWN;
    bool measured = turn->estimate != NULL && turn->estimate->measured != 0;
    turn->lane = harp_gate_admit(g, work, ns, measured);
    meter = harp_meter_of(g, ctx); /* waiting let the lock go */
    turn->stream = meter != NULL ? stream_in(g, meter, stream) : NULL;
    struct harp_bracket *cut = NULL;
    if (turn->stream != NULL && harp_gate_on(g)) {
        turn->gate = g;
        cut = begin(g, turn, meter, ns, measured);
    }
    pthread_mutex_unlock(&g->lock);
    if (cut != NULL)
        harp_mark_record(cut->end, stream);
    if (turn->start != NULL)
        harp_mark_record(turn->start, stream);
    if (cut != NULL) {
        pthread_mutex_lock(&g->lock);
        struct harp_meter_stream *s = still_there(g, turn->stream);
        unsigned other = cut->lane;
        ended(g, s, cut);
        if (s != NULL && s->inside == 1 && g->lane[other].state != GATE_FREE)
            s->dirty[other] = false;
        pthread_mutex_unlock(&g->lock);
        harp_session_wake();
    }
    if (turn->traced && turn->gate != NULL)
        turn->call = harp_trace_entered(turn->measure);
out:
    errno = saved;
}

/* The launch went into the open bracket of its stream. Returns it if it is to be closed now, with
 * its end mark taken. Lock held. */
static struct harp_bracket *joined(struct harp_turn *turn, struct harp_meter_stream *s)
{
    struct harp_bracket *b = s->open;
    if (b == NULL || b->lane != turn->lane || b->sample != turn->sample)
        return NULL; /* of another turn: its own is over */
    b->launches++;
    if (turn->estimate != NULL && b->n < HARP_BATCH_LAUNCHES) {
        b->rows[b->n] = turn->row;
        b->parts[b->n++] = turn->estimate;
        b->ns += turn->estimate->ns;
        b->unmeasured += turn->estimate->measured == 0;
    }
    b->work = turn->work;
    if (turn->call != 0)
        b->call = b->calls++ == 0 ? turn->call : 0;
    /* On default streams an event is a barrier for others, but right behind our own launch, which
     * is one too, it orders nothing new. A per-thread stream is this thread's alone. */
    bool now = b->sample || turn->call != 0 || b->n >= HARP_BATCH_LAUNCHES ||
               b->ns >= HARP_BATCH_NS || b->unmeasured != 0 || turn->on == CU_STREAM_PER_THREAD ||
               (!own_handle(turn->on) && !s->ctx->only_legacy);
    if (!now)
        return NULL;
    b->end = harp_mark_take(s->ctx);
    if (b->end == NULL && !b->sample)
        return NULL;
    s->open = NULL;
    if (b->end != NULL)
        return b;
    harp_bracket_free(b); /* the next sample has better luck; this one must not keep it off */
    return NULL;
}

void harp_turn_end(struct harp_turn *turn, CUresult result)
{
    struct harp_timegate *g = turn->gate;
    (void)result; /* a launch that failed left nothing between the events */
    if (turn->touched != NULL)
        harp_touch_end(turn->touched);
    if (g == NULL)
        return;
    int saved = errno;
    pthread_mutex_lock(&g->lock);
    struct harp_gatelane *l = &g->lane[turn->lane];
    struct harp_meter_stream *s = still_there(g, turn->stream);
    struct harp_bracket *closed = s != NULL && turn->measure ? joined(turn, s) : NULL;
    bool wake = false;
    if (closed != NULL) {
        bool alone = s->inside == 1; /* else somebody launches behind the mark */
        pthread_mutex_unlock(&g->lock);
        harp_mark_record(closed->end, turn->on);
        pthread_mutex_lock(&g->lock);
        wake = g->pending == NULL;
        s = still_there(g, turn->stream);
        ended(g, s, closed);
        if (s != NULL && alone && s->inside == 1 && l->state != GATE_FREE)
            s->dirty[turn->lane] = false;
    } else if (s != NULL) {
        s->dirty[turn->lane] = true; /* a mark of somebody else's may have come before us */
    }
    if (s != NULL) {
        harp_mark_unref(turn->start);
        s->inside--;
        if (turn->see && l->state == GATE_FREE && harp_lane_of(g, turn->work) == turn->lane)
            see(s->ctx->ctx, turn->on, turn->work);
    }
    l->touched_ns = harp_now_ns();
    l->inside--;
    wake |= l->state == GATE_CLOSING && l->inside == 0;
    pthread_mutex_unlock(&g->lock);
    if (wake)
        harp_session_wake();
    errno = saved;
}
