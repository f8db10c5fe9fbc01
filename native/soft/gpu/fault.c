/* SPDX-License-Identifier: Apache-2.0
 *
 * Fault rules in one process: the version it knows, when it looks again, and which of them a call
 * meets. No lock is held while a client's call is decided: the rules are replaced as a whole, and
 * old ones freed when nobody reads any. A fork may come at any moment.
 */
#include "soft/gpu/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 5000000ull  /* between looks at the file while rules are armed */
#define FIND_NS 10000000ull /* between looks for a machine where there is none yet */
#define WAIT_US 1000000     /* for the thread that reads new rules, at most */

struct rules {
    struct soft_fault_file file;
    uint32_t door; /* the word at which they were read */
    bool seen;     /* the file could be read, or is not there */
    char program[16];
    struct rules *next; /* of the old ones */
    soft_u64 calls[SOFT_MAX_FAULTS];
    unsigned words;   /* of each rule's bit set */
    uint64_t names[]; /* which symbols it names */
};

static const soft_u32 nobody_knows = 1; /* no machine yet: every call looks for it */
const soft_u32 *soft_door_word = &nobody_knows;

static _Atomic(struct soft_state *) machine;
static soft_u64 find_ns; /* not before */
static _Atomic(const struct soft_door_info *) doors;
static soft_u32 door_count;

static _Atomic(struct rules *) current;
static soft_u32 readers;
static soft_u64 look_ns;   /* not before, unless the door's word changed */
static soft_u32 loader;    /* pid of the process whose thread reads the file, 0: none */
static struct rules *olds; /* of the loader */

void soft_fault_attach(struct soft_state *state)
{
    uint32_t door = atomic_load(&state->map->fault.door);

    /* a file that nobody announced: somebody wrote it by hand */
    if ((door & SOFT_DOOR_ARMED) == 0) {
        uint64_t id = soft_fault_file_id(state);

        if (id != 0 && id != SOFT_FAULT_UNSEEN)
            soft_fault_announce(state);
    }
    atomic_store(&machine, state);
    __atomic_store_n(&soft_door_word, &state->map->fault.door, __ATOMIC_RELEASE);
}

void soft_fault_doors(bool all_ask)
{
    const struct soft_state *state = atomic_load(&machine);

    __atomic_store_n(&soft_door_word, all_ask ? &nobody_knows : &state->map->fault.door,
                     __ATOMIC_RELEASE);
}

struct soft_state *soft_fault_state(void)
{
    struct soft_state *state = atomic_load_explicit(&machine, memory_order_acquire);
    uint64_t now, due;

    if (state != NULL)
        return state;
    now = soft_now_ns();
    due = atomic_load(&find_ns);
    if (now < due || !atomic_compare_exchange_strong(&find_ns, &due, now + FIND_NS))
        return NULL;
    state = soft_state_find();
    if (state != NULL)
        soft_fault_attach(state);
    return state;
}

void soft_fault_symbols(const struct soft_door_info *table, unsigned count)
{
    atomic_store_explicit(&door_count, count, memory_order_relaxed);
    atomic_store_explicit(&doors, table, memory_order_release);
}

static void log_bad(int line, const char *why)
{
    soft_log("faults: line %d is left out: %s", line, why);
}

static void read_program(char name[16])
{
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, name, 15) : 0;

    if (fd >= 0)
        close(fd);
    name[n > 0 ? n : 0] = '\0';
    name[strcspn(name, "\n")] = '\0';
}

static struct rules *load(struct soft_state *state, uint32_t door)
{
    const struct soft_door_info *table = atomic_load_explicit(&doors, memory_order_acquire);
    unsigned count = table != NULL ? atomic_load(&door_count) : 0, words = (count + 63) / 64;
    size_t bytes = (size_t)words * SOFT_MAX_FAULTS * sizeof(uint64_t);
    struct rules *set = calloc(1, sizeof *set + bytes);
    int err;

    if (set == NULL)
        return NULL;
    set->door = door;
    set->words = words;
    read_program(set->program);
    err = soft_fault_file_read(state, &set->file, log_bad);
    set->seen = err == 0;
    if (err != 0)
        soft_log("faults: cannot read %s/faults: %s; it is as if it was empty", state->dir,
                 strerror(-err));
    for (int i = 0; i < set->file.count; i++)
        for (unsigned s = 0; s < count; s++)
            if (soft_fault_names(&set->file.rule[i], table[s].name))
                set->names[(unsigned)i * words + s / 64] |= 1ull << (s % 64);
    return set;
}

static void replace(struct rules *set)
{
    struct rules *old = atomic_exchange(&current, set);

    if (old != NULL) {
        old->next = olds;
        olds = old;
    }
    if (atomic_load(&readers) != 0)
        return; /* another time */
    while (olds != NULL) {
        old = olds;
        olds = old->next;
        free(old);
    }
}

/* One thread at a time; a child of a fork takes over from a thread that it has not got. */
static bool begin_load(void)
{
    uint32_t me = (uint32_t)getpid(), who = 0;

    if (atomic_compare_exchange_strong(&loader, &who, me))
        return true;
    return who != me && atomic_compare_exchange_strong(&loader, &who, me);
}

static bool knows(uint32_t door)
{
    bool same;
    struct rules *set;

    atomic_fetch_add(&readers, 1);
    set = atomic_load(&current);
    same = set != NULL && set->door == door;
    atomic_fetch_sub(&readers, 1);
    return same;
}

