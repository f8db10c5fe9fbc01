/* SPDX-License-Identifier: Apache-2.0
 *
 * State of the time gates, shared by time.c (callers' side) and meter.c (service thread's side).
 *
 * One gate per device of the arbiter, all under its own lock, which is never held across a call of
 * the driver. Events are created and recorded by whoever launches, on the stream of the launch;
 * the service thread queries them, and closes brackets that were left open.
 */
#ifndef HARP_SHIM_GATE_H
#define HARP_SHIM_GATE_H

#include <pthread.h>

#include "harp/lease.h"
#include "src/shim/gate/predict.h"
#include "src/shim/gate/time.h"

#define HARP_POOL_LOW       4 /* fewer events in store: more are made */
#define HARP_BATCH_LAUNCHES 8
#define HARP_BATCH_NS       1000000ull  /* predicted work in one bracket */
#define HARP_IDLE_NS        200000ull   /* no work for so long: the turn is handed over */
#define HARP_SAMPLE_NS      10000000ull /* alone: one launch in so long is measured */
#define HARP_EXTEND_NS      100000000ull

enum harp_gate_state {
    GATE_OFF,     /* no context on this device */
    GATE_FREE,    /* open until told otherwise */
    GATE_CLOSED,  /* not our turn */
    GATE_QUANTUM, /* our turn, until the deadline */
    GATE_CLOSING, /* our turn is over, our work is not */
};

struct harp_meter_ctx {
    struct harp_meter_ctx *next;
    CUcontext ctx;
    struct harp_mark *pool; /* events not in use */
    unsigned pooled;
    struct harp_mark *first; /* first event of this turn */
    uint64_t used_ns;        /* first to latest completed event of this turn */
    bool only_legacy;        /* no stream but the default one has been used */
    bool per_thread;         /* per-thread default streams have work the gate did not see end */
};

struct harp_mark { /* an event; shared by the bracket it ends and the one it starts */
    struct harp_mark *next;
    struct harp_meter_ctx *ctx;
    CUevent event;
    unsigned refs;
};

struct harp_bracket { /* launches between two events of one stream */
    struct harp_bracket *next;
    struct harp_meter_stream *stream;
    struct harp_mark *start, *end;
    struct harp_estimate *parts[HARP_BATCH_LAUNCHES];
    unsigned n, unmeasured;
    uint64_t ns; /* predicted */
    bool sample;
    enum harp_work work;
};

struct harp_meter_stream {
    struct harp_meter_stream *next;
    CUstream stream;
    struct harp_meter_ctx *ctx;
    struct harp_bracket *open;
    struct harp_mark *last; /* end of the latest bracket */
    uint64_t touched_ns;
    bool dirty; /* has work after its latest end mark */
};

struct harp_timegate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t dev;
    enum harp_gate_state state;
    uint64_t epoch, open_ns, closing_ns, touched_ns, extended_ns, wanted_ns, alive_ns;
    struct harp_quantum q;
    bool slow; /* counted in harp_time_word */
    bool want_sent, backlogged, from_free, polling;
    unsigned waiters, inside, extend, extensions;
    struct harp_meter_ctx *ctxs;
    struct harp_meter_stream *streams;
    struct harp_bracket *pending, **pending_tail;
    struct harp_predictor *predictor;
    bool sample_due;
    uint64_t sample_ns, sampled_launches, reported_launches, reported_ns;
};

extern struct harp_timegate harp_gates[HARP_MAX_DEVICES];
extern int harp_time_exiting;

/* All with the gate's lock held. */
void harp_gate_update(struct harp_timegate *g); /* after any change of state or sample_due */
void harp_gate_closing(struct harp_timegate *g, uint64_t now, bool backlogged);
void harp_mark_unref(struct harp_mark *mark);
struct harp_mark *harp_mark_take(struct harp_meter_ctx *ctx); /* NULL: pool empty */
void harp_bracket_free(struct harp_bracket *b);
void harp_gate_push(struct harp_timegate *g, struct harp_bracket *b);

struct harp_meter_ctx *harp_meter_of(struct harp_timegate *g, CUcontext ctx);
/* Lets the lock go until something changed, at most so long. */
void harp_gate_wait(struct harp_timegate *g, uint64_t ns);

/* No lock needed. */
struct harp_timegate *harp_gate_of(CUcontext ctx); /* NULL: none */
int harp_gate_contexts(void);
void harp_mark_record(struct harp_mark *mark, CUstream stream);
/* Launches counted on the fast path and off it. */
uint64_t harp_time_launches(void);
/* No lock held: makes events for `ctx` (which is current, or is made so) until some are pooled. */
void harp_marks_fill(struct harp_timegate *g, struct harp_meter_ctx *ctx);

#endif
