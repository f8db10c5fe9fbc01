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

#define SOFT_STATE_VERSION 9u
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
/* A board is what sits in a slot of the machine: one device, or one for each of its instances (a
 * MIG profile). `dev` counts devices; all of a board share its PCI address, health and settings. */
int soft_state_board(const struct soft_state *state, int dev); /* number of its board, from 0 */
int soft_state_board_count(const struct soft_state *state);    /* boards of the machine */
int soft_state_board_dev(const struct soft_state *state, int board);  /* its first device; or -1 */
int soft_state_board_size(const struct soft_state *state, int board); /* devices; > 1: instances */
/* What the board is as a whole; the device's own profile where it has no instances. */
const struct soft_profile *soft_state_board_profile(const struct soft_state *state, int board);
void soft_state_board_uuid(const struct soft_state *state, int board, uint8_t uuid[16]);
#define SOFT_NO_INSTANCE 0xffffffffu
/* NVML's number of the GPU instance that a device is; SOFT_NO_INSTANCE: the whole board. */
uint32_t soft_state_instance(const struct soft_state *state, int dev);
/* Can one reach the other's memory, over PCIe? Boards of the same major capability can; instances
 * of a board reach nobody. */
bool soft_state_peers(const struct soft_state *state, int dev, int other);
/* PCI address that CUDA and NVML both show: domain 0, device 0. */
uint32_t soft_state_pci_bus(const struct soft_state *state, int dev);
/* Reaps, then copies. Returns the number of slots filled. */
int soft_state_slots(struct soft_state *state, struct soft_slot *out, int max);
/* Physical bytes in use on a device: contexts, memory, and what is still being torn down. */
uint64_t soft_state_used_bytes(struct soft_state *state, int dev);
/* A word that no two moments have in common between which anybody's memory on the device changed:
 * what was read between two equal answers is of one moment. */
uint64_t soft_state_memory_word(const struct soft_state *state, int dev);
/* Busy share of the last `window_ns` (up to 6 s), 0..1. */
double soft_state_utilization(struct soft_state *state, int dev, enum soft_engine engine,
                              uint64_t window_ns);
/* Busy share of bucket `number` (of SOFT_BUCKET_NS), 0..1. */
double soft_state_bucket(const struct soft_state *state, int dev, enum soft_engine engine,
                         uint64_t number);
/* Truth ledger of the ended: slots that are gone, newest first, kept in a ring of 4096. */
#define SOFT_GONE 4096
struct soft_gone {
    int32_t pid;
    uint64_t start_ns, dead_ns;
    char name[64];
    struct soft_slot_dev dev[SOFT_MAX_DEVICES];
};
int soft_state_gone(struct soft_state *state, struct soft_gone *out, int max);

/* ------------------------------------------- state_board.c: health and settings of a board -------
 * Plain words that anybody may change; `dev` may be any device of the board. */
enum soft_ecc_kind { SOFT_ECC_CORRECTED, SOFT_ECC_UNCORRECTED, SOFT_ECC_KINDS };
enum soft_ecc_scope { SOFT_ECC_VOLATILE, SOFT_ECC_AGGREGATE, SOFT_ECC_SCOPES };
enum soft_ecc_place { /* numbered as nvmlMemoryLocation_t */
                      SOFT_ECC_L1,
                      SOFT_ECC_L2,
                      SOFT_ECC_DRAM,
                      SOFT_ECC_REGISTERS,
                      SOFT_ECC_TEXTURE,
                      SOFT_ECC_TEXTURE_SHARED,
                      SOFT_ECC_CBU,
                      SOFT_ECC_SRAM,
                      SOFT_ECC_PLACES /* for a question: all of them together */
};
/* Counts errors: in the volatile and in the aggregate counter. */
void soft_state_ecc_add(struct soft_state *state, int dev, enum soft_ecc_kind kind,
                        enum soft_ecc_place place, uint64_t count);
uint64_t soft_state_ecc_get(const struct soft_state *state, int dev, enum soft_ecc_scope scope,
                            enum soft_ecc_kind kind, enum soft_ecc_place place);
void soft_state_ecc_clear(struct soft_state *state, int dev, enum soft_ecc_scope scope);
/* Memory rows replaced because of errors of that kind (A100, H100). */
void soft_state_rows_remap(struct soft_state *state, int dev, enum soft_ecc_kind kind,
                           uint32_t count);
