/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory that several processes hold. As everywhere in the state there is no lock: a row
 * says in one word which use of it this is and how far it has come, its holders are cells of one
 * word each, and whoever finds the last holder gone gives the bytes back. Each step may be done by
 * several, or by another than began it.
 *
 *   FREE -> CLAIMED (by the maker in the word) -> LIVE -> RETIRING -> DRAINING -> FREE
 *                                                  ^________|  somebody joined at the last moment
 *
 * Who joins shows in a cell first and reads the word then; who ends a use takes it from LIVE first
 * and looks at the cells then: one of them sees the other. Bytes go only from DRAINING, which
 * nobody can join. Each RETIRING has a number of its own: whoever looked at the cells in an earlier
 * one, and slept, cannot take this one further.
 */
#include "soft/gpu/shared.h"

#include <errno.h>

#define ROW(row) (SOFT_MAX_SLOTS + (row))

static uint64_t step_to(uint64_t word, uint32_t is)
{
    return (word & ~0xffull) | is;
}

static uint64_t retiring(uint64_t word) /* the next attempt */
{
    uint64_t attempt = ((word >> 8) + 1) & 0xffff;

    return (word & ~0xffffffull) | attempt << 8 | SOFT_SLOT_RETIRING;
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
    uint64_t word = atomic_load(&o->word), next;

    if (SOFT_SLOT_IS(word) == SOFT_SLOT_LIVE) {
        next = retiring(word);
        if (held(o) || !atomic_compare_exchange_strong(&o->word, &word, next))
            return;
        word = next;
    }
    if (SOFT_SLOT_IS(word) == SOFT_SLOT_RETIRING) {
        next = step_to(word, held(o) ? SOFT_SLOT_LIVE : SOFT_SLOT_DRAINING);
        if (!atomic_compare_exchange_strong(&o->word, &word, next))
            return; /* another saw to it, and goes on */
        word = next;
    }
    if (SOFT_SLOT_IS(word) != SOFT_SLOT_DRAINING)
        return;
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
    uint64_t maker = SOFT_OBJECT_MAKER_OF(soft_slot_owner(state));

    for (int row = 0; row < SOFT_MAX_OBJECTS; row++) {
        struct soft_shared_object *o = &state->map->object[row];
        uint64_t was = atomic_load(&o->word);
        uint32_t rows = atomic_load(&state->map->object_high);

        if (SOFT_SLOT_IS(was) != SOFT_SLOT_FREE)
            continue;
        /* first of all: whoever looks for dead claims looks below it */
        while (rows <= (uint32_t)row &&
               !atomic_compare_exchange_weak(&state->map->object_high, &rows, (uint32_t)row + 1)) {
        }
        *word = SOFT_OBJECT_WORD((SOFT_OBJECT_USE(was) + 1u) & 0xffffu, maker, SOFT_SLOT_CLAIMED);
        if (atomic_compare_exchange_strong(&o->word, &was, *word))
            return row;
    }
    return -ENOSPC;
}

/* A cell for us; -1: all are taken. Some may be of a process that comes to a use long gone. */
static int cell_take(struct soft_state *state, struct soft_shared_object *o)
{
    for (int i = 0; i < SOFT_OBJECT_HOLDERS; i++) {
        uint64_t nobody = 0;

        if (atomic_compare_exchange_strong(&o->holder[i], &nobody, soft_slot_owner(state)))
            return i;
    }
    return -1;
}

/* Gives back one of ours; only ours: taken for dead, it may be another's by now. */
static void cell_give(struct soft_state *state, struct soft_shared_object *o, int from)
{
    for (int i = from; i < SOFT_OBJECT_HOLDERS; i++) {
        uint64_t us = soft_slot_owner(state);

        if (atomic_compare_exchange_strong(&o->holder[i], &us, 0))
            return;
    }
}

