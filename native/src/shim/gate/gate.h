/* SPDX-License-Identifier: Apache-2.0
 *
 * State of the time gates, shared by time.c, marks.c, track.c (callers' side) and turn.c, meter.c,
 * round.c (service thread's side).
 *
 * One gate per device of the arbiter, all under its own lock, which is never held across a call of
 * the driver. In it two lanes, compute and copy, each with turns of its own (one lane where the
 * arbiter schedules one); streams and events are shared, for an event bracket must hold work of
 * one lane only. Events are created and recorded by whoever launches, on the stream of the launch;
 * the service thread queries them, and closes brackets that were left open.
 */
#ifndef HARP_SHIM_GATE_H
#define HARP_SHIM_GATE_H

#include <pthread.h>

#include "harp/lease.h"
#include "src/shim/gate/predict.h"
#include "src/shim/gate/span.h"
#include "src/shim/gate/time.h"

#define HARP_POOL_LOW       4 /* fewer events in store: more are made */
#define HARP_BATCH_LAUNCHES 8
#define HARP_BATCH_NS       1000000ull  /* predicted work in one bracket */
#define HARP_IDLE_NS        200000ull   /* no work for so long: the turn is handed over */
#define HARP_SAMPLE_NS      10000000ull /* alone: one launch in so long is measured */
#define HARP_EXTEND_NS      100000000ull
#define HARP_REPORT_NS      100000000ull
#define HARP_OFFLINE_NS     5000000000ull /* the arbiter is gone: shares are kept to so long */

enum harp_gate_state {
    GATE_FREE,    /* open until told otherwise */
    GATE_CLOSED,  /* not our turn */
    GATE_QUANTUM, /* our turn, until the deadline */
    GATE_CLOSING, /* our turn is over, our work is not */
    GATE_OFFLINE, /* nobody gives turns: a token bucket */
};

struct harp_meter_ctx {
    struct harp_meter_ctx *next;
    CUcontext ctx;
    struct harp_mark *pool; /* events not in use */
    unsigned pooled;
    bool only_legacy; /* no stream but the default one has been used */
    struct {
        struct harp_mark *mark; /* an event of the past second; NULL: none */
        uint64_t at_ns;         /* when it was: no earlier */
    } reference;                /* of a trace: where on the host's clock the device was */
    struct {
        struct harp_mark *first, *latest; /* events of this turn: first, and last known done */
        struct harp_span span;
        bool per_thread; /* per-thread default streams have work the gate did not see end */
    } lane[HARP_TIME_LANES];
};

struct harp_mark { /* an event; shared by the bracket it ends and the one it starts */
    struct harp_mark *next;
    struct harp_meter_ctx *ctx;
    CUevent event;
    unsigned refs;
    bool done; /* seen done */
};

struct harp_bracket { /* launches of one lane between two events of one stream */
    struct harp_bracket *next;
    struct harp_meter_stream *stream; /* NULL: destroyed */
    struct harp_mark *start, *end;
    struct harp_estimate *parts[HARP_BATCH_LAUNCHES];
    struct harp_profile_row *rows[HARP_BATCH_LAUNCHES]; /* of parts; NULL: no kernel */
    unsigned launches;                                  /* that are in it: `n` parts, and others */
    unsigned n, unmeasured, lane;
    uint64_t ns;         /* predicted */
    uint64_t unready_ns; /* when it was last seen not done */
    bool sample;
    enum harp_work work;
    bool untold;       /* for a trace alone: it stands for no others */
    unsigned calls;    /* that are recorded in a trace */
    uint64_t call;     /* the one of them, if there is one */
    uint64_t begin_ns; /* `start` was recorded after; 0: not known */
};

struct harp_meter_stream {
    struct harp_meter_stream *next;
    CUstream stream;
    struct harp_meter_ctx *ctx;
    struct harp_bracket *open;
    struct harp_mark *last;      /* end of the latest bracket */
    uint64_t touched_ns;         /* latest launch */
    uint64_t busy_until_ns;      /* as predicted */
    uint64_t pass;               /* of collect(): its first bracket is not done */
    unsigned inside;             /* calls between begin and end */
    bool dirty[HARP_TIME_LANES]; /* has work after its latest end mark */
};

struct harp_gatelane {
    enum harp_gate_state state;
    uint64_t epoch, open_ns, closing_ns, touched_ns, extended_ns, wanted_ns, alive_ns;
    uint64_t told_ns;     /* of this turn's time, said already */
    uint64_t last_end_ns; /* when the latest known end was */
    uint64_t free_ns;     /* what was queued then had no event to begin with; 0: nothing */
    uint64_t rebased_ns;  /* said of this turn before `told_ns` began anew */
    struct harp_quantum q;
    struct harp_bucket bucket;
    uint64_t offline_until_ns;
    bool want_sent, backlogged, announced, open_ended, sample_due;
    unsigned waiters, inside, extend, extensions;
    unsigned brackets; /* in `pending`, or asked about just now */
    uint64_t sample_ns, sampled_launches, reported_launches, reported_ns;
};

