/* SPDX-License-Identifier: Apache-2.0
 *
 * The software GPU's inside: what its files know of each other.
 *
 * Flow: api (cu* entry points) -> context -> stream -> engine -> state (shared with all processes).
 * An entry point checks its arguments as the driver does, builds a `struct soft_cmd` and submits it
 * to a stream; the stream's thread waits for its dependencies, takes the engine, runs the command
 * and holds the engine until its modelled time has passed as well.
 *
 * Locks, outermost first: the end of primary contexts > an executable graph's > soft_graph_lock >
 * soft_module_lock > soft_lock (devices, contexts) > space.lock | a context's submit lock > stream
 * lock | event lock > turn lock (a context's hold on an engine). Innermost: handles, pinned memory,
 * phys.c's > the state's mutex. Nobody waits for a command with one of them but an executable
 * graph's, or ends a context with one but the first. All are of one process; the state that
 * processes share has none.
 */
#ifndef HARP_SOFT_H
#define HARP_SOFT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generated/cuda_abi.h"
#include "soft/ptxc/ptx_rt.h"

#define SOFT_MAX_DEVICES    16
#define SOFT_GRANULE        (2ull << 20)
#define SOFT_DRIVER_VERSION 13000 /* CUDA 13.0: the newest driver that is played, see driver.h */

/* ---------------------------------------------------------------- profile.c: devices as data -- */
struct soft_profile {
    const char *key;        /* "h100-80g" */
    const char *name;       /* what cuDeviceGetName says; always starts "HARP Software GPU" */
    uint64_t memory_bytes;  /* what cuDeviceTotalMem says */
    uint64_t nvml_bytes;    /* what NVML calls total: with what firmware reserves */
    uint64_t context_bytes; /* overhead of one context */
    int cc_major, cc_minor, sm_count, clock_khz, memory_clock_khz, bus_bits, l2_bytes;
    int shared_per_sm, shared_optin, regs_per_sm, threads_per_sm, blocks_per_sm;
    double flops_per_ns; /* modelled PTX instructions (thread level) per ns, whole device */
    double hbm_bytes_per_ns;
    double pcie_bytes_per_ns;
    uint64_t launch_ns; /* fixed engine time of a kernel */
    uint64_t copy_ns;   /* fixed engine time of a copy */
    uint64_t slice_ns;  /* compute engine time slice between contexts */
    uint64_t switch_ns; /* cost of changing the context on the compute engine */
    /* of the board: */
    int idle_w, power_w, power_min_w; /* idling; the power limit as made, and the least */
    int idle_c, load_c, max_c, slow_c, shutdown_c, max_memory_c;
    int idle_clock_khz, idle_memory_clock_khz;
    int pcie_generation; /* of 16 lanes */
    int nvlinks, cores_per_sm;
    uint64_t bar1_bytes;
    bool remaps_rows; /* else it retires pages */
    bool has_mig;
    const char *board_key;     /* an instance of a board: what the board is; NULL: no instance */
    int instances;             /* that the board has */
    int slices, memory_slices; /* of the board's 7 and 8 */
    /* how long the VMM's calls take */
    uint64_t vmm_reserve_ns, vmm_create_ns, vmm_map_ns, vmm_access_ns, vmm_unmap_ns, vmm_release_ns;
    uint64_t vmm_release_granule_ns; /* of each, beyond the call's own */
};
const struct soft_profile *soft_profile_find(const char *key, size_t key_bytes); /* NULL: none */
const struct soft_profile *soft_profile_at(int index); /* NULL past the end */

/* ------------------------------------------------------- engine.c: one device, all processes -- */
enum soft_engine { SOFT_COMPUTE, SOFT_COPY_IN, SOFT_COPY_OUT, SOFT_ENGINES, SOFT_NO_ENGINE = 99 };

struct soft_ctx;
struct soft_stream;
struct soft_event;
struct soft_cmd;
struct soft_graph;
struct soft_use;

/* Device clock: ns, the same for every process of the machine. */
uint64_t soft_now_ns(void);

/* ------------------------------------------------ stream.c, queue.c: commands in order ------- */
#define SOFT_PINNED_LOG2 5
struct soft_run { /* one execution of a command, on its stream's thread */
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    uint64_t start_ns;    /* device time at which it got its engine */
    uint64_t modelled_ns; /* out: engine time it takes at least; counted from start_ns */
    uint64_t end_ns;      /* out, SOFT_NO_ENGINE: logical end, if after start_ns */
    _Atomic int stop;     /* set: its blocks give up at their next poll */
    struct soft_use *use; /* its hold on the engine; NULL with SOFT_NO_ENGINE */
    void *user;           /* the command's own; its kernel callbacks find it through the launch */
    _Atomic uint64_t moved_ns; /* out: managed memory moved for it; comes on top */
    _Atomic uint64_t
        pinned[1 << SOFT_PINNED_LOG2]; /* pages of pinned memory that it reached: bind.c */
};

