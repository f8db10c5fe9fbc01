/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts and streams come and go, processes fork and end: what the time gate knows of them.
 */
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"
#include "src/shim/gate/swap.h"
#include "src/shim/trace/trace.h"

/* Device of each context that has a gate: read without a lock on every slow call, so places are
 * never moved, only used again. */
enum { KNOWN = 256 };
#define FREE_PLACE ((CUcontext)UINTPTR_MAX)
static struct {
    CUcontext ctx;
    int dev;
    uint8_t seen[HARP_WORKS]; /* a bit per default stream: its work needs no gate at present */
} known[KNOWN];
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

static int place_of(CUcontext ctx)
{
    for (int i = 0; i < KNOWN; i++) {
        CUcontext at = __atomic_load_n(&known[i].ctx, __ATOMIC_ACQUIRE);
        if (at == ctx)
            return i;
        if (at == NULL)
            break;
    }
    return -1;
}

struct harp_timegate *harp_gate_of(CUcontext ctx)
{
    int i = place_of(ctx);
    return i >= 0 ? &harp_gates[__atomic_load_n(&known[i].dev, __ATOMIC_RELAXED)] : NULL;
}

bool harp_ctx_seen(CUcontext ctx, CUstream stream, enum harp_work work)
{
    int i = ctx != NULL ? place_of(ctx) : -1;
    return i >= 0 &&
           (__atomic_load_n(&known[i].seen[work], __ATOMIC_RELAXED) >> (uintptr_t)stream & 1) != 0;
}

void harp_ctx_see(CUcontext ctx, CUstream stream, enum harp_work work)
{
    int i = place_of(ctx);
    if (i >= 0)
        __atomic_fetch_or(&known[i].seen[work], (uint8_t)(1u << (uintptr_t)stream),
                          __ATOMIC_RELAXED);
}

void harp_ctx_unsee(const struct harp_timegate *g, enum harp_work work)
{
    for (int i = 0; i < KNOWN && __atomic_load_n(&known[i].ctx, __ATOMIC_ACQUIRE) != NULL; i++)
        if (__atomic_load_n(&known[i].dev, __ATOMIC_RELAXED) == (int)g->dev)
            __atomic_store_n(&known[i].seen[work], 0, __ATOMIC_RELAXED);
}

int harp_gate_contexts(void)
{
    int n = 0;
    for (int i = 0; i < KNOWN; i++) {
        CUcontext at = __atomic_load_n(&known[i].ctx, __ATOMIC_RELAXED);
        if (at == NULL)
            break;
        n += at != FREE_PLACE;
    }
    return n;
}

static void yield_at_exit(struct harp_timegate *g, unsigned lane)
{
    struct harp_gatelane *l = &g->lane[lane];
    if (l->state == GATE_CLOSED || l->state == GATE_OFFLINE || harp_env()->gate_off)
        return;
    struct harp_msg msg = harp_gate_msg(g, lane, HARP_YIELD_TIME);
    uint64_t told = l->rebased_ns + l->told_ns;
    uint64_t used = harp_now_ns() - (l->free_ns != 0 ? l->free_ns : l->open_ns);
    if (l->state != GATE_FREE && used > told)
        msg.used_ns = used - told;
    harp_session_tell(&msg);
}

/* The program ends: the driver goes soon, nothing may be asked of it any more. A turn is given back
 * now, for what is left of the process may take its time. */
static void at_exit(void)
{
    uint64_t slow[HARP_WORKS] = {0};
    if (!harp_session_own()) /* a forked child: these gates, and their locks, are its parent's */
        return;
    __atomic_store_n(&harp_time_exiting, 1, __ATOMIC_SEQ_CST);
    harp_swap_exiting(5000000000ull);
    harp_order_exiting();
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (!harp_gate_on(g))
            continue;
        pthread_mutex_lock(&g->lock);
        harp_gate_settle(g, 100);
        for (unsigned lane = 0; lane < g->lanes; lane++)
            yield_at_exit(g, lane);
        for (unsigned lane = 0; lane < HARP_TIME_LANES; lane++)
            g->lane[lane].state = GATE_FREE; /* static destructors must not wait for a turn */
        pthread_cond_broadcast(&g->changed);
        pthread_mutex_unlock(&g->lock);
    }
    for (int i = 0; i < HARP_SHARDS; i++)
        for (int work = 0; work < HARP_WORKS; work++)
            slow[work] += __atomic_load_n(&harp_time_shards[i].slow[work], __ATOMIC_RELAXED);
    harp_log("calls launches=%llu slow=%llu copies=%llu slow=%llu",
             (unsigned long long)harp_time_launches(HARP_WORK_COMPUTE),
             (unsigned long long)slow[HARP_WORK_COMPUTE],
             (unsigned long long)harp_time_launches(HARP_WORK_COPY),
             (unsigned long long)slow[HARP_WORK_COPY]);
}

