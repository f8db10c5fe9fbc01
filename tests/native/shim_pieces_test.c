/* SPDX-License-Identifier: Apache-2.0
 *
 * What is known of a pool, against a pool: one that deals out any free run that fits, gives units
 * back without a word when it may, and takes more of its device in whole units. Whenever pieces say
 * that an allocation fits, the pool has no more afterwards than it was last known to have. And
 * graphs' footprints, against segments of whole units.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/shim/gate/footprint.h"
#include "src/shim/gate/pieces.h"

#define SLOT    (512ull << 10)
#define UNIT    (64 * SLOT)
#define EXTENTS 400
#define MOST    4 /* units in an extent */
#define SLOTS   (MOST * 64)
#define STREAMS 3
#define LIVE    200

enum { GONE = -1, ANY = 0, TAKEN = 100 }; /* else: freed in this stream */

static struct {
    uint64_t start;
    int units, slot[SLOTS];
} extents[EXTENTS];
static int extent_count;
static struct {
    int extent, slot, slots, stream;
} live[LIVE];
static int live_count;
static struct {
    uint64_t ptr;
    uintptr_t stream;
} freeing[8]; /* the pool has them back; nobody was told yet */
static int freeing_count;
static uint64_t have, known; /* what the pool has; what it was last known to have */
static bool kept;            /* it gives nothing back by itself */
static uint64_t seed = 88172645463325252ull;
static int quick, slow;

static int rnd(int n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (int)(seed % (uint64_t)n);
}

static bool usable(int is, int stream)
{
    return is == ANY || is == stream;
}

/* A run of `slots` that `stream` may use, whichever the pool likes. */
static bool find(int stream, int slots, int *extent, int *at)
{
    int found = 0;
    for (int e = 0; e < extent_count; e++)
        for (int i = 0, run = 0; i < extents[e].units * 64; i++) {
            run = usable(extents[e].slot[i], stream) ? run + 1 : 0;
            if (run >= slots && rnd(++found) == 0) {
                *extent = e;
                *at = i - slots + 1;
            }
        }
    return found != 0;
}

static uint64_t ptr_of(int extent, int slot)
{
    return extents[extent].start + (uint64_t)slot * SLOT;
}

static void allocate(struct harp_pieces *p)
{
    static uint64_t next = 0x7000000000ull;
    int stream = 1 + rnd(STREAMS), slots = rnd(4) == 0 ? 1 + rnd(150) : 1 + rnd(20), e = 0, at = 0;
    uint64_t grown = 0, bytes = (uint64_t)slots * SLOT;
    if (live_count == LIVE || extent_count == EXTENTS)
        return;
    uintptr_t key = (uintptr_t)stream + 1;
    bool fits = harp_pieces_fit(p, bytes, key, UNIT, kept);
    if (!find(stream, slots, &e, &at)) {
        e = extent_count++;
        at = 0;
        extents[e].start = next;
        extents[e].units = (slots + 63) / 64;
        memset(extents[e].slot, 0, sizeof extents[e].slot);
        grown = (uint64_t)extents[e].units * UNIT;
        next += grown + (uint64_t)rnd(2) * UNIT; /* neighbours, or not */
        have += grown;
    }
    for (int i = at; i < at + slots; i++)
        extents[e].slot[i] = TAKEN;
    live[live_count].extent = e;
    live[live_count].slot = at;
    live[live_count].stream = stream;
    live[live_count++].slots = slots;
    if (fits) {
        CHECK(have <= known);
        quick++;
        if (!harp_pieces_made(p, ptr_of(e, at), bytes, key, 0)) {
            known = have;
            harp_pieces_shrunk(p, UNIT);
        }
        return;
    }
    slow++;
    if (have < known)
        harp_pieces_shrunk(p, UNIT);
    if (have != known + grown || rnd(8) == 0) /* or somebody else was about */
        grown = 0;
    known = have;
    if (!harp_pieces_made(p, ptr_of(e, at), bytes, key, grown) && grown == 0)
        harp_pieces_shrunk(p, UNIT);
}

static void release(struct harp_pieces *p)
{
    if (live_count == 0 || freeing_count == 8)
        return;
    int i = rnd(live_count), stream = rnd(STREAMS + 1);
    uint64_t ptr = ptr_of(live[i].extent, live[i].slot);
    CHECK(harp_pieces_freeing(p, ptr) && !harp_pieces_freeing(p, ptr));
    if (rnd(10) == 0) {
        harp_pieces_refused(p, ptr);
        return;
    }
    freeing[freeing_count].ptr = ptr;
    freeing[freeing_count++].stream = stream == ANY ? HARP_ANYBODY : (uintptr_t)stream + 1;
    if (stream == ANY && rnd(2) == 0)
        stream = live[i].stream; /* it was not there yet when it was freed at once */
    for (int s = 0; s < live[i].slots; s++)
        extents[live[i].extent].slot[live[i].slot + s] = stream;
    live[i] = live[--live_count];
}

static void freed(struct harp_pieces *p)
{
    if (freeing_count == 0)
        return;
    int i = rnd(freeing_count);
    harp_pieces_freed(p, freeing[i].ptr, freeing[i].stream);
    freeing[i] = freeing[--freeing_count];
}

