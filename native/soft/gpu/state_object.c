/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory that several processes hold. As everywhere in the state there is no lock: a row
 * says in one word which use of it this is and how far it has come, its holders are cells of one
 * word each, and whoever finds the last holder gone gives the bytes back. Each step may be done by
 * several, or by another than began it.
 *
 *   FREE -> CLAIMED (by the maker in the word) -> LIVE -> RETIRING -> FREE
 *                                                  ^________|  somebody joined at the last moment
 */
#include "soft/gpu/shared.h"

#include <errno.h>

#define ROW(row) (SOFT_MAX_SLOTS + (row))

static uint64_t step_to(uint64_t word, uint32_t is)
{
    return (word & ~0xffull) | is;
}

static bool held(const struct soft_shared_object *o)
{
    for (int i = 0; i < SOFT_OBJECT_HOLDERS; i++)
        if (atomic_load(&o->holder[i]) != 0)
            return true;
    return false;
}

/* Takes it from LIVE to FREE if nobody holds it; helps on with what another began. */
static void retire(struct soft_state *state, int row)
{
    struct soft_shared_object *o = &state->map->object[row];
    uint64_t word = atomic_load(&o->word);

    if (SOFT_SLOT_IS(word) == SOFT_SLOT_LIVE) {
        uint64_t retiring = step_to(word, SOFT_SLOT_RETIRING);

        if (held(o) || !atomic_compare_exchange_strong(&o->word, &word, retiring))
            return;
        word = retiring;
    }
    if (SOFT_SLOT_IS(word) != SOFT_SLOT_RETIRING)
        return;
    if (held(o)) { /* joined between the look and the step */
        atomic_compare_exchange_strong(&o->word, &word, step_to(word, SOFT_SLOT_LIVE));
        return;
    }
    for (int d = 0; d < state->map->device_count; d++)
        soft_hold_retire(state, d, ROW(row), word);
    atomic_compare_exchange_strong(&o->word, &word, step_to(word, SOFT_SLOT_FREE));
}

static int high(const struct soft_state *state)
{
    uint32_t rows = atomic_load(&state->map->object_high);

    return rows < SOFT_MAX_OBJECTS ? (int)rows : SOFT_MAX_OBJECTS;
}

static int claim(struct soft_state *state, uint64_t *word)
{
    for (int row = 0; row < SOFT_MAX_OBJECTS; row++) {
        struct soft_shared_object *o = &state->map->object[row];
        uint64_t was = atomic_load(&o->word);
        uint32_t rows = atomic_load(&state->map->object_high);

        /* first of all: whoever looks for dead claims looks below it */
        while (rows <= (uint32_t)row &&
               !atomic_compare_exchange_weak(&state->map->object_high, &rows, (uint32_t)row + 1)) {
        }
        *word =
            SOFT_OBJECT_WORD(SOFT_OBJECT_USE(was) + 1, soft_slot_owner(state), SOFT_SLOT_CLAIMED);
        if (SOFT_SLOT_IS(was) == SOFT_SLOT_FREE &&
            atomic_compare_exchange_strong(&o->word, &was, *word))
            return row;
    }
    return -ENOSPC;
}

static bool is_ours(const struct soft_state *state)
{
    return state->slot >= 0 && atomic_load(&state->map->slot[state->slot].left) == 0;
}

static bool hold_add(struct soft_state *state, int dev, int row, uint64_t bytes)
{
    if (soft_hold_add(state, dev, ROW(row), bytes))
        return true;
    soft_slots_reap(state);
    return soft_hold_add(state, dev, ROW(row), bytes);
}

int soft_object_make(struct soft_state *state, int dev, uint64_t bytes, uint64_t *word)
{
    struct soft_shared_object *o;
    uint64_t claimed;
    int row;

    pthread_mutex_lock(&state->mutex);
    row = is_ours(state) ? claim(state, &claimed) : -ENOMEM;
    if (row < 0)
        goto out;
    o = &state->map->object[row];
    atomic_store(&o->holder[0], soft_slot_owner(state));
    *word = step_to(claimed, SOFT_SLOT_LIVE);
    if (hold_add(state, dev, row, bytes)) {
        atomic_store(&o->word, *word);
    } else {
        atomic_store(&o->holder[0], 0);
        atomic_store(&o->word, step_to(claimed, SOFT_SLOT_FREE));
        row = -ENOMEM;
    }
out:
    pthread_mutex_unlock(&state->mutex);
    return row;
}