struct soft_cmd_ops {
    const char *name;
    enum soft_engine engine; /* SOFT_NO_ENGINE: events, host functions, markers */
    /* Does the work, in the engine's time. May be NULL (a marker). An error is latched in the
     * context: it becomes sticky for all errors a kernel can cause. */
    CUresult (*run)(struct soft_cmd *cmd, struct soft_run *run);
    /* A fresh, unsubmitted copy (graph launches run copies of their nodes' commands). */
    struct soft_cmd *(*clone)(const struct soft_cmd *cmd);
    /* Frees all, the command too. NULL: free(cmd). Called on the stream's thread after the end. */
    void (*destroy)(struct soft_cmd *cmd);
    /* Called when it got its place (cmd->seq) in `stream`; may add to cmd->deps. */
    void (*submitted)(struct soft_cmd *cmd, struct soft_stream *stream);
    /* Called on the stream's thread when the command is complete, with its logical end. */
    void (*ended)(struct soft_cmd *cmd, uint64_t end_ns);
    bool blocks; /* NO_ENGINE commands that may take long: the engine is let go */
    bool always; /* run even after a sticky error (host functions: the driver calls them) */
};

struct soft_dep {               /* complete when `stream` has ended its command number `seq` */
    struct soft_stream *stream; /* counted reference */
    uint64_t seq;
};

struct soft_cmd { /* embedded first in each kind of command; calloc'ed */
    const struct soft_cmd_ops *ops;
    struct soft_cmd *next;
    uint64_t submit_ns;
    uint64_t seq;          /* place in its stream, from 1 */
    struct soft_dep *deps; /* malloc'ed; given back by the stream */
    size_t dep_count;
    uint32_t sm_ppm; /* share of the device's SMs it can fill, 1..1000000; 0 = all */
    int priority;    /* lower goes first; its stream's unless `own_priority` */
    bool own_priority;
    bool abandoned; /* its context is being torn down: run was or is to be skipped */
};

/* Takes ownership of `cmd` whatever it returns. Blocks while the stream's queue (1024 deep, as
 * hardware's) is full. A capturing stream gives it to soft_capture_add() instead. */
CUresult soft_submit(struct soft_stream *stream, struct soft_cmd *cmd);
/* Waits until all that `stream` holds now is complete; returns the context's sticky error. */
CUresult soft_stream_wait(struct soft_stream *stream);
/* Waits until all streams of `ctx` have ended what they hold now. */
CUresult soft_ctx_wait(struct soft_ctx *ctx);
/* The same, and the error that the context's next call is to be told is not taken. */
void soft_ctx_wait_quietly(struct soft_ctx *ctx);
/* Every context: before memory goes that any of them may use. */
void soft_ctx_wait_all(void);
/* The stream meant by a handle in a call made by this thread: NULL and CU_STREAM_LEGACY,
 * CU_STREAM_PER_THREAD, or a created one. NULL needs a current context. The result is borrowed:
 * good until the handle is destroyed. */
CUresult soft_stream_of(CUstream handle, struct soft_stream **stream);
struct soft_ctx *soft_stream_ctx(const struct soft_stream *stream);
void soft_stream_ref(struct soft_stream *stream);
void soft_stream_unref(struct soft_stream *stream);
/* Capture state of a stream and an event, owned by capture.c; NULL when not capturing. */
struct soft_graph *soft_stream_capture(const struct soft_stream *stream);
void soft_stream_capture_set(struct soft_stream *stream, struct soft_graph *capture);
bool soft_stream_is_legacy(const struct soft_stream *stream);
bool soft_is_legacy_handle(CUstream handle);                    /* in a call made by this thread */
bool soft_stream_is_blocking(const struct soft_stream *stream); /* heeds the legacy stream */

/* Commands that graph nodes are made of; unsubmitted, with clone(). */
CUresult soft_copy_new(struct soft_ctx *ctx, const CUDA_MEMCPY3D *copy, struct soft_cmd **out);
CUresult soft_memset_new(struct soft_ctx *ctx, CUdeviceptr dst, size_t pitch, uint32_t value,
                         unsigned element_bytes, size_t width, size_t height,
                         struct soft_cmd **out);
CUresult soft_hostfn_new(CUhostFn fn, void *data, struct soft_cmd **out);
/* What they do, as parameters of a node. */
void soft_copy_params(const struct soft_cmd *cmd, CUDA_MEMCPY3D *params);
void soft_memset_params(const struct soft_cmd *cmd, CUDA_MEMSET_NODE_PARAMS_v1 *params);
bool soft_hostfn_params(const struct soft_cmd *cmd, CUDA_HOST_NODE_PARAMS_v1 *params);
CUresult soft_event_record_new(struct soft_event *event, struct soft_cmd **out);
CUresult soft_event_wait_new(struct soft_event *event, struct soft_cmd **out);
CUresult soft_event_of(CUevent handle, struct soft_event **event);

