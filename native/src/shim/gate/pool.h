/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that a driver keeps in pools: charged by what the pools have of the device, not by what is
 * allocated from them.
 *
 * Before a call that may make a pool grow, the most that it may grow by is leased; after it the
 * pool is asked what it has, and the rest goes back. What is known of the pool's memory
 * (pieces.h) tells calls for which it need not grow: those lease nothing and ask nothing.
 *
 * Files: pool.c what is held for each pool; pool_set.c which pools there are; pool_calls.c the
 * hooks; order.c frees that have their place in a stream; graph_memory.c memory of graphs.
 */
#ifndef HARP_SHIM_POOL_H
#define HARP_SHIM_POOL_H

#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/pieces.h"

enum harp_pool_kind {
    HARP_POOL_DEVICE,
    HARP_POOL_MANAGED,  /* charged as managed memory is */
    HARP_POOL_HOST,     /* as other pinned host memory: what is allocated from it */
    HARP_POOL_IMPORTED, /* its exporter's */
};

/* When a pool is to be asked what it has. */
enum harp_pool_due {
    HARP_POOL_KNOWN,
    HARP_POOL_WAIT, /* at the next wait: its frees are over, and a driver gives back at a wait */
    HARP_POOL_FREES /* at each, and at the one after them: they were not all seen to be over */
};

struct harp_pool {
    struct harp_pool *next;
    CUmemoryPool handle; /* NULL: destroyed; what was allocated from it may live */
    enum harp_pool_kind kind;
    CUdevice device;
    int dev;
    bool builtin;           /* the device's own default */
    bool unsure;            /* its driver deals out otherwise than pieces.h knows: always lease */
    enum harp_pool_due due; /* atomic */
    unsigned users;         /* threads that have it; it stays in the list as long */
    unsigned slow;          /* calls that may make it grow or shrink */
    bool quick;             /* one call that needs no growth, nor the memory of it */
    uint64_t begun;         /* calls of both kinds, ever */
    uint64_t quick_bytes, extra;  /* what the quick call would need if others take what it counts
                                   * on; of `inflight`, what is leased for that */
    uint64_t held;                /* leased for it */
    uint64_t inflight;            /* of `held`: for calls that have not ended */
    uint64_t reserved, threshold; /* as it said last */
    uint64_t tickets, applied;    /* answers overtake each other: the latest question counts */
    struct harp_pieces pieces;
};

struct harp_growth { /* between begin and end of one call; on the caller's stack */
    struct harp_pool *pool;
    uint64_t bound, begun;
    uintptr_t stream;
    bool quick, alone;
};

/* --- pool_set.c ------------------------------------------------------------------------------- */

void harp_pools_lock(void);
void harp_pools_unlock(void);
/* The pool with this handle, known from now on; a user of it until harp_pool_put. NULL: no host
 * memory. `builtin` only ever adds to what is known. */
struct harp_pool *harp_pool_get(CUmemoryPool handle, enum harp_pool_kind kind, CUdevice device,
                                bool builtin);
/* One that is known; one that is not is looked for among the devices' own, else it is one of the
 * current device's. */
struct harp_pool *harp_pool_of(CUmemoryPool handle);
/* Which a device's cuMemAllocAsync takes. NULL: the driver does not say. */
struct harp_pool *harp_pool_current(CUdevice device);
void harp_pool_current_changed(void);
void harp_pool_put(struct harp_pool *pool);
/* One after the other, of a device (-1: all); `after` is put back. */
struct harp_pool *harp_pool_next(struct harp_pool *after, int dev);
/* The address was dealt out by this pool and lives; NULL: by none. Marked as being freed. */
struct harp_pool *harp_pool_freeing(CUdeviceptr ptr);

/* --- pool.c ----------------------------------------------------------------------------------- */

/* What a pool grows by, as far as its driver has shown. */
uint64_t harp_pool_unit(int dev);
/* Leases what allocating `bytes` in `stream` (handle + 1; HARP_NOBODY) may cost. */
CUresult harp_pool_begin(struct harp_growth *g, struct harp_pool *pool, uint64_t bytes,
                         uintptr_t stream);
/* The driver's verdict `r`. Another one: the caller takes it back, for it cannot be paid for. */
CUresult harp_pool_end(const struct harp_growth *g, CUresult r, CUdeviceptr ptr, uint64_t bytes);
/* After the driver's verdict on freeing what harp_pool_freeing() marked; puts the pool. */
void harp_pool_freed(struct harp_pool *pool, CUdeviceptr ptr, CUresult r, uintptr_t stream);
/* It may have given back, or will: ask it when the host has waited. */
void harp_pool_touched(struct harp_pool *pool);
/* More than it is to keep is in it. */
bool harp_pool_above(struct harp_pool *pool);
bool harp_pool_has_room(struct harp_pool *pool, uint64_t bytes, uintptr_t stream);
/* Asks what it has; bytes given back. */
uint64_t harp_pool_settle(struct harp_pool *pool);
/* The same for the service thread, which must not wait for the arbiter. */
void harp_pool_look(struct harp_pool *pool);
/* No call counts on its free memory from begin to end. */
void harp_pool_shrink_begin(struct harp_pool *pool);
uint64_t harp_pool_shrink_end(struct harp_pool *pool);

/* --- order.c ---------------------------------------------------------------------------------- */

/* Something freed in a stream's order is not known to be over. */
extern bool harp_order_pending;
/* How streams are told apart in pieces. */
uintptr_t harp_order_key(CUstream stream);
/* Linear memory (or of the host) was freed in a stream's order: charged until its place is
 * reached. */
void harp_order_freed(const struct harp_block *block, CUstream stream);
/* Streams that have done all are asked for; pools with frees are asked what they have. */
void harp_order_settle(void);
/* Waits for all frees in a pool (NULL: of linear memory) that are to come. True: there were some.
 */
bool harp_order_wait(struct harp_pool *pool);
void harp_order_stream_gone(CUstream stream);
/* With all its streams and all its memory. */
void harp_order_context_gone(CUcontext ctx);

/* On the service thread: pools are asked, and when again; -1: there are none. */
int64_t harp_order_round(void);
/* The driver goes soon: returns when nothing is asked of it. */
void harp_order_exiting(void);

/* --- graph_memory.c --------------------------------------------------------------------------- */

/* A graph was given an allocation, by hand or by a capture, or there is a kernel with a large
 * frame: from now on graphs are read when they are instantiated. */
void harp_graphs_matter(void);
/* Memory that graphs do not need goes back; bytes of it. The rest: what was freed outside of
 * graphs; nothing runs any more; a context is gone, and all if it was the device's last. */
uint64_t harp_graph_memory_trim(int dev);
void harp_graph_memory_freed(CUdeviceptr ptr);
void harp_graph_memory_idle(void);
void harp_graph_memory_settle(int dev);

/* A forked child has none of this. */
void harp_pools_forked(void);
void harp_order_forked(void);
void harp_graph_memory_forked(void);

/* The thread's calls are not what a capture of its own forbids. */
CUstreamCaptureMode harp_relaxed(CUstreamCaptureMode mode);

#endif
