/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of softmod_fuzz.c share: its threads, and what all of them use.
 */
#ifndef SOFTMOD_FUZZ_H
#define SOFTMOD_FUZZ_H

#include "soft_test.h"

#define SLOTS 4
#define BYTES (3u << 20) /* more than a granule */

enum kind { NOTHING, LINEAR, MANAGED, PINNED, MAPPED };

struct piece {
    enum kind kind;
    CUdeviceptr ptr;
    CUcontext ctx; /* LINEAR, PINNED */
    CUmemGenericAllocationHandle handle;
};

struct player {
    int number;
    unsigned seed;
    CUcontext own, now; /* a context of its own (NULL: none now); what is current */
    bool poisoned;      /* the own one */
    CUstream stream[SLOTS];
    CUcontext stream_ctx[SLOTS];
    CUevent event[SLOTS];
    CUcontext event_ctx[SLOTS];
    struct piece piece[SLOTS * 2];
};

struct fuzz {
    CUcontext ctx[2]; /* one on each device, peers of each other */
    CUgraphExec exec;
    CUevent event;
    CUdeviceptr managed, cells; /* a thread writes its own cell only */
    CUkernel touch, nap;
    _Atomic uint64_t calls, short_of_memory;
};
extern struct fuzz fuzz;

static inline unsigned below(struct player *p, unsigned most)
{
    return (unsigned)rand_r(&p->seed) % most;
}

/* A call whose arguments are good: it succeeds, or there is no memory, or the context, which this
 * thread has spoilt itself, says so. */
bool good_(struct player *p, CUresult r, const char *what, const char *file, int line);
#define GOOD(call) good_(p, call, #call, __FILE__, __LINE__)

CUstream some_stream(struct player *p);
struct piece *some_piece(struct player *p); /* that the current context reaches; NULL: none */
/* All is over that this thread may have started. */
void quiet(struct player *p);

/* softmod_fuzz_memory.c */
void drop_piece(struct player *p, struct piece *piece);
void memory(struct player *p);
void move(struct player *p);
void advise(struct player *p);

/* softmod_fuzz_graph.c */
bool make_graph(struct player *p, CUdeviceptr at, CUgraph *graph);
void graph(struct player *p);
void capture(struct player *p);

#endif
