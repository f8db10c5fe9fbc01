/* SPDX-License-Identifier: Apache-2.0
 *
 * The process's device addresses: see space.h. Twice the devices' memory is the least, so that no
 * order of calls fails for want of a hole while bytes are free; reservations (VMM) want far more.
 */
#include "soft/gpu/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define SPACE_MOST (8ull << 40)

struct soft_space soft_space = {.lock = PTHREAD_MUTEX_INITIALIZER};
static _Atomic uint64_t next_span_id = 1;

uint64_t soft_span_next_id(void)
{
    return atomic_fetch_add(&next_span_id, 1);
}

void soft_space_lock(void)
{
    pthread_mutex_lock(&soft_space.lock);
}

void soft_space_unlock(void)
{
    pthread_mutex_unlock(&soft_space.lock);
}

/* Addresses that are nobody's: PROT_NONE, absent in children and core dumps. */
static int blank(void *at, uint64_t bytes)
{
    if (mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        return -errno;
    madvise(at, bytes, MADV_DONTFORK);
    madvise(at, bytes, MADV_DONTDUMP);
    return 0;
}

static void *reserve(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_DONTFORK);
    madvise(p, bytes, MADV_DONTDUMP);
    return p;
}

static uint64_t aligned(const void *p)
{
    return soft_granules((uint64_t)(uintptr_t)p);
}

static uint64_t least_bytes(void)
{
    uint64_t bytes = 0;

    for (int i = 0; i < soft_visible_count(); i++)
        bytes += 2 * soft_granules(soft_the_state->profile[soft_visible_ordinal(i)]->memory_bytes);
    return bytes;
}

