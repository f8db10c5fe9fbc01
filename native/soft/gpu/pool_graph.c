/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses of graph memory: see pool_graph.h.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/pool_graph_state.h"

struct soft_graph_memory *soft_graph_memories;

struct soft_graph_memory *soft_graph_memory_new(void)
{
    struct soft_graph_memory *m = calloc(1, sizeof *m);

    if (m == NULL)
        return NULL;
    m->refs = 1;
    m->next = soft_graph_memories;
    m->link = &soft_graph_memories;
    if (m->next != NULL)
        m->next->link = &m->next;
    soft_graph_memories = m;
    return m;
}

void soft_graph_memory_ref(struct soft_graph_memory *memory)
{
    memory->refs++;
}

static void segment_drop(struct soft_graph_segment *s)
{
    for (size_t u = 0; u < s->units; u++)
        soft_graph_unit_plan(s, u, NULL);
    soft_area_give(&s->area);
    free(s->unit);
    free(s);
}

static void alloc_drop(struct soft_graph_alloc *a)
{
    free(a->descs);
    free(a);
}

void soft_graph_memory_unref(struct soft_graph_memory *m)
{
    if (--m->refs > 0)
        return;
    *m->link = m->next;
    if (m->next != NULL)
        m->next->link = m->link;
    while (m->allocs != NULL) {
        struct soft_graph_alloc *a = m->allocs;

        m->allocs = a->next;
        alloc_drop(a);
    }
    while (m->segments != NULL) {
        struct soft_graph_segment *s = m->segments;

        m->segments = s->next;
        segment_drop(s);
    }
    for (size_t i = 0; i < m->free_count; i++) {
        m->frees[i]->freed_elsewhere--;
        soft_graph_memory_unref(m->frees[i]->memory);
    }
    free(m->frees);
    if (m->last != NULL)
        soft_stream_unref(m->last);
    free(m);
}

bool soft_graph_memory_instantiate(struct soft_graph_memory *memory)
{
    if (memory->instantiated)
        return false;
    memory->instantiated = true;
    memory->exec_free_count = memory->free_count;
    for (struct soft_graph_alloc *a = memory->allocs; a != NULL; a = a->next)
        a->in_exec = true;
    return true;
}

void soft_graph_memory_uninstantiate(struct soft_graph_memory *memory)
{
    memory->instantiated = false;
}

/* ---------------------------------------------------------------------------------- segments -- */
static struct soft_graph_segment *segment_of(struct soft_area *area)
{
    return (struct soft_graph_segment *)area;
}

static bool find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    const struct soft_graph_segment *s = segment_of(area);
    const struct soft_graph_alloc *best = NULL;

    /* several allocations may have had the address: the one that is alive, or the latest */
    for (const struct soft_graph_alloc *a = s->memory->allocs; a != NULL; a = a->next)
        if (ptr >= a->start && ptr - a->start < a->asked && (best == NULL || a->living))
            best = a;
    if (best == NULL)
        return false;
    *span = (struct soft_span){.ordinal = s->ordinal,
                               .start = best->start,
                               .bytes = best->asked,
                               .id = best->id,
                               .host = soft_space_host(best->start),
                               .kind = SOFT_SPAN_POOL,
                               .device = true};
    return true;
}

static const struct soft_graph_unit *unit_at(struct soft_area *area, uint64_t at)
{
    return &segment_of(area)->unit[(at - area->start) / SOFT_POOL_UNIT];
}

static unsigned access_of(struct soft_area *area, uint64_t at, struct soft_ctx *ctx)
{
    const struct soft_graph_segment *s = segment_of(area);
    bool may = ctx->ordinal == s->ordinal || (s->peers >> ctx->ordinal & 1) != 0;

    return may && unit_at(area, at)->mapped != NULL ? SOFT_ACCESS_ALL : SOFT_ACCESS_NONE;
}

static bool backed(struct soft_area *area, uint64_t at, uint64_t bytes)
{
    for (uint64_t end = at + bytes; at < end; at = soft_granules(at + 1))
        if (unit_at(area, at)->mapped == NULL)
            return false;
    return true;
}

static const struct soft_area_ops segment_ops = {
    .find = find, .access = access_of, .backed = backed, .lingers = true};

static struct soft_graph_segment *segment_new(struct soft_graph_memory *memory, uint64_t bytes,
                                              int ordinal, uint64_t peers)
{
    struct soft_graph_segment *s = calloc(1, sizeof *s);

    if (s == NULL)
        return NULL;
    s->units = (size_t)((bytes + SOFT_POOL_UNIT - 1) / SOFT_POOL_UNIT);
    s->unit = calloc(s->units, sizeof *s->unit);
    s->area.ops = &segment_ops;
    if (s->unit == NULL || soft_area_take(&s->area, s->units * SOFT_POOL_UNIT, 0, 0) != 0) {
        free(s->unit);
        free(s);
        return NULL;
    }
    s->memory = memory;
    s->ordinal = ordinal;
    s->peers = peers;
    s->next = memory->segments;
    memory->segments = s;
    return s;
}

/* ------------------------------------------------------------------------------- allocations -- */
/* The first allocation in the way of [at, at + bytes); NULL: it is free. */
static const struct soft_graph_alloc *in_the_way(const struct soft_graph_segment *s, uint64_t at,
                                                 uint64_t bytes, bool (*is_before)(const void *))
{
    for (const struct soft_graph_alloc *a = s->memory->allocs; a != NULL; a = a->next)
        if (a->segment == s && at < a->start + a->bytes && a->start < at + bytes &&
            (a->free_node == NULL || !is_before(a->free_node)))
            return a;
    return NULL;
}

