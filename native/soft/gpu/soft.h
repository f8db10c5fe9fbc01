/* SPDX-License-Identifier: Apache-2.0
 *
 * The software GPU's inside: what its files know of each other.
 *
 * Flow: api (cu* entry points) -> context -> stream -> engine -> state (shared with all processes).
 * An entry point checks its arguments as the driver does, builds a `struct soft_cmd` and submits it
 * to a stream; the stream's thread waits for its dependencies, takes the engine, runs the command
 * and holds the engine until its modelled time has passed as well.
 *
 * Locks, outermost first: soft_global_lock (devices, contexts, handles) > stream lock > engine lock
 * > state lock (robust, shared by all processes, held for microseconds, never across a command).
 */
#ifndef HARP_SOFT_H
#define HARP_SOFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generated/cuda_abi.h"
#include "soft/ptxc/ptx_rt.h"

#define SOFT_MAX_DEVICES 16
#define SOFT_GRANULE     (2ull << 20)

/* ---------------------------------------------------------------- profile.c: devices as data -- */
struct soft_profile {
    const char *key;  /* "h100-80g" */
    const char *name; /* what cuDeviceGetName says; always starts "HARP Software GPU" */
    uint64_t memory_bytes;
    uint64_t context_bytes;  /* overhead of one context */
    int cc_major, cc_minor, sm_count, clock_khz, memory_clock_khz, bus_bits, l2_bytes;
    int shared_per_sm, shared_optin, regs_per_sm, threads_per_sm, blocks_per_sm;
    double flops_per_ns;      /* modelled PTX instructions (thread level) per ns, whole device */
    double hbm_bytes_per_ns;
    double pcie_bytes_per_ns;
    uint64_t launch_ns;       /* fixed engine time of a kernel */
    uint64_t copy_ns;         /* fixed engine time of a copy */
    uint64_t slice_ns;        /* compute engine time slice between contexts */
    uint64_t switch_ns;       /* cost of changing the context on the compute engine */
};

/* ------------------------------------------------------- engine.c: one device, all processes -- */
enum soft_engine { SOFT_COMPUTE, SOFT_COPY_IN, SOFT_COPY_OUT, SOFT_ENGINES, SOFT_NO_ENGINE = 99 };

struct soft_ctx;
struct soft_stream;
struct soft_cmd;
struct soft_graph;

/* Device clock: ns, the same for every process of the machine. */
uint64_t soft_now_ns(void);

/* -------------------------------------------------------------- stream.c: commands in order --- */
struct soft_run { /* one execution of a command, on its stream's thread */
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    uint64_t start_ns;    /* device time at which it got its engine */
    uint64_t modelled_ns; /* out: engine time it takes at least; counted from start_ns */
};

struct soft_cmd_ops {
    const char *name;
    enum soft_engine engine; /* SOFT_NO_ENGINE: events, host functions, markers */
    /* Does the work. An error is latched in the context (sticky ones poison it). */
    CUresult (*run)(struct soft_cmd *cmd, struct soft_run *run);
    /* A fresh, unsubmitted copy (graph launches run copies of their nodes' commands). */
    struct soft_cmd *(*clone)(const struct soft_cmd *cmd);
    void (*destroy)(struct soft_cmd *cmd);
};

struct soft_cmd { /* embedded first in each kind of command; malloc'ed */
    const struct soft_cmd_ops *ops;
    struct soft_cmd *next;
    uint64_t submit_ns;
    uint64_t seq; /* place in its stream, from 1 */
    /* what must be complete before it: (stream, seq) pairs, held by reference */
    struct soft_dep *deps;
    size_t dep_count;
};

/* Takes ownership of `cmd` whatever it returns. Blocks while the stream's queue (1024 deep, as
 * hardware's) is full. A capturing stream gives it to soft_capture_add() instead. */
CUresult soft_submit(struct soft_stream *stream, struct soft_cmd *cmd);
/* Waits until all that `stream` holds now is complete; returns the context's sticky error. */
CUresult soft_stream_wait(struct soft_stream *stream);
/* The stream meant by a handle in a call made by this thread: NULL and CU_STREAM_LEGACY,
 * CU_STREAM_PER_THREAD, or a created one of the current context. */
CUresult soft_stream_of(CUstream handle, struct soft_stream **stream);

/* ------------------------------------------------------------------- context.c, memory.c ------ */
/* Current context of this thread, with the checks every call makes first: initialised (3), not
 * deinitialised (4), not forked, a context is current (201), not poisoned (its sticky error). */
CUresult soft_current(struct soft_ctx **ctx);
const struct soft_profile *soft_ctx_profile(const struct soft_ctx *ctx);
int soft_ctx_ordinal(const struct soft_ctx *ctx);
CUresult soft_ctx_sticky(const struct soft_ctx *ctx);
void soft_ctx_poison(struct soft_ctx *ctx, CUresult why);
/* Called when a context goes: modules and graphs register what must be freed with it. */
void soft_ctx_on_destroy(struct soft_ctx *ctx, void (*fn)(void *), void *arg);
uint64_t soft_ctx_id(const struct soft_ctx *ctx);

/* Device memory of a context: physical accounting, arena pages. `kind` names it in the ledger. */
CUresult soft_mem_alloc(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out);
CUresult soft_mem_free(struct soft_ctx *ctx, CUdeviceptr ptr);
/* Host address of `bytes` device bytes at `ptr` (device, or mapped pinned host memory); NULL if any
 * byte is not the context's. */
void *soft_mem_host(struct soft_ctx *ctx, CUdeviceptr ptr, uint64_t bytes);
/* Fills the arena fields and `host` (clock, poll, translate, math) of a launch. */
void soft_launch_bind(struct soft_ctx *ctx, struct ptx_launch *launch);

/* --------------------------------------------------------------------- module.c, launch.c ----- */
struct soft_function;

/* ------------------------------------------------------------------------------- graph.c ------ */
/* Non-NULL `stream->capture`: the command becomes a node. Takes ownership. */
CUresult soft_capture_add(struct soft_graph *capture, struct soft_stream *stream, struct soft_cmd *cmd);

/* -------------------------------------------------------------------------------- log.c ------- */
/* One line to $HARP_SOFT_VERBOSE ("1" = stderr, else a file path); silent when unset. */
void soft_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Which default stream NULL means in the running entry point: generated _ptsz/_ptds entry points
 * set it round the plain implementation (thread-specific, no ELF TLS). */
bool soft_per_thread_default(void);
void soft_per_thread_default_set(bool on);

#endif
