/* SPDX-License-Identifier: Apache-2.0
 *
 * A turn's hold on its engine: the owned clock, the ledger, the slice and its end, and the one
 * thread that waits for the engine on behalf of all. All with the turn's lock held.
 */
#include "soft/gpu/engine.h"

#include <time.h>
#include <unistd.h>

/* O(t) in the present ownership. */
uint64_t soft_owned_at(const struct soft_turn *turn, uint64_t t)
{
    return turn->owned_before + (t > turn->grant_ns ? t - turn->grant_ns : 0);
}

uint64_t soft_planned_end(const struct soft_turn *turn, const struct soft_use *use)
{
    if (use->ended)
        return use->end_ns;
    if (!use->has_target)
        return SOFT_NEVER;
    return turn->grant_ns + (use->target - turn->owned_before);
}

/* Writes the time in which something was on the engine, up to `upto`: the union of the commands,
 * not their sum. */
void soft_turn_account(struct soft_turn *turn, uint64_t upto)
{
    uint64_t from = SOFT_NEVER, to = 0;
    struct soft_shared_slot_dev *ledger = soft_slot_ledger(turn->state, turn->dev);

    for (const struct soft_use *use = turn->active; use != NULL; use = use->next) {
        uint64_t end = soft_planned_end(turn, use);

        if (use->start_ns < from)
            from = use->start_ns;
        if (end > to)
            to = end;
    }
    if (to > upto)
        to = upto;
    if (from < turn->mark_ns)
        from = turn->mark_ns;
    if (from < turn->grant_ns)
        from = turn->grant_ns;
    if (turn->active == NULL || to <= from || atomic_load(&soft_ending))
        return;
    atomic_fetch_add_explicit(&ledger->busy_ns[turn->which], to - from, memory_order_relaxed);
    soft_busy_add(turn->state, turn->dev, turn->which, from, to);
    turn->mark_ns = to;
}

/* The ownership ends at `free_ns`: what was over by then is over, the rest waits. */
void soft_turn_settle(struct soft_turn *turn, uint64_t free_ns)
{
    uint64_t owned = soft_owned_at(turn, free_ns);

    for (struct soft_use *use = turn->active; use != NULL; use = use->next)
        if (!use->ended && use->has_target && use->target <= owned) {
            use->end_ns = soft_planned_end(turn, use);
            use->ended = true;
        }
    soft_turn_account(turn, free_ns);
    turn->settled_ns = free_ns;
    turn->owned_before = owned;
    turn->owned = turn->busy = turn->parking = false;
    turn->contended_ns = 0;
}

/* It was taken from us, while this process stood stopped. */
static void lose(struct soft_turn *turn)
{
    uint64_t now = soft_now_ns();
    uint64_t lost = atomic_load(&turn->device->client[turn->client].at[turn->which].lost_ns);

    if (lost < turn->grant_ns || lost > now)
        lost = now;
    for (struct soft_use *use = turn->active; use != NULL; use = use->next)
        if (use->threads > 0) {
            use->exec_ns += lost > use->segment_ns ? lost - use->segment_ns : 0;
            use->segment_ns = now;
        }
    soft_turn_settle(turn, lost);
}

/* Others in this process look again; the driver too. */
void soft_turn_kick(struct soft_turn *turn)
{
    pthread_cond_broadcast(&turn->changed);
    if (turn->driving)
        soft_engine_ring(turn, turn->client);
}

uint64_t soft_slice_end(const struct soft_turn *turn)
{
    uint64_t end = turn->slice_from_ns + turn->slice_ns;

    return end > turn->contended_ns ? end : turn->contended_ns;
}

/* Looks whether the slice is over and hands the engine on if nothing executes. */
void soft_turn_look(struct soft_turn *turn, uint64_t now)
{
    bool ran = false;

    if (!turn->owned || !turn->busy)
        return;
    if (!soft_engine_mine(turn)) {
        lose(turn);
        soft_turn_kick(turn);
        return;
    }
    if (!turn->preempts)
        return;
    if (!soft_engine_wanted(turn)) {
        turn->contended_ns = 0;
        if (turn->parking) {
            turn->parking = false;
            soft_turn_kick(turn);
        }
        return;
    }
    if (turn->contended_ns == 0)
        turn->contended_ns = now;
    if (now < soft_slice_end(turn))
        return;
    ran = turn->parking; /* waited for executing threads: they ran until now */
    turn->parking = true;
    if (turn->executing == 0) {
        uint64_t free_ns = ran ? now : soft_slice_end(turn);

        if (free_ns < turn->last_ns)
            free_ns = turn->last_ns;
        if (soft_engine_hand_over(turn, free_ns)) {
            soft_turn_settle(turn, free_ns);
        } else {
            turn->parking = false;
            turn->contended_ns = 0;
        }
        soft_turn_kick(turn);
    }
}

static uint64_t min_ns(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void got_it(struct soft_turn *turn)
{
    turn->owned = turn->busy = true;
    turn->parking = false;
    turn->contended_ns = 0;
    turn->slice_from_ns = turn->grant_ns;
    if (turn->mark_ns < turn->grant_ns)
        turn->mark_ns = turn->grant_ns;
    atomic_store(&turn->poll_ns, 0);
    soft_turn_kick(turn);
}

/* One step of waiting, at most until `until_ns`: one thread does it for all. */
void soft_turn_drive(struct soft_turn *turn, uint64_t until_ns)
{
    if (turn->driving) {
        struct timespec t = {(time_t)(until_ns / 1000000000ull), (long)(until_ns % 1000000000ull)};

        if (until_ns == SOFT_NEVER)
            pthread_cond_wait(&turn->changed, &turn->lock);
        else
            pthread_cond_timedwait(&turn->changed, &turn->lock, &t);
        return;
    }
    turn->driving = true;
    if (!turn->owned) {
        if (atomic_load(&soft_ending)) { /* nothing is started any more: wait for the exit */
            pthread_mutex_unlock(&turn->lock);
            usleep(100000);
            pthread_mutex_lock(&turn->lock);
        } else if (soft_engine_acquire(turn, until_ns)) {
            got_it(turn);
        }
    } else {
        soft_u32 *bell = &turn->device->client[turn->client].at[turn->which].bell;
        uint32_t seen = atomic_load(bell);
        uint64_t now = soft_now_ns();

        soft_turn_look(turn, now);
        if (turn->owned) {
            if (turn->active != NULL) {
                soft_turn_account(turn, now);
                until_ns = min_ns(until_ns, now + SOFT_LEDGER_NS);
            }
            if (turn->contended_ns != 0 && !turn->parking)
                until_ns = min_ns(until_ns, soft_slice_end(turn));
            if (until_ns > now) {
                pthread_mutex_unlock(&turn->lock);
                soft_futex_wait(bell, seen, until_ns);
                pthread_mutex_lock(&turn->lock);
            }
        }
    }
    turn->driving = false;
}

/* Owned, and work may start: not when the slice is over. */
bool soft_turn_hold(struct soft_turn *turn, bool *fresh)
{
    if (!turn->owned)
        return false;
    if (!turn->busy) {
        if (!soft_engine_resume(turn)) {
            soft_turn_settle(turn, turn->last_ns > turn->grant_ns ? turn->last_ns : turn->grant_ns);
            soft_turn_kick(
                turn); /* whoever drives sleeps, thinking it ours: it is to be got again */
            return false;
        }
        turn->busy = true;
        turn->contended_ns = 0;
        *fresh = true;
    }
    soft_turn_look(turn, soft_now_ns());
    return turn->owned && !turn->parking;
}