static uint64_t place_in(const struct soft_graph_segment *s, uint64_t bytes,
                         bool (*is_before)(const void *))
{
    uint64_t at = s->area.start, end = at + s->area.bytes;

    while (at + bytes <= end) {
        const struct soft_graph_alloc *a = in_the_way(s, at, bytes, is_before);

        if (a == NULL)
            return at;
        at = a->start + a->bytes;
    }
    return 0;
}

struct soft_graph_alloc *soft_graph_alloc_new(struct soft_graph_memory *memory,
                                              const struct soft_graph_alloc *wanted, int ordinal,
                                              uint64_t peers, bool (*is_before)(const void *))
{
    uint64_t bytes = (wanted->asked + SOFT_POOL_ALIGN - 1) / SOFT_POOL_ALIGN * SOFT_POOL_ALIGN;
    struct soft_graph_alloc *a = calloc(1, sizeof *a);
    struct soft_graph_segment *s;
    uint64_t at = 0;

    if (a == NULL)
        return NULL;
    for (s = memory->segments; s != NULL; s = s->next)
        if (s->ordinal == ordinal && s->peers == peers && (at = place_in(s, bytes, is_before)) != 0)
            break;
    if (s == NULL) {
        s = segment_new(memory, bytes, ordinal, peers);
        at = s != NULL ? s->area.start : 0;
    }
    if (s == NULL) {
        free(a);
        return NULL;
    }
    *a = *wanted;
    a->memory = memory;
    a->segment = s;
    a->start = at;
    a->bytes = bytes;
    a->id = soft_span_next_id();
    a->next = memory->allocs;
    memory->allocs = a;
    return a;
}

void soft_graph_alloc_undo(struct soft_graph_memory *memory)
{
    struct soft_graph_alloc *a = memory->allocs;

    memory->allocs = a->next;
    a->descs = NULL; /* the caller's again */
    alloc_drop(a);
}

/* The allocation of any graph that begins at `ptr` and that a free node may still free. */
static struct soft_graph_alloc *freeable(const struct soft_graph_memory *own, CUdeviceptr ptr)
{
    struct soft_graph_alloc *found = NULL;

    for (struct soft_graph_memory *m = soft_graph_memories; m != NULL && found == NULL; m = m->next)
        for (struct soft_graph_alloc *a = m->allocs; a != NULL && found == NULL; a = a->next)
            if (a->start == ptr && a->free_node == NULL && (m != own || a->freed_elsewhere == 0))
                found = a;
    return found;
}

CUresult soft_graph_free_add(struct soft_graph_memory *memory, CUdeviceptr ptr, const void *node)
{
    struct soft_graph_alloc *a = freeable(memory, ptr), **frees;

    if (a == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (a->memory == memory) {
        if (a->living)
            return CUDA_ERROR_INVALID_VALUE; /* a launch has made it: it is freed outside */
        a->free_node = node;
        return CUDA_SUCCESS;
    }
    for (size_t i = 0; i < memory->free_count; i++)
        if (memory->frees[i] == a)
            return CUDA_ERROR_INVALID_VALUE;
    frees = realloc(memory->frees, (memory->free_count + 1) * sizeof(struct soft_graph_alloc *));
    if (frees == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memory->frees = frees;
    memory->frees[memory->free_count++] = a;
    a->freed_elsewhere++;
    soft_graph_memory_ref(a->memory);
    return CUDA_SUCCESS;
}

struct soft_graph_alloc *soft_graph_alloc_living(CUdeviceptr ptr)
{
    for (struct soft_graph_memory *m = soft_graph_memories; m != NULL; m = m->next)
        for (struct soft_graph_alloc *a = m->allocs; a != NULL; a = a->next)
            if (a->start == ptr && a->living)
                return a;
    return NULL;
}

bool soft_graph_pool_claim(CUdeviceptr ptr)
{
    struct soft_graph_alloc *a = soft_graph_alloc_living(ptr);

    if (a == NULL || a->claimed)
        return false;
    a->claimed = true;
    return true;
}

void soft_graph_pool_unclaim(CUdeviceptr ptr)
{
    struct soft_graph_alloc *a = soft_graph_alloc_living(ptr);

    if (a != NULL)
        a->claimed = false;
}

void soft_graph_alloc_live(struct soft_graph_alloc *a, bool living)
{
    uint64_t base = a->segment->area.start;
    size_t first = (size_t)((a->start - base) / SOFT_POOL_UNIT);
    size_t last = (size_t)((a->start + a->bytes - 1 - base) / SOFT_POOL_UNIT);

    if (a->living == living)
        return;
    a->living = living;
    a->claimed = false;
    for (size_t u = first; u <= last; u++)
        if (a->segment->unit[u].planned != NULL)
            a->segment->unit[u].planned->living += living ? 1u : -1u;
    if (living)
        soft_graph_memory_ref(a->memory);
}

void soft_graph_pool_freed(CUdeviceptr ptr, struct soft_stream *stream, uint64_t seq)
{
    struct soft_graph_alloc *a = soft_graph_alloc_living(ptr);
    struct soft_graph_segment *s;

    if (a == NULL)
        return;
    s = a->segment;
    for (uint64_t at = (a->start - s->area.start) / SOFT_POOL_UNIT;
         at * SOFT_POOL_UNIT < a->start + a->bytes - s->area.start; at++)
        if (stream != NULL && s->unit[at].planned != NULL)
            soft_graph_block_until(s->unit[at].planned, stream, seq);
    soft_graph_alloc_live(a, false);
    soft_graph_memory_unref(a->memory);
}