/* Sees to it that `current` is what `door` tells of. */
static void refresh(struct soft_state *state, uint32_t door)
{
    uint64_t now = soft_now_ns();
    bool known = knows(door);
    struct rules *set;
    uint64_t id;

    if (known && now < atomic_load_explicit(&look_ns, memory_order_relaxed))
        return;
    if (!begin_load()) {
        for (int us = 0; !known && us < WAIT_US; us += 100) {
            usleep(100);
            known = knows(door);
        }
        return;
    }
    set = atomic_load(&current);
    id = soft_fault_file_id(state);
    if (!knows(door) || (id != SOFT_FAULT_UNSEEN && set->file.id != id)) {
        set = load(state, door);
        if (set != NULL) {
            if (set->seen)
                soft_fault_apply(state, &set->file);
            if (set->seen && set->file.id == 0) /* taken away by hand */
                soft_fault_announce(state);
            replace(set);
        }
    }
    atomic_store(&look_ns, now + LOOK_NS);
    atomic_store(&loader, 0);
}

static bool is_for(const struct soft_fault_rule *rule, const char *program, int dev)
{
    return (rule->dev < 0 || rule->dev == dev) &&
           (rule->pid == 0 || rule->pid == (int32_t)getpid()) &&
           (rule->program[0] == '\0' || strcmp(rule->program, program) == 0);
}

static unsigned lacks(enum soft_fault_kind kind)
{
    switch (kind) {
    case SOFT_FAULT_NOVMM:
        return SOFT_DOOR_VMM;
    case SOFT_FAULT_NOPOOLS:
        return SOFT_DOOR_POOL;
    case SOFT_FAULT_NOIPC:
        return SOFT_DOOR_IPC;
    case SOFT_FAULT_NOMANAGED:
        return SOFT_DOOR_MANAGED;
    default:
        return 0;
    }
}

static bool meets(const struct rules *set, int i, unsigned symbol, unsigned flags)
{
    const struct soft_fault_rule *rule = &set->file.rule[i];

    switch (rule->kind) {
    case SOFT_FAULT_FAIL:
    case SOFT_FAULT_SLOW:
        return symbol / 64 < set->words &&
               (set->names[(unsigned)i * set->words + symbol / 64] >> (symbol % 64) & 1) != 0 &&
               (rule->kind == SOFT_FAULT_SLOW || (flags & SOFT_DOOR_RESULT) != 0);
    case SOFT_FAULT_OOM:
        return (flags & SOFT_DOOR_ALLOC) != 0;
    default:
        return (flags & lacks(rule->kind)) != 0;
    }
}

/* This call's number among those that the rule is about. Of the machine: a count of other rules, by
 * its tag, begins anew. */
static uint64_t number_of(struct soft_state *state, struct rules *set, int i)
{
    soft_u64 *word = &state->map->fault.calls[i];
    uint64_t tag = (set->file.id >> 48 | 1) << 48, was, now;

    if (!set->file.rule[i].machine)
        return atomic_fetch_add(&set->calls[i], 1) + 1;
    was = atomic_load(word);
    do {
        now = was >> 48 == tag >> 48 ? was + 1 : tag + 1;
    } while (!atomic_compare_exchange_weak(word, &was, now));
    return now & ((1ull << 48) - 1);
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};

    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

int soft_fault_decide(struct soft_state *state, unsigned symbol, int dev)
{
    uint32_t door = atomic_load(&state->map->fault.door);
    const struct soft_door_info *table = atomic_load_explicit(&doors, memory_order_acquire);
    uint64_t ns = 0;
    struct rules *set;
    int result = -1;

    if ((door & SOFT_DOOR_ARMED) == 0)
        return -1;
    refresh(state, door);
    atomic_fetch_add(&readers, 1);
    set = atomic_load(&current);
    for (int i = 0; set != NULL && i < set->file.count; i++) {
        const struct soft_fault_rule *rule = &set->file.rule[i];

        if (!meets(set, i, symbol, table[symbol].flags) || !is_for(rule, set->program, dev) ||
            !soft_fault_due(rule, number_of(state, set, i)))
            continue;
        if (rule->kind == SOFT_FAULT_SLOW)
            ns += rule->ns;
        else if (result < 0)
            result = rule->kind == SOFT_FAULT_FAIL  ? (int)rule->number
                     : rule->kind == SOFT_FAULT_OOM ? CUDA_ERROR_OUT_OF_MEMORY
                                                    : CUDA_ERROR_NOT_SUPPORTED;
    }
    atomic_fetch_sub(&readers, 1);
    if (ns != 0)
        sleep_ns(ns);
    if (result >= 0)
        soft_log("fault: %s answers %d", table[symbol].name, result);
    return result;
}

unsigned soft_fault_lacks(int dev)
{
    struct soft_state *state = soft_fault_state();
    uint32_t door = state != NULL ? atomic_load(&state->map->fault.door) : 0;
    struct rules *set;
    unsigned flags = 0;

    if ((door & SOFT_DOOR_ARMED) == 0)
        return 0;
    refresh(state, door);
    atomic_fetch_add(&readers, 1);
    set = atomic_load(&current);
    for (int i = 0; set != NULL && i < set->file.count; i++)
        if (is_for(&set->file.rule[i], set->program, dev))
            flags |= lacks(set->file.rule[i].kind);
    atomic_fetch_sub(&readers, 1);
    return flags;
}
