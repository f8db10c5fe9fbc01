/* SPDX-License-Identifier: Apache-2.0
 *
 * Layout of the state file and what the core's own files do with it. Nothing in it depends on the
 * C library (a glibc and a musl process map the same file), and nothing in it is a lock: a process
 * may be killed or stopped at any instruction, and no other may have to wait for it.
 *
 * Memory (state_hold.c): a device's total is one word, changed by compare-and-swap. What a slot has
 * of it is another word, which first says what is about to be added ("intent"). The total names the
 * slot and the number of the change made last; whoever wants to make the next one first completes
 * that slot's word. So at most one change is made but not yet in its slot's word, and everybody
 * knows which: after a death the sum over the slots is the total again.
 */
#ifndef HARP_SOFT_SHARED_H
#define HARP_SOFT_SHARED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "soft/gpu/state.h"

#define SOFT_MAGIC       0x50524148u /* "HARP" */
#define SOFT_MAX_CLIENTS 1024        /* contexts per device */
#define SOFT_WANT_WORDS  (SOFT_MAX_CLIENTS / 64)

typedef _Atomic uint64_t soft_u64;
typedef _Atomic uint32_t soft_u32;

/* A context as the engines of its device know it. */
struct soft_client {
    soft_u64 owner; /* 0: free; incarnation of the slot << 16 | slot + 1 */
    struct {
        soft_u32 bell; /* futex: rung when the owner should look */
        soft_u32 pad;
        soft_u64 lost_ns; /* when the engine was taken from it for want of an answer */
    } at[SOFT_ENGINES];
};

/* word: epoch << 32 | busy << 31 | owner client + 1. The epoch counts changes of the owner. */
#define SOFT_WORD_BUSY     (1ull << 31)
#define SOFT_WORD_OWNER(w) ((uint32_t)(w) & 0x7fffffffu)
#define SOFT_WORD_EPOCH(w) ((uint32_t)((w) >> 32))
#define SOFT_WORD(epoch, owner, busy)                                                              \
    (((uint64_t)(epoch) << 32) | ((busy) ? SOFT_WORD_BUSY : 0) | (uint64_t)(owner))

struct soft_shared_engine {
    _Alignas(64) soft_u64 word;
    soft_u64 grant_ns; /* device time from which the owner has it; may lie ahead: switch cost */
    soft_u64 slice_ns; /* device time at which the owner's slice began */
    _Alignas(64) soft_u64 want[SOFT_WANT_WORDS];
    soft_u64 bucket[SOFT_BUCKETS]; /* bucket number << 32 | busy ns */
};

/* state_board.c; of a board with instances, the one in its first device counts. */
struct soft_board {
    soft_u32 lost;
    soft_u32 setting[SOFT_SETTINGS];
    soft_u64 accounting_ns, forgotten_ns;
    soft_u64 dynamic_uj; /* energy that work took, beyond idling */
    soft_u64 ecc[SOFT_ECC_SCOPES][SOFT_ECC_KINDS][SOFT_ECC_PLACES];
    soft_u32 rows[SOFT_ECC_KINDS];
    soft_u64 retired[SOFT_RETIRED]; /* address | 1 + enum soft_ecc_kind; 0: none */
};

struct soft_shared_dev {
    char key[16];
    uint8_t uuid[16];
    uint8_t board_uuid[16];
    int32_t board;     /* its number */
    uint32_t instance; /* of the board; SOFT_NO_INSTANCE: all of it */
    struct soft_board on_board;
    soft_u64 total; /* see state_hold.c */
    struct soft_shared_engine engine[SOFT_ENGINES];
    struct soft_client client[SOFT_MAX_CLIENTS];
};

struct soft_shared_slot_dev { /* struct soft_slot_dev, written by its process without a lock */
    soft_u64 mem_bytes, context_bytes;
    soft_u64 busy_ns[SOFT_ENGINES];
    soft_u64 launches, instructions, overrun_ns, modelled_ns, peak_bytes;
};
_Static_assert(sizeof(struct soft_shared_slot_dev) == sizeof(struct soft_slot_dev), "one layout");

/* Beyond enum soft_slot_state: being taken; being given back (by any number of reapers). */
#define SOFT_SLOT_CLAIMED  3u
#define SOFT_SLOT_RETIRING 4u
#define SOFT_SLOT_DRAINING 5u /* of objects: for good, see state_object.c */

