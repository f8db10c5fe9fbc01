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
/* of streams and kernels; lower numbers go first */
#define SOFT_PRIORITY_LEAST    0
#define SOFT_PRIORITY_GREATEST (-5)

struct soft_fifo {        /* fifo.c: text that kernels printed, not shown yet */
    pthread_mutex_t lock; /* guards all of it */
    struct soft_fifo_text *first, *last;
    _Atomic size_t used; /* bytes, with what each record costs; read without the lock too */
};

#define SOFT_MAX_PEERS 8 /* as documented of machines whose devices meet on PCIe */

struct soft_peer {
    struct soft_ctx *ctx;
    uint64_t id;
};

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
    _Atomic int ending;   /* it is being destroyed: what waits for nobody gives up */
    _Atomic int working;  /* streams that carry something out, value waits left out */
    unsigned usage;       /* cuCtxAttach; guarded by soft_lock */
    size_t limits[SOFT_LIMITS];
    uint64_t limit_bytes; /* device memory that they take beyond the usual; soft_lock */
    /* Local memory that a thread has now: the limit, or the largest frame launched since that was
     * set. Written with soft_lock. */
    _Atomic size_t stack_bytes;
    atomic_bool fixed_limits[SOFT_LIMITS]; /* a kernel that depends on it was launched */
    int client;
    struct soft_turn turn[SOFT_ENGINES];

    pthread_mutex_t submit_lock; /* order of submissions; guards the stream list and `legacy` */
    struct soft_stream *streams; /* every stream of it that may hold work */
    struct soft_stream *legacy;  /* NULL until first used */
    /* All work submitted from now on waits for place `fence_seq` of `fence` (cuCtxWaitEvent);
     * `recorder` carries records of the whole context. NULL until used; guarded by submit_lock. */
    struct soft_stream *fence, *recorder;
    uint64_t fence_seq;

    struct soft_fifo fifo;
    struct soft_heap *heap;   /* heap.c; NULL until a kernel uses it */
    struct soft_arena *arena; /* memory.c; its own lock */
    /* peer.c; guarded by space.lock */
    struct soft_peer peers[SOFT_MAX_PEERS]; /* whose memory it may use */
    int peer_count;
    bool closing;                    /* no guests any more */
    _Atomic int guests;              /* copies of other contexts that use its engines */
    struct soft_farewell *farewells; /* soft_ctx_on_destroy; guarded by soft_lock */
    struct soft_ctx *next;           /* all contexts ever; guarded by soft_lock */
};

struct soft_stream {
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    uint64_t id;
    _Atomic int refs;
    unsigned flags;
    _Atomic int priority;
    bool legacy, blocking, per_thread;
    bool inner;         /* no handle: a graph's or the context's own; stopped after all others */
    uint64_t fence_seq; /* the context's fence that it waits for already; by its submit_lock */
    struct soft_stream_attributes {
        CUaccessPolicyWindow window;
        CUsynchronizationPolicy policy;
        CUlaunchMemSyncDomainMap domains;
        CUlaunchMemSyncDomain domain;
    } attributes; /* guarded by lock */
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
    bool orphan;                /* destroyed by the client: ends when it has nothing to do */
    struct soft_waiter next_up; /* its next command's place on the compute engine */
    bool held[SOFT_ENGINES];    /* its thread keeps that engine between commands; only its own */
};

void *soft_stream_main(void *stream); /* stream_run.c */
/* On the stream's own thread: the engines it kept are given up before it waits for anything. */
void soft_stream_let_go(struct soft_stream *stream);

/* stream_life.c */
struct soft_stream *soft_stream_new(struct soft_ctx *ctx, unsigned flags, int priority);
int soft_stream_start(struct soft_stream *stream);   /* its thread; with its lock. 0 or an errno */
void soft_stream_orphan(struct soft_stream *stream); /* gone for the client; drains by itself */
/* Takes a stream out of the context's list, inner ones only if `inner`; NULL: there is none. */
struct soft_stream *soft_stream_unlink(struct soft_ctx *ctx, bool inner);
void soft_stream_stop(struct soft_stream *stream); /* ends the thread of an unlinked one */
/* An inner stream; NULL: no memory. */
struct soft_stream *soft_stream_inner(struct soft_ctx *ctx);