int soft_object_make(struct soft_state *state, int dev, uint64_t bytes, uint64_t *word)
{
    struct soft_shared_object *o;
    uint64_t claimed = 0;
    int row = -ENOMEM, cell, err;

    pthread_mutex_lock(&state->mutex);
    if (!soft_slot_is_ours(state))
        goto out;
    row = claim(state, &claimed);
    if (row == -ENOSPC) { /* full: perhaps of the dead */
        soft_slots_reap(state);
        row = claim(state, &claimed);
    }
    if (row < 0)
        goto out;
    o = &state->map->object[row];
    cell = cell_take(state, o);
    err = cell < 0 ? -ENOSPC : soft_slot_hold(state, dev, ROW(row), bytes) ? 0 : -ENOMEM;
    *word = step_to(claimed, SOFT_SLOT_LIVE);
    /* fails when we were taken for dead meanwhile, and it with us */
    if (err == 0 && atomic_compare_exchange_strong(&o->word, &claimed, *word))
        goto out;
    if (cell >= 0)
        cell_give(state, o, cell);
    atomic_compare_exchange_strong(&o->word, &claimed, step_to(claimed, SOFT_SLOT_FREE));
    row = err != 0 ? err : -ENOMEM;
out:
    pthread_mutex_unlock(&state->mutex);
    return row;
}

int soft_object_charge(struct soft_state *state, int row, int dev, uint64_t bytes)
{
    bool done;

    pthread_mutex_lock(&state->mutex);
    done = soft_slot_is_ours(state) && soft_slot_hold(state, dev, ROW(row), bytes);
    pthread_mutex_unlock(&state->mutex);
    return done ? 0 : -ENOMEM;
}

void soft_object_release(struct soft_state *state, int row, int dev, uint64_t bytes)
{
    pthread_mutex_lock(&state->mutex);
    if (soft_slot_is_ours(state))
        soft_hold_sub(state, dev, ROW(row), bytes);
    pthread_mutex_unlock(&state->mutex);
}

static int join(struct soft_state *state, int row, uint64_t word)
{
    struct soft_shared_object *o = &state->map->object[row];
    int cell = cell_take(state, o);
    uint64_t now;

    if (cell < 0)
        return -ENOSPC;
    /* the cell shows: from here on, whoever ends this use sees us, or we see that he has */
    for (;;) {
        now = atomic_load(&o->word);
        if (!SOFT_OBJECT_SAME(now, word) || SOFT_SLOT_IS(now) != SOFT_SLOT_RETIRING)
            break;
        retire(state, row);
    }
    if (SOFT_OBJECT_SAME(now, word) && SOFT_SLOT_IS(now) == SOFT_SLOT_LIVE)
        return 0;
    cell_give(state, o, cell);
    retire(state, row); /* our cell may have kept the next use of the row from ending */
    return -ENOENT;
}

int soft_object_join(struct soft_state *state, int row, uint64_t word)
{
    int err = -ENOENT;

    if (row < 0 || row >= SOFT_MAX_OBJECTS)
        return err;
    pthread_mutex_lock(&state->mutex);
    if (soft_slot_is_ours(state)) {
        err = join(state, row, word);
        if (err == -ENOSPC) { /* full: perhaps of the dead */
            soft_slots_reap(state);
            err = join(state, row, word);
        }
    }
    pthread_mutex_unlock(&state->mutex);
    return err;
}

void soft_object_leave(struct soft_state *state, int row, uint64_t word)
{
    struct soft_shared_object *o = &state->map->object[row];

    pthread_mutex_lock(&state->mutex);
    if (soft_slot_is_ours(state) && SOFT_OBJECT_SAME(atomic_load(&o->word), word)) {
        cell_give(state, o, 0);
        retire(state, row);
    }
    pthread_mutex_unlock(&state->mutex);
}

void soft_objects_drop(struct soft_state *state, uint64_t owner)
{
    for (int row = 0; row < high(state); row++) {
        struct soft_shared_object *o = &state->map->object[row];
        uint64_t word = atomic_load(&o->word);

        for (int i = 0; i < SOFT_OBJECT_HOLDERS; i++) {
            uint64_t gone = owner;

            atomic_compare_exchange_strong(&o->holder[i], &gone, 0);
        }
        /* died while making it */
        if (SOFT_SLOT_IS(word) == SOFT_SLOT_CLAIMED &&
            SOFT_OBJECT_MAKER(word) == SOFT_OBJECT_MAKER_OF(owner))
            atomic_compare_exchange_strong(&o->word, &word, retiring(word));
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
