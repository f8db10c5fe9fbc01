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

#define PATIENCE_NS 100000000ull /* twice the usual teardown: see (1) */

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
 * every few milliseconds, take it. The incarnation keeps a reaper that slept from dropping those of
 * the slot's next process. */
static void drop_clients(struct soft_state *state, int dev, uint64_t owner, int only)
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

static uint64_t our_owner_word(const struct soft_state *state)
{
    return owner_word(state->slot, atomic_load(&state->map->slot[state->slot].state));
}

uint64_t soft_slot_owner(struct soft_state *state)
{
    return our_owner_word(state);
}

static void drop_all_clients(struct soft_state *state, uint64_t owner)
{
    for (int d = 0; d < state->map->device_count; d++)
        drop_clients(state, d, owner, -1);
}

static uint64_t objects(struct soft_state *state, int dev, int index)
{
    uint64_t word = atomic_load(&state->map->slot[index].state);

    return soft_objects_bytes(state, dev, owner_word(index, word));
}

static void copy_ledger(struct soft_state *state, int index, struct soft_slot_dev *out)
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
    copy_ledger(state, index, last.dev);
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
        drop_all_clients(state, owner_word(index, word));
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
    drop_all_clients(state, owner_word(index, word));
    soft_objects_drop(state, owner_word(index, word));
    for (int d = 0; d < state->map->device_count; d++)
        soft_hold_retire(state, d, index, word);
    advance(slot, &word, SOFT_SLOT_FREE);
}

void soft_slots_reap(struct soft_state *state)
{
    uint64_t now = soft_now_ns();
    uint32_t high = slot_high(state);

    for (uint32_t i = 0; i < high; i++)
        reap(state, (int)i, now);
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

static int take(struct soft_state *state)
{
    for (int i = 0; i < SOFT_MAX_SLOTS; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];
        uint64_t word = atomic_load(&slot->state), inc = SOFT_SLOT_INC(word) + 1;
        uint32_t high = slot_high(state);

        if (SOFT_SLOT_IS(word) != SOFT_SLOT_FREE || !lock_slot(state, i))
            continue;
        slot->start_ns = soft_now_ns(); /* before the claim shows: reapers go by it */
        if (!atomic_compare_exchange_strong(&slot->state, &word,
                                            SOFT_SLOT_WORD(inc, SOFT_SLOT_CLAIMED)))
            continue; /* another copy of this library in this process: the lock is its */
        slot->start_ns = soft_now_ns();
        memset((void *)slot->dev, 0, sizeof slot->dev);
        slot->pid = state->pid;
        slot->pidns = state->pidns;
        slot->birth = state->birth;
        slot->dead_ns = 0;
        atomic_store(&slot->left, 0);
        program_name(slot->name, sizeof slot->name);
        while (high <= (uint32_t)i &&
               !atomic_compare_exchange_weak(&state->map->slot_high, &high, (uint32_t)i + 1)) {
        }
        atomic_store(&slot->state, SOFT_SLOT_WORD(inc, SOFT_SLOT_LIVE));
        return i;
    }
    return -ENOSPC;
}

int soft_slot_take(struct soft_state *state)
{
    int slot;

    pthread_mutex_lock(&state->mutex);
    if (state->slot < 0) {
        slot = take(state);
        if (slot < 0) { /* full: perhaps of the dead */
            soft_slots_reap(state);
            slot = take(state);
        }
        if (slot >= 0)
            state->slot = slot;
    }
    slot = state->slot >= 0 ? state->slot : -ENOSPC;
    pthread_mutex_unlock(&state->mutex);
    return slot;
}

/* The end of a process that could say good-bye: nothing is left to tear down. The slot stays ours
 * until the process is gone, for its threads run on for an instant and write to its ledger. */
void soft_slot_leave(struct soft_state *state)
{
    int tries = 0;

    /* whoever has it may be a thread that the exit interrupted for good */
    while (pthread_mutex_trylock(&state->mutex) != 0) {
        if (++tries == 100)
            return; /* then it is as if it was killed */
        usleep(1000);
    }
    if (state->slot >= 0) {
        state->map->slot[state->slot].dead_ns = soft_now_ns();
        atomic_store(&state->map->slot[state->slot].left, 1);
        drop_all_clients(state, our_owner_word(state));
        soft_objects_drop(state, our_owner_word(state));
        for (int d = 0; d < state->map->device_count; d++)
            soft_hold_sub(state, d, state->slot, soft_hold_bytes(state, d, state->slot));
    }
    pthread_mutex_unlock(&state->mutex);
}

/* Some dead process's memory is on its way back. */
static bool any_teardown(const struct soft_state *state)
{
    uint32_t high = slot_high(state);

    for (uint32_t i = 0; i < high; i++) {
        uint32_t is = SOFT_SLOT_IS(atomic_load(&state->map->slot[i].state));

        if (is == SOFT_SLOT_TEARDOWN || is == SOFT_SLOT_RETIRING)
            return true;
    }
    return false;
}

