/* SPDX-License-Identifier: Apache-2.0
 *
 * Who has how much of a device's memory, without a lock. See shared.h for the idea.
 *
 *   total: granules in use << 40 | slot + 1 of the last change << 24 | its number (15 bits)
 *   hold:  granules << 40 | intent << 16 | intent is a release << 15 | number of the change
 *
 * A slot's hold is changed by its process (one thread at a time), by whoever completes its last
 * change, and after its death by reapers.
 */
#include "soft/gpu/shared.h"

#define NUMBER_MASK 0x7fffu
#define AMOUNT_MASK 0xffffffu
#define RELEASE     0x8000u

static uint64_t total_word(uint64_t granules, int slot, uint32_t number)
{
    return granules << 40 | (uint64_t)(uint32_t)(slot + 1) << 24 | number;
}

static uint64_t hold_word(uint64_t granules, uint64_t intent, uint32_t release, uint32_t number)
{
    return granules << 40 | intent << 16 | release | number;
}

static uint64_t have(uint64_t word)
{
    return word >> 40;
}

static uint64_t intent(uint64_t hold)
{
    return hold >> 16 & AMOUNT_MASK;
}

static uint32_t number_of(uint64_t word)
{
    return (uint32_t)word & NUMBER_MASK;
}

static uint64_t after(uint64_t granules, uint64_t hold)
{
    return (hold & RELEASE) != 0 ? granules - intent(hold) : granules + intent(hold);
}

static bool names(uint64_t total, int slot, uint64_t hold)
{
    return (total >> 24 & 0xffff) == (uint64_t)(uint32_t)(slot + 1) &&
           number_of(total) == number_of(hold);
}

static soft_u64 *hold_at(struct soft_state *state, int dev, int slot)
{
    return slot < SOFT_MAX_SLOTS ? &state->map->slot[slot].hold[dev]
                                 : &state->map->object[slot - SOFT_MAX_SLOTS].hold[dev];
}

static uint64_t state_word(struct soft_state *state, int slot)
{
    return slot < SOFT_MAX_SLOTS ? atomic_load(&state->map->slot[slot].state)
                                 : atomic_load(&state->map->object[slot - SOFT_MAX_SLOTS].word);
}

/* The change made last gets into its slot's word, if it is not there yet. */
static void complete(struct soft_state *state, int dev, uint64_t total)
{
    int slot = (int)(total >> 24 & 0xffff) - 1;
    soft_u64 *at;
    uint64_t hold;

    if (slot < 0 || slot >= SOFT_MAX_SLOTS + SOFT_MAX_OBJECTS)
        return;
    at = hold_at(state, dev, slot);
    hold = atomic_load(at);
    if (intent(hold) != 0 && names(total, slot, hold))
        atomic_compare_exchange_strong(at, &hold,
                                       hold_word(after(have(hold), hold), 0, 0, number_of(hold)));
}

static uint64_t look(struct soft_state *state, int dev)
{
    uint64_t total = atomic_load(&state->map->dev[dev].total);

    complete(state, dev, total);
    return total;
}

/* A change by the slot's own process. */
static bool change(struct soft_state *state, int dev, int slot, uint64_t bytes, uint32_t release)
{
    uint64_t most = state->profile[dev]->memory_bytes / SOFT_GRANULE, amount = bytes / SOFT_GRANULE;
    soft_u64 *at = hold_at(state, dev, slot);

    if (amount == 0)
        return true;
    for (;;) {
        uint64_t total = look(state, dev), hold = atomic_load(at), wish;
        uint32_t number = (number_of(hold) + 1) & NUMBER_MASK;

        if (release == 0 && have(total) + amount > most)
            return false;
        if (release != 0 && amount > have(hold))
            amount = have(hold); /* taken for dead once: it is gone already */
        if (amount == 0)
            return true;
        wish = hold_word(have(hold), amount, release, number);
        if (intent(hold) != 0 || !atomic_compare_exchange_strong(at, &hold, wish))
            continue; /* the change before it is being completed */
        if (atomic_compare_exchange_strong(&state->map->dev[dev].total, &total,
                                           total_word(after(have(total), wish), slot, number))) {
            complete(state, dev, total_word(0, slot, number));
            return true;
        }
        /* another was first: this number is never used */
        atomic_compare_exchange_strong(at, &wish, hold_word(have(wish), 0, 0, number));
    }
}

bool soft_hold_add(struct soft_state *state, int dev, int slot, uint64_t bytes)
{
    return change(state, dev, slot, bytes, 0);
}

void soft_hold_sub(struct soft_state *state, int dev, int slot, uint64_t bytes)
{
    change(state, dev, slot, bytes, RELEASE);
}

/* Takes from the total what a dead process held. Reapers may race, stop and die in it: an intent to
 * release everything is the same whoever wrote it, and any of them may carry it out. */
void soft_hold_retire(struct soft_state *state, int dev, int slot, uint64_t word)
{
    soft_u64 *at = hold_at(state, dev, slot);

    for (;;) {
        uint64_t total = look(state, dev), hold = atomic_load(at);
        uint32_t number = (number_of(hold) + 1) & NUMBER_MASK;

        /* a reaper that slept finds the slot used again: what it read before is not there then */
        if (state_word(state, slot) != word)
            return;
        if (intent(hold) == 0) {
            if (have(hold) == 0)
                return;
            atomic_compare_exchange_strong(at, &hold,
                                           hold_word(have(hold), have(hold), RELEASE, number));
        } else if (names(total, slot, hold)) {
            continue; /* made, and completed by the next look */
        } else if ((hold & RELEASE) != 0 && intent(hold) == have(hold)) {
            atomic_compare_exchange_strong(
                &state->map->dev[dev].total, &total,
                total_word(after(have(total), hold), slot, number_of(hold)));
        } else { /* what the dead had in mind and did not come to */
            atomic_compare_exchange_strong(at, &hold, hold_word(have(hold), 0, 0, number));
        }
    }
}

uint64_t soft_hold_bytes(struct soft_state *state, int dev, int slot)
{
    look(state, dev);
    return have(atomic_load(hold_at(state, dev, slot))) * SOFT_GRANULE;
}

uint64_t soft_hold_total(struct soft_state *state, int dev)
{
    return have(look(state, dev)) * SOFT_GRANULE;
}
