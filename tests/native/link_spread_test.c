/* SPDX-License-Identifier: Apache-2.0
 *
 * spread.c: a sender, a receiver, and streams between them that break with chunks on them, which
 * may still come late; what is taken in is what was sent, each transfer once and in order.
 */
#include "src/link/spread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define CHUNK   HARP_SPREAD_CHUNK_BYTES
#define WAYS    4u
#define FLYING  64u
#define NUMBERS 200u

static uint64_t state = 1;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

struct sent {
    struct harp_spread_item item;
    bool dropped;
};

static struct sent all[NUMBERS + 1];
static struct harp_spread spread;
static struct harp_gather gather;
static unsigned living, twice;

static void drop(struct harp_spread_item *item)
{
    CHECK(item->lent == 0 && item->taken);
    CHECK(!((struct sent *)item)->dropped);
    ((struct sent *)item)->dropped = true;
    living--;
}

/* A chunk on its way; late ones are of streams that the sender has given up. */
struct flying {
    struct harp_spread_item *item;
    unsigned chunk;
    bool late;
};

static struct flying wire[WAYS][FLYING];
static unsigned count[WAYS];

static uint64_t size_of(uint64_t number)
{
    const uint64_t least = HARP_SPREAD_LEAST_BYTES, more = HARP_SPREAD_ALL_BYTES - least;
    return number % 3 == 0 ? least : least + below((unsigned)more / (1 + below(8)));
}

static void add(void)
{
    struct sent *s = &all[spread.added + 1];
    const uint64_t bytes = size_of(spread.added + 1);
    if (!harp_spread_can(&spread, bytes))
        return;
    *s = (struct sent){.item = {.id = 1000 + spread.added, .bytes = bytes, .drop = drop}};
    harp_spread_add(&spread, &s->item);
    CHECK(s->item.number == (uint64_t)(s - all));
    living++;
}

static void give(unsigned way)
{
    struct harp_spread_item *item;
    int chunk = count[way] < FLYING ? harp_spread_next(&spread, way, &item) : -1;
    if (chunk >= 0 && below(10) == 0)
        harp_spread_refused(item, way, (unsigned)chunk);
    else if (chunk >= 0)
        wire[way][count[way]++] = (struct flying){.item = item, .chunk = (unsigned)chunk};
}

static void come(const struct flying *f)
{
    const uint64_t number = f->item->number, at = (uint64_t)f->chunk * CHUNK;
    const uint32_t bytes = harp_spread_chunk_bytes(f->item, f->chunk);
    if (number <= gather.taken) {
        twice++;
        return;
    }
    struct harp_gather_item *item = harp_gather_find(&gather, number);
    if (item == NULL) {
        CHECK(harp_gather_can(&gather, number, f->item->id, f->item->bytes) == 0);
        item = harp_gather_add(&gather, number, f->item->id, f->item->bytes, number);
    }
    const uint64_t before = item->missing;
    const int fresh = harp_gather_chunk(item, at, f->item->bytes, bytes);
    CHECK(fresh == (int)(before >> f->chunk & 1) && (item->missing >> f->chunk & 1) == 0);
    twice += fresh == 0;
}

/* The oldest of a stream comes, and the stream is done with it. */
static void deliver(unsigned way)
{
    if (count[way] == 0)
        return;
    const struct flying f = wire[way][0];
    memmove(wire[way], wire[way] + 1, --count[way] * sizeof f);
    come(&f);
    harp_spread_back(f.item);
}

/* It breaks: some of what is on it never comes, some may come late. */
static void cut(unsigned way)
{
    unsigned left = 0;
    harp_spread_lost(&spread, way);
    for (unsigned i = 0; i < count[way]; i++) {
        if (wire[way][i].late || below(2) == 0) {
            wire[way][left] = wire[way][i];
            wire[way][left++].late = true;
        } else {
            harp_spread_back(wire[way][i].item);
        }
    }
    count[way] = left;
}

static void tell(void)
{
    CHECK(harp_spread_acked(&spread, gather.taken) == 0);
    for (unsigned i = 0; i < gather.count; i++)
        CHECK(harp_spread_there(&spread, gather.open[i].number,
                                harp_gather_there(&gather.open[i])) >= 0);
    harp_spread_settle(&spread);
}

/* Its frame on Session comes, some time after it was added. */
static void take(void)
{
    struct harp_gather_item *item = harp_gather_find(&gather, gather.taken + 1);
    if (item == NULL || item->missing != 0)
        return;
    const struct sent *s = &all[gather.taken + 1];
    CHECK(item->id == s->item.id && item->bytes == s->item.bytes && item->offset == item->number);
    harp_gather_take(&gather, item);
    CHECK(harp_gather_find(&gather, gather.taken) == NULL);
}

static void streams_that_break(void)
{
    unsigned rounds = 0;
    harp_spread_open(&spread);
    gather = (struct harp_gather){.count = 0};
    while (gather.taken < NUMBERS) {
        const unsigned way = below(WAYS), what = below(1000);
        CHECK(++rounds < 2000000);
        if (spread.added < NUMBERS && what < 100)
            add();
        if (what < 5)
            cut(way);
        else if (what < 20)
            tell();
        else if (what < 60)
            take();
        else if (what < 600)
            give(way);
        else
            deliver(way);
        CHECK(spread.bytes <= HARP_SPREAD_ALL_BYTES && gather.bytes <= spread.bytes);
        CHECK(gather.count <= HARP_SPREAD_OPEN);
    }
    tell();
    CHECK(spread.bytes == 0 && spread.first == NULL && gather.count == 0 && gather.bytes == 0);
    for (unsigned way = 0; way < WAYS; way++)
        while (count[way] != 0)
            deliver(way);
    CHECK(living == 0 && !harp_spread_some(&spread));
    CHECK(twice > 0); /* else nothing was tried */
}

