/* SPDX-License-Identifier: Apache-2.0
 *
 * Slots: who uses the devices, with how much, and what becomes of it when he dies.
 */
#include "soft/gpu/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static uint64_t get(const soft_u64 *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static void put(soft_u64 *v, uint64_t x)
{
    atomic_store_explicit(v, x, memory_order_relaxed);
}

static uint32_t slot_high(const struct soft_state *state)
{
    uint32_t high = atomic_load_explicit(&state->map->slot_high, memory_order_relaxed);

    return high < SOFT_MAX_SLOTS ? high : SOFT_MAX_SLOTS;
}

/* Is it this very process? Another copy of this code in it may hold the slot (NVML beside CUDA),
 * and a record lock never shows to its own process. */
static bool is_self(const struct soft_state *state, const struct soft_shared_slot *slot)
{
    return slot->pid == (int32_t)getpid() && slot->pidns == state->pidns &&
           slot->pid == state->pid && slot->birth == state->birth;
}

static bool lock_of(struct soft_state *state, int slot, int32_t *pid)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};

    if (fcntl(state->slots_fd, F_GETLK, &lock) != 0)
        return true; /* cannot tell: never take a living process for dead */
    if (lock.l_type == F_UNLCK)
        return false;
    *pid = lock.l_pid > 0 ? (int32_t)lock.l_pid : 0;
    return true;
}

bool soft_slot_is_dead(struct soft_state *state, int slot)
{
    int32_t pid = 0;

    if (is_self(state, &state->map->slot[slot]))
        return false;
    return !lock_of(state, slot, &pid);
}

int32_t soft_slot_pid(struct soft_state *state, int slot)
{
    int32_t pid = 0;

    if (is_self(state, &state->map->slot[slot]))
        return (int32_t)getpid();
    return lock_of(state, slot, &pid) ? pid : 0;
}

/* Clients of a slot go; an engine that one of them owns becomes nobody's and the waiters, who look
 * every few milliseconds, take it. */
static void drop_clients(struct soft_state *state, int dev, uint32_t slot_plus1, int only)
{
    struct soft_shared_dev *d = &state->map->dev[dev];

    for (int c = 0; c < SOFT_MAX_CLIENTS; c++) {
        if ((only >= 0 && c != only) ||
            atomic_load_explicit(&d->client[c].slot_plus1, memory_order_relaxed) != slot_plus1)
            continue;
        for (int e = 0; e < SOFT_ENGINES; e++) {
            uint64_t word = atomic_load(&d->engine[e].word);

            atomic_fetch_and(&d->engine[e].want[c / 64], ~(1ull << (c % 64)));
            while (SOFT_WORD_OWNER(word) == (uint32_t)c + 1 &&
                   !atomic_compare_exchange_weak(&d->engine[e].word, &word,
                                                 SOFT_WORD(SOFT_WORD_EPOCH(word) + 1, 0, false))) {
            }
        }
        atomic_store(&d->client[c].slot_plus1, 0);
    }
}

static void retire(struct soft_state *state, int index)
{
    struct soft_shared_slot *slot = &state->map->slot[index];
    uint32_t next = atomic_fetch_add_explicit(&state->map->gone_next, 1, memory_order_relaxed);
    struct soft_gone *gone = &state->map->gone[next % SOFT_GONE];

    gone->pid = slot->pid;
    memcpy(gone->name, slot->name, sizeof gone->name);
    memcpy(gone->dev, (const void *)slot->dev, sizeof gone->dev);
    for (int d = 0; d < state->map->device_count; d++) {
        gone->dev[d].mem_bytes = gone->dev[d].context_bytes = 0;
        put(&slot->dev[d].mem_bytes, 0);
        put(&slot->dev[d].context_bytes, 0);
    }
    atomic_store(&slot->state, SOFT_SLOT_FREE);
}

static void bury(struct soft_state *state, int index, uint64_t now)
{
    struct soft_shared_slot *slot = &state->map->slot[index];

    for (int d = 0; d < state->map->device_count; d++)
        drop_clients(state, d, (uint32_t)index + 1, -1);
    slot->dead_ns = now;
    atomic_store(&slot->state, SOFT_SLOT_TEARDOWN);
}

