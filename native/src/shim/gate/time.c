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
#define LATER_LIMIT_NS (5 * MS)    /* a launch waits no longer than this for a full window */
#define WANT_AGAIN_NS  (1000 * MS) /* WANT is idempotent; repeated in case it was lost */
#define POOL_LOW       4

unsigned harp_time_word;
uintptr_t harp_time_seen[HARP_SEEN];
struct harp_shard harp_time_shards[HARP_SHARDS] __attribute__((aligned(64)));
struct harp_timegate harp_gates[HARP_MAX_DEVICES];
int harp_time_exiting;

/* Device of each context that has a gate: read without a lock on every slow call. Grows only. */
enum { KNOWN = 64 };
static struct {
    CUcontext ctx;
    int dev;
} known[KNOWN];
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t harp_time_launches(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < HARP_SHARDS; i++)
        sum += __atomic_load_n(&harp_time_shards[i].launches, __ATOMIC_RELAXED);
    return sum;
}

/* --- marks and brackets; the gate's lock held --------------------------------------------------
 */

void harp_gate_update(struct harp_timegate *g)
{
    bool slow = g->state != GATE_OFF && (g->state != GATE_FREE || g->sample_due);
    if (slow == g->slow)
        return;
    g->slow = slow;
    if (slow)
        __atomic_fetch_add(&harp_time_word, 1u, __ATOMIC_RELAXED);
    else
        __atomic_fetch_sub(&harp_time_word, 1u, __ATOMIC_RELAXED);
}

struct harp_mark *harp_mark_take(struct harp_meter_ctx *ctx)
{
    struct harp_mark *mark = ctx->pool;
    if (mark == NULL)
        return NULL;
    ctx->pool = mark->next;
    ctx->pooled--;
    mark->refs = 1;
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
}

void harp_gate_closing(struct harp_timegate *g, uint64_t now, bool backlogged)
{
    if (g->state != GATE_QUANTUM && g->state != GATE_FREE)
        return;
    g->from_free = g->state == GATE_FREE;
    g->state = GATE_CLOSING;
    g->backlogged = backlogged;
    g->closing_ns = g->extended_ns = now;
    g->extend = 0;
    g->sample_due = false;
    harp_gate_update(g);
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
    for (int i = 0; i < 2 * POOL_LOW; i++) {
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

/* --- which gate --------------------------------------------------------------------------------
 */

static struct harp_timegate *gate_of(CUcontext ctx)
{
    for (int i = 0; i < KNOWN; i++) {
        CUcontext at = __atomic_load_n(&known[i].ctx, __ATOMIC_ACQUIRE);
        if (at == ctx)
            return &harp_gates[known[i].dev];
        if (at == NULL)
            break;
    }
    return NULL;
}

static struct harp_meter_ctx *meter_of(struct harp_timegate *g, CUcontext ctx)
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
    if (own_handle(stream) && known[1].ctx != NULL && HARP_HAS(cuStreamGetCtx) &&
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

/* --- waiting for the turn; the gate's lock held -------------------------------------------------
 */

static void wait_changed(struct harp_timegate *g, uint64_t ns)
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
    uint64_t later_since = 0;
    while (!__atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED)) {
        uint64_t now = harp_now_ns();
        switch (g->state) {
        case GATE_OFF:
        case GATE_FREE:
            return;
        case GATE_CLOSED:
            want(g, now);
            wait_changed(g, 100 * MS);
            break;
        case GATE_CLOSING:
            if (g->extend > 0) { /* what runs may be waiting for what we hold back */
                g->extend--;
                return;
            }
            wait_changed(g, 100 * MS);
            break;
        case GATE_QUANTUM:
            switch (harp_quantum_admit(&g->q, now, ns, measured)) {
            case HARP_GO:
                return;
            case HARP_SHUT:
                harp_gate_closing(g, now, true);
                break;
            case HARP_LATER:
                if (later_since == 0)
                    later_since = now;
                if (now - later_since > LATER_LIMIT_NS)
                    return;
                wait_changed(g, MS);
                break;
            }
            break;
        }
    }
}

/* --- begin and end ------------------------------------------------------------------------------
 */

static void record(struct harp_mark *mark, CUstream stream)
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
    struct harp_timegate *g = ctx != NULL ? gate_of(ctx) : NULL;
    if (g == NULL || captured(stream))
        goto out;
    pthread_mutex_lock(&g->lock);
    struct harp_meter_ctx *meter = meter_of(g, ctx);
    bool fill = meter != NULL && g->state != GATE_OFF && meter->pooled < POOL_LOW;
    pthread_mutex_unlock(&g->lock);
    if (fill)
        harp_marks_fill(g, meter);

    struct harp_mark *start = NULL;
    pthread_mutex_lock(&g->lock);
    struct harp_estimate *e = g->predictor != NULL ? harp_predict(g->predictor, what, size) : NULL;
    uint64_t ns = e != NULL ? harp_estimate_ns(e) : HARP_ESTIMATE_UNKNOWN;
    bool measured = e != NULL && e->measured != 0;
    wait_turn(g, ns, measured);
    meter = meter_of(g, ctx); /* waiting let the lock go */
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
        record(start, stream);
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
        record(closed->end, turn->on);
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

/* --- contexts and streams come and go -----------------------------------------------------------
 */

static void at_exit(void)
{
    __atomic_store_n(&harp_time_exiting, 1, __ATOMIC_SEQ_CST);
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (g->state == GATE_OFF)
            continue;
        pthread_mutex_lock(&g->lock);
        pthread_cond_broadcast(&g->changed);
        for (int i = 0; i < 100 && g->polling; i++) /* the driver is about to go */
            wait_changed(g, MS);
        pthread_mutex_unlock(&g->lock);
    }
}

