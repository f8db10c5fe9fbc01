/* SPDX-License-Identifier: Apache-2.0
 *
 * The service thread's side of the time gate: what the arbiter says, which events have passed, when
 * a turn ends, and what it cost.
 *
 * A turn is charged from its first event to its last: gaps within one's own turn are one's own.
 * Alone, one launch in 10 ms is measured and stands for those between.
 */
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

#define US          1000ull
#define MS          1000000ull
#define POLL_NS     (100 * US)
#define DRAIN_NS    (50 * US)
#define STALE_NS    (100 * US) /* an open bracket with no launch for so long is closed */
#define REPORT_NS   (100 * MS)
#define EXPECTED_NS (5000 * MS) /* an expected end later than this is not believed */
#define EXTENSIONS  6           /* doublings of the patience with a drain */
/* In company a turn without an end is given back, and asked for again, so often. */
#define COMPANY_NS (100 * MS)

/* --- from the arbiter; session lock held ----------------------------------------------------- */

static struct harp_timegate *gate_at(const struct harp_msg *msg)
{
    return msg->dev < HARP_MAX_DEVICES ? &harp_gates[msg->dev] : NULL;
}

void harp_time_open_gate(const struct harp_msg *msg)
{
    struct harp_timegate *g = gate_at(msg);
    if (g == NULL || g->state == GATE_OFF)
        return;
    uint64_t now = harp_now_ns();
    pthread_mutex_lock(&g->lock);
    bool fresh = msg->epoch != g->epoch || g->state == GATE_CLOSED;
    if (fresh && msg->a == 1) { /* a change for the turn that we have just yielded */
        pthread_mutex_unlock(&g->lock);
        return;
    }
    if (fresh && g->state == GATE_CLOSING) { /* cannot be; finish the old turn first */
        pthread_mutex_unlock(&g->lock);
        return;
    }
    if (fresh) {
        g->epoch = msg->epoch;
        g->open_ns = g->touched_ns = now;
        memset(&g->q, 0, sizeof g->q);
        for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
            harp_mark_unref(c->first);
            c->first = NULL;
            c->used_ns = 0;
        }
    }
    if (!harp_env()->gate_off && (fresh || g->state == GATE_FREE || g->state == GATE_QUANTUM)) {
        if (g->state == GATE_FREE) /* streams are to be seen again: see yield_turn */
            memset(harp_time_seen, 0, sizeof harp_time_seen);
        /* Until told otherwise, but in company: who comes waits until the queue is empty, so only
         * so much is queued at once; and what was used is told now and then. */
        g->state = msg->quantum_ns == 0 && msg->window_ns == 0 ? GATE_FREE : GATE_QUANTUM;
        g->q.deadline_ns = now + (msg->quantum_ns != 0 ? msg->quantum_ns : COMPANY_NS);
        g->q.window_ns = msg->window_ns;
        g->want_sent = false;
        if (g->state == GATE_FREE)
            g->sample_ns = now;
        harp_gate_update(g);
        pthread_cond_broadcast(&g->changed);
    }
    pthread_mutex_unlock(&g->lock);
}

static bool busy(const struct harp_timegate *g, uint64_t now)
{
    return g->waiters != 0 || g->inside != 0 || g->pending != NULL ||
           now - g->touched_ns < HARP_IDLE_NS;
}

void harp_time_close_gate(const struct harp_msg *msg)
{
    struct harp_timegate *g = gate_at(msg);
    if (g == NULL || g->state == GATE_OFF || harp_env()->gate_off)
        return;
    uint64_t now = harp_now_ns();
    pthread_mutex_lock(&g->lock);
    if (msg->epoch == g->epoch)
        harp_gate_closing(g, now, busy(g, now));
    pthread_mutex_unlock(&g->lock);
}

void harp_time_connection(bool up)
{
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (g->state == GATE_OFF || harp_env()->gate_off)
            continue;
        pthread_mutex_lock(&g->lock);
        g->state = up ? GATE_CLOSED : GATE_FREE;
        g->want_sent = false;
        g->sample_due = false;
        harp_gate_update(g);
        pthread_cond_broadcast(&g->changed);
        pthread_mutex_unlock(&g->lock);
    }
}

/* --- the driver's side: no lock held, `polling` set ------------------------------------------ */

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

/* A bracket that the service thread may end: on a per-thread stream only its thread could, and on
 * the legacy stream an event would be a barrier between streams that have none. Draining, it must
 * be ended all the same: nothing is launched meanwhile. */
static bool may_end(const struct harp_meter_stream *s, bool draining)
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

