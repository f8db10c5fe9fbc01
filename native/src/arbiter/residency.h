/* SPDX-License-Identifier: Apache-2.0
 *
 * Residency: what the core knows of SWAP memory on its way off a device and back.
 *
 * A tenant is resident on a device or it is away from it, as a whole. While it is not resident none
 * of its gates there opens. residency.c takes one tenant off and brings it back; rotation.c decides
 * who and when.
 */
#ifndef HARP_ARBITER_RESIDENCY_H
#define HARP_ARBITER_RESIDENCY_H

#include "core.h"

/* Swapping takes at most one part in so many of the time a tenant is resident. */
#define HARP_SWAP_PART 10u

/* Who is busy is left in for so many shortest stays, while that is no longer than so long: who
 * works in bursts gets one done and leaves by itself, and the others' bursts fall into its pauses.
 */
#define HARP_SWAP_STAYS   4u
#define HARP_SWAP_BUSY_NS 10000000000ull

/* Who has not wanted for so long is idle, and leaves first. */
#define HARP_SWAP_IDLE_NS 20000000ull

/* Before a device has shown how fast it is: ns per MiB, each way (10 GB/s). */
#define HARP_SWAP_MIB_NS 100000ull

/* An EVICT or RESTORE is waited for so long, and a ns more for each byte (1 GB/s). */
#define HARP_SWAP_LATE_NS 5000000000ull

/* Who could not come back tries again after that, at most, and doubled, after that. */
#define HARP_SWAP_AGAIN_NS 500000000ull
#define HARP_SWAP_MOST_NS  16000000000ull

/* No tenant's weight is less than the largest divided by that: so nobody waits longer than so many
 * stays of each other. */
#define HARP_SWAP_RATIO 16u

struct harp_core;
struct client;
struct hold;

/* Client x device. */
struct stay {
    uint64_t on; /* what of its SWAP lease counts against the device */
    uint64_t sent_ns;
    uint32_t asked;    /* seq of the EVICT or RESTORE it owes an answer to; 0: none */
    uint8_t restoring; /* ... which is a RESTORE */
    uint8_t away;      /* nothing of it is on the device */
    uint8_t pinned;    /* could not leave: stays for good */
    uint8_t late;      /* is waited for no more, until it answers */
    uint8_t wanted;    /* while late: a bit for each lane it has work on */
};

/* Tenant x device. */
struct residency {
    uint8_t state;   /* enum harp_residency; 0 as resident */
    uint8_t asked;   /* evicting: its gates have drained, its clients are told */
    uint8_t failed;  /* a client could not come back */
    uint8_t leaving; /* while rotation.c chooses */
    uint32_t swaps;
    uint64_t on, pinned; /* sums of its clients' */
    uint64_t since_ns;   /* resident since */
    uint64_t left_ns;    /* not resident since */
    uint64_t not_before_ns;
    uint64_t deadline_ns;           /* of the answers that are missing */
    uint64_t phase_ns, phase_bytes; /* longest answer so far; moved so far */
    uint64_t lasting_ns;            /* longest so far without what was done once and for all */
    uint64_t out_ns, in_ns;         /* what it took last time */
    uint64_t again_ns;              /* how long it waited after it could not come back */
    uint64_t vtime;                 /* ns resident while others waited, times PPM / weight */
    uint64_t away_ns, swap_ns;      /* in all */
};

/* Device. */
struct rotation {
    uint8_t used;      /* somebody has asked for SWAP memory here */
    uint8_t contended; /* somebody is away and wants, since charged_ns */
    uint32_t seq;
    uint32_t candidate;         /* id of the tenant that is to come in next; 0: none */
    uint64_t mark;              /* recall rounds count for it if their number is higher */
    uint64_t on;                /* SWAP memory here that can leave */
    uint64_t out_mib, in_mib;   /* ns per MiB, learnt; 0: not yet */
    uint64_t vtime, charged_ns; /* of who came in last */
};

/* residency.c */
int residency_in(const struct harp_core *k, uint32_t dev, uint32_t tenant); /* may have turns */
int residency_away(const struct harp_core *k, const struct client *c, uint32_t dev);
int residency_to_bring(const struct hold *h);
int residency_leased(struct harp_core *k, struct client *c, uint32_t dev);
void residency_adopt(struct harp_core *k, struct client *c, uint32_t dev, int away);
void residency_message(struct harp_core *k, struct client *c, const struct harp_msg *m);
int residency_want(const struct harp_core *k, struct client *c, uint32_t dev, uint32_t lane);
void residency_evict(struct harp_core *k, uint32_t dev, uint32_t tenant);
void residency_restore(struct harp_core *k, uint32_t dev, uint32_t tenant);
int residency_settle(struct harp_core *k, uint32_t dev); /* true: something has changed */
uint64_t residency_next(const struct harp_core *k);

/* rotation.c */
void rotation_account(struct harp_core *k); /* before a step: time has passed */
int rotation_clear(struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t cls,
                   uint64_t bytes);
int rotation_settle(struct harp_core *k, uint32_t dev);
uint64_t rotation_next(const struct harp_core *k, uint32_t dev);
uint64_t rotation_quantum_ns(const struct harp_core *k, uint32_t dev, uint32_t tenant);
void rotation_learn(struct rotation *d, const struct residency *r, int out);

#endif