/* After a break only what is not there goes again; without news, nothing does. */
static void what_is_there_is_not_sent_again(void)
{
    struct harp_spread_item *item;
    unsigned again = 0;
    harp_spread_open(&spread);
    all[1] = (struct sent){.item = {.id = 7, .bytes = 16 * CHUNK, .drop = drop}};
    harp_spread_add(&spread, &all[1].item);
    living++;
    for (int chunk = 0; chunk < 16; chunk++)
        CHECK(harp_spread_next(&spread, (unsigned)chunk % 2, &item) == chunk);
    CHECK(harp_spread_next(&spread, 0, &item) < 0 && !harp_spread_some(&spread));
    harp_spread_lost(&spread, 1);
    CHECK(harp_spread_next(&spread, 0, &item) < 0);
    CHECK(harp_spread_there(&spread, 1, 0x000f) == 1);
    CHECK(harp_spread_there(&spread, 1, 0x000f) == 0);
    harp_spread_settle(&spread);
    for (; harp_spread_next(&spread, 0, &item) >= 0; again++)
        ;
    CHECK(again == 6 && all[1].item.on[0] == (0x5555 | 0xaaa0));
    CHECK(harp_spread_there(&spread, 2, 1) == -EPROTO && harp_spread_acked(&spread, 2) == -EPROTO);
    CHECK(harp_spread_acked(&spread, 1) == 0 && living == 1); /* streams still have bytes of it */
    while (item->lent != 1)
        harp_spread_back(item);
    harp_spread_back(item);
    CHECK(living == 0);
}

/* Whatever a stranger says is within what is open, or refused. */
static void nonsense(void)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   CHUNK - 1,
                                   CHUNK,
                                   CHUNK + 1,
                                   HARP_SPREAD_LEAST_BYTES,
                                   HARP_SPREAD_ALL_BYTES - CHUNK,
                                   HARP_SPREAD_ALL_BYTES,
                                   HARP_SPREAD_ALL_BYTES + 1,
                                   1ull << 32,
                                   1ull << 63,
                                   UINT64_MAX};
    const unsigned n = sizeof odd / sizeof *odd;
    gather = (struct harp_gather){.count = 0};
    for (unsigned round = 0; round < 300000; round++) {
        const uint64_t number = below(12) == 0 ? odd[below(n)] : gather.taken + below(11);
        const uint64_t id = 1 + below(10),
                       of = below(2) ? odd[below(n)] : (uint64_t)below(20) << 20;
        struct harp_gather_item *item = harp_gather_find(&gather, number);
        if (item == NULL && harp_gather_can(&gather, number, id, of) == 0) {
            CHECK(number - gather.taken <= HARP_SPREAD_OPEN && of >= HARP_SPREAD_LEAST_BYTES);
            item = harp_gather_add(&gather, number, id, of, 0);
        }
        if (item != NULL) {
            const uint64_t at = below(2) ? odd[below(n)] : (uint64_t)below(64) * CHUNK;
            const uint32_t bytes = below(2) ? CHUNK : below(CHUNK + 2);
            if (harp_gather_chunk(item, at, below(9) ? item->bytes : of, bytes) == 1)
                CHECK(at % CHUNK == 0 && at < item->bytes &&
                      bytes == (item->bytes - at < CHUNK ? item->bytes - at : CHUNK));
        }
        item = harp_gather_find(&gather, gather.taken + 1);
        if (item != NULL && below(200) == 0)
            harp_gather_take(&gather, item);
        if (below(500) == 0)
            gather = (struct harp_gather){.taken = gather.taken + 1}; /* another session */
        uint64_t sum = 0;
        for (unsigned i = 0; i < gather.count; i++) {
            sum += gather.open[i].bytes;
            CHECK(gather.open[i].number > gather.taken);
            for (unsigned j = 0; j < i; j++)
                CHECK(gather.open[i].id != gather.open[j].id &&
                      gather.open[i].number != gather.open[j].number);
        }
        CHECK(sum == gather.bytes && sum <= HARP_SPREAD_ALL_BYTES);
        CHECK(gather.count <= HARP_SPREAD_OPEN);
    }
    CHECK(gather.taken > 100); /* else nothing was tried */
}

/* The promise of spread.h: room for one that waits, wherever the others lie. */
static void there_is_room(void)
{
    const unsigned area = 4 * HARP_SPREAD_ALL_BYTES / CHUNK;
    const unsigned least = HARP_SPREAD_LEAST_BYTES / CHUNK, most = HARP_SPREAD_ALL_BYTES / CHUNK;
    for (unsigned mine = least; mine <= most - least; mine++) {
        /* Worst: as many as there can be, at equal distances. */
        const unsigned others = (most - mine) / least, taken = most - mine;
        CHECK((area - taken) / (others + 1) >= mine);
    }
}

int main(void)
{
    streams_that_break();
    what_is_there_is_not_sent_again();
    nonsense();
    there_is_room();
    return 0;
}
