/* SPDX-License-Identifier: Apache-2.0
 *
 * Oversubscription: memory of a tenant that may leave the device while others have it.
 *
 * For a device granted with HARP_GRANT_OVERSUBSCRIBE cuMemAlloc and cuMemAllocPitch come from slabs
 * (slab.h) at addresses that stay: swap.c. When the arbiter says EVICT, the mover's thread copies
 * them to pinned host memory and gives the physical memory back; RESTORE brings it back: mover.c.
 * Leases of class SWAP cover them. What names such memory without passing the time gate is
 * answered, held off or has it stay on the device for good: seen.c, generated/shim_touch.c.
 */
#ifndef HARP_SHIM_SWAP_H
#define HARP_SHIM_SWAP_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/shim_symbols.h"

struct harp_timegate;

/* Whether any memory here has been allocated to leave its device: until then nothing else asks. */
bool harp_swap_used(void);
/* Whether new memory of the device is to be able to leave it. */
bool harp_swap_on(int dev);

/* True: it is ours, and *r the answer. */
bool harp_swap_alloc(CUdeviceptr *dptr, uint64_t bytes, CUresult *r);
bool harp_swap_free(CUdeviceptr dptr, CUresult *r);
/* The allocation that an address lies in, as a program sees it; false: not ours. `base` and `bytes`
 * are 0 between allocations. */
struct harp_seen {
    uint64_t base, bytes, id, ctx;
};
bool harp_swap_find(CUdeviceptr at, struct harp_seen *seen);
/* The slab at this address stays on the device for good: its lease becomes one of class DEVICE.
 * True unless it is ours and could not; logged with the name of the call. */
bool harp_swap_pin(CUdeviceptr at, const char *call);

/* A context is there, or gone: no memory is on its way from before the driver's call that ends it
 * until that is said, for the mover works in contexts. */
void harp_swap_context_made(CUcontext ctx, CUdevice device, int dev);
void harp_swap_hold(void);
void harp_swap_context_gone(CUcontext ctx);
void harp_swap_let_go(void);
/* For generated/shim_touch.c. The driver looks at what a call names: it must be on the device. */
struct harp_timegate *harp_swap_touch(void);
void harp_touch_end(struct harp_timegate *g);
bool harp_swap_captured(CUstream stream);
/* Captures begin and end: while there are any, no context is synchronised. */
void harp_swap_capturing(int step);

/* --- for the session and the gate; no driver call, no wait ------------------------------------ */

/* HARP_DEVICE: flags. Session lock held. */
void harp_swap_granted(int dev, uint32_t flags);
bool harp_swap_granted_on(int dev);
/* EVICT, RESTORE; 0: the device is ours, so be there. */
void harp_swap_move(int dev, uint32_t seq, uint16_t op);
/* RECALL_MEM: empty slabs go back too, by the mover, who answers then. False: there are none. */
bool harp_swap_recall(int dev, uint32_t seq, uint64_t bytes);
/* Whether nothing of it is on the device, or will not be. */
bool harp_swap_away(int dev);
void harp_swap_forked(void);

/* The program ends: returns when nothing is on its way, at the latest after so long. No lock held.
 */
void harp_swap_exiting(uint64_t ns);

#endif