void soft_slots_reap_locked(struct soft_state *state)
{
    uint64_t now = soft_now_ns();
    uint32_t high = slot_high(state);

    for (uint32_t i = 0; i < high; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];

        if (atomic_load(&slot->state) == SOFT_SLOT_LIVE && soft_slot_is_dead(state, (int)i))
            bury(state, (int)i, now);
        if (atomic_load(&slot->state) == SOFT_SLOT_TEARDOWN &&
            (slot->left || now - slot->dead_ns >= state->map->teardown_ns))
            retire(state, (int)i);
    }
}

static void program_name(char *name, size_t bytes)
{
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, name, bytes - 1) : 0;

    if (fd >= 0)
        close(fd);
    name[n > 0 ? n : 0] = '\0';
    name[strcspn(name, "\n")] = '\0';
}

static bool lock_slot(struct soft_state *state, int index)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = index, .l_len = 1};

    return fcntl(state->slots_fd, F_SETLK, &lock) == 0;
}

static int take_locked(struct soft_state *state)
{
    for (int i = 0; i < SOFT_MAX_SLOTS; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];

        if (atomic_load(&slot->state) != SOFT_SLOT_FREE || !lock_slot(state, i))
            continue;
        memset((void *)slot, 0, sizeof *slot);
        slot->pid = state->pid;
        slot->pidns = state->pidns;
        slot->birth = state->birth;
        slot->start_ns = soft_now_ns();
        program_name(slot->name, sizeof slot->name);
        if ((uint32_t)i >= slot_high(state))
            atomic_store(&state->map->slot_high, (uint32_t)i + 1);
        atomic_store(&slot->state, SOFT_SLOT_LIVE);
        return i;
    }
    return -ENOSPC;
}

int soft_slot_take(struct soft_state *state)
{
    int slot;

    soft_state_lock(state);
    if (state->slot < 0) {
        slot = take_locked(state);
        if (slot < 0) { /* full: perhaps of the dead */
            soft_slots_reap_locked(state);
            slot = take_locked(state);
        }
        if (slot >= 0)
            state->slot = slot;
    }
    slot = state->slot >= 0 ? state->slot : -ENOSPC;
    soft_state_unlock(state);
    return slot;
}

/* The end of a process that could say good-bye: nothing is left to tear down. The slot stays ours
 * until the process is gone, for its threads run on for an instant and write to its ledger. */
void soft_slot_leave(struct soft_state *state)
{
    if (!soft_state_lock_soon(state))
        return; /* then it is as if it was killed */
    if (state->slot >= 0) {
        for (int d = 0; d < state->map->device_count; d++) {
            drop_clients(state, d, (uint32_t)state->slot + 1, -1);
            put(&state->map->slot[state->slot].dev[d].mem_bytes, 0);
            put(&state->map->slot[state->slot].dev[d].context_bytes, 0);
        }
        state->map->slot[state->slot].left = 1;
    }
    soft_state_unlock(state);
}

static uint64_t used_locked(struct soft_state *state, int dev)
{
    uint64_t used = 0;
    uint32_t high = slot_high(state);

    for (uint32_t i = 0; i < high; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];

        if (atomic_load_explicit(&slot->state, memory_order_relaxed) != SOFT_SLOT_FREE)
            used += get(&slot->dev[dev].mem_bytes) + get(&slot->dev[dev].context_bytes);
    }
    return used;
}

