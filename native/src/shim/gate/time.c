/* SPDX-License-Identifier: Apache-2.0
 *
 * The callers' side of the time gate: who may launch now, and events round what was launched.
 */
#include "src/shim/gate/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

#define MS             1000000ull
#define LATER_LIMIT_NS (5 * MS)    /* a launch waits so much longer than predicted for room */
#define WANT_AGAIN_NS  (1000 * MS) /* WANT is idempotent; repeated in case it was lost */

unsigned harp_time_word;
uintptr_t harp_time_seen[HARP_SEEN];
struct harp_shard harp_time_shards[HARP_SHARDS] __attribute__((aligned(64)));
struct harp_timegate harp_gates[HARP_MAX_DEVICES];
int harp_time_exiting;

uint64_t harp_time_launches(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < HARP_SHARDS; i++)
        sum += __atomic_load_n(&harp_time_shards[i].launches, __ATOMIC_RELAXED);
    return sum;
}

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

static CUcontext context_for(CUstream stream)
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

/* --- waiting for the turn; the gate's lock held ---------------------------------------------- */

void harp_gate_wait(struct harp_timegate *g, uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t at = (uint64_t)t.tv_nsec + ns;
    t.tv_sec += (time_t)(at / 1000000000ull);
    t.tv_nsec = (long)(at % 1000000000ull);
    g->waiters++;
    pthread_cond_timedwait(&g->changed, &g->lock, &t);
    g->waiters--;
}

static void want(struct harp_timegate *g, uint64_t now)
{
    if (g->want_sent && now - g->wanted_ns < WANT_AGAIN_NS)
        return;
    g->want_sent = true;
    g->wanted_ns = now;
    struct harp_msg msg = {.op = HARP_WANT_TIME, .dev = g->dev};
    harp_session_tell(&msg);
}

/* Returns when a launch expected to take `ns` may go. */
static void wait_turn(struct harp_timegate *g, uint64_t ns, bool measured)
{
    uint64_t later_until = 0;
    while (!__atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED)) {
        uint64_t now = harp_now_ns();
        switch (g->state) {
        case GATE_OFF:
        case GATE_FREE:
            return;
        case GATE_CLOSED:
            want(g, now);
            harp_gate_wait(g, 100 * MS);
            break;
        case GATE_CLOSING:
            if (g->extend > 0) { /* what runs may be waiting for what we hold back */
                g->extend--;
                return;
            }
            harp_gate_wait(g, 100 * MS);
            break;
        case GATE_QUANTUM:
            switch (harp_quantum_admit(&g->q, now, ns, measured)) {
            case HARP_GO:
                return;
            case HARP_SHUT:
                harp_gate_closing(g, now, true);
                break;
            case HARP_LATER:
                if (later_until == 0)
                    later_until =
                        (g->q.queue_end_ns > now ? g->q.queue_end_ns : now) + LATER_LIMIT_NS;
                if (now > later_until)
                    return;
                harp_gate_wait(g, MS);
                break;
            }
            break;
        }
    }
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