bool soft_slot_is_ours(const struct soft_state *state)
{
    return state->slot >= 0 && atomic_load(&state->map->slot[state->slot].left) == 0;
}

bool soft_slot_hold(struct soft_state *state, int dev, int row, uint64_t bytes)
{
    uint64_t start = soft_now_ns();

    /* closing any descriptor of the slots file, by whatever code of this process, drops our lock:
     * taking it again costs one call and keeps us from being buried alive */
    lock_slot(state, state->slot);
    while (!soft_hold_add(state, dev, row, bytes)) {
        soft_slots_reap(state);
        if (soft_hold_add(state, dev, row, bytes))
            break;
        /* (1) Nobody may have looked since they died, perhaps long ago, so that their teardown
         * begins only now: a program must not meet a device full of the dead for that. */
        if (!any_teardown(state) || soft_now_ns() - start > PATIENCE_NS)
            return false;
        pthread_mutex_unlock(&state->mutex);
        usleep(1000);
        pthread_mutex_lock(&state->mutex);
        if (!soft_slot_is_ours(state))
            return false;
    }
    return true;
}

int soft_slot_charge(struct soft_state *state, int dev, uint64_t mem_bytes, uint64_t context_bytes)
{
    uint64_t total = state->profile[dev]->memory_bytes, more = mem_bytes + context_bytes, held;
    struct soft_shared_slot_dev *d;
    int err = -ENOMEM;

    if (more < mem_bytes || more > total)
        return -ENOMEM;
    pthread_mutex_lock(&state->mutex);
    if (!soft_slot_is_ours(state) || !soft_slot_hold(state, dev, state->slot, more))
        goto out;
    d = soft_slot_ledger(state, dev);
    put(&d->context_bytes, get(&d->context_bytes) + context_bytes);
    held = soft_hold_bytes(state, dev, state->slot);
    if (held > get(&d->peak_bytes))
        put(&d->peak_bytes, held);
    err = 0;
out:
    pthread_mutex_unlock(&state->mutex);
    return err;
}

void soft_slot_release(struct soft_state *state, int dev, uint64_t mem_bytes,
                       uint64_t context_bytes)
{
    pthread_mutex_lock(&state->mutex);
    if (soft_slot_is_ours(state)) {
        struct soft_shared_slot_dev *d = soft_slot_ledger(state, dev);

        put(&d->context_bytes, get(&d->context_bytes) - context_bytes);
        soft_hold_sub(state, dev, state->slot, mem_bytes + context_bytes);
    }
    pthread_mutex_unlock(&state->mutex);
}

int soft_client_take(struct soft_state *state, int dev)
{
    struct soft_shared_dev *d = &state->map->dev[dev];

    for (int tries = 0; tries < 2; tries++) {
        if (tries > 0)
            soft_slots_reap(state);
        for (int c = 0; c < SOFT_MAX_CLIENTS; c++) {
            uint64_t nobody = 0;

            if (atomic_compare_exchange_strong(&d->client[c].owner, &nobody, our_owner_word(state)))
                return c;
        }
    }
    return -ENOSPC;
}

void soft_client_leave(struct soft_state *state, int dev, int client)
{
    drop_clients(state, dev, our_owner_word(state), client);
}

struct soft_shared_slot_dev *soft_slot_ledger(struct soft_state *state, int dev)
{
    return &state->map->slot[state->slot].dev[dev];
}

/* ---------------------------------------------------------------------------- the read side -- */
uint64_t soft_state_used_bytes(struct soft_state *state, int dev)
{
    soft_slots_reap(state);
    return soft_hold_total(state, dev);
}

int soft_state_slots(struct soft_state *state, struct soft_slot *out, int max)
{
    int count = 0;
    uint32_t high;

    soft_slots_reap(state);
    high = slot_high(state);
    for (uint32_t i = 0; i < high && count < max; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];
        uint32_t is = SOFT_SLOT_IS(atomic_load(&slot->state));
        int32_t seen;

        if (is != SOFT_SLOT_LIVE && is != SOFT_SLOT_TEARDOWN)
            continue;
        seen = is == SOFT_SLOT_LIVE ? soft_slot_pid(state, (int)i) : 0;
        out[count].state = is;
        out[count].pid = seen > 0 ? seen : slot->pid;
        out[count].start_ns = slot->start_ns;
        out[count].dead_ns = slot->dead_ns;
        memcpy(out[count].name, slot->name, sizeof slot->name);
        copy_ledger(state, (int)i, out[count].dev);
        count++;
    }
    return count;
}

int soft_state_gone(struct soft_state *state, struct soft_gone *out, int max)
{
    int count = 0;
    uint32_t next;

    soft_slots_reap(state);
    next = atomic_load(&state->map->gone_next);
    for (uint32_t i = next; i > 0 && next - i < SOFT_GONE && count < max; i--)
        memcpy(&out[count++], &state->map->gone[(i - 1) % SOFT_GONE], sizeof *out);
    return count;
}