/* Ends what is open on one stream that needs it. Lock held; let go meanwhile. False: none needs. */
static bool end_one(struct harp_timegate *g, uint64_t now)
{
    bool draining = g->state == GATE_CLOSING && g->inside == 0;
    struct harp_meter_stream *s = g->streams;
    for (; s != NULL; s = s->next)
        if (s->dirty && may_end(s, draining) &&
            (draining || (g->state == GATE_QUANTUM && now - s->touched_ns > STALE_NS)))
            break;
    if (s == NULL)
        return false;
    struct harp_bracket *b = s->open != NULL ? s->open : calloc(1, sizeof *b);
    struct harp_mark *end = b != NULL ? harp_mark_take(s->ctx) : NULL;
    s->dirty = false;
    s->open = NULL;
    if (end == NULL) {
        if (b != NULL)
            harp_bracket_free(b);
        return true;
    }
    b->stream = s;
    b->end = end;
    CUstream stream = s->stream;
    pthread_mutex_unlock(&g->lock);
    bool ok = enter_context(end->ctx->ctx) && !capturing(stream) &&
              HARP_REAL(cuEventRecord)(end->event, stream) == CUDA_SUCCESS;
    pthread_mutex_lock(&g->lock);
    if (ok)
        harp_gate_push(g, b);
    else
        harp_bracket_free(b);
    return true;
}

/* Work of per-thread streams launched while the gate was free has no event: wait for all. */
static void sync_per_thread(struct harp_timegate *g)
{
    for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
        if (!c->per_thread)
            continue;
        c->per_thread = false;
        CUcontext ctx = c->ctx;
        pthread_mutex_unlock(&g->lock);
        if (enter_context(ctx))
            HARP_REAL(cuCtxSynchronize)();
        pthread_mutex_lock(&g->lock);
        return;
    }
}

/* --- what has ended -------------------------------------------------------------------------- */

static void sampled(struct harp_timegate *g, const struct harp_bracket *b, uint64_t ns)
{
    uint64_t launches = harp_time_launches();
    uint64_t stands_for = launches - g->sampled_launches;
    g->sampled_launches = launches;
    struct harp_msg msg = {.op = HARP_USED_TIME, .dev = g->dev, .epoch = g->epoch};
    uint64_t now = harp_now_ns(), wall = now - g->reported_ns;
    uint64_t used = ns * stands_for; /* never more than has passed */
    if (used > wall)
        used = wall;
    if (b->work == HARP_WORK_COMPUTE)
        msg.used_ns = used;
    else
        msg.copy_ns = used;
    msg.launches = launches - g->reported_launches;
    g->reported_launches = launches;
    g->reported_ns = now;
    harp_session_tell(&msg);
    g->sample_ns = now + HARP_SAMPLE_NS;
}

