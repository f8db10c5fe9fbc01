/* SPDX-License-Identifier: Apache-2.0
 *
 * Where granules of managed memory are: faults, evictions, prefetches. All with space.lock.
 *
 * Time: what moves costs its pages over PCIe, plus the fixed cost of a copy for a fault. Pages that
 * nobody ever touched are not counted; the kernel tells which (mincore).
 */
#include "soft/gpu/arena.h"
#include "soft/gpu/managed.h"

#include <string.h>
#include <sys/mman.h>

#define ON_DEVICES (~SOFT_ON_HOST)
#define PAGES      (SOFT_GRANULE / SOFT_PAGE)

static uint64_t fault_count;

static uint32_t bit(CUdevice device)
{
    return device >= 0 ? 1u << device : SOFT_ON_HOST;
}

/* ------------------------------------------------------------------- what others are told ----- */
static bool managed_find(struct soft_area *area, uint64_t ptr, struct soft_span *span)
{
    struct soft_managed *m = (struct soft_managed *)area;

    if (m->claimed)
        return false;
    *span = (struct soft_span){.ctx = area->ctx,
                               .ordinal =
                                   area->ctx != NULL ? area->ctx->ordinal : soft_visible_ordinal(0),
                               .start = area->start,
                               .bytes = m->bytes,
                               .id = m->id,
                               .host = soft_space_host(area->start),
                               .kind = SOFT_SPAN_MANAGED,
                               .device = true,
                               .inner = m->inner,
                               .flags = m->attach,
                               .owner = m};
    return true;
}

static unsigned managed_access(struct soft_area *area, uint64_t at, struct soft_ctx *ctx)
{
    const struct soft_managed *m = (const struct soft_managed *)area;
    const struct soft_granule *g = &m->granules[(at - area->start) / SOFT_GRANULE];
    uint32_t me = bit(ctx->device);

    if ((g->on & me) != 0)
        return g->on == me ? SOFT_ACCESS_ALL : SOFT_ACCESS_READ; /* a store ends the duplicates */
    return (g->remote & me) != 0 ? SOFT_ACCESS_ALL : SOFT_ACCESS_NONE;
}

const struct soft_area_ops soft_managed_ops = {
    .find = managed_find, .access = managed_access, .forget = soft_managed_drop, .hosts = true};

/* ------------------------------------------------------------------------------- charges ------ */
static bool charge(CUdevice device)
{
    return soft_slot_charge(soft_the_state, soft_at(soft_visible_ordinal(device)), SOFT_GRANULE,
                            0) == 0;
}

static void discharge(uint32_t devices)
{
    for (CUdevice d = 0; devices != 0; d++, devices >>= 1)
        if ((devices & 1) != 0)
            soft_slot_release(soft_the_state, soft_at(soft_visible_ordinal(d)), SOFT_GRANULE, 0);
}

/* It is there from now on; who gained it was charged, who lost it is not any more. */
static void settle(struct soft_managed *m, uint64_t i, uint32_t on, uint32_t remote)
{
    struct soft_granule *g = &m->granules[i];
    uint32_t lost = g->on & ~on & ON_DEVICES;

    if (g->on == on && g->remote == remote)
        return;
    g->on = on;
    g->remote = remote & ~on;
    soft_area_publish(&m->area, m->area.start + i * SOFT_GRANULE, SOFT_GRANULE);
    discharge(lost);
}

/* Devices that are to reach it while the host has it alone. */
static uint32_t remotes(const struct soft_managed *m, uint64_t i, uint32_t on)
{
    return on == SOFT_ON_HOST ? soft_policy_at(m, i * SOFT_GRANULE)->accessed_by & ON_DEVICES : 0;
}

/* ---------------------------------------------------------------------------------- time ------ */
static uint64_t touched_bytes(const struct soft_managed *m, uint64_t i)
{
    unsigned char in[PAGES];
    uint64_t pages = 0;

    if (mincore((void *)(uintptr_t)(m->area.start + i * SOFT_GRANULE), SOFT_GRANULE, in) != 0)
        return SOFT_GRANULE;
    for (unsigned p = 0; p < PAGES; p++)
        pages += in[p] & 1u;
    return pages * SOFT_PAGE;
}

static uint64_t move_ns(const struct soft_managed *m, uint64_t i, CUdevice device)
{
    return (uint64_t)((double)touched_bytes(m, i) / soft_device_profile(device)->pcie_bytes_per_ns);
}