int soft_object_charge(struct soft_state *state, int row, int dev, uint64_t bytes)
{
    bool done;

    pthread_mutex_lock(&state->mutex);
    done = hold_add(state, dev, row, bytes);
    pthread_mutex_unlock(&state->mutex);
    return done ? 0 : -ENOMEM;
}

void soft_object_release(struct soft_state *state, int row, int dev, uint64_t bytes)
{
    pthread_mutex_lock(&state->mutex);
    if (is_ours(state))
        soft_hold_sub(state, dev, ROW(row), bytes);
    pthread_mutex_unlock(&state->mutex);
}

int soft_object_join(struct soft_state *state, int row, uint64_t word)
{
    struct soft_shared_object *o;
    int err = -ENOSPC;

    if (row < 0 || row >= SOFT_MAX_OBJECTS)
        return -ENOENT;
    o = &state->map->object[row];
    pthread_mutex_lock(&state->mutex);
    for (int i = 0; i < SOFT_OBJECT_HOLDERS && err == -ENOSPC; i++) {
        uint64_t nobody = 0, now;

        if (!atomic_compare_exchange_strong(&o->holder[i], &nobody, soft_slot_owner(state)))
            continue;
        /* the cell shows: from here on, whoever retires it sees us, or we see that he has */
        do {
            now = atomic_load(&o->word);
            if (now == step_to(word, SOFT_SLOT_RETIRING))
                retire(state, row);
        } while (now == step_to(word, SOFT_SLOT_RETIRING));
        err = now == word ? 0 : -ENOENT;
        if (err != 0)
            atomic_store(&o->holder[i], 0);
    }
    pthread_mutex_unlock(&state->mutex);
    return err;
}

void soft_object_leave(struct soft_state *state, int row, uint64_t word)
{
    struct soft_shared_object *o = &state->map->object[row];

    pthread_mutex_lock(&state->mutex);
    if (is_ours(state) && (atomic_load(&o->word) | 0xff) == (word | 0xff)) {
        for (int i = 0; i < SOFT_OBJECT_HOLDERS; i++) {
            uint64_t us = soft_slot_owner(state);

            if (atomic_compare_exchange_strong(&o->holder[i], &us, 0))
                break;
        }
        retire(state, row);
    }
    pthread_mutex_unlock(&state->mutex);
}

void soft_objects_drop(struct soft_state *state, uint64_t owner)
{
    uint64_t maker = SOFT_OBJECT_MAKER(SOFT_OBJECT_WORD(0, owner, 0));

    for (int row = 0; row < high(state); row++) {
        struct soft_shared_object *o = &state->map->object[row];
        uint64_t word = atomic_load(&o->word);

        if (SOFT_SLOT_IS(word) == SOFT_SLOT_FREE)
            continue;
        for (int i = 0; i < SOFT_OBJECT_HOLDERS; i++) {
            uint64_t gone = owner;

            atomic_compare_exchange_strong(&o->holder[i], &gone, 0);
        }
        /* died while making it */
        if (SOFT_SLOT_IS(word) == SOFT_SLOT_CLAIMED && SOFT_OBJECT_MAKER(word) == maker)
            atomic_compare_exchange_strong(&o->word, &word, step_to(word, SOFT_SLOT_RETIRING));
        retire(state, row);
    }
}

uint64_t soft_objects_bytes(struct soft_state *state, int dev, uint64_t owner)
{
    uint64_t bytes = 0;

    for (int row = 0; row < high(state); row++) {
        const struct soft_shared_object *o = &state->map->object[row];
        uint64_t first = 0;

        if (SOFT_SLOT_IS(atomic_load(&o->word)) == SOFT_SLOT_FREE)
            continue;
        for (int i = 0; i < SOFT_OBJECT_HOLDERS && first == 0; i++)
            first = atomic_load(&o->holder[i]);
        if (first == owner)
            bytes += soft_hold_bytes(state, dev, ROW(row));
    }
    return bytes;
}
