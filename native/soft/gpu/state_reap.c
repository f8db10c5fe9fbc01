/* SPDX-License-Identifier: Apache-2.0
 *
 * The dead: who of the slots' owners is, and what becomes of what he had. Any process may find it
 * out and any may stop on the way.
 */
#include "soft/gpu/shared.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static uint64_t get(const soft_u64 *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

uint32_t soft_slots_high(const struct soft_state *state)
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
 * every few milliseconds, take it. The incarnation keeps a reaper that slept from dropping those of
 * the slot's next process. */
void soft_clients_drop(struct soft_state *state, int dev, uint64_t owner, int only)
{
    struct soft_shared_dev *d = &state->map->dev[dev];

    for (int c = 0; c < SOFT_MAX_CLIENTS; c++) {
        uint64_t expected = owner;

        if ((only >= 0 && c != only) || atomic_load(&d->client[c].owner) != owner)
            continue;
        for (int e = 0; e < SOFT_ENGINES; e++) {
            uint64_t word = atomic_load(&d->engine[e].word);

            atomic_fetch_and(&d->engine[e].want[c / 64], ~(1ull << (c % 64)));
            while (SOFT_WORD_OWNER(word) == (uint32_t)c + 1 &&
                   !atomic_compare_exchange_weak(&d->engine[e].word, &word,
                                                 SOFT_WORD(SOFT_WORD_EPOCH(word) + 1, 0, false))) {
            }
        }
        atomic_store(&state->map->fault.killed[dev][c], 0);
        atomic_compare_exchange_strong(&d->client[c].owner, &expected, 0);
    }
}

/* How the slot's use that `word` tells of is named in its clients. */
static uint64_t owner_word(int slot, uint64_t word)
{
    return SOFT_SLOT_INC(word) << 16 | (uint64_t)(unsigned)(slot + 1);
}

uint64_t soft_slot_owner(const struct soft_state *state)
{
    return owner_word(state->slot, atomic_load(&state->map->slot[state->slot].state));
}

void soft_clients_drop_all(struct soft_state *state, uint64_t owner)
{
    for (int d = 0; d < state->map->device_count; d++)
        soft_clients_drop(state, d, owner, -1);
}

static uint64_t objects(struct soft_state *state, int dev, int index)
{
    uint64_t word = atomic_load(&state->map->slot[index].state);

    return soft_objects_bytes(state, dev, owner_word(index, word));
}

void soft_slot_read(struct soft_state *state, int index, struct soft_slot_dev *out)
{
    struct soft_shared_slot *slot = &state->map->slot[index];

    memcpy(out, (const void *)slot->dev, sizeof slot->dev);
    for (int d = 0; d < state->map->device_count; d++) {
        uint64_t held = soft_hold_bytes(state, d, index);

        if (out[d].context_bytes > held)
            out[d].context_bytes = held;
        out[d].mem_bytes = held - out[d].context_bytes + objects(state, d, index);
    }
}

static void tell(struct soft_state *state, int index, uint64_t word)
{
    struct soft_shared_slot *slot = &state->map->slot[index];
    struct soft_gone last = {
        .pid = slot->pid, .start_ns = slot->start_ns, .dead_ns = slot->dead_ns};
    uint64_t told = atomic_load(&slot->told);
    uint32_t next;

    memcpy(last.name, slot->name, sizeof last.name);
    soft_slot_read(state, index, last.dev);
    if (told >= SOFT_SLOT_INC(word) || atomic_load(&slot->state) != word ||
        !atomic_compare_exchange_strong(&slot->told, &told, SOFT_SLOT_INC(word)))
        return;
    for (int d = 0; d < state->map->device_count; d++)
        last.dev[d].mem_bytes = last.dev[d].context_bytes = 0;
    next = atomic_fetch_add(&state->map->gone_next, 1);
    memcpy(&state->map->gone[next % SOFT_GONE], &last, sizeof last);
}

/* The slot as `word` found it goes on to `next`; true: it is there now, by whomever. */
static bool advance(struct soft_shared_slot *slot, uint64_t *word, uint32_t next)
{
    uint64_t to = SOFT_SLOT_WORD(SOFT_SLOT_INC(*word), next), was = *word;
    bool done = atomic_compare_exchange_strong(&slot->state, &was, to) || was == to;

    *word = to;
    return done;
}

/* Several may do it at once, and any may stop on the way: each step is done once, or is the same
 * done twice. */
static void reap(struct soft_state *state, int index, uint64_t now)
{
    struct soft_shared_slot *slot = &state->map->slot[index];
    uint64_t word = atomic_load(&slot->state);
    uint32_t is = SOFT_SLOT_IS(word);

    if (is == SOFT_SLOT_CLAIMED && now < slot->start_ns + 2000000000ull)
        return; /* being taken: its lock may not show yet */
    if (is == SOFT_SLOT_LIVE || is == SOFT_SLOT_CLAIMED) {
        if (!soft_slot_is_dead(state, index))
            return;
        if (atomic_load(&slot->state) != word)
            return;
        if (atomic_load(&slot->left) == 0)
            slot->dead_ns = now;
        if (!advance(slot, &word, SOFT_SLOT_TEARDOWN))
            return;
        soft_clients_drop_all(state, owner_word(index, word));
    }
    if (SOFT_SLOT_IS(word) == SOFT_SLOT_TEARDOWN) {
        uint64_t fault_ns = get(&state->map->fault.teardown_ns);

        if (atomic_load(&slot->left) == 0 &&
            now - slot->dead_ns < (fault_ns != 0 ? fault_ns : state->map->teardown_ns))
            return;
        if (!advance(slot, &word, SOFT_SLOT_RETIRING))
            return;
    }
    if (SOFT_SLOT_IS(word) != SOFT_SLOT_RETIRING)
        return;
    tell(state, index, word);
    soft_clients_drop_all(state, owner_word(index, word));
    soft_objects_drop(state, owner_word(index, word));
    for (int d = 0; d < state->map->device_count; d++)
        soft_hold_retire(state, d, index, word);
    advance(slot, &word, SOFT_SLOT_FREE);
}

void soft_slots_reap(struct soft_state *state)
{
    uint64_t now = soft_now_ns();
    uint32_t high = soft_slots_high(state);

    for (uint32_t i = 0; i < high; i++)
        reap(state, (int)i, now);
}