static void gate_start(struct harp_timegate *g, int dev)
{
    static bool registered;
    if (g->on)
        return;
    g->dev = (uint32_t)dev;
    g->lanes = harp_session_lanes();
    g->closable = harp_swap_on(dev);
    g->away = harp_swap_away(dev);
    if (g->predictor == NULL)
        g->predictor = calloc(1, sizeof *g->predictor);
    for (unsigned lane = 0; lane < HARP_TIME_LANES; lane++) {
        g->lane[lane].state =
            harp_env()->gate_off || !harp_session_live() ? GATE_FREE : GATE_CLOSED;
        g->lane[lane].want_sent = false;
    }
    if (harp_env()->gate_off)
        harp_log("time_gate_off dev=%d why=HARP_GATE", dev);
    __atomic_store_n(&g->on, true, __ATOMIC_RELEASE);
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
    if (g->pending_tail == NULL) {
        pthread_mutex_init(&g->lock, NULL);
        pthread_cond_init(&g->changed, NULL);
        pthread_cond_init(&g->polled, NULL);
        g->pending_tail = &g->pending;
    }
    int place = -1;
    for (int i = 0; i < KNOWN; i++) {
        if (known[i].ctx == ctx) {
            place = i;
            break;
        }
        if (place < 0 && (known[i].ctx == NULL || known[i].ctx == FREE_PLACE))
            place = i;
        if (known[i].ctx == NULL)
            break;
    }
    if (place >= 0) {
        __atomic_store_n(&known[place].dev, dev, __ATOMIC_RELAXED);
        memset(known[place].seen, 0, sizeof known[place].seen);
        __atomic_store_n(&known[place].ctx, ctx, __ATOMIC_RELEASE);
    } else {
        harp_log("too_many_contexts most=%d effect=\"this one is not gated\"", KNOWN);
    }
    pthread_mutex_unlock(&known_lock);
    pthread_mutex_lock(&g->lock);
    gate_start(g, dev);
    if (harp_meter_of(g, ctx) == NULL) {
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
    for (int work = 0; work < HARP_WORKS; work++)
        __atomic_store_n(&harp_time_seen[work][harp_seen_place(s->stream)], 0, __ATOMIC_RELAXED);
    free(s);
}

static bool asked_of(const struct harp_timegate *g, CUcontext ctx)
{
    for (const struct harp_bracket *b = g->pending; b != NULL; b = b->next)
        if (b->call != 0 && b->end != NULL && b->end->ctx->ctx == ctx)
            return true;
    return false;
}

/* How long launches took is known as long as their events are: for a trace the service thread,
 * which alone asks, has a tenth of a second to. Lock held, and let go meanwhile. */
static void last_look(struct harp_timegate *g, CUcontext ctx)
{
    for (int i = 0; i < 100 && harp_trace_measures() && (g->polling || asked_of(g, ctx)); i++) {
        pthread_mutex_unlock(&g->lock);
        harp_session_wake();
        pthread_mutex_lock(&g->lock);
        harp_gate_wait(g, &g->polled, 1000000);
    }
    harp_gate_settle(g, 1000);
}

void harp_time_context_going(CUcontext ctx)
{
    struct harp_timegate *g = harp_gate_of(ctx);
    if (g == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    harp_gate_settle(g, 1000);
    last_look(g, ctx);
    struct harp_meter_ctx *meter = harp_meter_of(g, ctx);
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
        g->lane[b->lane].brackets--;
        if ((b->end != NULL ? b->end->ctx : b->start->ctx) == meter)
            harp_bracket_free(b);
        else
            harp_gate_push(g, b);
    }
    for (unsigned lane = 0; lane < HARP_TIME_LANES; lane++) {
        harp_mark_unref(meter->lane[lane].first);
        harp_mark_unref(meter->lane[lane].latest);
    }
    for (struct harp_meter_ctx **at = &g->ctxs; *at != NULL; at = &(*at)->next)
        if (*at == meter) {
            *at = meter->next;
            break;
        }
    harp_mark_unref(meter->reference.mark);
    /* The events die with the context; only our notes of them are left to free. */
    while (meter->pool != NULL) {
        struct harp_mark *mark = meter->pool;
        meter->pool = mark->next;
        free(mark);
    }
    free(meter);
    pthread_mutex_unlock(&g->lock);
    for (int i = 0; i < KNOWN && known[i].ctx != NULL; i++)
        if (known[i].ctx == ctx)
            __atomic_store_n(&known[i].ctx, FREE_PLACE, __ATOMIC_RELEASE);
    harp_session_wake();
}

void harp_time_stream_going(CUstream stream)
{
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (!harp_gate_on(g))
            continue;
        struct harp_bracket *b = NULL;
        pthread_mutex_lock(&g->lock);
        harp_gate_settle(g, 1000);
        struct harp_meter_stream **at = &g->streams;
        while (*at != NULL && (*at)->stream != stream)
            at = &(*at)->next;
        if (*at != NULL) {
            bool dirty[] = {(*at)->dirty[0], (*at)->dirty[1]};
            if ((dirty[0] || dirty[1]) && (b = calloc(1, sizeof *b)) != NULL &&
                (b->end = harp_mark_take((*at)->ctx)) == NULL) {
                free(b);
                b = NULL;
            }
            if (b != NULL) /* of both: what there is of lane 0 counts */
                b->lane = dirty[0] ? 0 : 1;
            drop_stream(g, at);
        }
        pthread_mutex_unlock(&g->lock);
        if (b == NULL)
            continue;
        harp_mark_record(b->end, stream);
        pthread_mutex_lock(&g->lock);
        harp_gate_push(g, b);
        pthread_mutex_unlock(&g->lock);
    }
}

CUresult harp_hook_cuStreamDestroy(CUstream hStream)
{
    if (!harp_inside()) {
        harp_time_stream_going(hStream);
        harp_order_stream_gone(hStream);
    }
    return HARP_REAL(cuStreamDestroy)(hStream);
}

CUresult harp_hook_cuStreamDestroy_v2(CUstream hStream)
{
    if (!harp_inside()) {
        harp_time_stream_going(hStream);
        harp_order_stream_gone(hStream);
    }
    return HARP_REAL(cuStreamDestroy_v2)(hStream);
}

void harp_time_forked(void)
{
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++)
        memset(&harp_gates[dev], 0, sizeof harp_gates[dev]); /* not freed: see memory */
    memset(known, 0, sizeof known);
    memset(harp_time_seen, 0, sizeof harp_time_seen);
    pthread_mutex_init(&known_lock, NULL);
    memset(harp_time_shut, 0, sizeof harp_time_shut);
}
