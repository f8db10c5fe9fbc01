/* SPDX-License-Identifier: Apache-2.0
 *
 * Managed memory: one address for the host and all devices. The bytes lie in file pages mapped
 * twice, at the address itself for the host and beside it for kernels, so both see the same and
 * they never move. What moves is where a granule (2 MiB) counts as being: nowhere, on the host, on
 * a device (which is charged for it), or on several (read-mostly). A device that uses a granule
 * which is not there faults: its kernels' map is closed, and they ask. A device without room for it
 * gives up the granule it asked for longest ago. The host's own loads and stores are not seen: they
 * move nothing back and end no duplicates; prefetches, advice, copies and evictions do. Other
 * processes' granules are not evicted, as a driver would.
 */
#ifndef HARP_SOFT_MANAGED_H
#define HARP_SOFT_MANAGED_H

#include "soft/gpu/space.h"

#define SOFT_ON_HOST (1u << 31) /* beside one bit per CUdevice */
#define SOFT_PAGE    4096u      /* advice is kept by host pages */

struct soft_policy { /* what cuMemAdvise and prefetches said of a page */
    uint32_t read_mostly;
    CUmemLocation preferred, prefetched; /* type INVALID: none */
    uint32_t accessed_by;                /* bits */
};

struct soft_hint { /* from its offset to the next one's */
    uint64_t from;
    struct soft_policy policy;
};

struct soft_granule {
    uint32_t on;      /* who has a copy; 0: nobody, untouched by devices */
    uint32_t remote;  /* devices that reach it where it is, on the host */
    uint64_t faulted; /* order of the last fault */
};

struct soft_managed { /* guarded by space.lock */
    struct soft_area area;
    struct soft_phys *phys;
    uint64_t bytes, id;
    unsigned attach;
    bool inner;             /* variables of a module: not the client's to free */
    struct soft_pool *pool; /* that it is from; NULL: none */
    struct soft_managed *pool_next, **pool_link;
    bool claimed; /* a pool's: its free is being submitted, or it is: nobody can name it */
    bool over;    /* freed, over when freed_in (counted; NULL: at once) has completed freed_seq */
    struct soft_stream *freed_in;
    uint64_t freed_seq;
    struct soft_managed *next, **link; /* all of the process */
    struct soft_hint *hints;           /* sorted; the first from 0 */
    size_t hint_count;
    struct soft_granule granules[];
};

/* managed.c */
CUresult soft_managed_alloc(struct soft_ctx *ctx, uint64_t bytes, unsigned attach,
                            CUdeviceptr *out);
CUresult soft_managed_free(CUdeviceptr ptr); /* waits for all contexts */
/* Of variables. `ctx` NULL: of no context, it ends with none. */
CUresult soft_managed_alloc_inner(struct soft_ctx *ctx, uint64_t bytes, CUdeviceptr *out);
void soft_managed_free_inner(CUdeviceptr ptr); /* waits for nobody */
/* The one that has all of [ptr, ptr + bytes), or NULL. Locked. */
struct soft_managed *soft_managed_at(CUdeviceptr ptr, uint64_t bytes);
/* The same for a call: none that its pool's free has been asked for already. */
struct soft_managed *soft_managed_named(CUdeviceptr ptr, uint64_t bytes);
/* Is it there for a command, whose pool's free may be behind it? Not locked. */
bool soft_managed_is_there(CUdeviceptr ptr, uint64_t bytes);

struct soft_managed *soft_managed_first(void);  /* Locked. */
void soft_managed_drop(struct soft_area *area); /* Locked. */

/* managed_move.c */
extern const struct soft_area_ops soft_managed_ops;
/* A kernel's access that its map does not open: the byte's address, or NULL where none is. */
void *soft_managed_fault(struct soft_run *run, CUdeviceptr ptr, uint64_t bytes, bool write);
/* Copies and fills of [ptr, ptr + bytes): by `ctx`, or the host (NULL). */
void soft_managed_use(CUdeviceptr ptr, uint64_t bytes, struct soft_ctx *ctx, bool write,
                      struct soft_run *run);
bool soft_managed_reclaim(int ordinal, uint64_t bytes);
/* Locked. Ns that it takes. Device: a CUdevice, or CU_DEVICE_CPU. */
uint64_t soft_managed_prefetch(struct soft_managed *m, uint64_t from, uint64_t to, CUdevice device);
void soft_managed_discard(struct soft_managed *m, uint64_t from, uint64_t to);
/* Its policies have changed there: duplicates and mappings follow. Locked. */
void soft_managed_review(struct soft_managed *m, uint64_t from, uint64_t to);
void soft_managed_leave(struct soft_managed *m); /* discharges all. Locked. */

/* managed_advice.c. Locked. */
const struct soft_policy *soft_policy_at(const struct soft_managed *m, uint64_t offset);
/* Changes pages of [from, to). False: no host memory. */
bool soft_policy_change(struct soft_managed *m, uint64_t from, uint64_t to,
                        void (*change)(struct soft_policy *policy, const void *arg),
                        const void *arg);
/* Does a copy that could be the host's or a device's go to the host? Not locked. */
bool soft_managed_prefers_host(CUdeviceptr ptr);
/* A location a caller named: the CUdevice, or CU_DEVICE_CPU. */
CUresult soft_location_of(CUmemLocation *location, CUdevice *device);

#endif