static void gate_start(struct harp_timegate *g, int dev)
{
    static bool registered;
    if (g->state != GATE_OFF)
        return;
    g->dev = (uint32_t)dev;
    if (g->predictor == NULL)
        g->predictor = calloc(1, sizeof *g->predictor);
    g->state = harp_env()->gate_off || !harp_session_live() ? GATE_FREE : GATE_CLOSED;
    g->want_sent = false;
    if (harp_env()->gate_off)
        harp_log("time_gate_off dev=%d why=HARP_GATE", dev);
    harp_gate_update(g);
    if (!__atomic_exchange_n(&registered, true, __ATOMIC_RELAXED))
        atexit(at_exit);
}

void harp_time_context_made(CUcontext ctx, int dev)
{
    if (dev < 0)
        return;
    struct harp_timegate *g = &harp_gates[dev];
    pthread_mutex_lock(&known_lock);
    bool first = g->state == GATE_OFF && g->ctxs == NULL && g->streams == NULL;
    if (first && g->pending_tail == NULL) {
        pthread_mutex_init(&g->lock, NULL);
        pthread_cond_init(&g->changed, NULL);
        g->pending_tail = &g->pending;
    }
    int place = 0;
    while (place < KNOWN && known[place].ctx != NULL && known[place].ctx != ctx)
        place++;
    if (place < KNOWN) {
        known[place].dev = dev;
        __atomic_store_n(&known[place].ctx, ctx, __ATOMIC_RELEASE);
    } else {
        harp_log("too_many_contexts most=%d effect=\"not gated\"", KNOWN);
    }
    pthread_mutex_unlock(&known_lock);
    pthread_mutex_lock(&g->lock);
    gate_start(g, dev);
    if (meter_of(g, ctx) == NULL) {
        struct harp_meter_ctx *meter = calloc(1, sizeof *meter);
        if (meter != NULL) {
            meter->ctx = ctx;
            meter->only_legacy = true;
            meter->next = g->ctxs;
            g->ctxs = meter;
        }
    }
    pthread_mutex_unlock(&g->lock);
}