int soft_space_make(void)
{
    struct soft_space *s = &soft_space;
    uint64_t least = least_bytes(), bytes = SPACE_MOST;

    if (s->bytes != 0)
        return 0;
    for (;; bytes = bytes / 2 > least ? bytes / 2 : least) {
        void *lo = reserve(bytes + SOFT_GRANULE), *hi = reserve(bytes + SOFT_GRANULE);
        void *at = mmap(NULL, bytes / SOFT_GRANULE * sizeof(struct soft_area *),
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (lo != NULL && hi != NULL && at != MAP_FAILED) {
            s->base = aligned(lo);
            s->delta = (int64_t)(aligned(hi) - s->base);
            s->granules = bytes / SOFT_GRANULE;
            s->at = at;
            s->bytes = bytes;
            return 0;
        }
        if (lo != NULL)
            munmap(lo, bytes + SOFT_GRANULE);
        if (hi != NULL)
            munmap(hi, bytes + SOFT_GRANULE);
        if (at != MAP_FAILED)
            munmap(at, bytes / SOFT_GRANULE * sizeof(struct soft_area *));
        if (bytes <= least)
            break;
    }
    soft_log("cannot reserve %llu bytes of address space for device memory; remedy: raise "
             "'ulimit -v'",
             (unsigned long long)(2 * least));
    return -ENOMEM;
}

/* --------------------------------------------------------------------------- whose addresses -- */
static bool is_free(uint64_t at, uint64_t count, uint64_t *taken)
{
    for (uint64_t g = at; g < at + count; g++)
        if (soft_space.at[g] != NULL) {
            const struct soft_area *a = soft_space.at[g];

            *taken = (a->start + a->bytes - soft_space.base) / SOFT_GRANULE;
            return false;
        }
    return true;
}

static uint64_t round_up(uint64_t at, uint64_t align)
{
    uint64_t address = soft_space.base + at * SOFT_GRANULE;

    return ((address + align - 1) / align * align - soft_space.base) / SOFT_GRANULE;
}

/* First free run of `count` granules in [from, to) at a multiple of `align`; UINT64_MAX: none. */
static uint64_t find_run(uint64_t from, uint64_t to, uint64_t count, uint64_t align)
{
    uint64_t at = round_up(from, align), next = 0;

    while (at + count <= to) {
        if (is_free(at, count, &next))
            return at;
        at = round_up(next, align);
    }
    return UINT64_MAX;
}

int soft_area_take(struct soft_area *area, uint64_t bytes, uint64_t align, uint64_t wish)
{
    struct soft_space *s = &soft_space;
    uint64_t count = bytes / SOFT_GRANULE, at = UINT64_MAX, unused;
    struct soft_area **list = area->ctx != NULL ? &area->ctx->arena->areas : &s->areas;

    if (align < SOFT_GRANULE)
        align = SOFT_GRANULE;
    if (count == 0 || count > s->granules)
        return -ENOMEM;
    if (wish >= s->base && (wish - s->base) % SOFT_GRANULE == 0 && wish % align == 0 &&
        (wish - s->base) / SOFT_GRANULE <= s->granules - count &&
        is_free((wish - s->base) / SOFT_GRANULE, count, &unused))
        at = (wish - s->base) / SOFT_GRANULE;
    if (at == UINT64_MAX)
        at = find_run(s->hint, s->granules, count, align);
    if (at == UINT64_MAX)
        at = find_run(0, s->granules, count, align);
    if (at == UINT64_MAX)
        return -ENOMEM;
    area->start = s->base + at * SOFT_GRANULE;
    area->bytes = bytes;
    for (uint64_t g = at; g < at + count; g++)
        s->at[g] = area;
    s->hint = at + count < s->granules ? at + count : 0;
    area->next = *list;
    area->link = list;
    if (area->next != NULL)
        area->next->link = &area->next;
    *list = area;
    return 0;
}

void soft_area_give(struct soft_area *area)
{
    struct soft_space *s = &soft_space;
    uint64_t first = (area->start - s->base) / SOFT_GRANULE;

    soft_area_unmap(area, area->start, area->bytes);
    for (uint64_t g = first; g < first + area->bytes / SOFT_GRANULE; g++)
        s->at[g] = NULL;
    *area->link = area->next;
    if (area->next != NULL)
        area->next->link = area->link;
    area->next = NULL;
    area->link = NULL;
}

/* ------------------------------------------------------------------------ bytes, and access --- */
static void close_maps(uint64_t at, uint64_t bytes)
{
    uint64_t first = (at - soft_space.base) / SOFT_GRANULE;

    for (struct soft_arena *a = soft_space.arenas; a != NULL; a = a->next)
        memset(a->map + first, SOFT_ACCESS_NONE, bytes / SOFT_GRANULE);
}

int soft_area_map(struct soft_area *area, uint64_t at, struct soft_phys *phys, uint64_t offset,
                  uint64_t bytes)
{
    int err = soft_phys_map(phys, offset, bytes, soft_space_host(at));

    /* managed memory: the host's view of the same bytes, at the device address itself */
    if (err == 0 && area->ops->hosts)
        err = soft_phys_map(phys, offset, bytes, (void *)(uintptr_t)at);
    return err;
}

/* What is unmapped may still be in use: a kernel that has just looked at its map, a copy under way.
 * It finds bytes that are nobody's, where on hardware it would find a fault or another's. */
static void scrap(void *at, uint64_t bytes)
{
    if (mmap(at, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return; /* no mapping entry left; then the bytes linger, out of reach */
    madvise(at, bytes, MADV_DONTFORK);
    madvise(at, bytes, MADV_DONTDUMP);
}

int soft_space_show(uint64_t at, struct soft_phys *phys, uint64_t bytes, bool read_only)
{
    void *p = (void *)(uintptr_t)at;
    int err = soft_phys_map(phys, 0, bytes, p);

    if (err == 0 && read_only && mprotect(p, bytes, PROT_READ) != 0)
        err = -errno;
    return err;
}

void soft_space_blank(uint64_t at, uint64_t bytes)
{
    blank((void *)(uintptr_t)at, bytes);
}

void soft_area_unmap(struct soft_area *area, uint64_t at, uint64_t bytes)
{
    close_maps(at, bytes);
    if (area->ops->hosts)
        blank((void *)(uintptr_t)at, bytes);
    if (!area->ops->lingers)
        scrap(soft_space_host(at), bytes);
}

static unsigned access_of(struct soft_area *area, uint64_t at, struct soft_ctx *ctx)
{
    if (area->ops->access != NULL)
        return area->ops->access(area, at, ctx);
    return area->ctx != NULL && soft_ctx_reaches(ctx, area->ctx) ? SOFT_ACCESS_ALL
                                                                 : SOFT_ACCESS_NONE;
}

static void publish(struct soft_area *area, uint64_t at, uint64_t bytes, struct soft_arena *arena)
{
    for (uint64_t end = at + bytes; at < end; at += SOFT_GRANULE)
        arena->map[(at - soft_space.base) / SOFT_GRANULE] =
            (uint8_t)access_of(area, at, arena->ctx);
}

void soft_area_publish(struct soft_area *area, uint64_t at, uint64_t bytes)
{
    for (struct soft_arena *a = soft_space.arenas; a != NULL; a = a->next)
        publish(area, at, bytes, a);
}

void soft_space_publish(struct soft_ctx *ctx)
{
    for (struct soft_area *a = soft_space.areas; a != NULL; a = a->next)
        publish(a, a->start, a->bytes, ctx->arena);
    for (struct soft_arena *of = soft_space.arenas; of != NULL; of = of->next)
        for (struct soft_area *a = of->areas; a != NULL; a = a->next)
            publish(a, a->start, a->bytes, ctx->arena);
}

/* ----------------------------------------------------------------------------- what is there -- */
bool soft_is_device_range(uint64_t ptr)
{
    return soft_space.bytes != 0 && ptr >= soft_space.base &&
           ptr - soft_space.base < soft_space.bytes;
}

static struct soft_area *area_at(uint64_t ptr)
{
    return soft_is_device_range(ptr) ? soft_space.at[(ptr - soft_space.base) / SOFT_GRANULE] : NULL;
}

bool soft_is_managed(uint64_t ptr)
{
    struct soft_area *area;
    bool is;

    if (!soft_is_device_range(ptr))
        return false;
    soft_space_lock();
    area = area_at(ptr);
    is = area != NULL &&
         (area->ops->host_may != NULL ? area->ops->host_may(area, ptr) : area->ops->hosts);
    soft_space_unlock();
    return is;
}

static bool find(uint64_t ptr, struct soft_span *span)
{
    struct soft_area *area = area_at(ptr);

    return area != NULL && area->ops->find(area, ptr, span) && ptr >= span->start &&
           ptr - span->start < span->bytes;
}

bool soft_span_find(CUdeviceptr ptr, struct soft_span *span)
{
    bool found;

    if (!soft_is_device_range(ptr))
        return soft_host_find(ptr, span);
    soft_space_lock();
    found = find(ptr, span);
    soft_space_unlock();
    return found;
}

bool soft_span_reach(CUdeviceptr ptr, uint64_t bytes, struct soft_span *span)
{
    struct soft_area *area;
    uint64_t end;
    bool reached;

    if (__builtin_add_overflow(ptr, bytes, &end))
        return false;
    if (!soft_is_device_range(ptr))
        return soft_host_find(ptr, span) && bytes <= span->bytes - (ptr - span->start);
    soft_space_lock();
    area = area_at(ptr);
    reached = find(ptr, span);
    while (reached && area->ops->joined && span->start + span->bytes < end) {
        struct soft_span next;

        reached = area_at(span->start + span->bytes) == area &&
                  find(span->start + span->bytes, &next) && next.ordinal == span->ordinal;
        if (reached)
            span->bytes += next.bytes;
    }
    reached = reached && end <= span->start + span->bytes;
    soft_space_unlock();
    return reached;
}

bool soft_space_backed(const char *host, uint64_t bytes)
{
    uint64_t at = (uint64_t)(uintptr_t)host - (uint64_t)soft_space.delta, end = at + bytes;
    bool backed = true;

    if (!soft_is_device_range(at))
        return true;
    soft_space_lock();
    while (backed && at < end) {
        struct soft_area *area = area_at(at);
        uint64_t until =
            area != NULL && area->start + area->bytes < end ? area->start + area->bytes : end;

        backed =
            area != NULL && (area->ops->backed == NULL || area->ops->backed(area, at, until - at));
        at = until;
    }
    soft_space_unlock();
    return backed;
}
