/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger against a model that keeps one flag per granule: random allocations of all sizes, at
 * random places that never overlap, taken, released, put back, dropped with their owner.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "harp/lease.h"
#include "src/shim/gate/ledger.h"

#define SLOT  512ull
#define SPACE (64 * HARP_GRANULE_BYTES) /* the model's address space */
#define SLOTS (SPACE / SLOT)
#define BASE  (0x7000ull * HARP_GRANULE_BYTES)
#define MOST  2000

static unsigned char taken[SLOTS];
static unsigned refs[SPACE / HARP_GRANULE_BYTES];
static struct {
    uint64_t ptr, bytes, owner;
} live[MOST];
static size_t count;
static uint64_t held; /* what the ledger says is held, by its own answers */
static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

static uint64_t model_held(void)
{
    uint64_t sum = 0;
    for (size_t g = 0; g < SPACE / HARP_GRANULE_BYTES; g++)
        sum += refs[g] != 0 ? HARP_GRANULE_BYTES : 0;
    return sum;
}

static void model(uint64_t ptr, uint64_t bytes, int step)
{
    for (uint64_t at = (ptr - BASE) / SLOT; at < (ptr - BASE + bytes + SLOT - 1) / SLOT; at++)
        taken[at] = step > 0;
    uint64_t last = (ptr - BASE + bytes - 1) / HARP_GRANULE_BYTES;
    for (uint64_t g = (ptr - BASE) / HARP_GRANULE_BYTES; g <= last; g++)
        refs[g] += (unsigned)step;
}

static bool place(uint64_t *ptr, uint64_t bytes)
{
    uint64_t need = (bytes + SLOT - 1) / SLOT;
    for (int tries = 0; tries < 20; tries++) {
        uint64_t at = rnd(SLOTS);
        if (bytes >= HARP_GRANULE_BYTES) /* as drivers do: big ones own their granules */
            at &= ~(HARP_GRANULE_BYTES / SLOT - 1);
        if (at + need > SLOTS || memchr(taken + at, 1, need) != NULL)
            continue;
        *ptr = BASE + at * SLOT;
        return true;
    }
    return false;
}

static void allocate(struct harp_ledger *l)
{
    static const uint64_t most[] = {512, 4096, 1 << 20, 2 << 20, 9 << 20};
    uint64_t bytes = 1 + rnd(most[rnd(5)]), ptr, charged;
    if (count == MOST || !place(&ptr, bytes))
        return;
    uint64_t owner = 1 + rnd(4);
    CHECK(harp_ledger_add(l, ptr, bytes, owner, 3, &charged) == 0);
    held += charged;
    model(ptr, bytes, 1);
    live[count].ptr = ptr;
    live[count].bytes = bytes;
    live[count++].owner = owner;
}

static void release(struct harp_ledger *l)
{
    if (count == 0)
        return;
    size_t i = rnd(count);
    struct harp_block block;
    CHECK(harp_ledger_take(l, live[i].ptr, &block));
    CHECK(!harp_ledger_take(l, live[i].ptr, &block) || !"taken twice");
    CHECK(block.bytes == live[i].bytes && block.owner == live[i].owner && block.dev == 3);
    if (rnd(4) == 0) { /* the driver refused */
        harp_ledger_put_back(l, &block);
        return;
    }
    held -= harp_ledger_release(l, &block);
    model(live[i].ptr, live[i].bytes, -1);
    live[i] = live[--count];
}

static void drop_owner(struct harp_ledger *l)
{
    uint64_t owner = 1 + rnd(4), freed;
    struct harp_block gone;
    while (harp_ledger_drop(l, owner, &gone, &freed)) {
        CHECK(gone.dev == 3 && gone.owner == owner);
        held -= freed;
    }
    for (size_t i = 0; i < count;) {
        if (live[i].owner != owner) {
            i++;
            continue;
        }
        model(live[i].ptr, live[i].bytes, -1);
        live[i] = live[--count];
    }
}

static void handles(void)
{
    struct harp_ledger l = {0};
    uint64_t freed;
    struct harp_block gone;
    for (uint64_t k = 1; k <= 500; k++) {
        struct harp_block *b = harp_map_add(&l.handles, k);
        CHECK(b != NULL);
        b->charged = k;
        b->owner = k % 2 + 1;
        b->dev = 1;
        CHECK(harp_map_add(&l.handles, k) == harp_map_find(&l.handles, k));
    }
    for (uint64_t k = 3; k <= 500; k += 3)
        harp_map_remove(&l.handles, harp_map_find(&l.handles, k));
    uint64_t sum = 0, want = 0;
    for (uint64_t k = 1; k <= 500; k++) {
        CHECK((harp_map_find(&l.handles, k) != NULL) == (k % 3 != 0));
        want += k % 3 != 0 && k % 2 == 0 ? k : 0;
    }
    while (harp_ledger_drop(&l, 1, &gone, &freed))
        sum += freed;
    CHECK(sum == want);
    CHECK(harp_map_add(&l.handles, 0) == NULL && harp_map_find(&l.handles, 0) == NULL);
    harp_ledger_clear(&l);
}

int main(void)
{
    struct harp_ledger l = {0};
    struct harp_block block;
    CHECK(!harp_ledger_take(&l, 12345, &block));
    CHECK(harp_granules(0) == 0 && harp_granules(1) == HARP_GRANULE_BYTES);
    CHECK(harp_granules(HARP_GRANULE_BYTES) == HARP_GRANULE_BYTES);
    CHECK(harp_granules(UINT64_MAX) % HARP_GRANULE_BYTES == 0 && harp_granules(UINT64_MAX) != 0);
    for (int i = 0; i < 60000; i++) {
        if (rnd(3) < 2)
            allocate(&l);
        else
            release(&l);
        if (rnd(2000) == 0)
            drop_owner(&l);
        if (i % 64 == 0)
            CHECK(held == model_held());
    }
    while (count != 0)
        drop_owner(&l);
    CHECK(held == 0 && l.granules.used == 0 && l.blocks.used == 0);

    /* room in a shared granule, and none once it is full */
    uint64_t charged;
    CHECK(harp_ledger_add(&l, BASE, 1 << 20, 1, 0, &charged) == 0 && charged == HARP_GRANULE_BYTES);
    CHECK(harp_ledger_has_room(&l, 0, 1, 1 << 20) && !harp_ledger_has_room(&l, 1, 1, 1));
    CHECK(!harp_ledger_has_room(&l, 0, 2, 1)); /* another context's */
    CHECK(harp_ledger_add(&l, BASE + (3 << 19), 512, 1, 0, &charged) == 0 && charged == 0);
    CHECK(!harp_ledger_has_room(&l, 0, 1, 1 << 20)); /* not in one piece */
    CHECK(harp_ledger_has_room(&l, 0, 1, 1 << 19) &&
          !harp_ledger_has_room(&l, 0, 1, (1 << 19) + 1));
    harp_ledger_clear(&l);
    CHECK(harp_ledger_add(&l, BASE, 3 << 20, 1, 0, &charged) == 0);
    CHECK(!harp_ledger_has_room(&l, 0, 1, 512)); /* what is large has its granules for itself */
    harp_ledger_clear(&l);
    handles();
    return 0;
}