/* queue.c */
/* soft_submit that tells the place; commands of an inner stream keep the submit_ns they have. */
CUresult soft_submit_at(struct soft_stream *stream, struct soft_cmd *cmd, uint64_t *seq);
void soft_stream_wait_seq(struct soft_stream *stream, uint64_t seq);
bool soft_stream_idle(struct soft_stream *stream);
/* The dependency on what `stream` holds now; 0 if nothing is pending. */
uint64_t soft_stream_pending(struct soft_stream *stream);
int soft_cmd_depend(struct soft_cmd *cmd, struct soft_stream *stream, uint64_t seq);
struct soft_cmd *soft_cmd_new(const struct soft_cmd_ops *ops); /* a marker; NULL: no memory */
void soft_cmd_drop(struct soft_cmd *cmd);
CUresult soft_ctx_told(struct soft_ctx *ctx); /* sticky, or the deferred one, once */
/* The error after which no context of this process is of any use. */
CUresult soft_broken(void);
/* A kernel with such a frame is about to run: local memory of all resident threads grows to it and
 * stays, until the limit is set again (seen on an H200). Out of memory: 2. */
CUresult soft_ctx_local(struct soft_ctx *ctx, uint32_t frame_bytes);
CUresult soft_ctx_error(struct soft_ctx *ctx); /* the same; shows what kernels printed first */
CUresult soft_legacy_stream(struct soft_ctx *ctx, struct soft_stream **out);
/* Waits for all work that calls on the legacy stream wait for. */
CUresult soft_legacy_wait(struct soft_ctx *ctx);

/* A context must be current for every call on a stream. */
CUresult soft_stream_enter(CUstream handle, struct soft_stream **out);
int soft_priority_clamp(int priority);
bool soft_window_fits(const CUaccessPolicyWindow *window);

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
/* A process that was restored on other devices goes on calling them by the ordinals that it began
 * with. soft_at(): which device of the state file that is; soft_from(): the other way round. What
 * is no device (-1) stays so. Changed only while the process is checkpointed. */
extern _Atomic int8_t soft_places[SOFT_MAX_DEVICES];
static inline int soft_at(int ordinal)
{
    return ordinal < 0 ? ordinal
                       : atomic_load_explicit(&soft_places[ordinal], memory_order_relaxed);
}
int soft_from(int dev);
struct soft_visible {
    uint8_t uuid[16], board_uuid[16];
    int board;
    uint32_t instance;
};
int soft_visible_parse(const char *text, const struct soft_visible *devices, int count,
                       int *ordinals);

/* context.c */
CUresult soft_ctx_make(struct soft_ctx *ctx);
/* The sticky error; when it was the device that ended the context (an Xid), it stays from now on
 * what it is. */
CUresult soft_ctx_look(struct soft_ctx *ctx);
void soft_ctx_end(struct soft_ctx *ctx);
struct soft_ctx *soft_ctx_of(CUcontext handle); /* NULL: not a living context */
size_t soft_limit_usual(int limit);             /* what a new context has */
struct soft_ctx *soft_ctx_first(void);          /* with soft_lock held */
/* Current context without the poison check: for calls that work on a poisoned one. */
CUresult soft_current_any(struct soft_ctx **ctx);
bool soft_ctx_flags_fit(unsigned flags);
/* NULL: the current one. */
CUresult soft_ctx_given(CUcontext handle, struct soft_ctx **ctx);

/* fifo.c */
void soft_fifo_put(struct soft_ctx *ctx, const char *text, size_t bytes);
void soft_fifo_flush(struct soft_ctx *ctx);

/* heap.c: malloc and free of kernels, from any thread that runs one. A launch of such a kernel asks
 * for the heap first. */
CUresult soft_heap_ready(struct soft_ctx *ctx);
uint64_t soft_heap_take(const struct ptx_launch *launch, uint64_t bytes);
int soft_heap_give(const struct ptx_launch *launch, uint64_t addr);
/* Host address of a byte of the heap; NULL: not of it. */
const char *soft_heap_host(const struct soft_ctx *ctx, uint64_t addr);

/* peer.c */
bool soft_devices_peer(int ordinal, int other); /* can one reach the other's memory? */
/* A living context of that device lends its engines; NULL: there is none. */
struct soft_ctx *soft_ctx_guest(int ordinal);
void soft_ctx_guest_leave(struct soft_ctx *ctx);
void soft_ctx_close(struct soft_ctx *ctx); /* it goes: waits for its guests */
/* Has a context of one device access to one of the other? Then copies go directly. */
bool soft_devices_linked(int ordinal, int other);

/* event.c */
void soft_events_forget(struct soft_ctx *ctx);

/* arena.c */
int soft_arena_make(struct soft_ctx *ctx);
void soft_arena_end(struct soft_ctx *ctx);

#endif
