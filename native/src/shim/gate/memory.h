/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory gate: every byte the process holds is covered by a lease of its tenant.
 *
 * (1) Lease first, allocate second; what the driver did not need goes back.
 * (2) Un-charge only after the driver has freed, so a neighbour never meets a physical OOM.
 * (3) A denial is CUDA_ERROR_OUT_OF_MEMORY, and so is an arbiter that cannot be reached.
 * (4) A pointer or handle that is not in the ledger goes to the driver and changes nothing.
 */
#ifndef HARP_SHIM_MEMORY_H
#define HARP_SHIM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/shim_symbols.h"
#include "src/shim/backend/table.h"

/* The 16 bytes that the arbiter and NVML know a CUDA device by. False: the driver does not say. */
bool harp_device_uuid(CUdevice device, uint8_t out[16]);
/* Arbiter's index of a CUDA device; -1: not granted to this tenant (or nobody to ask). */
int harp_device_of(CUdevice device);
/* Of the current context. The driver's own error when there is none. */
CUresult harp_device_current(int *dev, CUcontext *ctx);

/* Leases `bytes` (whole granules) for something about to be made; gives back `bytes` of it. A
 * denial comes after all that the process can do without was given back and asked for again;
 * `once`: without that. */
CUresult harp_lease(int dev, uint32_t cls, uint64_t bytes);
CUresult harp_lease_once(int dev, uint32_t cls, uint64_t bytes);
void harp_unlease(int dev, uint32_t cls, uint64_t bytes);
/* In use without a lease; the next lease asks for it too. */
void harp_overdrawn(int dev, uint32_t cls, uint64_t bytes);
/* A path that is not charged: for a tenant with a limit an honest refusal, logged by name. */
bool harp_refused(const char *name);

/* Bytes leased but not in use here. */
uint64_t harp_slack(int dev);

/* Things that have a handle and a size instead of an address. Keys of different kinds carry
 * different top bits. `owner` is the context that takes them along, 0: none does. */
#define HARP_KEY_MAPPING  0x8000000000000000ull
#define HARP_KEY_PHYSICAL 0x4000000000000000ull
#define HARP_KEY_KEPT     0x2000000000000000ull
CUresult harp_handle_made(uint64_t key, uint64_t owner, int dev, uint64_t charged);
/* The same of another class: HARP_MEM_HOST, or one of this process alone. */
#define HARP_PACKED    0x100u /* bytes in granules that are shared; owner is a context: packed.c */
#define HARP_REFERENCE 0x101u /* `charged` is a handle of HARP_KEY_PHYSICAL: vmm.c */
#define HARP_KEEPER    0x102u /* holds references and no memory; owner is itself: vmm.c */
CUresult harp_handle_made_of(uint32_t cls, uint64_t key, uint64_t owner, int dev, uint64_t charged);
void harp_handle_ref(uint64_t key);
/* Drops a reference before the driver is asked to; settle afterwards, with the driver's verdict:
 * the last reference un-charges, a refusal puts it back. */
struct harp_drop {
    uint64_t key, charged, owner;
    int dev;
    uint32_t cls;
    bool known, last;
};
struct harp_drop harp_handle_drop(uint64_t key);
void harp_handle_dropped(const struct harp_drop *drop, bool freed);

/* host.c: bytes of the pages that [at, at + bytes) lies in; 0: no such range. */
uint64_t harp_host_pages(uint64_t at, uint64_t bytes);
void harp_host_owner_gone(uint64_t owner);
/* packed.c: bytes of something without an address, in granules that it shares if it is small. */
#define HARP_PACKED_MOST (1u << 20) /* what is larger has granules of its own */
CUresult harp_packed_lease(CUcontext ctx, int dev, uint64_t bytes);
void harp_packed_unlease(CUcontext ctx, int dev, uint64_t bytes);
void harp_packed_owner_gone(CUcontext ctx, int dev); /* after all others */

/* code.c, limit.c */
void harp_code_owner_gone(CUcontext ctx);
void harp_limit_owner_gone(CUcontext ctx);

/* context.c: calls for each context of this process on a granted device, with no lock held. */
void harp_contexts_each(void (*call)(void *arg, CUcontext ctx, int dev), void *arg);

/* vmm.c: an array or multicast object that may keep physical memory is gone. */
void harp_keeper_gone(uint64_t keeper);

/* All that a destroyed context held is gone. */
void harp_memory_owner_gone(uint64_t owner);

/* Linear memory: lease before the driver's call, settle after it. begin: `straight`: leave the call
 * as it is. end: with the driver's verdict; what cannot be paid for is freed again. */
struct harp_linear {
    int dev;
    CUcontext ctx;
    uint64_t leased;
    bool straight, squeezed; /* squeezed: into what is held already */
    bool apart;              /* in granules that other kinds do not share */
};
CUresult harp_linear_begin(struct harp_linear *l, uint64_t bytes, bool apart);
/* Some allocation is under way that may take a gap. */
bool harp_linear_opening(void);
CUresult harp_linear_end(struct harp_linear *l, CUresult r, CUdeviceptr *dptr, uint64_t held);

void harp_linear_forked(void);

/* The stream's calls become nodes of a graph, or fail for a capture's sake. */
bool harp_capturing(CUstream stream);

/* pool_set.c: what pools and graphs of the process do not need goes back to the device; bytes. */
uint64_t harp_pools_trim(int dev);
/* A context of the device is gone. */
void harp_pools_context_gone(CUcontext ctx, int dev);
/* context.c: contexts that are known, of a device or of all (-1). */
int harp_context_count(int dev);

/* Calls the driver with the thread marked as inside it. */
#define HARP_INSIDE(result, call)                                                                  \
    do {                                                                                           \
        harp_enter();                                                                              \
        (result) = (call);                                                                         \
        harp_leave();                                                                              \
    } while (0)

#endif