#define SOFT_SLOT_WORD(incarnation, is) ((uint64_t)(incarnation) << 8 | (is))
#define SOFT_SLOT_IS(word)              ((uint32_t)((word) & 0xff))
#define SOFT_SLOT_INC(word)             ((word) >> 8)

/* What other processes ask of the slot's own one (state_mail.c). Requests are numbered; each is
 * answered, or withdrawn before it was taken. */
enum soft_mail_op {
    SOFT_MAIL_NONE,
    SOFT_MAIL_LOCK,
    SOFT_MAIL_CHECKPOINT,
    SOFT_MAIL_RESTORE,
    SOFT_MAIL_UNLOCK
};
#define SOFT_MAIL_TAKEN       0x80u
#define SOFT_MAIL_WORD(n, op) ((uint64_t)(n) << 8 | (op))
#define SOFT_MAIL_NUMBER(w)   ((uint32_t)((w) >> 8))
#define SOFT_MAIL_OP(w)       ((uint32_t)((w) & 0x7f))

#define SOFT_MAIL_NOBODY UINT32_MAX

struct soft_mail_args {
    uint64_t until_ns; /* 0: for ever */
    uint32_t pairs;
    uint32_t own;                                                 /* the process asks itself */
    uint8_t from[SOFT_MAX_DEVICES][16], to[SOFT_MAX_DEVICES][16]; /* UUIDs */
};

struct soft_shared_mail {
    soft_u32 bell, answered; /* futexes: for the process, and for who asked it */
    soft_u64 request;        /* SOFT_MAIL_WORD, | SOFT_MAIL_TAKEN */
    soft_u64 answer;         /* number of the request << 32 | CUresult */
    soft_u64 given_up;       /* number of a request whose asker is gone */
    soft_u32 state;          /* CUprocessState */
    soft_u32 thread;         /* that answers; 0: it is about to */
    soft_u64 host_bytes;     /* device memory that waits in the process */
    struct soft_mail_args args;
};

struct soft_shared_slot {
    soft_u64 state; /* incarnation << 8 | state: a use of the slot is never taken for another */
    soft_u64 told;  /* incarnation whose ledger is among the gone ones */
    soft_u64 hold[SOFT_MAX_DEVICES]; /* see state_hold.c; its number outlives the slot's uses */
    int32_t pid;                     /* in its own pid namespace */
    uint64_t pidns, birth;           /* with pid: which process it is, in that namespace */
    uint64_t start_ns, dead_ns;
    soft_u64 left; /* 1: its process exits, and holds nothing any more */
    soft_u64 kept; /* bytes of the host's that it keeps for memory to come (phys_keep.c) */
    char name[64];
    struct soft_shared_mail mail;
    struct soft_shared_slot_dev dev[SOFT_MAX_DEVICES];
};

/* Faults on request (fault.h), and what all processes of the machine see of them. */
#define SOFT_MAX_FAULTS 64
struct soft_shared_fault {
    soft_u32 door; /* 0: nothing is armed; bit 0: rules are, bit 1: an old driver; rest: change */
    soft_u32 changes;     /* how often rules were armed */
    soft_u64 applied;     /* id of the rules whose effects on the machine were carried out last */
    soft_u64 teardown_ns; /* instead of the machine's own, when not 0 */
    soft_u64 calls[SOFT_MAX_FAULTS];  /* matching calls: tag of the rules << 48 | count */
    soft_u32 milli[SOFT_MAX_DEVICES]; /* time a command takes, in thousandths of the modelled one */
    soft_u32 killed[SOFT_MAX_DEVICES][SOFT_MAX_CLIENTS]; /* CUresult that ended a context */
};

/* Physical memory that several processes may hold (exported VMM handles and pools). It is charged
 * to the object, not to a slot: it lives until the last holder has let go or is gone. */
#define SOFT_MAX_OBJECTS    4096
#define SOFT_OBJECT_HOLDERS 30
/* use number (16 bits) | maker (24: low bits of its incarnation, slot + 1) | number of attempts to
 * end this use (16) | state */