uint32_t soft_state_rows_remapped(const struct soft_state *state, int dev, enum soft_ecc_kind kind);
/* Pages no longer used because of errors (T4): `kind` corrected means several single-bit errors.
 * -ENOSPC: the board remembers SOFT_RETIRED at most. _get: out may be NULL; returns how many. */
#define SOFT_RETIRED 64
int soft_state_page_retire(struct soft_state *state, int dev, enum soft_ecc_kind kind,
                           uint64_t address);
int soft_state_pages_retired(const struct soft_state *state, int dev, enum soft_ecc_kind kind,
                             uint64_t *out, int max);
/* Fallen off the bus: NVML answers GPU_IS_LOST. */
void soft_state_lost_set(struct soft_state *state, int dev, bool lost);
bool soft_state_lost(const struct soft_state *state, int dev);

/* 0 of a setting means: as the board was made. */
enum soft_setting {
    SOFT_SET_POWER_MW,     /* power limit */
    SOFT_SET_COMPUTE_MODE, /* nvmlComputeMode_t, numbered as CUcomputemode */
    SOFT_SET_PERSISTENCE,  /* 1 + nvmlEnableState_t */
    SOFT_SET_SM_MIN_MHZ,   /* locked clocks */
    SOFT_SET_SM_MAX_MHZ,
    SOFT_SET_APP_SM_MHZ,   /* applications clock */
    SOFT_SET_ROWS_PENDING, /* a remapped row or retired page waits for a reset */
    SOFT_SET_ROWS_FAILED,  /* a row could not be remapped */
    SOFT_SETTINGS
};
void soft_state_set(struct soft_state *state, int dev, enum soft_setting setting, uint32_t value);
uint32_t soft_state_setting(const struct soft_state *state, int dev, enum soft_setting setting);
/* Accounting of processes: since when (0: off), and what ended before when is forgotten. */
void soft_state_accounting_set(struct soft_state *state, int dev, uint64_t since_ns);
uint64_t soft_state_accounting(const struct soft_state *state, int dev);
void soft_state_accounting_forget(struct soft_state *state, int dev, uint64_t before_ns);
uint64_t soft_state_accounting_forgotten(const struct soft_state *state, int dev);

/* The most the SMs run at, by locked and applications clocks; the clock it runs at now: the lowest
 * while nothing was computed for a second. */
uint32_t soft_state_sm_most_mhz(const struct soft_state *state, int dev);
uint32_t soft_state_sm_mhz(struct soft_state *state, int dev);

/* Power now, over `window_ns`, and energy since the state was made. state_board.c has the model. */
uint32_t soft_state_power_mw(struct soft_state *state, int dev, uint64_t window_ns);
uint64_t soft_state_energy_mj(struct soft_state *state, int dev);

/* ------------------------------------------- state_event.c: what happens, told to who waits -----
 */
#define SOFT_EVENTS        256    /* the ring remembers */
#define SOFT_EVENT_SBE     0x1ull /* numbered as nvmlEventType */
#define SOFT_EVENT_DBE     0x2ull
#define SOFT_EVENT_XID     0x8ull
#define SOFT_EVENT_CLOCK   0x10ull
#define SOFT_EVENT_RETIRED 0x400ull
#define SOFT_EVENT_LOST    0x4000ull

struct soft_state_event {
    int dev;
    uint64_t type, data, when_ns; /* data of an Xid: its number */
    int32_t pid;                  /* whose work it was; 0: nobody's */
};
/* Never waits; safe to be killed in. */
void soft_state_event_post(struct soft_state *state, int dev, uint64_t type, uint64_t data,
                           int32_t pid);
/* Place in the ring behind the newest. */
uint32_t soft_state_event_now(const struct soft_state *state);
/* The next at *cursor, if there is one; moves the cursor. What was overwritten is passed over. */
bool soft_state_event_next(const struct soft_state *state, uint32_t *cursor,
                           struct soft_state_event *out);
/* Sleeps until there may be one at `cursor`, until `until_ns`, or for a second. */
void soft_state_event_wait(struct soft_state *state, uint32_t cursor, uint64_t until_ns);

#endif