static CUdevice some_device(uint32_t on)
{
    return __builtin_ctz(on & ON_DEVICES);
}

/* ------------------------------------------------------------------------------ evictions ----- */
/* The granule that `device` asked for longest ago loses it. False: it has none. */
static bool evict(CUdevice device, uint64_t *ns)
{
    struct soft_managed *from = NULL;
    uint32_t me = bit(device), on;
    uint64_t oldest = 0;

    for (struct soft_managed *m = soft_managed_first(); m != NULL; m = m->next)
        for (uint64_t i = 0; i < m->area.bytes / SOFT_GRANULE; i++)
            if ((m->granules[i].on & me) != 0 &&
                (from == NULL || m->granules[i].faulted < from->granules[oldest].faulted)) {
                from = m;
                oldest = i;
            }
    if (from == NULL)
        return false;
    on = from->granules[oldest].on & ~me;
    if (on == 0) {
        *ns += move_ns(from, oldest, device);
        on = SOFT_ON_HOST;
    }
    settle(from, oldest, on, remotes(from, oldest, on));
    return true;
}

bool soft_managed_reclaim(int ordinal, uint64_t bytes)
{
    uint64_t most = soft_the_state->profile[ordinal]->memory_bytes, ns = 0;
    CUdevice device = soft_visible_device(ordinal);
    bool any = false;

    if (device < 0 || soft_granules(bytes) > most)
        return false;
    soft_space_lock();
    while ((!any || soft_state_used_bytes(soft_the_state, soft_at(ordinal)) >
                        most - soft_granules(bytes)) &&
           evict(device, &ns))
        any = true;
    soft_space_unlock();
    return any;
}

/* --------------------------------------------------------------------------------- moves ------ */
/* A fault of `device` on a granule that it has not got: does it reach it where it is instead? */
static bool stays(const struct soft_granule *g, const struct soft_policy *policy, CUdevice device)
{
    if (policy->read_mostly || (g->on & ON_DEVICES) != 0)
        return false; /* no way into another device's memory */
    if (policy->preferred.type == CU_MEM_LOCATION_TYPE_DEVICE)
        return policy->preferred.id != device && g->on == SOFT_ON_HOST &&
               (policy->accessed_by & bit(device)) != 0;
    if (policy->preferred.type != CU_MEM_LOCATION_TYPE_INVALID)
        return true; /* the host, in whatever words */
    return g->on == SOFT_ON_HOST && (policy->accessed_by & bit(device)) != 0;
}

static void reach(struct soft_managed *m, uint64_t i, CUdevice device)
{
    struct soft_granule *g = &m->granules[i];
    uint32_t on = g->on != 0 ? g->on : SOFT_ON_HOST;

    settle(m, i, on, g->remote | bit(device));
}

/* Granule `i` comes to `device`. */
static uint64_t bring(struct soft_managed *m, uint64_t i, CUdevice device,
                      const struct soft_policy *policy, bool write, bool prefetch)
{
    struct soft_granule *g = &m->granules[i];
    uint32_t me = bit(device), on;
    uint64_t ns = 0;

    g->faulted = ++fault_count;
    if ((g->on & me) != 0) {
        if (write)
            settle(m, i, me, 0);
        return 0;
    }
    if (!prefetch && (g->remote & me) != 0)
        return 0;
    if (!prefetch && stays(g, policy, device)) {
        reach(m, i, device);
        return 0;
    }
    while (!charge(device))
        if (!evict(device, &ns)) {
            /* others have all of the device: it works on the host's memory, across the bus */
            if ((g->on & ON_DEVICES) != 0)
                settle(m, i, SOFT_ON_HOST, remotes(m, i, SOFT_ON_HOST));
            reach(m, i, device);
            return ns + move_ns(m, i, device);
        }
    ns += move_ns(m, i, device);
    on = g->on;
    if (on == 0 && touched_bytes(m, i) > 0)
        on = SOFT_ON_HOST;
    settle(m, i, policy->read_mostly && !write ? on | me : me, 0);
    return ns;
}