struct harp_timegate {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a lane's state, or room in its queue */
    pthread_cond_t polled;  /* `polling` ended */
    uint32_t dev;
    bool on;                    /* a context has been made on this device; atomic */
    unsigned lanes;             /* that the arbiter schedules */
    bool polling;               /* the service thread uses events without the lock */
    bool closable;              /* memory may leave: every launch comes by, none runs free */
    bool away;                  /* it has left, or is about to: nobody gets in */
    unsigned touching;          /* calls that name such memory and are no turn */
    bool shut[HARP_TIME_LANES]; /* by kind of work: counted in harp_time_shut */
    struct harp_gatelane lane[HARP_TIME_LANES];
    struct harp_meter_ctx *ctxs;
    struct harp_meter_stream *streams;
    struct harp_bracket *pending, **pending_tail;
    struct harp_predictor *predictor;
    uint64_t pass;
};

extern struct harp_timegate harp_gates[HARP_MAX_DEVICES];
extern int harp_time_exiting;

static inline bool harp_gate_on(const struct harp_timegate *g)
{
    return __atomic_load_n(&g->on, __ATOMIC_ACQUIRE);
}

/* --- with the gate's lock held ---------------------------------------------------------------- */

/* By which lane work of a kind goes. */
static inline unsigned harp_lane_of(const struct harp_timegate *g, enum harp_work work)
{
    return g->lanes >= 2 ? (unsigned)work : 0;
}

/* After a change of a lane's state. */
void harp_gate_update(struct harp_timegate *g);
/* No more launches in this turn. `announce`: the arbiter does not know yet. */
void harp_gate_closing(struct harp_timegate *g, unsigned lane, uint64_t now, bool backlogged,
                       bool announce);
/* A message about a lane. */
struct harp_msg harp_gate_msg(const struct harp_timegate *g, unsigned lane, uint16_t op);
/* Adds to `msg` what of the turn has not been said yet, and the launches. */
void harp_gate_report(struct harp_timegate *g, unsigned lane, uint64_t now, struct harp_msg *msg);
/* The turn's notes are forgotten; what is open was begun in it, and ends nowhere. */
void harp_gate_turn_over(struct harp_timegate *g, unsigned lane);
/* Launches of a turn that no report of it tells the time of: they have not ended, or not begun. */
uint64_t harp_gate_unended(const struct harp_timegate *g, unsigned lane);
/* Launches are to be seen again: one per stream, to be measured or drained. */
void harp_gate_unsee(const struct harp_timegate *g, unsigned lane);

void harp_mark_unref(struct harp_mark *mark);
struct harp_mark *harp_mark_take(struct harp_meter_ctx *ctx); /* NULL: pool empty */
void harp_bracket_free(struct harp_bracket *b);
void harp_gate_push(struct harp_timegate *g, struct harp_bracket *b);

struct harp_meter_ctx *harp_meter_of(struct harp_timegate *g, CUcontext ctx);
/* Lets the lock go until something changed, at most so long. */
void harp_gate_wait(struct harp_timegate *g, pthread_cond_t *on, uint64_t ns);
/* Returns when a launch expected to take `ns` may go: by which lane. */
unsigned harp_gate_admit(struct harp_timegate *g, enum harp_work work, uint64_t ns, bool measured);
/* Until the service thread does not use events, at most so many ms. */
void harp_gate_settle(struct harp_timegate *g, int ms);

/* --- memory that can leave the device (swap.h); no lock held -----------------------------------
 */

/* From now on nothing here passes without the gate's knowledge. */
void harp_gate_closable(int dev);
/* Lets nobody in any more, and waits at most so long until nothing of the process runs there: the
 * lanes are shut and drained. False: something does, and all may go on. */
bool harp_gate_away(int dev, uint64_t ns);
void harp_gate_home(int dev);
/* Round a call that names such memory without being a turn. NULL: no gate needs to know. */
struct harp_timegate *harp_touch_begin(CUcontext ctx);
void harp_touch_end(struct harp_timegate *g);

/* --- no lock needed --------------------------------------------------------------------------- */

struct harp_timegate *harp_gate_of(CUcontext ctx); /* NULL: none */
CUcontext harp_stream_context(CUstream stream);    /* whose work it carries; NULL: none */
int harp_gate_contexts(void);
void harp_mark_record(struct harp_mark *mark, CUstream stream);
/* Launches counted on the fast path and off it, by kind of work; of a lane. */
uint64_t harp_time_launches(enum harp_work work);
uint64_t harp_gate_launches(const struct harp_timegate *g, unsigned lane);
/* No lock held: makes events for `ctx` (which is current, or is made so) until some are pooled. */
void harp_marks_fill(struct harp_timegate *g, struct harp_meter_ctx *ctx);
/* Default streams have one handle in all contexts: whether work on one needs no gate in `ctx`. */
bool harp_ctx_seen(CUcontext ctx, CUstream stream, enum harp_work work);
void harp_ctx_see(CUcontext ctx, CUstream stream, enum harp_work work);
void harp_ctx_unsee(const struct harp_timegate *g, enum harp_work work);

#endif