int soft_slot_charge(struct soft_state *state, int dev, uint64_t mem_bytes, uint64_t context_bytes)
{
    uint64_t total = state->profile[dev]->memory_bytes, more = mem_bytes + context_bytes, held;
    struct soft_shared_slot_dev *d;
    int err = 0;

    if (more < mem_bytes || more > total)
        return -ENOMEM;
    soft_state_lock(state);
    if (state->slot < 0 || state->map->slot[state->slot].left) {
        err = -ENOMEM;
        goto out;
    }
    /* closing any descriptor of the slots file, by whatever code of this process, drops our lock:
     * taking it again costs one call and keeps us from being buried alive */
    lock_slot(state, state->slot);
    if (used_locked(state, dev) + more > total) {
        soft_slots_reap_locked(state);
        if (used_locked(state, dev) + more > total) {
            err = -ENOMEM;
            goto out;
        }
    }
    d = &state->map->slot[state->slot].dev[dev];
    put(&d->mem_bytes, get(&d->mem_bytes) + mem_bytes);
    put(&d->context_bytes, get(&d->context_bytes) + context_bytes);
    held = get(&d->mem_bytes) + get(&d->context_bytes);
    if (held > get(&d->peak_bytes))
        put(&d->peak_bytes, held);
out:
    soft_state_unlock(state);
    return err;
}

void soft_slot_release(struct soft_state *state, int dev, uint64_t mem_bytes,
                       uint64_t context_bytes)
{
    soft_state_lock(state);
    if (state->slot >= 0 && !state->map->slot[state->slot].left) {
        struct soft_shared_slot_dev *d = &state->map->slot[state->slot].dev[dev];

        put(&d->mem_bytes, get(&d->mem_bytes) - mem_bytes);
        put(&d->context_bytes, get(&d->context_bytes) - context_bytes);
    }
    soft_state_unlock(state);
}

int soft_client_take(struct soft_state *state, int dev)
{
    struct soft_shared_dev *d = &state->map->dev[dev];
    int found = -ENOSPC;

    soft_state_lock(state);
    for (int tries = 0; tries < 2 && found < 0 && state->slot >= 0; tries++) {
        if (tries > 0)
            soft_slots_reap_locked(state);
        for (int c = 0; c < SOFT_MAX_CLIENTS && found < 0; c++)
            if (atomic_load(&d->client[c].slot_plus1) == 0)
                found = c;
    }
    if (found >= 0)
        atomic_store(&d->client[found].slot_plus1, (uint32_t)state->slot + 1);
    soft_state_unlock(state);
    return found;
}

void soft_client_leave(struct soft_state *state, int dev, int client)
{
    soft_state_lock(state);
    if (state->slot >= 0)
        drop_clients(state, dev, (uint32_t)state->slot + 1, client);
    soft_state_unlock(state);
}

struct soft_shared_slot_dev *soft_slot_ledger(struct soft_state *state, int dev)
{
    return &state->map->slot[state->slot].dev[dev];
}

/* ---------------------------------------------------------------------------- the read side -- */
uint64_t soft_state_used_bytes(struct soft_state *state, int dev)
{
    uint64_t used;

    soft_state_lock(state);
    soft_slots_reap_locked(state);
    used = used_locked(state, dev);
    soft_state_unlock(state);
    return used;
}

int soft_state_slots(struct soft_state *state, struct soft_slot *out, int max)
{
    int count = 0;
    uint32_t high;

    soft_state_lock(state);
    soft_slots_reap_locked(state);
    high = slot_high(state);
    for (uint32_t i = 0; i < high && count < max; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];
        int32_t seen;

        if (atomic_load(&slot->state) == SOFT_SLOT_FREE)
            continue;
        out[count].state = atomic_load(&slot->state);
        seen = out[count].state == SOFT_SLOT_LIVE ? soft_slot_pid(state, (int)i) : 0;
        out[count].pid = seen > 0 ? seen : slot->pid;
        out[count].start_ns = slot->start_ns;
        out[count].dead_ns = slot->dead_ns;
        memcpy(out[count].name, slot->name, sizeof slot->name);
        memcpy(out[count].dev, (const void *)slot->dev, sizeof slot->dev);
        count++;
    }
    soft_state_unlock(state);
    return count;
}

int soft_state_gone(struct soft_state *state, struct soft_gone *out, int max)
{
    int count = 0;
    uint32_t next;

    soft_state_lock(state);
    soft_slots_reap_locked(state);
    next = atomic_load(&state->map->gone_next);
    for (uint32_t i = next; i > 0 && next - i < SOFT_GONE && count < max; i--)
        memcpy(&out[count++], &state->map->gone[(i - 1) % SOFT_GONE], sizeof *out);
    soft_state_unlock(state);
    return count;
}