static uint64_t bring_to_host(struct soft_managed *m, uint64_t i, const struct soft_policy *policy,
                              bool write)
{
    const struct soft_granule *g = &m->granules[i];
    uint64_t ns = 0;

    if ((g->on & ON_DEVICES) == 0)
        return 0;
    if ((g->on & SOFT_ON_HOST) == 0)
        ns = move_ns(m, i, some_device(g->on));
    if (policy->read_mostly && !write)
        settle(m, i, g->on | SOFT_ON_HOST, 0);
    else
        settle(m, i, SOFT_ON_HOST, remotes(m, i, SOFT_ON_HOST));
    return ns;
}

void *soft_managed_fault(struct soft_run *run, CUdeviceptr ptr, uint64_t bytes, bool write)
{
    struct soft_managed *m;
    uint64_t ns = 0;

    soft_space_lock();
    m = soft_managed_at(ptr, bytes);
    if (m != NULL) {
        uint64_t offset = ptr - m->area.start;
        unsigned access = managed_access(&m->area, ptr, run->ctx);

        /* another thread of the kernel may have been here meanwhile */
        if ((access & (write ? SOFT_ACCESS_WRITE : SOFT_ACCESS_READ)) == 0)
            ns = run->ctx->profile->copy_ns + bring(m, offset / SOFT_GRANULE, run->ctx->device,
                                                    soft_policy_at(m, offset), write, false);
    }
    soft_space_unlock();
    run->moved_ns += ns;
    return m != NULL ? soft_space_host(ptr) : NULL;
}

void soft_managed_use(CUdeviceptr ptr, uint64_t bytes, struct soft_ctx *ctx, bool write,
                      struct soft_run *run)
{
    struct soft_managed *m;
    uint64_t ns = 0;

    soft_space_lock();
    m = soft_managed_at(ptr, bytes);
    for (uint64_t at = m != NULL ? ptr - m->area.start : 0, end = at + bytes; m != NULL && at < end;
         at = (at / SOFT_GRANULE + 1) * SOFT_GRANULE) {
        const struct soft_policy *policy = soft_policy_at(m, at);

        ns += ctx != NULL ? bring(m, at / SOFT_GRANULE, ctx->device, policy, write, false)
                          : bring_to_host(m, at / SOFT_GRANULE, policy, write);
    }
    soft_space_unlock();
    run->moved_ns += ns;
}

uint64_t soft_managed_prefetch(struct soft_managed *m, uint64_t from, uint64_t to, CUdevice device)
{
    uint64_t ns = 0;

    for (uint64_t at = from; at < to; at = (at / SOFT_GRANULE + 1) * SOFT_GRANULE) {
        const struct soft_policy *policy = soft_policy_at(m, at);

        ns += device >= 0 ? bring(m, at / SOFT_GRANULE, device, policy, false, true)
                          : bring_to_host(m, at / SOFT_GRANULE, policy, false);
    }
    return ns;
}

void soft_managed_discard(struct soft_managed *m, uint64_t from, uint64_t to)
{
    uint64_t first = (from + SOFT_GRANULE - 1) / SOFT_GRANULE;
    uint64_t last = to >= m->bytes ? m->area.bytes / SOFT_GRANULE : to / SOFT_GRANULE;

    for (uint64_t i = first; i < last; i++) {
        settle(m, i, 0, 0);
        madvise(soft_space_host(m->area.start + i * SOFT_GRANULE), SOFT_GRANULE, MADV_REMOVE);
    }
}

/* Duplicates without the advice collapse; mappings come and go with theirs. */
static void review(struct soft_managed *m, uint64_t i)
{
    const struct soft_policy *policy = soft_policy_at(m, i * SOFT_GRANULE);
    const struct soft_granule *g = &m->granules[i];
    uint32_t on = g->on, preferred = 0;

    if (!policy->read_mostly && (on & (on - 1)) != 0) {
        if (policy->preferred.type == CU_MEM_LOCATION_TYPE_DEVICE)
            preferred = bit(policy->preferred.id);
        else if (policy->preferred.type != CU_MEM_LOCATION_TYPE_INVALID)
            preferred = SOFT_ON_HOST;
        on = (on & preferred) != 0 ? preferred : bit(some_device(on));
    }
    settle(m, i, on, remotes(m, i, on));
}

void soft_managed_review(struct soft_managed *m, uint64_t from, uint64_t to)
{
    for (uint64_t i = from / SOFT_GRANULE; i * SOFT_GRANULE < to; i++)
        review(m, i);
}

void soft_managed_leave(struct soft_managed *m)
{
    for (uint64_t i = 0; i < m->area.bytes / SOFT_GRANULE; i++)
        settle(m, i, 0, 0);
}