/* A new bracket if this launch opens one; NULL if it joins one or none can be made. */
static struct harp_bracket *bracket_open(struct harp_timegate *g, struct harp_meter_stream *s,
                                         uint64_t now, bool queued, bool sample)
{
    struct harp_bracket *b = calloc(1, sizeof *b);
    if (b == NULL)
        return NULL;
    b->stream = s;
    b->sample = sample;
    if (!sample && queued && s->last != NULL) { /* the queue is not empty: no gap to exclude */
        b->start = s->last;
        b->start->refs++;
        s->open = b;
        return NULL;
    }
    b->start = harp_mark_take(s->ctx);
    if (b->start == NULL) {
        free(b);
        return NULL;
    }
    if (!sample && s->ctx->first == NULL && g->state == GATE_QUANTUM) {
        s->ctx->first = b->start;
        b->start->refs++;
    }
    (void)now;
    s->open = b;
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

void harp_turn_begin(struct harp_turn *turn, CUstream stream, enum harp_work work, const void *what,
                     uint64_t size)
{
    memset(turn, 0, sizeof *turn);
    turn->on = stream;
    turn->work = work;
    harp_time_count();
    if (harp_inside() || __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED))
        return;
    int saved = errno;
    CUcontext ctx = context_for(stream);
    struct harp_timegate *g = ctx != NULL ? harp_gate_of(ctx) : NULL;
    if (g == NULL && ctx != NULL)
        g = late(ctx);
    if (g == NULL || captured(stream))
        goto out;
    pthread_mutex_lock(&g->lock);
    struct harp_meter_ctx *meter = harp_meter_of(g, ctx);
    bool fill = meter != NULL && g->state != GATE_OFF && meter->pooled < HARP_POOL_LOW;
    pthread_mutex_unlock(&g->lock);
    if (fill)
        harp_marks_fill(g, meter);

    struct harp_mark *start = NULL;
    pthread_mutex_lock(&g->lock);
    struct harp_estimate *e = g->predictor != NULL ? harp_predict(g->predictor, what, size) : NULL;
    uint64_t ns = e != NULL ? harp_estimate_ns(e) : HARP_ESTIMATE_UNKNOWN;
    bool measured = e != NULL && e->measured != 0;
    wait_turn(g, ns, measured);
    meter = harp_meter_of(g, ctx); /* waiting let the lock go */
    struct harp_meter_stream *s = meter != NULL ? stream_in(g, meter, stream) : NULL;
    if (s == NULL || g->state == GATE_OFF) {
        pthread_mutex_unlock(&g->lock);
        goto out;
    }
    uint64_t now = harp_now_ns();
    bool queued = g->q.queue_end_ns > now;
    turn->gate = g;
    turn->stream = s;
    turn->estimate = e;
    g->inside++;
    g->touched_ns = s->touched_ns = now;
    s->dirty = true;
    if (g->state != GATE_FREE) {
        harp_quantum_launched(&g->q, now, ns, measured);
        turn->measure = true;
        if (s->open == NULL) {
            struct harp_bracket *b = bracket_open(g, s, now, queued, false);
            start = b != NULL ? b->start : NULL;
        }
    } else {
        __atomic_store_n(&harp_time_seen[harp_seen_place(stream)], (uintptr_t)stream + 1,
                         __ATOMIC_RELAXED);
        if (stream == CU_STREAM_PER_THREAD)
            meter->per_thread = true;
        if (g->sample_due && s->open == NULL) {
            g->sample_due = false;
            harp_gate_update(g);
            turn->measure = true;
            struct harp_bracket *b = bracket_open(g, s, now, queued, true);
            start = b != NULL ? b->start : NULL;
        }
    }
    pthread_mutex_unlock(&g->lock);
    if (start != NULL)
        harp_mark_record(start, stream);
out:
    errno = saved;
}

static bool still_there(const struct harp_timegate *g, const struct harp_meter_stream *stream)
{
    const struct harp_meter_stream *s = g->streams;
    while (s != NULL && s != stream)
        s = s->next;
    return s != NULL;
}

void harp_turn_end(struct harp_turn *turn, CUresult result)
{
    struct harp_timegate *g = turn->gate;
    (void)result; /* a launch that failed left nothing between the events */
    if (g == NULL)
        return;
    int saved = errno;
    struct harp_bracket *closed = NULL;
    pthread_mutex_lock(&g->lock);
    struct harp_meter_stream *s = still_there(g, turn->stream) ? turn->stream : NULL;
    struct harp_bracket *b = s != NULL && turn->measure ? s->open : NULL;
    if (b != NULL) {
        if (turn->estimate != NULL && b->n < HARP_BATCH_LAUNCHES) {
            b->parts[b->n++] = turn->estimate;
            b->ns += turn->estimate->ns;
            b->unmeasured += turn->estimate->measured == 0;
        }
        b->work = turn->work;
        /* On default streams an event is a barrier for others, but right behind our own launch,
         * which is one too, it orders nothing new. A per-thread stream is this thread's alone. */
        bool now = b->sample || b->n >= HARP_BATCH_LAUNCHES || b->ns >= HARP_BATCH_NS ||
                   b->unmeasured != 0 || turn->on == CU_STREAM_PER_THREAD ||
                   (!own_handle(turn->on) && !s->ctx->only_legacy);
        if (now && (b->end = harp_mark_take(s->ctx)) != NULL) {
            closed = b;
            s->open = NULL;
            if (!b->sample && g->state != GATE_FREE) /* free, others launch unseen meanwhile */
                s->dirty = false;
        }
    }
    g->touched_ns = harp_now_ns();
    pthread_mutex_unlock(&g->lock);
    if (closed != NULL)
        harp_mark_record(closed->end, turn->on);
    pthread_mutex_lock(&g->lock);
    bool wake = false;
    if (closed != NULL) {
        if (still_there(g, turn->stream)) {
            harp_mark_unref(s->last);
            s->last = closed->end;
            s->last->refs++;
            wake = g->pending == NULL;
            harp_gate_push(g, closed);
        } else {
            harp_bracket_free(closed);
        }
    }
    g->inside--;
    wake |= g->state == GATE_CLOSING && g->inside == 0;
    pthread_mutex_unlock(&g->lock);
    if (wake)
        harp_session_wake();
    errno = saved;
}
