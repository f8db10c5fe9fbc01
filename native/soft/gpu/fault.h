/* SPDX-License-Identifier: Apache-2.0
 *
 * Faults on request. The rules are a text file, $HARP_SOFT_DIR/faults, one a line (fault_rules.c
 * has the grammar; harp-soft-fault writes it). Who changes it bumps the door's word in the
 * machine's state, so that a running process hears of it at its next call and pays one load when
 * there is none; while rules are armed, each process looks at the file's identity every few
 * milliseconds, so that an edit by hand is seen as well.
 *
 * Effects on the machine (Xid, ECC, a lost device, slow devices) are carried out once per version
 * of the file, by whoever reads it first: `applied` in the state says which was last.
 */
#ifndef HARP_SOFT_FAULT_H
#define HARP_SOFT_FAULT_H

#include "soft/gpu/door.h"
#include "soft/gpu/shared.h"

#define SOFT_DOOR_ARMED      1u /* bits of soft_shared_fault.door */
#define SOFT_DOOR_OLD_DRIVER 2u

enum soft_fault_kind {
    SOFT_FAULT_FAIL,
    SOFT_FAULT_SLOW,
    SOFT_FAULT_OOM,
    SOFT_FAULT_XID,
    SOFT_FAULT_ECC,
    SOFT_FAULT_LOST,
    SOFT_FAULT_SLOWDEV,
    SOFT_FAULT_SLOWTEARDOWN,
    SOFT_FAULT_NOVMM,
    SOFT_FAULT_NOPOOLS,
    SOFT_FAULT_NOIPC,
    SOFT_FAULT_NOMANAGED,
    SOFT_FAULT_KINDS
};

struct soft_fault_rule {
    enum soft_fault_kind kind;
    char name[72];    /* fail, slow: symbol, or its beginning and '*' */
    uint32_t number;  /* fail: result; xid: its number */
    uint64_t ns;      /* slow, slowteardown */
    uint64_t errors;  /* ecc */
    bool uncorrected; /* ecc */
    uint32_t milli;   /* slowdev: factor in thousandths */
    int dev;          /* -1: any */
    int32_t pid;      /* 0: any; as the process itself sees it */
    char program[16]; /* "": any; as in /proc/PID/comm */
    uint64_t nth;     /* 0: see from, every */
    uint64_t every;   /* 0: not given */
    uint64_t from;    /* 0: not given */
    bool machine;     /* calls are counted over all processes */
};

/* fault_rules.c: pure. 1: a rule, 0: nothing on this line, -EINVAL: `why` says what is wrong. */
#define SOFT_FAULT_LINE 255
int soft_fault_parse(const char *line, size_t bytes, struct soft_fault_rule *rule, char *why,
                     size_t why_bytes);
/* As parse reads it. Returns the length, as snprintf. */
int soft_fault_print(const struct soft_fault_rule *rule, char *out, size_t bytes);
bool soft_fault_names(const struct soft_fault_rule *rule, const char *symbol);
/* Is the rule for call number `count` (from 1)? */
bool soft_fault_due(const struct soft_fault_rule *rule, uint64_t count);

/* fault_file.c */
struct soft_fault_file {
    uint64_t id; /* of this version of the file; 0: there is none */
    int count;
    struct soft_fault_rule rule[SOFT_MAX_FAULTS];
};
#define SOFT_FAULT_UNSEEN UINT64_MAX /* this process may not look */
uint64_t soft_fault_file_id(const struct soft_state *state);
/* Reads it; bad lines are left out and told to `bad` (may be NULL). -errno: could not be read. */
int soft_fault_file_read(const struct soft_state *state, struct soft_fault_file *out,
                         void (*bad)(int line, const char *why));
/* Replaces it; count 0 removes it. */
int soft_fault_file_write(const struct soft_state *state, const struct soft_fault_rule *rules,
                          int count);
/* Says to all processes that it changed. */
void soft_fault_announce(struct soft_state *state);

/* fault_effects.c */
void soft_fault_apply(struct soft_state *state, const struct soft_fault_file *file);
bool soft_fault_lost(const struct soft_state *state, int dev);
/* CUresult that the device ended a context with, or 0. */
int soft_fault_killed(const struct soft_state *state, int dev, int client);
/* What a command takes on `dev` that is modelled to take `ns`. */
uint64_t soft_fault_stretch(const struct soft_state *state, int dev, uint64_t ns);

/* fault.c: rules in this process */
/* The machine, once this process or another made it; NULL before. Never makes it. */
struct soft_state *soft_fault_state(void);
void soft_fault_attach(struct soft_state *state);
/* The library's symbols: names in rules are theirs. */
void soft_fault_symbols(const struct soft_door_info *doors, unsigned count);
static inline bool soft_fault_armed(const struct soft_state *state)
{
    return (atomic_load_explicit(&state->map->fault.door, memory_order_relaxed) &
            SOFT_DOOR_ARMED) != 0;
}
/* A client's call: sleeps if it is to; -1: let it through, else the result to answer. `dev` in the
 * machine, -1: none. */
int soft_fault_decide(struct soft_state *state, unsigned symbol, int dev);
/* SOFT_DOOR_* of what `dev` is to lack. */
unsigned soft_fault_lacks(int dev);
extern const soft_u32 *soft_door_word; /* what the doors look at */
/* All doors of this process ask from now on, or as the machine says again. */
void soft_fault_doors(bool all_ask);

#endif
