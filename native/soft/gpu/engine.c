/* SPDX-License-Identifier: Apache-2.0
 *
 * The turn of one context on one engine: admission, and a command from its start to its end. See
 * engine.h; engine_slice.c has what holds the engine.
 */
#include "soft/gpu/checkpoint.h"
#include "soft/gpu/fault.h"
#include "soft/gpu/state_knobs.h"

#include <time.h>
#include <unistd.h>

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

void soft_turn_leave_device(struct soft_turn *turn)
{
    pthread_mutex_lock(&turn->lock);
    while (turn->admitted > 0 || turn->driving) { /* a stream is just letting go */
        pthread_mutex_unlock(&turn->lock);
        usleep(200);
        pthread_mutex_lock(&turn->lock);
    }
    if (turn->owned)
        soft_turn_settle(turn, turn->last_ns > turn->grant_ns ? turn->last_ns : turn->grant_ns);
    pthread_mutex_unlock(&turn->lock);
}

void soft_turn_enter_device(struct soft_turn *turn, int dev, int client)
{
    pthread_mutex_lock(&turn->lock);
    turn->dev = dev;
    turn->device = &turn->state->map->dev[dev];
    turn->engine = &turn->device->engine[turn->which];
    turn->client = client;
    turn->epoch = 0;
    pthread_mutex_unlock(&turn->lock);
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
        soft_turn_look(turn, soft_now_ns());
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
        soft_turn_drive(turn, SOFT_NEVER);
        if (turn->waiting == me && ready_ns < turn->room_ns)
            ready_ns = turn->room_ns;
    }
    turn->resident_ppm += sm_ppm;
    leave_queue(turn, me);
    if (!held)
        turn->admitted++;
    while (!soft_turn_hold(turn, &fresh))
        soft_turn_drive(turn, SOFT_NEVER);
    if (ready_ns < turn->grant_ns)
        ready_ns = turn->grant_ns;
    if (fresh) {
        turn->slice_from_ns = ready_ns;
        atomic_store(&turn->engine->slice_ns, ready_ns);
    }
    use->start_ns = ready_ns;
    use->start_owned = soft_owned_at(turn, ready_ns);
    if (turn->last_ns < ready_ns)
        turn->last_ns = ready_ns;
    use->next = turn->active;
    turn->active = use;
    run_on(turn, use);
    soft_turn_kick(turn);
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
        soft_turn_settle(turn, turn->last_ns > turn->grant_ns ? turn->last_ns : turn->grant_ns);
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
        uint64_t end = turn->owned ? soft_planned_end(turn, use) : SOFT_NEVER;

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
        soft_turn_drive(turn, end);
    }
    end_ns = use->end_ns;
    soft_turn_account(turn, turn->owned ? end_ns : turn->mark_ns);
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
    soft_turn_kick(turn);
    pthread_mutex_unlock(&turn->lock);
    return end_ns;
}

void soft_turn_let_go(struct soft_turn *turn, struct soft_waiter *me)
{
    pthread_mutex_lock(&turn->lock);
    leave_queue(turn, me);
    drop_hold(turn);
    soft_turn_kick(turn);
    pthread_mutex_unlock(&turn->lock);
}

void soft_turn_enter(struct soft_use *use)
{
    struct soft_turn *turn = use->turn;

    pthread_mutex_lock(&turn->lock);
    while (!turn->owned || turn->parking)
        soft_turn_drive(turn, SOFT_NEVER);
    run_on(turn, use);
    soft_turn_kick(turn);
    pthread_mutex_unlock(&turn->lock);
}

void soft_turn_leave(struct soft_use *use)
{
    struct soft_turn *turn = use->turn;

    pthread_mutex_lock(&turn->lock);
    run_off(turn, use);
    parked(turn);
    soft_turn_kick(turn);
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
    soft_turn_look(turn, now);
    if (turn->owned)
        soft_turn_account(turn, now);
    if (!turn->owned || turn->parking) {
        run_off(turn, use);
        parked(turn);
        while (!turn->owned || turn->parking)
            soft_turn_drive(turn, SOFT_NEVER);
        run_on(turn, use);
        soft_turn_kick(turn);
        now = soft_now_ns();
    }
    atomic_store(&turn->poll_ns,
                 turn->contended_ns != 0 ? soft_slice_end(turn) : now + SOFT_LEDGER_NS);
    if (soft_fault_killed(turn->state, turn->dev, turn->client) != 0)
        atomic_store(&turn->abandoned, true);
    gone = atomic_load(&turn->abandoned);
    pthread_mutex_unlock(&turn->lock);
    return gone;
}
