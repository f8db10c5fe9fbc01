/* SPDX-License-Identifier: Apache-2.0
 *
 * The heap of slabs against a model that keeps every block: random sizes, three owners, freed and
 * dropped in any order. Blocks never overlap, are found by every address in them and by no other,
 * and a new slab is asked for only when no slab of the owner has room.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/shim/gate/slab.h"

#define MOST 4000
#define BASE (0x7000ull * HARP_GRANULE_BYTES)

static struct {
    uint64_t ptr, bytes, owner, id;
} live[MOST];
static size_t count;
static uint64_t next_base = BASE, held;
static uint64_t seed = 88172645463325252ull;
static struct harp_heap heap;

static uint64_t rnd(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

static uint64_t units(uint64_t bytes)
{
    return (bytes + HARP_UNIT_BYTES - 1) / HARP_UNIT_BYTES * HARP_UNIT_BYTES;
}

static int by_address(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Whether a shared slab of this owner has so long a gap, by the model alone. */
static int room_somewhere(uint64_t owner, uint64_t bytes)
{
    static uint64_t in[MOST][2];
    for (size_t s = 0; s < heap.count; s++) {
        const struct harp_slab *slab = heap.slabs[s];
        size_t n = 0;
        if (slab->owner != owner || slab->cells == NULL)
            continue;
        for (size_t i = 0; i < count; i++)
            if (live[i].ptr - slab->base < slab->bytes) {
                in[n][0] = live[i].ptr;
                in[n++][1] = live[i].ptr + units(live[i].bytes);
            }
        qsort(in, n, sizeof in[0], by_address);
        uint64_t at = slab->base;
        for (size_t i = 0; i <= n; i++) {
            uint64_t end = i < n ? in[i][0] : slab->base + slab->bytes;
            if (end - at >= units(bytes))
                return 1;
            at = i < n ? in[i][1] : end;
        }
    }
    return 0;
}

static uint64_t some_size(void)
{
    switch (rnd(8)) {
    case 0:
        return 1 + rnd(3 * HARP_GRANULE_BYTES);
    case 1:
        return HARP_SMALL_BYTES - rnd(3);
    case 2:
        return HARP_SMALL_BYTES + 1 + rnd(3);
    case 3:
        return 1 + rnd(HARP_SMALL_BYTES);
    default:
        return 1 + rnd(20000);
    }
}

static void allocate(int thorough)
{
    uint64_t owner = 1 + rnd(3), bytes = some_size();
    int room = thorough && bytes <= HARP_SMALL_BYTES ? room_somewhere(owner, bytes) : -1;
    uint64_t ptr = harp_heap_take(&heap, owner, bytes);
    if (room >= 0)
        CHECK((ptr != 0) == room);
    if (ptr == 0) {
        uint64_t size = harp_slab_bytes(bytes);
        CHECK(size >= bytes && size % HARP_GRANULE_BYTES == 0);
        struct harp_slab *slab =
            harp_heap_add(&heap, next_base, size, owner, bytes <= HARP_SMALL_BYTES);
        CHECK(slab != NULL);
        next_base += size + rnd(2) * HARP_GRANULE_BYTES;
        held += size;
        ptr = harp_heap_place(&heap, slab, bytes);
        CHECK(ptr == slab->base);
    }
    CHECK(ptr % HARP_UNIT_BYTES == 0);
    const struct harp_slab *slab = harp_heap_slab(&heap, ptr);
    CHECK(slab != NULL && slab->owner == owner);
    CHECK(ptr + bytes <= slab->base + slab->bytes);
    for (size_t i = 0; i < count; i++)
        CHECK(ptr + units(bytes) <= live[i].ptr || live[i].ptr + units(live[i].bytes) <= ptr);
    live[count].ptr = ptr;
    live[count].bytes = bytes;
    live[count].owner = owner;
    live[count++].id = harp_heap_block(&heap, ptr)->refs;
}

static void release(void)
{
    size_t i = rnd(count);
    CHECK(live[i].bytes < 2 || harp_heap_free(&heap, live[i].ptr + 1) == NULL);
    struct harp_slab *slab = harp_heap_free(&heap, live[i].ptr);
    CHECK(slab != NULL);
    CHECK(harp_heap_block(&heap, live[i].ptr) == NULL);
    CHECK(harp_heap_free(&heap, live[i].ptr) == NULL);
    live[i] = live[--count];
    if (slab->live == 0) {
        held -= slab->bytes;
        harp_heap_drop(&heap, slab);
    }
}

static void look(void)
{
    for (int k = 0; k < 3 && count > 0; k++) {
        size_t i = rnd(count);
        const struct harp_block *b = harp_heap_block(&heap, live[i].ptr + rnd(live[i].bytes));
        CHECK(b != NULL && b->key == live[i].ptr && b->bytes == live[i].bytes);
        CHECK(b->refs == live[i].id);
        b = harp_heap_block(&heap, live[i].ptr + live[i].bytes);
        CHECK(b == NULL || b->key != live[i].ptr);
    }
    CHECK(harp_heap_slab(&heap, BASE - 1) == NULL);
    CHECK(harp_heap_block(&heap, next_base + HARP_GRANULE_BYTES) == NULL);
}

/* A context goes, and all its slabs with it. */
static void owner_gone(uint64_t owner)
{
    for (size_t s = heap.count; s-- > 0;)
        if (heap.slabs[s]->owner == owner) {
            held -= heap.slabs[s]->bytes;
            harp_heap_drop(&heap, heap.slabs[s]);
        }
    for (size_t i = count; i-- > 0;)
        if (live[i].owner == owner) {
            CHECK(harp_heap_block(&heap, live[i].ptr) == NULL);
            live[i] = live[--count];
        }
}

int main(void)
{
    for (int step = 0; step < 60000; step++) {
        size_t most = step / 10000 % 2 == 0 ? MOST / 4 : 200;
        if (count == 0 || (count < most && rnd(3) != 0))
            allocate(step % 50 == 0);
        else
            release();
        if (step % 10 == 0)
            look();
        if (step % 20000 == 19999)
            owner_gone(1 + rnd(3));
        uint64_t sum = 0, blocks = 0;
        for (size_t s = 0; step % 100 == 0 && s < heap.count; s++) {
            sum += heap.slabs[s]->bytes;
            blocks += heap.slabs[s]->live;
            CHECK(s == 0 || heap.slabs[s - 1]->base < heap.slabs[s]->base);
        }
        CHECK(step % 100 != 0 || (sum == held && blocks == count && heap.blocks.used == count));
    }
    while (count > 0)
        release();
    CHECK(heap.count == 0 && held == 0 && heap.blocks.used == 0);
    for (int i = 0; i < HARP_SLAB_BINS; i++)
        CHECK(heap.bins[i] == NULL);
    CHECK(harp_slab_bytes(UINT64_MAX) == 0 && harp_heap_take(&heap, 1, 0) == 0);
    free(heap.slabs);
    harp_map_free(&heap.blocks);
    puts("ok");
    return 0;
}
