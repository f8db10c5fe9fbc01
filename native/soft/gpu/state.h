/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine-wide state of the software GPU: one file, `$HARP_SOFT_DIR/state` (default
 * /dev/shm/harp-soft-<hash of the configuration>), mapped by every process that uses it (libcuda,
 * libnvidia-ml, harp-soft-truth). It plays the hardware and the kernel driver together.
 *
 * No daemon. A process that uses a device takes a slot and holds a POSIX record lock on byte
 * `slot` of `$HARP_SOFT_DIR/slots`; the kernel drops that lock at death, however it came, and
 * F_GETLK tells any other process the holder's pid in its own pid namespace. Whoever looks (an
 * allocation, a memory query, NVML, an engine waiter) reaps dead slots first: engines are passed
 * on at once, memory is held for the teardown delay from then on, as a driver does.
 * There is no lock in it: a process killed or stopped (SIGSTOP) at any instruction holds nobody up.
 * The slots file is opened once per process and never closed (closing any descriptor of a file
 * drops all POSIX locks on it).
 */
#ifndef HARP_SOFT_STATE_H
#define HARP_SOFT_STATE_H

#include <stdint.h>

#include "soft/gpu/soft.h"

#define SOFT_STATE_VERSION 3u
#define SOFT_MAX_SLOTS     1024
#define SOFT_BUCKETS       64 /* of SOFT_BUCKET_NS each: utilisation history for NVML */
#define SOFT_BUCKET_NS     100000000ull

enum soft_slot_state { SOFT_SLOT_FREE, SOFT_SLOT_LIVE, SOFT_SLOT_TEARDOWN };

struct soft_slot_dev {      /* what one process holds and has used on one device */
    uint64_t mem_bytes;     /* linear memory, 2 MiB granules */
    uint64_t context_bytes; /* contexts */
    uint64_t busy_ns[SOFT_ENGINES];
    uint64_t launches, instructions;
    uint64_t overrun_ns; /* execution beyond the modelled time, all engines */
    uint64_t modelled_ns;
    uint64_t peak_bytes; /* of mem_bytes + context_bytes */
};

struct soft_slot {
    uint32_t state;
    int32_t pid; /* as the reader sees it; its own number where the reader cannot see it */
    uint64_t start_ns;
    uint64_t dead_ns; /* when the death was seen */
    char name[64];    /* program */
    struct soft_slot_dev dev[SOFT_MAX_DEVICES];
};

/* Public read side, for NVML and harp-soft-truth (never for another part of HARP). */
struct soft_state;
/* Opens, and makes it where there is none. One per process, never closed. NULL: why says what is
 * wrong and what to do. */
struct soft_state *soft_state_open(char *why, size_t why_bytes);
/* The same, but nothing is made: NULL without a word where there is no state yet. */
struct soft_state *soft_state_find(void);
int soft_state_device_count(const struct soft_state *state);
const struct soft_profile *soft_state_profile(const struct soft_state *state, int dev);
void soft_state_uuid(const struct soft_state *state, int dev, uint8_t uuid[16]);
/* PCI address that CUDA and NVML both show: domain 0, device 0. */
uint32_t soft_state_pci_bus(int dev);
/* Reaps, then copies. Returns the number of slots filled. */
int soft_state_slots(struct soft_state *state, struct soft_slot *out, int max);
/* Physical bytes in use on a device: contexts, memory, and what is still being torn down. */
uint64_t soft_state_used_bytes(struct soft_state *state, int dev);
/* Busy share of the last `window_ns` (up to 6 s), 0..1. */
double soft_state_utilization(struct soft_state *state, int dev, enum soft_engine engine,
                              uint64_t window_ns);
/* Truth ledger of the ended: slots that are gone, newest first, kept in a ring of 4096. */
#define SOFT_GONE 4096
struct soft_gone {
    int32_t pid;
    char name[64];
    struct soft_slot_dev dev[SOFT_MAX_DEVICES];
};
int soft_state_gone(struct soft_state *state, struct soft_gone *out, int max);

#endif
