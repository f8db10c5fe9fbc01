/* SPDX-License-Identifier: Apache-2.0
 *
 * The barrier of all blocks of a cooperative launch. Each block runs on a thread of its own and
 * sleeps here: a thread that span would take the processor from those that are waited for.
 */
#include <errno.h>
#include <time.h>

#include "soft/gpu/context.h"
#include "soft/gpu/launch.h"

#define LOOK_NS 20000000 /* between two looks at whether the launch was given up */

void soft_grid_init(struct soft_grid *grid, uint64_t blocks)
{
    pthread_condattr_t monotonic;
    *grid = (struct soft_grid){.blocks = blocks};
    pthread_mutex_init(&grid->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&grid->passed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void soft_grid_destroy(struct soft_grid *grid)
{
    pthread_cond_destroy(&grid->passed);
    pthread_mutex_destroy(&grid->lock);
}

/* Have blocks ended that those here wait for? Hardware would hang. With the lock. */
static void look(struct soft_grid *grid)
{
    if (grid->ended > 0 && grid->arrived > 0 && grid->arrived + grid->ended >= grid->blocks) {
        grid->stuck = true;
        pthread_cond_broadcast(&grid->passed);
    }
}

void soft_grid_block_ended(struct soft_grid *grid)
{
    pthread_mutex_lock(&grid->lock);
    grid->ended++;
    look(grid);
    pthread_mutex_unlock(&grid->lock);
}

static bool given_up(struct soft_run *run)
{
    return atomic_load_explicit(&run->stop, memory_order_relaxed) != 0 ||
           atomic_load_explicit(&run->use->turn->abandoned, memory_order_relaxed);
}

void soft_grid_wake(struct soft_grid *grid)
{
    pthread_mutex_lock(&grid->lock);
    pthread_cond_broadcast(&grid->passed);
    pthread_mutex_unlock(&grid->lock);
}

/* With the lock, which is open while it sleeps. One for all looks whether the launch was given up:
 * thousands of sleepers with a clock each would keep the processors from what they wait for. */
static enum ptx_stop sleep_until_passed(struct soft_grid *grid, struct soft_run *run, bool looks)
{
    uint64_t round = grid->round;
    while (grid->round == round && !grid->stuck && !given_up(run)) {
        struct timespec until;
        if (!looks) {
            pthread_cond_wait(&grid->passed, &grid->lock);
            continue;
        }
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&grid->passed, &grid->lock, &until);
    }
    if (grid->round != round)
        return PTX_STOP_DONE;
    if (looks)
        pthread_cond_broadcast(&grid->passed);
    return grid->stuck ? PTX_STOP_TRAP : PTX_STOP_ABANDONED;
}

enum ptx_stop soft_grid_sync(const struct ptx_launch *launch)
{
    struct soft_run *run = launch->host_data;
    struct soft_grid *grid = run->user;

    if (soft_run_poll(run) != 0)
        return PTX_STOP_ABANDONED;
    pthread_mutex_lock(&grid->lock);
    bool first = ++grid->arrived == 1; /* of this round */
    if (grid->arrived == grid->blocks) {
        grid->arrived = 0;
        grid->round++;
        pthread_cond_broadcast(&grid->passed);
        pthread_mutex_unlock(&grid->lock);
        return PTX_STOP_DONE;
    }
    look(grid);
    /* A thread that waits executes nothing: the engine can be handed on meanwhile. */
    soft_run_leave(run);
    enum ptx_stop stop = sleep_until_passed(grid, run, first);
    pthread_mutex_unlock(&grid->lock);
    soft_run_enter(run);
    return stop;
}
