/* SPDX-License-Identifier: Apache-2.0
 *
 * Slots: who uses the devices, and with how much.
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
        uint32_t high = soft_slots_high(state);

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
        atomic_store(&slot->kept, 0);
        memset((void *)&slot->mail, 0, sizeof slot->mail);
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
        soft_clients_drop_all(state, soft_slot_owner(state));
        soft_objects_drop(state, soft_slot_owner(state));
        for (int d = 0; d < state->map->device_count; d++)
            soft_hold_sub(state, d, state->slot, soft_hold_bytes(state, d, state->slot));
    }
    pthread_mutex_unlock(&state->mutex);
}

/* Some dead process's memory is on its way back. */
static bool any_teardown(const struct soft_state *state)
{
    uint32_t high = soft_slots_high(state);

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
    if (!soft_slot_is_ours(state))
        goto out;
    /* Said before it is held, and unsaid after it was given back: who reads in between may take
     * memory for a context, but never a context for memory. */
    d = soft_slot_ledger(state, dev);
    put(&d->context_bytes, get(&d->context_bytes) + context_bytes);
    if (!soft_slot_hold(state, dev, state->slot, more)) {
        put(&d->context_bytes, get(&d->context_bytes) - context_bytes);
        goto out;
    }
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

        soft_hold_sub(state, dev, state->slot, mem_bytes + context_bytes);
        put(&d->context_bytes, get(&d->context_bytes) - context_bytes);
    }
    pthread_mutex_unlock(&state->mutex);
}

static uint64_t kept_by_others(const struct soft_state *state)
{
    uint32_t high = soft_slots_high(state);
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < high; i++)
        if ((int)i != state->slot &&
            SOFT_SLOT_IS(atomic_load(&state->map->slot[i].state)) == SOFT_SLOT_LIVE)
            bytes += get(&state->map->slot[i].kept);
    return bytes;
}

bool soft_slot_keeps(struct soft_state *state, uint64_t bytes, uint64_t most)
{
    bool fits = false;

    pthread_mutex_lock(&state->mutex);
    for (int tries = 0; tries < 2 && state->slot >= 0 && !fits; tries++) {
        uint64_t others = kept_by_others(state);

        fits = others <= most && bytes <= most - others;
        if (!fits)
            soft_slots_reap(state); /* the dead keep nothing */
    }
    if (fits)
        put(&state->map->slot[state->slot].kept, bytes);
    pthread_mutex_unlock(&state->mutex);
    return fits;
}

int soft_client_take(struct soft_state *state, int dev)
{
    struct soft_shared_dev *d = &state->map->dev[dev];

    for (int tries = 0; tries < 2; tries++) {
        if (tries > 0)
            soft_slots_reap(state);
        for (int c = 0; c < SOFT_MAX_CLIENTS; c++) {
            uint64_t nobody = 0;

            if (atomic_compare_exchange_strong(&d->client[c].owner, &nobody,
                                               soft_slot_owner(state)))
                return c;
        }
    }
    return -ENOSPC;
}

void soft_client_leave(struct soft_state *state, int dev, int client)
{
    soft_clients_drop(state, dev, soft_slot_owner(state), client);
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
    high = soft_slots_high(state);
    for (uint32_t i = 0; i < high && count < max; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];
        uint32_t is = SOFT_SLOT_IS(atomic_load(&slot->state));
        int32_t seen;

        if (is != SOFT_SLOT_LIVE && is != SOFT_SLOT_TEARDOWN && is != SOFT_SLOT_RETIRING)
            continue;
        seen = is == SOFT_SLOT_LIVE ? soft_slot_pid(state, (int)i) : 0;
        /* one who is being retired, by a process that may be stopped in it, still has his memory */
        out[count].state = is == SOFT_SLOT_LIVE ? SOFT_SLOT_LIVE : SOFT_SLOT_TEARDOWN;
        out[count].pid = seen > 0 ? seen : slot->pid;
        out[count].start_ns = slot->start_ns;
        out[count].dead_ns = slot->dead_ns;
        memcpy(out[count].name, slot->name, sizeof slot->name);
        soft_slot_read(state, (int)i, out[count].dev);
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
