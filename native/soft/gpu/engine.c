/* SPDX-License-Identifier: Apache-2.0
 *
 * The turn of one context on one engine: admission, owned clock, suspension, ledger. See engine.h.
 */
#include "soft/gpu/engine.h"
#include "soft/gpu/fault.h"
#include "soft/gpu/state_knobs.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define LEDGER_NS 20000000ull /* the ledger of a long command is never older than this */

atomic_bool soft_ending;

int soft_turn_init(struct soft_turn *turn, struct soft_state *state, int dev, int client,
                   enum soft_engine which)
{
    const struct soft_profile *profile = state->profile[dev];
    pthread_condattr_t attr;

    *turn = (struct soft_turn){.state = state,
                               .device = &state->map->dev[dev],
                               .engine = &state->map->dev[dev].engine[which],
                               .dev = dev,
                               .client = client,
                               .which = which,
                               .slice_ns = soft_knobs_slice_ns(state->map, profile),
                               .preempts = which == SOFT_COMPUTE};
    if (which == SOFT_COMPUTE)
        turn->switch_ns = soft_knobs_switch_ns(state->map, profile);
    pthread_mutex_init(&turn->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&turn->changed, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

void soft_turn_destroy(struct soft_turn *turn)
{
    pthread_mutex_destroy(&turn->lock);
    pthread_cond_destroy(&turn->changed);
}

/* O(t) in the present ownership. */
static uint64_t owned_at(const struct soft_turn *turn, uint64_t t)
{
    return turn->owned_before + (t > turn->grant_ns ? t - turn->grant_ns : 0);
}

static uint64_t planned_end(const struct soft_turn *turn, const struct soft_use *use)
{
    if (use->ended)
        return use->end_ns;
    if (!use->has_target)
        return SOFT_NEVER;
    return turn->grant_ns + (use->target - turn->owned_before);
}

/* Writes the time in which something was on the engine, up to `upto`: the union of the commands,
 * not their sum. */
static void account(struct soft_turn *turn, uint64_t upto)
{
    uint64_t from = SOFT_NEVER, to = 0;
    struct soft_shared_slot_dev *ledger = soft_slot_ledger(turn->state, turn->dev);

    for (const struct soft_use *use = turn->active; use != NULL; use = use->next) {
        uint64_t end = planned_end(turn, use);

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
static void settle(struct soft_turn *turn, uint64_t free_ns)
{
    uint64_t owned = owned_at(turn, free_ns);

    for (struct soft_use *use = turn->active; use != NULL; use = use->next)
        if (!use->ended && use->has_target && use->target <= owned) {
            use->end_ns = planned_end(turn, use);
            use->ended = true;
        }
    account(turn, free_ns);
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
    settle(turn, lost);
}

/* Others in this process look again; the driver too. */
static void kick(struct soft_turn *turn)
{
    pthread_cond_broadcast(&turn->changed);
    if (turn->driving)
        soft_engine_ring(turn, turn->client);
}

static uint64_t slice_end(const struct soft_turn *turn)
{
    uint64_t end = turn->slice_from_ns + turn->slice_ns;

    return end > turn->contended_ns ? end : turn->contended_ns;
}

/* Looks whether the slice is over and hands the engine on if nothing executes. */
static void look(struct soft_turn *turn, uint64_t now)
{
    bool ran = false;

    if (!turn->owned || !turn->busy)
        return;
    if (!soft_engine_mine(turn)) {
        lose(turn);
        kick(turn);
        return;
    }
    if (!turn->preempts)
        return;
    if (!soft_engine_wanted(turn)) {
        turn->contended_ns = 0;
        if (turn->parking) {
            turn->parking = false;
            kick(turn);
        }
        return;
    }
    if (turn->contended_ns == 0)
        turn->contended_ns = now;
    if (now < slice_end(turn))
        return;
    ran = turn->parking; /* waited for executing threads: they ran until now */
    turn->parking = true;
    if (turn->executing == 0) {
        uint64_t free_ns = ran ? now : slice_end(turn);

        if (free_ns < turn->last_ns)
            free_ns = turn->last_ns;
        if (soft_engine_hand_over(turn, free_ns)) {
            settle(turn, free_ns);
        } else {
            turn->parking = false;
            turn->contended_ns = 0;
        }
        kick(turn);
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
    kick(turn);
}

/* One step of waiting, at most until `until_ns`: one thread does it for all. */
static void drive(struct soft_turn *turn, uint64_t until_ns)
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

        look(turn, now);
        if (turn->owned) {
            if (turn->active != NULL) {
                account(turn, now);
                until_ns = min_ns(until_ns, now + LEDGER_NS);
            }
            if (turn->contended_ns != 0 && !turn->parking)
                until_ns = min_ns(until_ns, slice_end(turn));
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
static bool hold(struct soft_turn *turn, bool *fresh)
{
    if (!turn->owned)
        return false;
    if (!turn->busy) {
        if (!soft_engine_resume(turn)) {
            settle(turn, turn->last_ns > turn->grant_ns ? turn->last_ns : turn->grant_ns);
            kick(turn); /* whoever drives sleeps, thinking it ours: it is to be got again */
            return false;
        }
        turn->busy = true;
        turn->contended_ns = 0;
        *fresh = true;
    }
    look(turn, soft_now_ns());
    return turn->owned && !turn->parking;
}

static void run_on(struct soft_turn *turn, struct soft_use *use)
{
    if (use->threads++ == 0)
        use->segment_ns = soft_now_ns();
    turn->executing++;
}

static void run_off(struct soft_turn *turn, struct soft_use *use)
{
    turn->executing--;
    if (--use->threads == 0) {
        uint64_t now = soft_now_ns();

        use->exec_ns += now > use->segment_ns ? now - use->segment_ns : 0;
    }
}

/* The last to stop executing hands the engine on, if that is what all stop for. */
static void parked(struct soft_turn *turn)
{
    if (turn->executing == 0 && turn->parking)
        look(turn, soft_now_ns());
}

/* Nobody that has been admitted is moved; a lower number only goes before those that wait. */
static void queue_up(struct soft_turn *turn, struct soft_waiter *me)
{
    struct soft_waiter **at = &turn->waiting;

    while (*at != NULL && (*at)->priority <= me->priority)
        at = &(*at)->next;
    me->next = *at;
    *at = me;
    me->queued = true;
}

static void leave_queue(struct soft_turn *turn, struct soft_waiter *me)
{
    if (!me->queued)
        return;
    for (struct soft_waiter **at = &turn->waiting; *at != NULL; at = &(*at)->next)
        if (*at == me) {
            *at = me->next;
            break;
        }
    me->queued = false;
}

uint64_t soft_turn_begin(struct soft_turn *turn, struct soft_use *use, uint64_t ready_ns,
                         uint32_t sm_ppm, int priority, struct soft_waiter *me, bool held)
{
    bool fresh = false;

    if (sm_ppm == 0 || sm_ppm > SOFT_ALL_SMS || !turn->preempts)
        sm_ppm = SOFT_ALL_SMS;
    *use = (struct soft_use){.turn = turn, .sm_ppm = sm_ppm};
    pthread_mutex_lock(&turn->lock);
    if (me->queued && me->priority != priority)
        leave_queue(turn, me);
    me->priority = priority;
    if (!me->queued)
        queue_up(turn, me);
    while (turn->waiting != me ||
           (turn->resident_ppm > 0 && turn->resident_ppm + sm_ppm > SOFT_ALL_SMS)) {
        drive(turn, SOFT_NEVER);
        if (turn->waiting == me && ready_ns < turn->room_ns)
            ready_ns = turn->room_ns;
    }
    turn->resident_ppm += sm_ppm;
    leave_queue(turn, me);
    if (!held)
        turn->admitted++;
    while (!hold(turn, &fresh))
        drive(turn, SOFT_NEVER);
    if (ready_ns < turn->grant_ns)
        ready_ns = turn->grant_ns;
    if (fresh) {
        turn->slice_from_ns = ready_ns;
        atomic_store(&turn->engine->slice_ns, ready_ns);
    }
    use->start_ns = ready_ns;
    use->start_owned = owned_at(turn, ready_ns);
    if (turn->last_ns < ready_ns)
        turn->last_ns = ready_ns;
    use->next = turn->active;
    turn->active = use;
    run_on(turn, use);
    kick(turn);
    pthread_mutex_unlock(&turn->lock);
    return use->start_ns;
}

static void drop_hold(struct soft_turn *turn)
{
    if (--turn->admitted > 0 || !turn->owned || !turn->busy)
        return;
    if (turn->preempts && turn->waiting != NULL)
        return; /* somebody of ours only waits for room: he goes on with the slice */
    if (soft_engine_wanted(turn) && soft_engine_hand_over(turn, turn->last_ns))
        settle(turn, turn->last_ns > turn->grant_ns ? turn->last_ns : turn->grant_ns);
    else
        soft_engine_idle(turn, turn->last_ns);
}

uint64_t soft_turn_finish(struct soft_turn *turn, struct soft_use *use, uint64_t modelled_ns,
                          struct soft_waiter *next)
{
    struct soft_shared_slot_dev *ledger = soft_slot_ledger(turn->state, turn->dev);
    uint64_t end_ns;

    pthread_mutex_lock(&turn->lock);
    if (use->threads > 0) /* not while it only waited for helpers */
        run_off(turn, use);
    use->target = use->start_owned + (modelled_ns > use->exec_ns ? modelled_ns : use->exec_ns);
    use->has_target = true;
    parked(turn);
    if (!turn->owned && !use->ended && use->target <= turn->owned_before) {
        /* helpers had ended it when the slice did */
        use->end_ns = turn->settled_ns - (turn->owned_before - use->target);
        use->ended = true;
    }
    if (!atomic_load(&soft_ending)) {
        atomic_fetch_add_explicit(&ledger->modelled_ns, modelled_ns, memory_order_relaxed);
        if (use->exec_ns > modelled_ns)
            atomic_fetch_add_explicit(&ledger->overrun_ns, use->exec_ns - modelled_ns,
                                      memory_order_relaxed);
    }
    while (!use->ended) {
        uint64_t end = turn->owned ? planned_end(turn, use) : SOFT_NEVER;

        if (turn->owned && use->target < turn->owned_before)
            end = turn->grant_ns;
        if (soft_fault_killed(turn->state, turn->dev, turn->client) != 0) {
            use->end_ns = soft_now_ns(); /* the device ended it */
            use->ended = true;
            break;
        }
        if (end != SOFT_NEVER && soft_now_ns() >= end && soft_engine_mine(turn)) {
            use->end_ns = end;
            use->ended = true;
            break;
        }
        drive(turn, end);
    }
    end_ns = use->end_ns;
    account(turn, turn->owned ? end_ns : turn->mark_ns);
    for (struct soft_use **at = &turn->active; *at != NULL; at = &(*at)->next)
        if (*at == use) {
            *at = use->next;
            break;
        }
    if (turn->last_ns < end_ns)
        turn->last_ns = end_ns;
    if (turn->room_ns < end_ns)
        turn->room_ns = end_ns;
    turn->resident_ppm -= use->sm_ppm;
    if (next == NULL)
        drop_hold(turn);
    else
        queue_up(turn, next);
    kick(turn);
    pthread_mutex_unlock(&turn->lock);
    return end_ns;
}

void soft_turn_let_go(struct soft_turn *turn, struct soft_waiter *me)
{
    pthread_mutex_lock(&turn->lock);
    leave_queue(turn, me);
    drop_hold(turn);
    kick(turn);
    pthread_mutex_unlock(&turn->lock);
}

void soft_turn_enter(struct soft_use *use)
{
    struct soft_turn *turn = use->turn;

    pthread_mutex_lock(&turn->lock);
    while (!turn->owned || turn->parking)
        drive(turn, SOFT_NEVER);
    run_on(turn, use);
    kick(turn);
    pthread_mutex_unlock(&turn->lock);
}

void soft_turn_leave(struct soft_use *use)
{
    struct soft_turn *turn = use->turn;

    pthread_mutex_lock(&turn->lock);
    run_off(turn, use);
    parked(turn);
    kick(turn);
    pthread_mutex_unlock(&turn->lock);
}

int soft_turn_poll(struct soft_use *use)
{
    struct soft_turn *turn = use->turn;
    soft_u32 *bell = &turn->device->client[turn->client].at[turn->which].bell;
    uint64_t now = soft_now_ns();
    int gone;

    if (now < atomic_load_explicit(&turn->poll_ns, memory_order_relaxed) &&
        atomic_load_explicit(bell, memory_order_relaxed) ==
            atomic_load_explicit(&turn->bell_seen, memory_order_relaxed))
        return atomic_load_explicit(&turn->abandoned, memory_order_relaxed);
    pthread_mutex_lock(&turn->lock);
    atomic_store(&turn->bell_seen, atomic_load(bell));
    look(turn, now);
    if (turn->owned)
        account(turn, now);
    if (!turn->owned || turn->parking) {
        run_off(turn, use);
        parked(turn);
        while (!turn->owned || turn->parking)
            drive(turn, SOFT_NEVER);
        run_on(turn, use);
        kick(turn);
        now = soft_now_ns();
    }
    atomic_store(&turn->poll_ns, turn->contended_ns != 0 ? slice_end(turn) : now + LEDGER_NS);
    if (soft_fault_killed(turn->state, turn->dev, turn->client) != 0)
        atomic_store(&turn->abandoned, true);
    gone = atomic_load(&turn->abandoned);
    pthread_mutex_unlock(&turn->lock);
    return gone;
}