static void over(struct harp_pieces *p)
{
    int stream = 1 + rnd(STREAMS);
    for (int e = 0; e < extent_count; e++)
        for (int i = 0; i < SLOTS; i++)
            if (extents[e].slot[i] == stream)
                extents[e].slot[i] = ANY;
    harp_pieces_over(p, (uintptr_t)stream + 1, p->frees);
}

/* Some units that nothing is in go back; `told`: and the pool is asked afterwards. */
static void trim(struct harp_pieces *p, bool told)
{
    for (int e = 0; e < extent_count; e++)
        for (int u = 0; u < extents[e].units; u++) {
            int *slot = &extents[e].slot[u * 64], empty = 0;
            while (empty < 64 && slot[empty] == ANY)
                empty++;
            if (empty < 64 || rnd(3) == 0)
                continue;
            for (int i = 0; i < 64; i++)
                slot[i] = GONE;
            have -= UNIT;
        }
    if (!told)
        return;
    if (have < known)
        harp_pieces_shrunk(p, UNIT);
    known = have;
}

static void sorted(const struct harp_pieces *p)
{
    size_t alive = 0;
    for (size_t i = 0; i < p->count; i++) {
        CHECK(p->at[i].bytes != 0);
        CHECK(i == 0 || p->at[i - 1].start + p->at[i - 1].bytes <= p->at[i].start);
        alive += p->at[i].is != HARP_PIECE_FREE;
    }
    CHECK(alive == p->live && alive >= (size_t)live_count &&
          alive <= (size_t)(live_count + freeing_count));
}

static void pools(void)
{
    struct harp_pieces p = {0};
    for (int i = 0; i < 60000; i++) {
        if (rnd(200) == 0)
            kept = !kept;
        if (rnd(2000) == 0) { /* all goes */
            extent_count = live_count = freeing_count = 0;
            have = known = 0;
            harp_pieces_clear(&p);
        }
        int what = rnd(20);
        if (rnd(3) == 0)
            freed(&p);
        if (what < 9)
            allocate(&p);
        else if (what < 17)
            release(&p);
        else if (what == 17)
            over(&p);
        else if (what == 18)
            trim(&p, true);
        else if (!kept)
            trim(&p, false);
        if (i % 16 == 0)
            sorted(&p);
    }
    CHECK(quick > 2000 && slow > 2000);
    harp_pieces_clear(&p);
}

static void streams(void)
{
    struct harp_pieces p = {0};
    CHECK(!harp_pieces_made(&p, UNIT, SLOT, 9, UNIT));
    CHECK(harp_pieces_fit(&p, UNIT - SLOT, 7, UNIT, true));
    CHECK(!harp_pieces_fit(&p, UNIT, 7, UNIT, true));
    CHECK(!harp_pieces_freeing(&p, UNIT + SLOT)); /* nobody was given that */
    CHECK(harp_pieces_freeing(&p, UNIT));
    harp_pieces_freed(&p, UNIT, 8);
    CHECK(harp_pieces_pending(&p, 0) == 8 && harp_pieces_pending(&p, 8) == 0);
    harp_pieces_over(&p, 8, 0); /* it was freed after that */
    CHECK(harp_pieces_pending(&p, 0) == 8);
    harp_pieces_stream_gone(&p, 8);
    CHECK(harp_pieces_pending(&p, 0) == HARP_NOBODY);
    CHECK(!harp_pieces_fit(&p, UNIT, 8, UNIT, true));
    harp_pieces_over(&p, HARP_NOBODY, p.frees);
    CHECK(harp_pieces_pending(&p, 0) == 0 && harp_pieces_fit(&p, UNIT, 8, UNIT, true));
    CHECK(p.count == 1 && p.live == 0);
    harp_pieces_shrunk(&p, UNIT);
    CHECK(p.count == 0);
    harp_pieces_clear(&p);
}

/* Segments of whole units begin anywhere; from there on addresses are used without gaps. */
static void footprints(void)
{
    for (int round = 0; round < 5000; round++) {
        struct harp_range ranges[40];
        int n = 0;
        uint64_t want = 0, base = 0x10000000ull * UNIT;
        for (int s = 0; s < 1 + rnd(4); s++) {
            uint64_t used = 0, most = (uint64_t)(1 + rnd(MOST)) * UNIT;
            base += (uint64_t)rnd(50) * 4 * SLOT;
            for (int i = 0; i < 1 + rnd(6) && used < most; i++) {
                uint64_t at = rnd(2) == 0 ? used : (uint64_t)rnd((int)(used / 512) + 1) * 512;
                uint64_t bytes = 1 + (uint64_t)rnd((int)((most - at) / 512)) * 512;
                ranges[n++] = (struct harp_range){base + at, bytes};
                if (at + bytes > used)
                    used = (at + bytes + 511) / 512 * 512;
            }
            want += (used + UNIT - 1) / UNIT * UNIT;
            base += most;
        }
        for (int i = n - 1; i > 0; i--) {
            int j = rnd(i + 1);
            struct harp_range r = ranges[i];
            ranges[i] = ranges[j];
            ranges[j] = r;
        }
        CHECK(harp_footprint(ranges, (size_t)n, UNIT) == want);
    }
    CHECK(harp_footprint(NULL, 0, UNIT) == 0);
}

int main(void)
{
    pools();
    streams();
    footprints();
    return 0;
}
