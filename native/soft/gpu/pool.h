/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory pools, and what one thread's submissions say of the order between streams.
 *
 * A pool takes chunks of whole units (32 MiB) from its device and deals them out in pieces. A piece
 * freed in stream order remembers where (stream, place); it may be used again by whoever comes
 * after that place for sure: the same stream; a stream that waited for it; anybody, once the stream
 * has got there. That memory is what "reserved" counts; "used" counts what living pieces were asked
 * for, to the byte (seen on an H200).
 *
 * Lock: space.lock guards all pools. It is never held while a command is submitted.
 */
#ifndef HARP_SOFT_POOL_H
#define HARP_SOFT_POOL_H

#include "soft/gpu/space.h"

#define SOFT_POOL_UNIT  (32ull << 20) /* what a pool takes from its device and gives back */
#define SOFT_POOL_ALIGN 512u

enum soft_piece_is {
    SOFT_PIECE_USED,
    SOFT_PIECE_FREEING, /* its free is being submitted */
    SOFT_PIECE_FREE,
    SOFT_PIECE_GONE /* addresses without memory, until the chunk goes */
};

struct soft_chunk;
struct soft_managed;
struct soft_piece { /* of a chunk, in order of addresses, without gaps */
    struct soft_piece *prev, *next;
    struct soft_piece *free_prev, *free_next; /* FREE: of its pool's */
    struct soft_chunk *chunk;
    uint64_t start, bytes; /* whole multiples of SOFT_POOL_ALIGN */
    uint64_t asked, id;
    enum soft_piece_is is;
    bool usable; /* the search's */
    bool early;  /* USED: taken before its last free was over */
    /* FREE: it is over when this has completed `seq`; NULL: it is, for everybody. Counted. USED, if
     * early: where its allocation has its place. */
    struct soft_stream *stream;
    uint64_t seq;
};

struct soft_chunk {
    struct soft_area area;
    struct soft_pool *pool;
    uint64_t offset; /* in the pool's memory */
    struct soft_piece *pieces;
    struct soft_piece **at; /* per bucket: the piece that its first byte is in */
    uint64_t bucket;        /* bytes */
    size_t used;            /* pieces USED or FREEING */
    uint8_t *missing;       /* per unit: no memory behind it any more */
    struct soft_chunk *next, **link;
};

struct soft_pool {
    struct soft_pool *next, **link; /* all that exist */
    CUmemPoolProps props;
    int ordinal; /* device in the state file, or SOFT_PHYS_HOST */
    bool builtin, imported, destroyed;
    bool current;           /* of its location */
    struct soft_phys *phys; /* growing */
    struct soft_chunk *chunks;
    struct soft_piece *free;
    struct soft_managed *managed; /* a managed pool's allocations; it has no chunks, no phys */
    uint64_t max_bytes;           /* 0: as much as there is */
    uint64_t reserved, reserved_high, used, used_high, threshold;
    bool follow_events, opportunistic, internal; /* REUSE_* */
    uint8_t access[SOFT_MAX_DEVICES];            /* SOFT_ACCESS_*, by ordinal */
};

/* pool.c; locked */
extern struct soft_pool *soft_pools;
/* Where the next allocation in `stream` may depend on a free that is still to come. */
struct soft_pool_need {
    struct soft_dep *deps; /* malloc'ed, streams counted */
    size_t count;
};
/* A piece for `asked` bytes that work submitted to `stream` from now on may use, out of what is
 * free by the pool's rules, or out of a new chunk; NULL: neither. `need`: what `stream` is to wait
 * for, so that a wait of the host for it is one for that. */
struct soft_piece *soft_piece_take(struct soft_pool *pool, struct soft_stream *stream,
                                   uint64_t asked, struct soft_pool_need *need);
/* The same out of what will be free, if `stream` waits for `need`. */
struct soft_piece *soft_piece_take_pending(struct soft_pool *pool, uint64_t asked,
                                           struct soft_pool_need *need);
/* FREE -> USED, by `asked` bytes of it. */
void soft_piece_use(struct soft_piece *piece, uint64_t asked);
/* USED or FREEING -> FREE, over when `stream` has completed `seq` (NULL: now). */
void soft_piece_free(struct soft_piece *piece, struct soft_stream *stream, uint64_t seq);
/* The piece that begins at `ptr` and `is` that; NULL: none in any pool. */
struct soft_piece *soft_piece_at(CUdeviceptr ptr, enum soft_piece_is is);
/* A chunk with one piece over [offset, offset + bytes) of an imported pool's memory. */
struct soft_piece *soft_chunk_import(struct soft_pool *pool, uint64_t offset, uint64_t bytes);
/* Frees whose place is reached become free for everybody: those that `is_over` says yes to. */
typedef bool soft_pool_is_over(struct soft_stream *stream, uint64_t seq, const void *arg);
void soft_pool_settle(struct soft_pool *pool, soft_pool_is_over *is_over, const void *arg);
/* Gives back units that no living piece and no pending free lies in, down to `keep` bytes. */
void soft_pool_trim(struct soft_pool *pool, uint64_t keep);
/* All that it has goes, whatever lies in it. */
void soft_pool_wipe(struct soft_pool *pool);

