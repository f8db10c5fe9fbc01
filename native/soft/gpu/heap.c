/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's heap: what malloc and free of kernels deal out. It belongs to the context, has
 * CU_LIMIT_MALLOC_HEAP_SIZE bytes from the first launch of a kernel that uses it, and is paid for
 * with the limits (context_limit.c). No call of the driver knows its addresses, as documented.
 *
 * Blocks of whole units lie one behind the other; what is known of them lies apart from them, where
 * no kernel can write. Free ones hang in lists by the power of two below their size.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "soft/gpu/space.h"

#define UNIT   64u
#define BINS   32
#define NONE   UINT32_MAX
#define GLANCE 64 /* blocks of a list that are looked at before a longer one's first is taken */

struct block {              /* at the index of its first unit */
    uint32_t units, before; /* its own; the one before it: 0, there is none */
    uint32_t next, prev;    /* in its list */
    uint32_t used;
};

struct soft_heap {
    struct soft_area area;
    struct soft_phys *phys;
    pthread_mutex_t lock; /* guards what follows */
    uint64_t bytes;
    uint32_t units;
    struct block *table;
    size_t table_bytes;
    uint32_t bins[BINS];
};

static int bin_of(uint32_t units)
{
    return 31 - __builtin_clz(units);
}

static void list_add(struct soft_heap *h, uint32_t at)
{
    uint32_t *head = &h->bins[bin_of(h->table[at].units)];
    h->table[at].used = 0;
    h->table[at].prev = NONE;
    h->table[at].next = *head;
    if (*head != NONE)
        h->table[*head].prev = at;
    *head = at;
}

static void list_remove(struct soft_heap *h, uint32_t at)
{
    const struct block *b = &h->table[at];
    if (b->prev != NONE)
        h->table[b->prev].next = b->next;
    else
        h->bins[bin_of(b->units)] = b->next;
    if (b->next != NONE)
        h->table[b->next].prev = b->prev;
}

/* Tells the block behind `at` how long that one is. */
static void tell(struct soft_heap *h, uint32_t at)
{
    uint32_t behind = at + h->table[at].units;
    if (behind < h->units)
        h->table[behind].before = h->table[at].units;
}

/* A free block of that size or more in the bin, after looking at `most` of it. */
static uint32_t search(const struct soft_heap *h, int bin, uint32_t units, uint32_t most)
{
    uint32_t at = h->bins[bin];
    while (at != NONE && h->table[at].units < units)
        at = most-- > 0 ? h->table[at].next : NONE;
    return at;
}

static uint32_t find(const struct soft_heap *h, uint32_t units)
{
    int bin = bin_of(units);
    uint32_t at = search(h, bin, units, GLANCE);
    for (int i = bin + 1; i < BINS && at == NONE; i++)
        at = h->bins[i];
    return at != NONE ? at : search(h, bin, units, NONE);
}

uint64_t soft_heap_take(const struct ptx_launch *launch, uint64_t bytes)
{
    struct soft_heap *h = ((struct soft_run *)launch->host_data)->ctx->heap;
    if (h == NULL || bytes > h->bytes)
        return 0;
    uint32_t units = bytes > 0 ? (uint32_t)((bytes + UNIT - 1) / UNIT) : 1;
    pthread_mutex_lock(&h->lock);
    uint32_t at = find(h, units);
    if (at != NONE) {
        struct block *b = &h->table[at];
        list_remove(h, at);
        if (b->units > units) {
            uint32_t rest = at + units;
            h->table[rest] = (struct block){.units = b->units - units, .before = units};
            tell(h, rest);
            list_add(h, rest);
            b->units = units;
        }
        b->used = 1;
    }
    pthread_mutex_unlock(&h->lock);
    return at != NONE ? h->area.start + (uint64_t)at * UNIT : 0;
}