#define SOFT_OBJECT_WORD(use, maker, is) ((uint64_t)(use) << 48 | (maker) << 24 | (is))
#define SOFT_OBJECT_USE(word)            ((uint16_t)((word) >> 48))
#define SOFT_OBJECT_MAKER(word)          ((word) >> 24 & 0xffffffull)
#define SOFT_OBJECT_MAKER_OF(owner)      ((((owner) >> 16 & 0x1fff) << 11) | ((owner) & 0x7ff))
/* which use of the row it is, whatever has become of it since */
#define SOFT_OBJECT_SAME(a, b) (((a) ^ (b)) >> 24 == 0)
_Static_assert(SOFT_MAX_SLOTS < 0x7ff, "a slot's number fits a maker");

struct soft_shared_object {
    soft_u64 word; /* SOFT_OBJECT_WORD: a use of the row is never taken for another */
    soft_u64 hold[SOFT_MAX_DEVICES];      /* see state_hold.c */
    soft_u64 holder[SOFT_OBJECT_HOLDERS]; /* incarnation << 16 | slot + 1; 0: nobody */
};

/* state_event.c */
#define SOFT_EVENT_RECORDS (4 * SOFT_EVENTS)
struct soft_shared_event {
    soft_u64 ticket; /* of its writer, + 1 */
    soft_u64 type, data, when_ns;
    soft_u64 who; /* dev << 32 | pid */
};

struct soft_shared {
    uint32_t magic, version;
    uint64_t bytes; /* of this struct */
    uint64_t teardown_ns;
    uint64_t slice_ns, switch_ns; /* see state_knobs.h */
    uint64_t birth; /* unlike any other state's: which machine exported memory belongs to */
    uint64_t made_ns;
    int32_t device_count;
    uint32_t pad;
    char config[256];
    soft_u32 slot_high;   /* slots at and above were never used */
    soft_u32 object_high; /* the same of objects */
    soft_u32 gone_next;   /* count of processes gone; ring index = modulo SOFT_GONE */
    struct soft_shared_dev dev[SOFT_MAX_DEVICES];
    struct soft_shared_slot slot[SOFT_MAX_SLOTS];
    struct soft_shared_object object[SOFT_MAX_OBJECTS];
    struct soft_gone gone[SOFT_GONE];
    int32_t driver; /* CUDA version of the driver that is played, as 12020 */
    struct soft_shared_fault fault;
    soft_u64 event_ticket; /* taken by writers of events */
    soft_u32 event_count;  /* events published; a futex */
    soft_u32 pad2;
    soft_u64 event_cell[SOFT_EVENTS]; /* number of the event + 1 << 32 | low half of its ticket */
    struct soft_shared_event event[SOFT_EVENT_RECORDS];
};

struct soft_state { /* this process's hold on it */
    struct soft_shared *map;
    const struct soft_profile *profile[SOFT_MAX_DEVICES];
    char dir[400];
    int slots_fd;          /* record locks: one byte a slot. Never closed. */
    pthread_mutex_t mutex; /* one thread of this process at a time changes our slot */
    int slot;              /* ours, or -1; guarded by mutex */
    int32_t pid;           /* who opened it */
    uint64_t pidns, birth;
};

/* state_slot.c */
int soft_slot_take(struct soft_state *state); /* >= 0: our slot; -ENOSPC */
void soft_slot_leave(struct soft_state *state);
/* Charges the device: 0, or -ENOMEM when the device has less free. Whole granules. */
int soft_slot_charge(struct soft_state *state, int dev, uint64_t mem_bytes, uint64_t context_bytes);
void soft_slot_release(struct soft_state *state, int dev, uint64_t mem_bytes,
                       uint64_t context_bytes);
/* With the mutex held, for state_object.c too. Is the slot not left yet? */
bool soft_slot_is_ours(const struct soft_state *state);
/* Adds bytes to what `row` of state_hold.c has of `dev`; waits, the mutex open, for memory of the
 * dead. False: no room, or the slot was left meanwhile. */
bool soft_slot_hold(struct soft_state *state, int dev, int row, uint64_t bytes);
/* This process keeps so many bytes; false, and nothing is said: with what the others keep that is
 * more than `most`. */
bool soft_slot_keeps(struct soft_state *state, uint64_t bytes, uint64_t most);
int soft_client_take(struct soft_state *state, int dev); /* >= 0: client; -ENOSPC */
void soft_client_leave(struct soft_state *state, int dev, int client);