/* Lock held on entry and exit, not during queries. */
static void collect(struct harp_timegate *g)
{
    struct harp_bracket *list = g->pending, *left = NULL, **tail = &left;
    g->pending = NULL;
    g->pending_tail = &g->pending;
    pthread_mutex_unlock(&g->lock);
    bool any = false;
    while (list != NULL) {
        struct harp_bracket *b = list;
        list = b->next;
        b->next = NULL;
        enum verdict v = query(b);
        if (v == NOT_YET) {
            *tail = b;
            tail = &b->next;
            continue;
        }
        any = true;
        uint64_t ns = v == DONE ? elapsed(b->start, b->end) : 0;
        uint64_t turn = v == DONE ? elapsed(b->end->ctx->first, b->end) : 0;
        pthread_mutex_lock(&g->lock);
        if (b->sample)
            sampled(g, b, ns);
        else if (v == DONE && b->n != 0 && ns != 0)
            harp_estimate_learn(b->parts, b->n, ns);
        if (turn > b->end->ctx->used_ns)
            b->end->ctx->used_ns = turn;
        harp_bracket_free(b);
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_lock(&g->lock);
    uint64_t rest = 0;
    uint32_t unmeasured = 0;
    *tail = g->pending;
    if (g->pending == NULL)
        g->pending_tail = tail == &left ? &g->pending : tail;
    g->pending = left;
    for (struct harp_bracket *b = g->pending; b != NULL; b = b->next) {
        rest += b->ns;
        unmeasured += b->unmeasured;
    }
    for (struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->open != NULL)
            rest += s->open->ns;
    if (any) {
        uint64_t now = harp_now_ns();
        g->touched_ns = now;
        harp_quantum_observed(&g->q, now, rest, unmeasured);
        pthread_cond_broadcast(&g->changed);
    }
}

/* --- the end of a turn ----------------------------------------------------------------------- */

static bool drained(const struct harp_timegate *g)
{
    if (g->inside != 0 || g->pending != NULL)
        return false;
    for (const struct harp_meter_stream *s = g->streams; s != NULL; s = s->next)
        if (s->dirty && may_end(s, true))
            return false;
    for (const struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next)
        if (c->per_thread)
            return false;
    return true;
}

static void yield_turn(struct harp_timegate *g, uint64_t now)
{
    uint64_t used = g->from_free ? now - g->closing_ns : 0;
    for (struct harp_meter_ctx *c = g->ctxs; c != NULL; c = c->next) {
        used += c->used_ns;
        c->used_ns = 0;
        harp_mark_unref(c->first);
        c->first = NULL;
    }
    if (used > now - g->open_ns)
        used = now - g->open_ns;
    uint64_t launches = harp_time_launches();
    if (now - g->reported_ns > REPORT_NS && launches != g->reported_launches) {
        struct harp_msg msg = {.op = HARP_USED_TIME, .dev = g->dev, .epoch = g->epoch};
        msg.launches = launches - g->reported_launches;
        g->reported_launches = g->sampled_launches = launches;
        g->reported_ns = now;
        harp_session_tell(&msg);
    }
    struct harp_msg msg = {.op = HARP_YIELD_TIME, .dev = g->dev, .epoch = g->epoch};
    msg.used_ns = used;
    /* Who had so much queued when the turn ended is likely to want more: if not, its next turn is
     * handed over after HARP_IDLE_NS. Said the other way round, the device would be given away. */
    bool queued = g->touched_ns > g->closing_ns + HARP_IDLE_NS;
    msg.a = g->backlogged || queued || g->waiters != 0;
    g->state = GATE_CLOSED;
    g->want_sent = msg.a != 0;
    g->wanted_ns = now;
    /* From here on work has to be seen again to be drained again. */
    memset(harp_time_seen, 0, sizeof harp_time_seen);
    harp_gate_update(g);
    harp_session_tell(&msg);
    pthread_cond_broadcast(&g->changed);
}

/* --- one round ------------------------------------------------------------------------------- */

static int64_t sooner(int64_t a, uint64_t b)
{
    return a < 0 || (uint64_t)a > b ? (int64_t)b : a;
}

/* Draining may take as long as what was launched: the arbiter hears that somebody is there. */
static void still_alive(struct harp_timegate *g, uint64_t now)
{
    struct harp_msg msg = {.op = HARP_USED_TIME, .dev = g->dev, .epoch = g->epoch};
    if (now - g->alive_ns < REPORT_NS)
        return;
    g->alive_ns = now;
    harp_session_tell(&msg);
}

/* The last progress of a drain, or when it was expected to be over. */
static uint64_t stuck_since(const struct harp_timegate *g)
{
    uint64_t most = g->closing_ns + EXPECTED_NS;
    uint64_t since = g->q.queue_end_ns < most ? g->q.queue_end_ns : most;
    if (since < g->extended_ns)
        since = g->extended_ns;
    return since > g->touched_ns ? since : g->touched_ns;
}

static int64_t gate_round(struct harp_timegate *g)
{
    uint64_t now = harp_now_ns();
    int64_t sleep = -1;
    if (g->state == GATE_QUANTUM) {
        if (now >= g->q.deadline_ns && g->q.launched != 0)
            harp_gate_closing(g, now, busy(g, now));
        else if (!busy(g, now) && now - g->open_ns > HARP_IDLE_NS)
            harp_gate_closing(g, now, false);
    }
    g->polling = true;
    while (end_one(g, now))
        continue;
    if (g->state == GATE_CLOSING && g->inside == 0)
        sync_per_thread(g);
    if (g->pending != NULL)
        collect(g);
    g->polling = false;
    pthread_cond_broadcast(&g->changed);
    now = harp_now_ns();
    switch (g->state) {
    case GATE_CLOSING:
        if (drained(g)) {
            yield_turn(g, now);
            break;
        }
        still_alive(g, now);
        if (g->waiters != 0 && now > stuck_since(g) + (HARP_EXTEND_NS << g->extensions)) {
            g->extended_ns = now;
            g->extend++;
            g->extensions += g->extensions < EXTENSIONS;
            harp_log("turn_extended dev=%u why=\"what runs may wait for what is held back\"",
                     g->dev);
        }
        sleep = g->q.queue_end_ns > now + 4 * DRAIN_NS
                    ? (int64_t)(g->q.queue_end_ns - now - 2 * DRAIN_NS)
                    : (int64_t)DRAIN_NS;
        sleep = sooner(sleep, MS);
        break;
    case GATE_QUANTUM:
        sleep = g->pending != NULL ? (int64_t)POLL_NS : (int64_t)HARP_IDLE_NS / 2;
        if (g->q.launched != 0 && g->q.deadline_ns > now)
            sleep = sooner(sleep, g->q.deadline_ns - now);
        break;
    case GATE_FREE:
        if (g->pending != NULL) {
            sleep = (int64_t)MS;
        } else if (!g->sample_due && g->sample_ns != 0 && harp_session_live()) {
            if (now >= g->sample_ns) {
                g->sample_due = true;
                harp_gate_update(g);
            } else {
                sleep = (int64_t)(g->sample_ns - now);
            }
        }
        break;
    case GATE_OFF:
    case GATE_CLOSED:
        break;
    }
    return sleep;
}

int64_t harp_time_round(void)
{
    int64_t sleep = -1;
    harp_enter();
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        struct harp_timegate *g = &harp_gates[dev];
        if (g->state == GATE_OFF || __atomic_load_n(&harp_time_exiting, __ATOMIC_RELAXED))
            continue;
        pthread_mutex_lock(&g->lock);
        int64_t mine = gate_round(g);
        pthread_mutex_unlock(&g->lock);
        if (mine >= 0)
            sleep = sooner(sleep, (uint64_t)mine);
    }
    harp_leave();
    return sleep;
}