static void drop_stream(struct harp_timegate *g, struct harp_meter_stream **at)
{
    struct harp_meter_stream *s = *at;
    *at = s->next;
    if (s->open != NULL)
        harp_bracket_free(s->open);
    harp_mark_unref(s->last);
    for (struct harp_bracket *b = g->pending; b != NULL; b = b->next)
        if (b->stream == s)
            b->stream = NULL;
    uintptr_t *seen = &harp_time_seen[harp_seen_place(s->stream)];
    __atomic_store_n(seen, 0, __ATOMIC_RELAXED);
    free(s);
}

void harp_time_context_going(CUcontext ctx)
{
    struct harp_timegate *g = gate_of(ctx);
    if (g == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < 1000 && g->polling; i++)
        wait_changed(g, MS);
    struct harp_meter_ctx *meter = meter_of(g, ctx);
    if (meter == NULL) {
        pthread_mutex_unlock(&g->lock);
        return;
    }
    for (struct harp_meter_stream **at = &g->streams; *at != NULL;)
        if ((*at)->ctx == meter)
            drop_stream(g, at);
        else
            at = &(*at)->next;
    struct harp_bracket *all = g->pending;
    g->pending = NULL;
    g->pending_tail = &g->pending;
    while (all != NULL) {
        struct harp_bracket *b = all;
        all = b->next;
        if ((b->end != NULL ? b->end->ctx : b->start->ctx) == meter)
            harp_bracket_free(b);
        else
            harp_gate_push(g, b);
    }
    harp_mark_unref(meter->first);
    for (struct harp_meter_ctx **at = &g->ctxs; *at != NULL; at = &(*at)->next)
        if (*at == meter) {
            *at = meter->next;
            break;
        }
    /* The events die with the context; only our notes of them are left to free. */
    while (meter->pool != NULL) {
        struct harp_mark *mark = meter->pool;
        meter->pool = mark->next;
        free(mark);
    }
    free(meter);
    pthread_mutex_unlock(&g->lock);
    harp_session_wake();
}

void harp_time_stream_going(CUstream stream)
{
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (g->state == GATE_OFF)
            continue;
        struct harp_bracket *b = NULL;
        pthread_mutex_lock(&g->lock);
        for (int i = 0; i < 1000 && g->polling; i++)
            wait_changed(g, MS);
        struct harp_meter_stream **at = &g->streams;
        while (*at != NULL && (*at)->stream != stream)
            at = &(*at)->next;
        if (*at != NULL) {
            if ((*at)->dirty && (b = calloc(1, sizeof *b)) != NULL &&
                (b->end = harp_mark_take((*at)->ctx)) == NULL) {
                free(b);
                b = NULL;
            }
            drop_stream(g, at);
        }
        pthread_mutex_unlock(&g->lock);
        if (b == NULL)
            continue;
        record(b->end, stream);
        pthread_mutex_lock(&g->lock);
        harp_gate_push(g, b);
        pthread_mutex_unlock(&g->lock);
    }
}

CUresult harp_hook_cuStreamDestroy(CUstream hStream)
{
    if (!harp_inside())
        harp_time_stream_going(hStream);
    return HARP_REAL(cuStreamDestroy)(hStream);
}

CUresult harp_hook_cuStreamDestroy_v2(CUstream hStream)
{
    if (!harp_inside())
        harp_time_stream_going(hStream);
    return HARP_REAL(cuStreamDestroy_v2)(hStream);
}

void harp_time_forked(void)
{
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++)
        memset(&harp_gates[dev], 0, sizeof harp_gates[dev]); /* not freed: see memory */
    memset(known, 0, sizeof known);
    memset(harp_time_seen, 0, sizeof harp_time_seen);
    pthread_mutex_init(&known_lock, NULL);
    harp_time_word = 0;
}
