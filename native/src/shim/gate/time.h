/* SPDX-License-Identifier: Apache-2.0
 *
 * The time gate: launches, graph launches, copies and fills pass here (generated/shim_time.c).
 *
 * Fast path (nobody else wants the device): a relaxed load and a count. `harp_time_seen` holds the
 * streams whose work needs no gate at present, by kind of work: a lane that closes, or wants to
 * measure, forgets its streams, and lanes and devices without work cost the others nothing.
 * Otherwise the calling thread waits until its tenant's turn; queued work is bounded by what is
 * expected to end before the turn does. Never while the stream is being captured (nothing is
 * inserted either), never inside a call of the driver. Waits and queries of the program are never
 * gated.
 */
#ifndef HARP_SHIM_TIME_H
#define HARP_SHIM_TIME_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generated/shim_symbols.h"
#include "src/shim/backend/table.h"

enum harp_work { HARP_WORK_COMPUTE, HARP_WORK_COPY, HARP_WORKS };

struct harp_timegate;
struct harp_meter_stream;
struct harp_profile_row;

struct harp_turn {              /* between begin and end of one gated call; on the caller's stack */
    struct harp_timegate *gate; /* NULL: not gated */
    struct harp_timegate *touched;
    struct harp_meter_stream *stream;
    struct harp_estimate *estimate;
    struct harp_profile_row *row; /* NULL: no kernel, or none that is counted */
    CUstream on;
    enum harp_work work;
    unsigned lane;
    struct harp_mark *start; /* recorded before it; NULL: none was */
    bool measure;            /* events go round it */
    bool sample;             /* ... and what they tell stands for others */
    bool traced;             /* ... for a trace */
    uint64_t call;           /* of a trace; 0: none */
    bool see;                /* the next ones on this stream need no gate */
};

#define HARP_SEEN   512
#define HARP_SHARDS 16

/* Streams whose work needs no gate: handle + 1. */
extern uintptr_t harp_time_seen[HARP_WORKS][HARP_SEEN];
/* Gates that are not free. While there are any, a default stream's handle says not enough. */
extern unsigned harp_time_shut[HARP_WORKS];
extern struct harp_shard {
    uint64_t launches[HARP_WORKS];
    uint64_t slow[HARP_WORKS]; /* of those, that took the slow path */
    char line[32];             /* one cache line each */
} harp_time_shards[HARP_SHARDS];

static inline unsigned harp_seen_place(CUstream stream)
{
    uintptr_t s = (uintptr_t)stream;
    return (unsigned)((s ^ (s >> 6) ^ (s >> 15)) % HARP_SEEN);
}

static inline struct harp_shard *harp_time_shard(void)
{
    uint64_t h = (uint64_t)(uintptr_t)pthread_self() * 0x9e3779b97f4a7c15ull;
    return &harp_time_shards[h >> 60];
}

static inline bool harp_time_open(CUstream stream, enum harp_work work)
{
    if (__atomic_load_n(&harp_time_seen[work][harp_seen_place(stream)], __ATOMIC_RELAXED) !=
        (uintptr_t)stream + 1)
        return false;
    __atomic_fetch_add(&harp_time_shard()->launches[work], 1, __ATOMIC_RELAXED);
    return true;
}

/* `what` and `size` tell calls of different length apart. */
void harp_turn_begin(struct harp_turn *turn, CUstream stream, enum harp_work work, const void *what,
                     uint64_t size);
void harp_turn_end(struct harp_turn *turn, CUresult result);

void harp_time_context_made(CUcontext ctx, int dev);
/* Before a context is destroyed: our events in it are forgotten. */
void harp_time_context_going(CUcontext ctx);
/* Before a stream is destroyed: what it still runs is bracketed first. */
void harp_time_stream_going(CUstream stream);

#endif