/* pool_order.c: which places of streams come after which, for sure */
/* `stream`'s command `seq` waits for `on`'s `on_seq`. Not locked. */
void soft_order_add(struct soft_stream *stream, uint64_t seq, struct soft_stream *on,
                    uint64_t on_seq);
void soft_order_note(struct soft_stream *stream, const struct soft_cmd *cmd); /* all its deps */
void soft_order_forget(struct soft_stream *stream);
/* Does all that follows `stream`'s place `at` follow `on`'s `on_seq`? */
bool soft_order_follows(struct soft_stream *stream, uint64_t at, struct soft_stream *on,
                        uint64_t on_seq);
bool soft_order_complete(struct soft_stream *stream, uint64_t seq);
uint64_t soft_order_submitted(struct soft_stream *stream);

/* pool_sync.c: pools at points where the host waited. Not locked. */
/* All up to `seq` of `stream` (0: all that it has done) is known to be over. */
void soft_pools_synced(struct soft_stream *stream, uint64_t seq);
/* All of the context's streams have done what they had (only_blocking: those that heed the legacy
 * stream). */
void soft_pools_synced_ctx(struct soft_ctx *ctx, bool only_blocking);
/* The context goes; the last one of its device takes the device's pools' memory with it. With
 * soft_lock held. */
void soft_pools_ctx_end(struct soft_ctx *ctx);
/* On the stream's thread: it reaches `seq` now. */
void soft_pools_reached(struct soft_stream *stream, uint64_t seq);
/* Destroyed pools and imported allocations with nothing outstanding go. Locked. */
void soft_pools_reap(void);
extern _Atomic bool soft_pools_dirty;       /* a wait may have something to do */
extern _Atomic unsigned soft_pools_waiting; /* pools that are destroyed or imported */

/* pool_set.c: pools as objects; locked, but for the last */
struct soft_pool *soft_pool_new(const CUmemPoolProps *props, int ordinal, struct soft_phys *phys);
void soft_pool_delete(struct soft_pool *pool);         /* nothing is in it */
struct soft_pool *soft_pool_of(CUmemoryPool handle);   /* NULL: not one */
CUmemoryPool soft_pool_handle(struct soft_pool *pool); /* NULL: destroyed */
struct soft_pool *soft_pool_current_of(const CUmemLocation *location);

/* pool_managed.c: pools of managed memory; locked, but for the first two */
/* `at`: the location as pools are compared by it. `none`: for a device that is not there. */
CUresult soft_pool_managed_locate(const CUmemLocation *location, CUresult none, CUmemLocation *at);
CUresult soft_pool_managed_alloc(CUmemoryPool handle, uint64_t bytes, CUdeviceptr *out);
/* Frees, as of pieces; `stream` NULL: at once. False: no managed pool's allocation that this can be
 * done with. */
bool soft_pool_managed_claim(CUdeviceptr ptr);
bool soft_pool_managed_unclaim(CUdeviceptr ptr);
bool soft_pool_managed_freed(CUdeviceptr ptr, struct soft_stream *stream, uint64_t seq);
/* What is freed and over goes, down to `keep` bytes. */
void soft_pool_managed_settle(struct soft_pool *pool, uint64_t keep, soft_pool_is_over *is_over,
                              const void *arg);
void soft_pool_managed_trim(struct soft_pool *pool, uint64_t keep);
bool soft_pool_managed_pending(const struct soft_pool *pool); /* frees that are still to come */
bool soft_pool_managed_idle(const struct soft_pool *pool);
void soft_pool_managed_wipe(struct soft_pool *pool);
void soft_pool_managed_left(struct soft_managed *m);       /* its area goes now */
CUmemoryPool soft_pool_managed_handle(CUdeviceptr inside); /* not locked; NULL: of no pool */

/* pool_api.c: cuMemFree of memory that pools or graphs own */
CUresult soft_pool_free(CUdeviceptr ptr);

/* graph_memory.c (weak without graphs): allocations that graphs own */
CUresult soft_capture_alloc(struct soft_stream *stream, const CUmemPoolProps *props,
                            const uint8_t access[SOFT_MAX_DEVICES], uint64_t bytes,
                            CUdeviceptr *out);
CUresult soft_capture_free(struct soft_stream *stream, CUdeviceptr ptr);

#endif
