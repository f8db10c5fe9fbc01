/* SPDX-License-Identifier: Apache-2.0
 *
 * Device addresses of this process: one reserved range for all devices and contexts (unified
 * addressing), which nobody can touch; the bytes lie in a second range of the same shape, `delta`
 * further on. The range is dealt out in areas of whole granules (2 MiB). Each context has a map of
 * what it may reach, one byte a granule, which its kernels check at every access.
 *
 * Lock: space.lock guards areas, maps and all that hangs on them. Inside soft_lock, outside the
 * state's mutex. "Locked" below = the caller has it.
 */
#ifndef HARP_SOFT_SPACE_H
#define HARP_SOFT_SPACE_H

#include "soft/gpu/context.h"
#include "soft/gpu/phys.h"

/* Bits of a map's byte. */
#define SOFT_ACCESS_NONE  0u
#define SOFT_ACCESS_READ  1u
#define SOFT_ACCESS_WRITE 2u
#define SOFT_ACCESS_ALL   3u

enum soft_span_kind {
    SOFT_SPAN_HOST,    /* pinned or registered host memory */
    SOFT_SPAN_LINEAR,  /* cuMemAlloc and its kin */
    SOFT_SPAN_MAPPED,  /* a mapping in a reserved range (VMM) */
    SOFT_SPAN_POOL,    /* stream-ordered */
    SOFT_SPAN_MANAGED, /* both host and device reach it by the same address */
    SOFT_SPAN_IMPORT   /* another process's, by a legacy IPC handle */
};

struct soft_span {         /* one allocation, device or host */
    struct soft_ctx *ctx;  /* whose it is; NULL: the process's, no context's (VMM, pools) */
    int ordinal;           /* device that it lies on; of host memory: its context's */
    uint64_t start, bytes; /* as the client asked for */
    uint64_t id;           /* unlike any other allocation's in this process */
    char *host;            /* where its bytes are */
    enum soft_span_kind kind;
    bool device;                       /* else pinned host memory */
    bool registered;                   /* host memory of the client's own */
    bool inner;                        /* of a module, an array: not the client's to free */
    unsigned flags;                    /* of host memory */
    void *owner;                       /* of its kind's file: pool, mapping ... */
    uint64_t range_start, range_bytes; /* a mapping's reservation; 0: the allocation itself */
    uint64_t block_id;                 /* a mapping's physical memory; 0: as `id` */
    unsigned handle_types;             /* that it can be exported as */
};

struct soft_area;
struct soft_area_ops {
    /* The allocation that holds `ptr`, which is in the area. Locked. False: none there. */
    bool (*find)(struct soft_area *area, uint64_t ptr, struct soft_span *span);
    /* What `ctx` may do at granule address `at` of it. Locked. NULL: everything for contexts that
     * reach area->ctx (itself and those with peer access to it), nothing for the others. */
    unsigned (*access)(struct soft_area *area, uint64_t at, struct soft_ctx *ctx);
    /* Its context goes: frees the area and what it holds. Locked. Areas with a context need it. */
    void (*forget)(struct soft_area *area);
    /* Is there memory behind all of it? Locked. NULL: always, or (mapped ranges) scrap. A copy asks
     * when it runs. */
    bool (*backed)(struct soft_area *area, uint64_t at, uint64_t bytes);
    /* May the host use its address `ptr`? Locked. NULL: as `hosts` says. */
    bool (*host_may)(struct soft_area *area, uint64_t ptr);
    bool joined; /* a copy may run over several of its spans, where they touch */
    bool hosts;  /* the host may use its addresses (managed memory) */
    /* Unmapping leaves the pages where they are, out of reach and empty, instead of putting scrap
     * there: its memory comes and goes while kernels run. */
    bool lingers;
};

struct soft_area {         /* embedded in each kind's own struct */
    uint64_t start, bytes; /* whole granules */
    const struct soft_area_ops *ops;
    struct soft_ctx *ctx;           /* NULL: the process's */
    struct soft_area *next, **link; /* all of the context's, or of the process's; soft_area_take */
};

struct soft_space {
    pthread_mutex_t lock;
    uint64_t base, bytes; /* device addresses; 0 before the first context */
    int64_t delta;
    uint64_t granules, hint;
    struct soft_area **at;     /* per granule; NULL: free */
    struct soft_area *areas;   /* of no context */
    struct soft_arena *arenas; /* of the living contexts */
};
extern struct soft_space soft_space;

void soft_space_lock(void);
void soft_space_unlock(void);
/* Reserves the ranges; once. 0 or -ENOMEM. Locked. */
int soft_space_make(void);

/* Gives `area` (ops and ctx set) addresses: `bytes` (whole granules) at a multiple of `align` (0: a
 * granule), at `wish` if that is free, else anywhere. 0 or -ENOMEM. Nothing is mapped or reachable
 * yet. Locked. */
int soft_area_take(struct soft_area *area, uint64_t bytes, uint64_t align, uint64_t wish);
/* Takes the addresses back; unmaps what is mapped there and closes all maps. Locked. */
void soft_area_give(struct soft_area *area);
/* Puts bytes behind addresses of it, reachable for nobody yet; away again. Locked. 0 or -errno. */
int soft_area_map(struct soft_area *area, uint64_t at, struct soft_phys *phys, uint64_t offset,
                  uint64_t bytes);
void soft_area_unmap(struct soft_area *area, uint64_t at, uint64_t bytes);
/* The host's own view of device addresses: shows it those bytes there, or nothing. Locked. 0 or
 * -errno. */
int soft_space_show(uint64_t at, struct soft_phys *phys, uint64_t bytes, bool read_only);
void soft_space_blank(uint64_t at, uint64_t bytes);
/* Asks ops->access anew for every context and granule of [at, at + bytes). Locked. */
void soft_area_publish(struct soft_area *area, uint64_t at, uint64_t bytes);
/* Asks for every area: `ctx` is new, or its peers have changed. Locked. */
void soft_space_publish(struct soft_ctx *ctx);

static inline char *soft_space_host(uint64_t ptr)
{
    return (char *)(uintptr_t)(ptr + (uint64_t)soft_space.delta);
}
static inline uint64_t soft_granules(uint64_t bytes)
{
    return (bytes + SOFT_GRANULE - 1) / SOFT_GRANULE * SOFT_GRANULE;
}

/* The allocation that holds `ptr`, in any context; false: none. */
bool soft_span_find(CUdeviceptr ptr, struct soft_span *span);
/* The same, and that all of [ptr, ptr + bytes) can be read or written as one: within the
 * allocation, or within touching mappings. */
bool soft_span_reach(CUdeviceptr ptr, uint64_t bytes, struct soft_span *span);
/* Is it in the range that only device pointers are in? */
bool soft_is_device_range(uint64_t ptr);
/* Is it an address of that range that the host may use all the same? */
bool soft_is_managed(uint64_t ptr);
uint64_t soft_span_next_id(void);
/* pointer.c: are copies and fills of it that are not asynchronous by name over when they return? */
bool soft_memops_sync(const struct soft_ctx *ctx, CUdeviceptr ptr);

/* Is there memory behind these host addresses, if they are device memory's? Not locked. */
bool soft_space_backed(const char *host, uint64_t bytes);

/* Frees what a full device could do without (unused pool memory, managed memory). True: something
 * was freed, try again. Not locked. */
bool soft_reclaim(int ordinal, uint64_t bytes);

/* hostmem.c */
bool soft_host_find(uint64_t ptr, struct soft_span *span);
void soft_host_forget(struct soft_ctx *ctx);
extern _Atomic uint64_t soft_host_changes; /* how often some of it went */

#endif