/* ------------------------------------------------------------------- context.c, memory.c ------ */
/* Initialised (3), not deinitialised (4), not forked (3). For calls that need no context. */
CUresult soft_ready(void);
/* Current context of this thread, with the checks every call makes first: soft_ready(), a context
 * is current (201), not destroyed (709), not poisoned (its sticky error). */
CUresult soft_current(struct soft_ctx **ctx);
const struct soft_profile *soft_ctx_profile(const struct soft_ctx *ctx);
int soft_ctx_device(const struct soft_ctx *ctx);  /* CUdevice: index among the visible ones */
int soft_ctx_ordinal(const struct soft_ctx *ctx); /* index in the state file */
CUresult soft_ctx_sticky(const struct soft_ctx *ctx);
void soft_ctx_poison(struct soft_ctx *ctx, CUresult why);
const struct soft_profile *soft_device_profile(CUdevice device); /* NULL: no such device */
CUcontext soft_ctx_handle(struct soft_ctx *ctx);
/* Called when a context goes, its streams idle: modules and graphs free what they hold in it. */
void soft_ctx_on_destroy(struct soft_ctx *ctx, void (*fn)(void *), void *arg);
uint64_t soft_ctx_id(const struct soft_ctx *ctx);
/* Adds to the engine's truth: kernels launched, PTX instructions executed. */
void soft_ledger_kernel(struct soft_ctx *ctx, uint64_t launches, uint64_t instructions);

/* Device memory of a context: physical accounting, arena pages. Zeroed when fresh. */
CUresult soft_mem_alloc(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out);
/* The same for what a client sees but may not free: variables and code of modules, arrays. */
CUresult soft_mem_alloc_inner(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out);
CUresult soft_mem_free(struct soft_ctx *ctx, CUdeviceptr ptr);
/* Host address of `bytes` device bytes at `ptr` (device, or mapped pinned host memory); NULL if any
 * byte is not the context's. */
void *soft_mem_host(struct soft_ctx *ctx, CUdeviceptr ptr, uint64_t bytes);
/* Fills the arena fields, sm_count, `host` (clock, poll, translate, math, memory; vprintf is the
 * caller's to set: it copies *launch->host) and host_data (= run) of a launch. */
void soft_launch_bind(struct soft_run *run, struct ptx_launch *launch);
extern const struct ptx_host soft_ptx_host;
/* What ptx_host.poll does, by hand: non-zero = give up. Only between _enter and _leave, or on the
 * stream's own thread, which is entered already. */
int soft_run_poll(struct soft_run *run);
/* A kernel asks as each of its blocks begins; where that is too often, this thread's next time is
 * answered without a look at the clock. */
void soft_run_asked_lately(void);
/* Helper threads that run blocks of this command beside the stream's own thread. That one leaves
 * while it only waits for them (else it would keep the engine from being handed on), and need not
 * enter again before run() returns. */
void soft_run_enter(struct soft_run *run);
void soft_run_leave(struct soft_run *run);

/* ------------------------------------------------------------------ handle.c: live handles ---- */
enum soft_kind {
    SOFT_H_CONTEXT = 1,
    SOFT_H_STREAM,
    SOFT_H_EVENT,
    SOFT_H_MODULE,
    SOFT_H_FUNCTION,
    SOFT_H_LIBRARY,
    SOFT_H_KERNEL,
    SOFT_H_GRAPH,
    SOFT_H_GRAPH_NODE,
    SOFT_H_GRAPH_EXEC,
    SOFT_H_LINK,
    SOFT_H_USER_OBJECT,
    SOFT_H_MEMORY,
    SOFT_H_ARRAY,
    SOFT_H_MIPMAP,
    SOFT_H_POOL
};
/* A handle is the object's address, good while it is in the table; any bits may be asked for. */
int soft_handle_add(enum soft_kind kind, const void *object); /* 0 or -ENOMEM */
bool soft_handle_is(enum soft_kind kind, const void *object);
bool soft_handle_remove(enum soft_kind kind, const void *object); /* false: was not there */

/* ------------------------------------------------------------------------------- graph.c ------ */
/* A capturing stream's commands become nodes. Takes ownership. All else: capture.h. The core holds
 * weak definitions of these (capture_weak.c), so that it links and is tested without graphs. */
CUresult soft_capture_add(struct soft_graph *capture, struct soft_stream *stream,
                          struct soft_cmd *cmd);
/* -------------------------------------------------------------------------------- log.c ------- */
/* One line to $HARP_SOFT_VERBOSE ("1" = stderr, else a file path); silent when unset. */
void soft_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool soft_log_on(void);

/* Which default stream NULL means in the running entry point: generated _ptsz/_ptds entry points
 * set it round the plain implementation (thread-specific, no ELF TLS). */
bool soft_per_thread_default(void);
void soft_per_thread_default_set(bool on);

/* Lock over devices, contexts and what hangs on them; outermost, recursive. */
void soft_lock(void);
void soft_unlock(void);

#define SOFT_API __attribute__((visibility("default")))

#endif
