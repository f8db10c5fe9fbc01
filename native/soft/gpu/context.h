/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of contexts and streams, for the core's own files.
 *
 * A context's struct is never freed: threads keep destroyed contexts on their stacks, and must be
 * told so (709). A primary context comes back in the same struct, so its handle stays the same.
 */
#ifndef HARP_SOFT_CONTEXT_H
#define HARP_SOFT_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>

#include "soft/gpu/engine.h"
#include "soft/gpu/soft.h"

#define SOFT_QUEUE_DEPTH 1024
#define SOFT_ENDS        256 /* logical ends that a stream remembers */
#define SOFT_LIMITS      16

struct soft_ctx {
    uint64_t id;
    int device;  /* CUdevice */
    int ordinal; /* in the state file */
    const struct soft_profile *profile;
    bool primary;
    unsigned flags, api_version;
    _Atomic int alive;    /* 0: destroyed, or not made yet */
    _Atomic int sticky;   /* CUresult, for good */
    _Atomic int deferred; /* CUresult of a command, told once */
    size_t limits[SOFT_LIMITS];
    int client;
    struct soft_turn turn[SOFT_ENGINES];

    pthread_mutex_t submit_lock; /* order of submissions; guards the stream list and `legacy` */
    struct soft_stream *streams; /* every stream of it that may hold work */
    struct soft_stream *legacy;  /* NULL until first used */

    struct soft_arena *arena;        /* memory.c; its own lock */
    struct soft_farewell *farewells; /* soft_ctx_on_destroy; guarded by soft_lock */
    struct soft_ctx *next;           /* all contexts ever; guarded by soft_lock */
};

struct soft_stream {
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    uint64_t id;
    _Atomic int refs;
    unsigned flags;
    int priority;
    bool legacy, blocking, per_thread;
    _Atomic(struct soft_graph *) capture;
    struct soft_stream *next; /* guarded by the context's submit_lock */
    struct soft_order *order; /* pool_order.c; its lock */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t work;  /* for its thread: a command came, or it is to stop */
    pthread_cond_t done;  /* for all others: a command ended */
    struct soft_cmd *head, *tail;
    uint64_t submitted, completed; /* sequence numbers */
    uint64_t end_ns;               /* logical end of `completed` */
    uint64_t ends[SOFT_ENDS];      /* by seq % SOFT_ENDS */
    pthread_t thread;
    bool started; /* the thread runs */
    bool stopping;
    bool orphan;             /* destroyed by the client: ends when it has nothing to do */
    bool held[SOFT_ENGINES]; /* its thread keeps that engine between commands; only its own */
};

void *soft_stream_main(void *stream); /* stream_run.c */

/* stream lifetime, queue.c */
struct soft_stream *soft_stream_new(struct soft_ctx *ctx, unsigned flags, int priority);
void soft_stream_orphan(struct soft_stream *stream); /* gone for the client; drains by itself */
void soft_stream_stop(struct soft_stream *stream);   /* ends its thread; unlinked by the caller */
void soft_stream_wait_seq(struct soft_stream *stream, uint64_t seq);
bool soft_stream_idle(struct soft_stream *stream);
/* The dependency on what `stream` holds now; 0 if nothing is pending. */
uint64_t soft_stream_pending(struct soft_stream *stream);
int soft_cmd_depend(struct soft_cmd *cmd, struct soft_stream *stream, uint64_t seq);
void soft_cmd_drop(struct soft_cmd *cmd);
CUresult soft_ctx_error(struct soft_ctx *ctx); /* sticky, or the deferred one, once */
CUresult soft_legacy_stream(struct soft_ctx *ctx, struct soft_stream **out);
/* Waits for all work that calls on the legacy stream wait for. */
CUresult soft_legacy_wait(struct soft_ctx *ctx);

/* thread.c: what a thread knows */
#define SOFT_STACK 64
struct soft_thread {
    struct soft_ctx *stack[SOFT_STACK];
    uint64_t stack_id[SOFT_STACK]; /* incarnation pushed */
    int depth;
    bool per_thread_default;
    bool in_callback;
    struct soft_stream **defaults; /* per-thread default streams, one per context */
    size_t default_count;
};
struct soft_thread *soft_thread(void); /* NULL: no memory */
void soft_threads_init(void);
CUresult soft_per_thread_stream(struct soft_ctx *ctx, struct soft_stream **out);

/* init.c */
extern struct soft_state *soft_the_state; /* NULL before cuInit */
bool soft_forked(void);

/* visible.c: devices the process may see */
int soft_visible_count(void);
int soft_visible_ordinal(CUdevice device); /* -1: no such device */
CUdevice soft_visible_device(int ordinal); /* CU_DEVICE_INVALID: not visible, or host memory */
int soft_visible_parse(const char *text, const uint8_t (*uuids)[16], int count, int *ordinals);

/* context.c */
CUresult soft_ctx_make(struct soft_ctx *ctx);
void soft_ctx_end(struct soft_ctx *ctx);
struct soft_ctx *soft_ctx_of(CUcontext handle); /* NULL: not a living context */
struct soft_ctx *soft_ctx_first(void);          /* with soft_lock held */
/* Current context without the poison check: for calls that work on a poisoned one. */
CUresult soft_current_any(struct soft_ctx **ctx);

/* event.c */
void soft_events_forget(struct soft_ctx *ctx);

/* arena.c */
int soft_arena_make(struct soft_ctx *ctx);
void soft_arena_end(struct soft_ctx *ctx);

#endif
