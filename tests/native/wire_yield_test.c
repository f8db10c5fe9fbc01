/* SPDX-License-Identifier: Apache-2.0
 *
 * When a ring's reader yields, and when it has enough of that.
 */
#include "src/wire/ring_yield.h"

#include "check.h"

static unsigned yields_of(struct harp_yield *y, unsigned waits)
{
    unsigned n = 0;
    for (unsigned i = 0; i < waits; i++)
        if (harp_yield_may(y, 0)) {
            n++;
            harp_yield_missed(y);
        }
    return n;
}

static void off(void)
{
    struct harp_yield y = {0};
    CHECK(!harp_yield_may(&y, 0));
}

static void nothing_comes(void)
{
    struct harp_yield y = {.most_us = HARP_YIELD_US};
    CHECK(yields_of(&y, HARP_YIELD_MISSES) == HARP_YIELD_MISSES);
    unsigned n = yields_of(&y, 100 * HARP_YIELD_EACH);
    CHECK(n >= 99 && n <= 101);
    /* One that comes in time is believed. */
    while (!harp_yield_may(&y, 0))
        ;
    harp_yield_came(&y);
    CHECK(harp_yield_may(&y, 0) && harp_yield_may(&y, 0));
}

/* A program that computes on the same CPU: of a second, how much is lost to it. */
static void busy_neighbour(void)
{
    struct harp_yield y = {.most_us = HARP_YIELD_US};
    const int64_t slice_ns = 3000000;
    int64_t now = 0, lost = 0;
    while (now < 10000000000ll)
        if (harp_yield_may(&y, now)) {
            now += slice_ns;
            lost += slice_ns;
            CHECK(!harp_yield_took(&y, now, slice_ns));
            CHECK(!harp_yield_may(&y, now + HARP_YIELD_PAUSE_NS - 1));
        } else {
            now += 50000; /* a round trip */
        }
    CHECK(lost > 0 && lost < 100000000);
    /* It ends: after the pause all is as before. */
    CHECK(harp_yield_may(&y, now + HARP_YIELD_PAUSE_TIMES * HARP_YIELD_PAUSE_NS));
}

static void neighbour_comes_back(void)
{
    struct harp_yield y = {.most_us = HARP_YIELD_US};
    int64_t now = 0;
    for (int i = 0; i < 12; i++) {
        CHECK(!harp_yield_took(&y, now, HARP_YIELD_LONG_NS));
        now = y.from_ns;
    }
    CHECK(!harp_yield_took(&y, now, HARP_YIELD_LONG_NS));
    CHECK(y.from_ns - now == HARP_YIELD_PAUSE_TIMES * HARP_YIELD_PAUSE_NS);
    now = y.from_ns;
    for (int i = 0; i < HARP_YIELD_GOOD; i++)
        harp_yield_came(&y);
    CHECK(harp_yield_took(&y, now, HARP_YIELD_LONG_NS - 1));
    CHECK(harp_yield_may(&y, now));
    CHECK(!harp_yield_took(&y, now, HARP_YIELD_LONG_NS));
    CHECK(y.from_ns - now == HARP_YIELD_PAUSE_NS);
}

int main(void)
{
    off();
    nothing_comes();
    busy_neighbour();
    neighbour_comes_back();
}