/* state_reap.c */
uint32_t soft_slots_high(const struct soft_state *state); /* slots from there on were never used */
bool soft_slot_is_dead(struct soft_state *state, int slot); /* by its record lock */
int32_t soft_slot_pid(struct soft_state *state, int slot);  /* as we see it; 0: cannot */
void soft_slots_reap(struct soft_state *state);
/* Our own owner word (incarnation << 16 | slot + 1); with the mutex. */
uint64_t soft_slot_owner(const struct soft_state *state);
/* Clients of `owner` go, or only the client `only` of his if that is 0 or more. */
void soft_clients_drop(struct soft_state *state, int dev, uint64_t owner, int only);
void soft_clients_drop_all(struct soft_state *state, uint64_t owner);
/* A slot's ledger, with the memory it holds; `out` has room for SOFT_MAX_DEVICES. */
void soft_slot_read(struct soft_state *state, int slot, struct soft_slot_dev *out);

/* state_object.c. All but drop() take the state's mutex. `word` names this use of the row. */
int soft_object_make(struct soft_state *state, int dev, uint64_t bytes, uint64_t *word); /* row, or
                                                          -ENOMEM: full device, -ENOSPC: no row */
/* Only its maker changes what it holds. 0 or -ENOMEM. */
int soft_object_charge(struct soft_state *state, int row, int dev, uint64_t bytes);
void soft_object_release(struct soft_state *state, int row, int dev, uint64_t bytes);
/* This process becomes, or is no longer, one of its holders. Once each. 0; -ENOENT: it is gone;
 * -ENOSPC: too many hold it. */
int soft_object_join(struct soft_state *state, int row, uint64_t word);
void soft_object_leave(struct soft_state *state, int row, uint64_t word);
/* `owner` (incarnation << 16 | slot + 1) is gone from all of them. */
void soft_objects_drop(struct soft_state *state, uint64_t owner);
/* Bytes of objects whose first holder is `owner`: where NVML shows them. */
uint64_t soft_objects_bytes(struct soft_state *state, int dev, uint64_t owner);

/* state_hold.c; bytes in whole granules. `slot`: a slot, or SOFT_MAX_SLOTS + an object's row. */
bool soft_hold_add(struct soft_state *state, int dev, int slot, uint64_t bytes); /* false: full */
void soft_hold_sub(struct soft_state *state, int dev, int slot, uint64_t bytes);
/* Gives back all of a dead one, as long as the slot's (or row's) state word is `word`. */
void soft_hold_retire(struct soft_state *state, int dev, int slot, uint64_t word);
uint64_t soft_hold_bytes(struct soft_state *state, int dev, int slot);
uint64_t soft_hold_total(struct soft_state *state, int dev);

/* state_mail.c: what one process asks of another, by its slot.
 * The slot of the living process that this one calls `pid`; -1: it has none. *inc: of its use. */
int soft_mail_slot(struct soft_state *state, int32_t pid, uint64_t *inc);
/* Asks and waits for the answer: a CUresult; -ESRCH: that process is gone; -ETIME: it did not take
 * it by args->until_ns. One request at a time; whoever is killed while he asks holds nobody up. */
int soft_mail_ask(struct soft_state *state, int slot, uint64_t inc, enum soft_mail_op op,
                  const struct soft_mail_args *args);
/* In the process itself, on the one thread that answers: the next request, with what came with it.
 */
enum soft_mail_op soft_mail_next(struct soft_shared_mail *mail, struct soft_mail_args *args);
void soft_mail_answer(struct soft_shared_mail *mail, int result);
/* Does anybody wait for the answer that is being worked on? */
bool soft_mail_is_awaited(struct soft_state *state);

/* Truth ledger of our slot, which we have. */
struct soft_shared_slot_dev *soft_slot_ledger(struct soft_state *state, int dev);
/* Busy time [from, to): utilisation's history, and the energy it took. */
void soft_busy_add(struct soft_state *state, int dev, enum soft_engine engine, uint64_t from_ns,
                   uint64_t to_ns);
/* state_board.c: words of the board that a device is on; energy of busy time. */
struct soft_board *soft_board_of(const struct soft_state *state, int dev);
void soft_board_energy_add(struct soft_state *state, int dev, enum soft_engine engine,
                           uint64_t busy_ns);

#endif
