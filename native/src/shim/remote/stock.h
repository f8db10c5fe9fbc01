/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations that the worker has made and the program does not have: which of them a program is
 * given, how many more are asked for, which go back. Pure; whoever has one brings a lock.
 */
#ifndef HARP_SHIM_REMOTE_STOCK_H
#define HARP_SHIM_REMOTE_STOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/wire/lease.h"

#define HARP_STOCK_SIZES 64u

struct harp_spare {
    uint64_t at, bytes;
    uint64_t ctx;      /* id of the context that it is of */
    uint64_t since_ms; /* of the caller's clock */
    bool fresh;        /* the program has not had it yet */
};

/* Starts as zeros. */
struct harp_stock {
    struct harp_spare spare[HARP_LEASE_ITEMS]; /* the one that has been there longest first */
    size_t count;
    uint64_t bytes, most; /* of all; that they may have, 0: HARP_LEASE_FIRST */
    bool used;            /* one was taken since `most` grew */
    bool tight;           /* the worker has little left: nothing stays */
    struct harp_stock_size {
        uint64_t bytes, ctx;
        uint64_t last; /* when, counted in misses */
        unsigned ask;  /* how many at a time; 0: nobody has asked yet */
        bool again;    /* it was asked for more than once */
    } size[HARP_STOCK_SIZES];
    uint64_t misses;
};

/* The one of that size and context that came last; 0: there is none. */
uint64_t harp_stock_take(struct harp_stock *s, uint64_t ctx, uint64_t bytes);
/* There was none: how many to ask for, the program's own among them. 1 of a size that is new, then
 * twice as many each time, as long as they are taken. */
unsigned harp_stock_ask(struct harp_stock *s, uint64_t ctx, uint64_t bytes);
/* What came of it: no spare one, and so the worker has little left; or some. */
void harp_stock_tight(struct harp_stock *s, bool tight);
/* Whether what the program frees is worth keeping: its size was asked for again, and there is room.
 */
bool harp_stock_keeps(struct harp_stock *s, uint64_t ctx, uint64_t bytes);
/* false: there is no room for it by now. */
bool harp_stock_put(struct harp_stock *s, const struct harp_spare *one);
/* Takes out the one that has been there longest if it came at that time or before. */
bool harp_stock_old(struct harp_stock *s, uint64_t ms, struct harp_spare *one);
/* Takes out one that is of another size, or of another context. */
bool harp_stock_other(struct harp_stock *s, uint64_t ctx, uint64_t bytes, struct harp_spare *one);
/* A context is gone, and all that was of it. */
void harp_stock_forget(struct harp_stock *s, uint64_t ctx);

#endif