/* Joins the free block at `at` with what is free beside it; where the whole begins. */
static uint32_t join(struct soft_heap *h, uint32_t at)
{
    struct block *b = &h->table[at];
    uint32_t behind = at + b->units;
    if (behind < h->units && !h->table[behind].used) {
        list_remove(h, behind);
        b->units += h->table[behind].units;
        h->table[behind] = (struct block){0};
    }
    if (b->before > 0 && !h->table[at - b->before].used) {
        uint32_t first = at - b->before;
        list_remove(h, first);
        h->table[first].units += b->units;
        *b = (struct block){0};
        at = first;
    }
    tell(h, at);
    return at;
}

int soft_heap_give(const struct ptx_launch *launch, uint64_t addr)
{
    struct soft_heap *h = ((struct soft_run *)launch->host_data)->ctx->heap;
    int err = -EINVAL;
    if (h == NULL || addr < h->area.start || addr - h->area.start >= h->bytes || addr % UNIT != 0)
        return err;
    uint32_t at = (uint32_t)((addr - h->area.start) / UNIT);
    pthread_mutex_lock(&h->lock);
    if (h->table[at].used) { /* only of a block's first unit */
        list_add(h, join(h, at));
        err = 0;
    }
    pthread_mutex_unlock(&h->lock);
    return err;
}

const char *soft_heap_host(const struct soft_ctx *ctx, uint64_t addr)
{
    const struct soft_heap *h = ctx->heap;
    bool inside = h != NULL && addr >= h->area.start && addr - h->area.start < h->bytes;
    return inside ? soft_space_host(addr) : NULL;
}

/* ------------------------------------------------------------------------- with its context --- */

static bool found(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    return false;
}

static void drop(struct soft_heap *h)
{
    if (h->phys != NULL)
        soft_phys_unref(h->phys);
    if (h->table != NULL)
        munmap(h->table, h->table_bytes);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static void forget(struct soft_area *area)
{
    area->ctx->heap = NULL;
    soft_area_give(area);
    drop((struct soft_heap *)area);
}

static const struct soft_area_ops ops = {.find = found, .forget = forget};

/* With space.lock. */
static int place(struct soft_heap *h)
{
    uint64_t physical = soft_granules(h->bytes);
    h->phys = soft_phys_make(SOFT_PHYS_HOST, physical, SOFT_PHYS_PRIVATE);
    int err = h->phys == NULL ? -ENOMEM : soft_area_take(&h->area, physical, 0, 0);
    if (err != 0)
        return err;
    err = soft_area_map(&h->area, h->area.start, h->phys, 0, physical);
    if (err == 0)
        soft_area_publish(&h->area, h->area.start, physical);
    else
        soft_area_give(&h->area);
    return err;
}

static struct soft_heap *make(struct soft_ctx *ctx)
{
    struct soft_heap *h = calloc(1, sizeof *h);
    if (h == NULL)
        return NULL;
    h->area.ops = &ops;
    h->area.ctx = ctx;
    h->bytes = ctx->limits[CU_LIMIT_MALLOC_HEAP_SIZE] / UNIT * UNIT;
    h->units = (uint32_t)(h->bytes / UNIT);
    pthread_mutex_init(&h->lock, NULL);
    for (int i = 0; i < BINS; i++)
        h->bins[i] = NONE;
    h->table_bytes = ((size_t)h->units + 1) * sizeof *h->table;
    h->table = mmap(NULL, h->table_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (h->table == MAP_FAILED)
        h->table = NULL;
    soft_space_lock();
    int err = h->table == NULL ? -ENOMEM : place(h);
    soft_space_unlock();
    if (err != 0) {
        drop(h);
        return NULL;
    }
    h->table[0].units = h->units;
    list_add(h, 0);
    return h;
}

CUresult soft_heap_ready(struct soft_ctx *ctx)
{
    CUresult result = CUDA_SUCCESS;
    soft_lock();
    if (ctx->heap == NULL && ctx->limits[CU_LIMIT_MALLOC_HEAP_SIZE] > 0) {
        ctx->heap = make(ctx);
        if (ctx->heap == NULL)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS)
        ctx->fixed_limits[CU_LIMIT_MALLOC_HEAP_SIZE] = true;
    soft_unlock();
    return result;
}
