/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a ring's reader gives its CPU to others, before it sleeps.
 *
 * Waking a sleeper costs the waker a system call and, where the CPU has gone idle meanwhile, an
 * interrupt: most of a round trip. So a reader looks again and again, and lets others run between
 * two looks (sched_yield): on a CPU that both share, too, the peer's turn comes at once. That pays
 * only where a record comes soon, and where nobody else wants the CPU for long: who yields to a
 * busy program waits for its whole slice, where one that is woken goes first. Both are seen here.
 *
 * Pure: what time it is, and what has happened, is told.
 */
#ifndef HARP_WIRE_RING_YIELD_H
#define HARP_WIRE_RING_YIELD_H

#include <stdbool.h>
#include <stdint.h>

/* What a record of a peer on the same host, or on the next one, takes. */
#define HARP_YIELD_US 200
/* After so many waits in a row without a record, one in EACH yields. */
#define HARP_YIELD_MISSES 4
#define HARP_YIELD_EACH   16
/* A yield that takes so long was a slice of another program's (a scheduler's is 0.7 to 3 ms). */
#define HARP_YIELD_LONG_NS 500000
/* Then none for so long, and twice that the next time, up to: one part in 200 is lost, at most. */
#define HARP_YIELD_PAUSE_NS    10000000ll
#define HARP_YIELD_PAUSE_TIMES 64
/* Records in a row that came in time after which the next pause is a short one again. */
#define HARP_YIELD_GOOD 1000

struct harp_yield {
    unsigned most_us; /* 0: never */
    unsigned misses, good;
    unsigned pause; /* how many times HARP_YIELD_PAUSE_NS the last one was */
    int64_t from_ns;
};

/* Whether this wait may yield, for most_us. */
static inline bool harp_yield_may(struct harp_yield *y, int64_t now_ns)
{
    if (y->most_us == 0 || now_ns < y->from_ns)
        return false;
    if (y->misses < HARP_YIELD_MISSES)
        return true;
    y->misses++;
    return (y->misses - HARP_YIELD_MISSES) % HARP_YIELD_EACH == 0;
}

/* A record came while it did. */
static inline void harp_yield_came(struct harp_yield *y)
{
    y->misses = 0;
    if (++y->good >= HARP_YIELD_GOOD)
        y->pause = y->good = 0;
}

/* None came in most_us. */
static inline void harp_yield_missed(struct harp_yield *y)
{
    y->good = 0;
    if (y->misses < HARP_YIELD_MISSES)
        y->misses++;
}

/* One yield took so long. False: enough of it. */
static inline bool harp_yield_took(struct harp_yield *y, int64_t now_ns, int64_t took_ns)
{
    if (took_ns < HARP_YIELD_LONG_NS)
        return true;
    y->good = 0;
    y->pause = y->pause == 0 ? 1 : y->pause < HARP_YIELD_PAUSE_TIMES ? y->pause * 2 : y->pause;
    y->from_ns = now_ns + y->pause * HARP_YIELD_PAUSE_NS;
    return false;
}

#endif
