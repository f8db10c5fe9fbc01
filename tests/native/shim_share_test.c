/* SPDX-License-Identifier: Apache-2.0
 *
 * The count of shared granules against allocators that place small things in different ways: at the
 * first gap, at the last, in the smallest, in the largest. Blocks' places are told, those of pieces
 * are not; what is held is never less than what is in use.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "harp/lease.h"
#include "src/shim/gate/ledger.h"

#define UNIT     4096ull /* places are whole units: few enough to be quick */
#define UNITS    (HARP_GRANULE_BYTES / UNIT)
#define GRANULES 512u
#define MOST     600
#define BASE     (0x7000ull * HARP_GRANULE_BYTES)
#define OWNER    7u

enum order { FIRST, LAST, SMALLEST, LARGEST, ORDERS };

static unsigned char taken[GRANULES][UNITS];
static unsigned things_in[GRANULES];
static struct thing {
    uint64_t granule, unit, units;
    bool piece;
} live[MOST];
static size_t count;
static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

/* The gap that the allocator takes; a granule nothing is in only if there is none. */
static struct thing place(enum order order, uint64_t units)
{
    struct thing best = {.granule = GRANULES};
    uint64_t best_gap = 0;
    for (uint64_t g = 0; g < GRANULES; g++) {
        for (uint64_t u = 0, run = 0; things_in[g] != 0 && u < UNITS; u++) {
            run = taken[g][u] ? 0 : run + 1;
            bool ends = run != 0 && (u + 1 == UNITS || taken[g][u + 1]);
            bool better = best.granule == GRANULES || order == LAST ||
                          (order == SMALLEST && run < best_gap) ||
                          (order == LARGEST && run > best_gap);
            if (!ends || run < units || !better)
                continue;
            best = (struct thing){.granule = g, .unit = u + 1 - run};
            best_gap = run;
        }
    }
    for (uint64_t g = 0; best.granule == GRANULES && g < GRANULES; g++)
        if (things_in[g] == 0)
            best = (struct thing){.granule = g};
    best.units = units;
    return best;
}

static void mark(const struct thing *t, int step)
{
    memset(&taken[t->granule][t->unit], step > 0, t->units);
    things_in[t->granule] += (unsigned)step;
}

static uint64_t in_use(void)
{
    uint64_t granules = 0;
    for (unsigned g = 0; g < GRANULES; g++)
        granules += things_in[g] != 0;
    return granules;
}

static uint64_t address(const struct thing *t)
{
    return BASE + t->granule * HARP_GRANULE_BYTES + t->unit * UNIT;
}

static int64_t make(struct harp_ledger *l, enum order order)
{
    static const uint64_t most[] = {4, 40, UNITS / 2};
    uint64_t bytes = (1 + rnd(most[rnd(3)])) * UNIT, charged = 0;
    struct thing t;
    bool piece = rnd(2) == 0, fits = true;
    if (count == MOST)
        return 0;
    struct harp_share *s = harp_share_of(&l->shares, OWNER, 0);
    if (piece) {
        fits = harp_share_fits(s, bytes);
        harp_share_add(s, bytes, fits);
        charged = fits ? 0 : HARP_GRANULE_BYTES;
    }
    t = place(order, bytes / UNIT);
    t.piece = piece;
    mark(&t, 1);
    live[count++] = t;
    if (!piece)
        CHECK(harp_ledger_add(l, address(&t), bytes, OWNER, 0, &charged) == 0);
    return (int64_t)charged;
}

static int64_t end(struct harp_ledger *l)
{
    struct harp_block block;
    if (count == 0)
        return 0;
    struct thing *at = &live[rnd(count)], t = *at;
    *at = live[--count];
    mark(&t, -1);
    if (t.piece)
        return (int64_t)(harp_share_remove(harp_share_find(l->shares, OWNER), t.units * UNIT) *
                         HARP_GRANULE_BYTES);
    CHECK(harp_ledger_take(l, address(&t), &block));
    return (int64_t)harp_ledger_release(l, &block);
}

int main(void)
{
    for (int order = 0; order < ORDERS; order++) {
        struct harp_ledger l = {0};
        int64_t held = 0;
        for (int i = 0; i < 20000; i++) {
            unsigned grows = (unsigned)(i / 1000) % 3; /* it gets full and empties */
            held += rnd(4) <= grows ? make(&l, (enum order)order) : -end(&l);
            CHECK(held >= (int64_t)(in_use() * HARP_GRANULE_BYTES));
        }
        while (count != 0)
            held -= end(&l);
        CHECK(held == 0);
        harp_ledger_clear(&l);
    }

    /* what fits for certain costs nothing: many tiny things are not counted twice */
    struct harp_ledger l = {0};
    struct harp_share *s = harp_share_of(&l.shares, OWNER, 0);
    for (int i = 0; i < 100; i++)
        harp_share_add(s, UNIT, harp_share_fits(s, UNIT));
    CHECK(s->extra == 1);
    harp_ledger_clear(&l);
    return 0;
}
