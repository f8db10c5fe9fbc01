/* SPDX-License-Identifier: Apache-2.0
 *
 * Virtual memory management: allocations (what a CUmemGenericAllocationHandle names), reserved
 * ranges, and the mappings of the first in the second. All is the process's, no context's; all is
 * guarded by space.lock.
 */
#ifndef HARP_SOFT_VMM_H
#define HARP_SOFT_VMM_H

#include "soft/gpu/arena.h"

struct soft_vmm_alloc {
    struct soft_phys *phys;
    CUmemAllocationProp prop;
    unsigned handles;  /* references that cuMemRelease gives back; 0: the handle is not good */
    unsigned mappings; /* keep it, and its handle's value, beyond the last release */
};

struct soft_vmm_map {
    uint64_t start, bytes, id;
    struct soft_vmm_alloc *alloc;
    uint8_t access[SOFT_MAX_DEVICES]; /* by ordinal in the state file: SOFT_ACCESS_* */
    uint8_t host;                     /* the same, of the host */
};

struct soft_vmm_range {
    struct soft_area area;
    uint64_t bytes; /* as asked for */
    struct soft_vmm_map *maps;
    size_t count, room; /* sorted by start, apart from each other */
};

/* vmm_handle.c. Locked. */
struct soft_vmm_alloc *soft_vmm_alloc_of(CUmemGenericAllocationHandle handle); /* NULL: none */
CUmemGenericAllocationHandle soft_vmm_handle(struct soft_vmm_alloc *alloc);
bool soft_vmm_retain(struct soft_vmm_alloc *alloc); /* one handle more; false: no memory */
void soft_vmm_drop(struct soft_vmm_alloc *alloc);   /* frees it if nothing holds it any more */
bool soft_vmm_on_host(const struct soft_vmm_alloc *alloc);

/* vmm_map.c. Locked. */
struct soft_vmm_range *soft_vmm_range_at(uint64_t ptr); /* NULL: not reserved */
struct soft_vmm_map *soft_vmm_map_at(struct soft_vmm_range *range, uint64_t ptr);
/* Not locked. The reservation that holds `ptr`, mapped there or not. */
bool soft_vmm_reserved(uint64_t ptr, uint64_t *start, uint64_t *bytes);
/* Calls of the VMM take the driver time; the caller waits for it, as of the instant `from_ns`. */
void soft_vmm_take_time(uint64_t from_ns, uint64_t cost_ns);

#endif
