/* SPDX-License-Identifier: Apache-2.0
 *
 * Events of the machine, in a ring that all processes share, without a lock.
 *
 * A writer takes a ticket, which gives it a record of its own to fill; then it publishes the record
 * by one compare-and-swap on the next cell of the ring. Killed before that, it leaves no trace;
 * killed after it, whoever comes next counts the event on its behalf. So the count has no holes and
 * nobody waits for anybody. (A writer that is stopped while it fills its record, and goes on when
 * SOFT_EVENT_RECORDS later tickets were taken, may spoil one later event: it sees that it is late
 * and gives up, but not between two instructions.)
 *
 * The count is the futex that readers sleep on. They look again every second, for a writer may die
 * between the count and the call that wakes.
 */
#include "soft/gpu/shared.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RECHECK_NS 1000000000ull

static bool publish(struct soft_shared *map, uint64_t ticket)
{
    for (;;) {
        uint32_t count = atomic_load(&map->event_count);
        soft_u64 *cell = &map->event_cell[count % SOFT_EVENTS];
        uint64_t old = atomic_load(cell), fresh = (uint64_t)(count + 1) << 32 | (uint32_t)ticket;

        if ((uint32_t)(old >> 32) == count + 1) { /* filled, and not counted yet */
            atomic_compare_exchange_strong(&map->event_count, &count, count + 1);
            continue;
        }
        if (atomic_load(&map->event_count) != count)
            continue; /* the cell was looked at too late */
        if (atomic_load(&map->event[ticket % SOFT_EVENT_RECORDS].ticket) != ticket + 1)
            return false;
        if (!atomic_compare_exchange_strong(cell, &old, fresh))
            continue;
        atomic_compare_exchange_strong(&map->event_count, &count, count + 1);
        return true;
    }
}

void soft_state_event_post(struct soft_state *state, int dev, uint64_t type, uint64_t data,
                           int32_t pid)
{
    struct soft_shared *map = state->map;
    uint64_t ticket = atomic_fetch_add(&map->event_ticket, 1);
    struct soft_shared_event *event = &map->event[ticket % SOFT_EVENT_RECORDS];

    atomic_store(&event->ticket, 0);
    atomic_store(&event->type, type);
    atomic_store(&event->data, data);
    atomic_store(&event->when_ns, soft_now_ns());
    atomic_store(&event->who, (uint64_t)(uint32_t)dev << 32 | (uint32_t)pid);
    atomic_store(&event->ticket, ticket + 1);
    if (publish(map, ticket))
        syscall(SYS_futex, &map->event_count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

uint32_t soft_state_event_now(const struct soft_state *state)
{
    return atomic_load(&state->map->event_count);
}

bool soft_state_event_next(const struct soft_state *state, uint32_t *cursor,
                           struct soft_state_event *out)
{
    const struct soft_shared *map = state->map;

    for (;;) {
        uint32_t count = atomic_load(&map->event_count), number = *cursor;
        const struct soft_shared_event *event;
        uint64_t cell, who, ticket;

        if (count == number)
            return false;
        if (count - number > SOFT_EVENTS)
            number = count - SOFT_EVENTS;
        *cursor = number + 1;
        cell = atomic_load(&map->event_cell[number % SOFT_EVENTS]);
        event = &map->event[(uint32_t)cell % SOFT_EVENT_RECORDS];
        ticket = atomic_load(&event->ticket);
        if ((uint32_t)(cell >> 32) != number + 1 || (uint32_t)(ticket - 1) != (uint32_t)cell)
            continue; /* overwritten meanwhile */
        who = atomic_load(&event->who);
        *out = (struct soft_state_event){
            .dev = (int)(who >> 32),
            .pid = (int32_t)(uint32_t)who,
            .type = atomic_load(&event->type),
            .data = atomic_load(&event->data),
            .when_ns = atomic_load(&event->when_ns),
        };
        if (atomic_load(&event->ticket) == ticket)
            return true;
    }
}

void soft_state_event_wait(struct soft_state *state, uint32_t cursor, uint64_t until_ns)
{
    uint64_t now = soft_now_ns();
    struct timespec t;

    if (until_ns > now + RECHECK_NS)
        until_ns = now + RECHECK_NS;
    t = (struct timespec){(time_t)(until_ns / 1000000000ull), (long)(until_ns % 1000000000ull)};
    syscall(SYS_futex, &state->map->event_count, FUTEX_WAIT_BITSET, cursor, &t, NULL,
            FUTEX_BITSET_MATCH_ANY);
}
