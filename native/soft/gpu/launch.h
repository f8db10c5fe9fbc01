/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernel launches: from arguments to a command, from a command to blocks on threads.
 */
#ifndef HARP_SOFT_LAUNCH_H
#define HARP_SOFT_LAUNCH_H

#include "soft/gpu/module.h"

struct soft_shape { /* of a launch */
    uint32_t grid[3], block[3];
    uint32_t dynamic_bytes;
    bool cooperative;
};

struct soft_launch_attributes { /* what shapes do not say; only the priority has an effect */
    int priority;
    CUaccessPolicyWindow window;
    CUclusterSchedulingPolicy cluster_policy;
    CUlaunchMemSyncDomain domain;
    unsigned carveout;
};

struct soft_launch { /* a kernel command */
    struct soft_cmd cmd;
    struct soft_function *function; /* its module is held by reference */
    const struct ptx_kernel *code;
    struct soft_shape shape;
    struct soft_launch_attributes attributes;
    uint32_t per_sm; /* blocks resident on one SM */
    size_t params_bytes;
    unsigned char params[] __attribute__((aligned(16)));
};
extern const struct soft_cmd_ops soft_launch_ops;

/* Checks as the driver does and copies the parameters; `ctx` is the context the kernel runs in. */
CUresult soft_launch_new(struct soft_ctx *ctx, CUfunction handle, const struct soft_shape *shape,
                         void **params, void **extra, struct soft_launch **out);
/* The same from parameters packed already. */
CUresult soft_launch_packed(struct soft_ctx *ctx, struct soft_function *function,
                            const struct soft_shape *shape, const void *params, size_t bytes,
                            struct soft_launch **out);

struct soft_launch_wish { /* what attributes ask for */
    struct soft_shape shape;
    struct soft_launch_attributes attributes;
    bool own_priority;
    struct soft_event *events[2]; /* to be recorded behind the kernel */
    unsigned event_count;
};
/* launch_ex.c: reads one; no lock held but soft_graph_lock. */
CUresult soft_launch_attribute(const CUlaunchAttribute *attribute, struct soft_launch_wish *wish);
/* Local memory for a kernel that is launched now; a captured one gets it when its graph runs. */
CUresult soft_launch_local(struct soft_stream *stream, const struct soft_launch *launch);
/* False: more blocks than can be resident at once, and all of them must be. */
bool soft_launch_fits(const struct soft_launch *launch);

/* launch_run.c: executes all blocks; modelled_ns is set in `run`. */
CUresult soft_launch_run(struct soft_cmd *cmd, struct soft_run *run);

/* launch_printf.c: the device's printf. */
int soft_device_printf(const struct ptx_launch *launch, const char *format, const void *args);

/* launch_grid.c: the barrier of all blocks of one launch; `run->user` of its kernel. */
struct soft_grid {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t passed;
    uint64_t blocks, arrived, ended, round;
    bool stuck; /* those here wait for blocks that have ended */
    void *job;  /* launch_run.c's */
};
void soft_grid_init(struct soft_grid *grid, uint64_t blocks);
void soft_grid_destroy(struct soft_grid *grid);
void soft_grid_block_ended(struct soft_grid *grid);
/* `run->stop` is set: those here have nothing to wait for. */
void soft_grid_wake(struct soft_grid *grid);
enum ptx_stop soft_grid_sync(const struct ptx_launch *launch);

/* launch_spin.c: who runs the blocks of one launch, and whether they all only wait in loops. */
struct soft_spin {
    void *(*body)(void *arg); /* of a thread that begins blocks; leaves itself */
    void *arg;
    _Atomic uint64_t look_ns; /* nobody is asked before */
    pthread_mutex_t lock;     /* guards what follows */
    pthread_t *more;          /* threads begun */
    unsigned more_count, more_room;
    unsigned at_work, waiting; /* threads; of them, those that this look has seen wait */
    uint64_t look, ended;      /* its number; blocks that had ended before it */
    bool starved;              /* there was no memory for another */
    unsigned tries;            /* in vain, one after the other */
};
void soft_spin_init(struct soft_spin *spin, void *(*body)(void *arg), void *arg);
/* A thread begins to run blocks, and ends. */
void soft_spin_enter(struct soft_spin *spin);
void soft_spin_leave(struct soft_spin *spin);
/* There was no memory for this thread to run blocks in. */
void soft_spin_starved(struct soft_spin *spin);
bool soft_spin_due(struct soft_spin *spin);
/* This thread's block waits, `left` have not begun, up to `most` run at once: if all wait, others
 * begin. False: all wait, and there is no memory for another. */
bool soft_spin_look(struct soft_spin *spin, uint64_t ended, uint64_t left, uint64_t most);
void soft_spin_join(struct soft_spin *spin); /* those begun; and there will be no more */

/* launch_buffer.c: aligned memory for blocks, not zeroed. */
struct soft_buffer {
    void *data;
    size_t bytes;
};
bool soft_buffer_take(size_t bytes, struct soft_buffer *out);
void soft_buffer_give(struct soft_buffer *buffer);

/* launch_pool.c: runs `work(arg)` on up to `helpers` other threads beside the caller's; returns
 * when all are done. */
void soft_pool_run(unsigned helpers, void (*work)(void *arg), void *arg);
/* As many at once as asked for, on threads of their own; 0, or -errno before any has begun. */
int soft_pool_run_all(unsigned count, void (*work)(void *arg), void *arg);
/* One more thread, to be joined; 0 or an errno. `body` gets `arg`. */
int soft_pool_thread(pthread_t *thread, void *(*body)(void *), void *arg);
unsigned soft_pool_width(void); /* threads worth using for one kernel */

#endif
