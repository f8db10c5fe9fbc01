/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks that wait in loops, maybe for one that has not begun: threads of their own begin others.
 *
 * Blocks that take turns (locks) end one after the other, and are left to that: as long as one ends
 * now and then, or one of those under way is not waiting, nobody is added. Each thread more only
 * takes the processor from the one that the others wait for.
 */
#include <stdlib.h>

#include "soft/gpu/context.h"
#include "soft/gpu/launch.h"

#define STILL_NS   2000000u /* no block has ended for so long: are all waiting? */
#define TRIES_MOST 100u     /* to begin another, when all wait and there is no memory for it */

/* The look that counts a thread: its own, by a key (thread.c). */
static pthread_key_t seen_key;
static pthread_once_t seen_once = PTHREAD_ONCE_INIT;

static void make_seen_key(void)
{
    pthread_key_create(&seen_key, NULL);
}

/* Begins to count who waits, from now + STILL_NS on. With the lock. */
static void look_again(struct soft_spin *spin)
{
    static _Atomic uint64_t looks; /* told apart over all launches */
    spin->look = ++looks;
    spin->waiting = 0;
    spin->look_ns = soft_now_ns() + STILL_NS;
}

void soft_spin_init(struct soft_spin *spin, void *(*body)(void *arg), void *arg)
{
    *spin = (struct soft_spin){.body = body, .arg = arg, .lock = PTHREAD_MUTEX_INITIALIZER};
    look_again(spin);
}

void soft_spin_enter(struct soft_spin *spin)
{
    pthread_mutex_lock(&spin->lock);
    spin->at_work++;
    pthread_mutex_unlock(&spin->lock);
}

void soft_spin_leave(struct soft_spin *spin)
{
    pthread_mutex_lock(&spin->lock);
    spin->at_work--;
    pthread_mutex_unlock(&spin->lock);
}

void soft_spin_starved(struct soft_spin *spin)
{
    pthread_mutex_lock(&spin->lock);
    spin->starved = true;
    pthread_mutex_unlock(&spin->lock);
}

bool soft_spin_due(struct soft_spin *spin)
{
    return soft_now_ns() >= atomic_load_explicit(&spin->look_ns, memory_order_relaxed);
}

/* With the lock. */
static bool begin_one(struct soft_spin *spin)
{
    unsigned count = spin->more_count;
    if (count == spin->more_room) {
        unsigned room = spin->more_room * 2 + 8;
        pthread_t *wider = realloc(spin->more, room * sizeof *wider);
        if (wider == NULL)
            return false;
        spin->more = wider;
        spin->more_room = room;
    }
    if (soft_pool_thread(&spin->more[count], spin->body, spin->arg) != 0)
        return false;
    spin->at_work++;
    spin->more_count = count + 1;
    return true;
}

/* As many again as are at work, or one where there was no memory for another. With the lock. */
static void begin_more(struct soft_spin *spin, uint64_t left, uint64_t most)
{
    uint64_t count = spin->at_work < most ? most - spin->at_work : 0;
    count = count < spin->at_work ? count : spin->at_work;
    count = count < left ? count : left;
    count = count > 1 && spin->starved ? 1 : count;
    spin->tries = spin->starved ? spin->tries + 1 : 0;
    spin->starved = false;
    for (; count > 0 && !spin->starved; count--)
        spin->starved = !begin_one(spin);
}

bool soft_spin_look(struct soft_spin *spin, uint64_t ended, uint64_t left, uint64_t most)
{
    pthread_once(&seen_once, make_seen_key);
    pthread_mutex_lock(&spin->lock);
    if (!soft_spin_due(spin)) {
        /* another has looked meanwhile */
    } else if (ended != spin->ended) {
        spin->ended = ended;
        spin->starved = false;
        spin->tries = 0;
        look_again(spin);
    } else {
        spin->waiting += (uintptr_t)pthread_getspecific(seen_key) != spin->look;
        pthread_setspecific(seen_key, (void *)(uintptr_t)spin->look);
        if (spin->waiting >= spin->at_work) {
            begin_more(spin, left, most);
            look_again(spin);
        }
    }
    bool goes_on = spin->tries < TRIES_MOST;
    pthread_mutex_unlock(&spin->lock);
    return goes_on;
}

void soft_spin_join(struct soft_spin *spin)
{
    for (unsigned i = 0;; i++) {
        pthread_mutex_lock(&spin->lock);
        bool any = i < spin->more_count;
        pthread_t thread = any ? spin->more[i] : pthread_self();
        pthread_mutex_unlock(&spin->lock);
        if (!any)
            break;
        pthread_join(thread, NULL);
    }
    free(spin->more);
    pthread_mutex_destroy(&spin->lock);
}
