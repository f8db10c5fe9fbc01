/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of oversubscription share: swap.c (blocks and slabs), mover.c (off the device and
 * back), seen.c. Nothing else includes this.
 */
#ifndef HARP_SHIM_SWAP_STATE_H
#define HARP_SHIM_SWAP_STATE_H

#include <pthread.h>

#include "src/shim/gate/arena.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/slab.h"
#include "src/shim/gate/swap.h"

enum harp_place { PLACE_HERE, PLACE_LEAVING, PLACE_AWAY, PLACE_COMING };
enum harp_tier { TIER_UNASKED, TIER_VMM, TIER_MANAGED, TIER_NONE };

struct harp_realm { /* a context whose memory may leave */
    struct harp_realm *next;
    CUcontext ctx;
    CUdevice device;
    int dev;
    struct harp_slab *spare; /* an empty shared slab, kept for the next small block */
    struct harp_arena arena; /* the mover's */
    CUstream streams[2];     /* same */
};

struct harp_swapdev {
    enum harp_place place;
    enum harp_tier tier;
    uint32_t flags; /* atomic, as HARP_DEVICE said last */
    /* what the arbiter wants next */
    uint16_t op; /* HARP_EVICT, HARP_RESTORE; 0: nothing */
    uint32_t seq;
    uint32_t recall_seq; /* of a RECALL_MEM that is to be answered; 0: none */
    uint64_t recalled;   /* ... with so much of class DEVICE */
    uint64_t again_ns;   /* a restore of our own accord failed: when to try again */
};

struct harp_swap {
    pthread_mutex_t lock;   /* all below; never held across a call of the driver */
    pthread_cond_t changed; /* a place, `making` or a job */
    struct harp_heap heap;
    struct harp_realm *realms;
    struct harp_swapdev dev[HARP_MAX_DEVICES];
    unsigned captures;
    unsigned making;            /* callers that make or give back slabs, or end a context: the
                                 * mover waits */
    unsigned moving;            /* devices whose memory is leaving or coming: callers wait */
    bool used;                  /* atomic: a slab has been made */
    bool thread, alone_no_more; /* contexts on two devices */
    int dead;                   /* blocks freed in a capture, not yet given back */
};

extern struct harp_swap harp_swap_state;

/* Until no memory is on its way: the mover reads the heap without the lock. Lock held. */
void harp_swap_settled(void);
struct harp_realm *harp_swap_realm(uint64_t ctx);

/* Gives back the empty slabs of a device. False: there were none. The mover does not wait for
 * himself when the next order is given meanwhile. No lock. */
bool harp_swap_drop_spares(int dev, bool mover);
/* What is there stays: see harp_swap_pin. No lock. */
void harp_swap_pin_all(void);

/* The physical memory of a slab; no lock. */
CUresult harp_slab_back(const struct harp_slab *slab, CUdevice device, uint64_t *handle);
CUresult harp_slab_unback(const struct harp_slab *slab);

#endif
