/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring whose other end writes what it likes, also while it is read: no access outside the
 * segment or the taker's buffer, and nothing but records and errors comes out.
 *
 * LLVMFuzzerTestOneInput for libFuzzer; with HARP_FUZZ_MAIN a main that draws from a seeded
 * generator, for ctest: `wire_ring_fuzz SEED ROUNDS`.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/wire/ring.h"

#define SMALL (64u << 10)
static const struct harp_ring_sizes sizes = {SMALL, SMALL, SMALL};

static struct {
    unsigned long long records, broken, puts;
} seen;

static void never(const char *what)
{
    fprintf(stderr, "ring: %s\n", what);
    abort();
}

/* One session: `data` is what the peer does, eight bytes a step. */
static void session(struct harp_ring *peer, struct harp_ring *ring, const uint8_t *data,
                    size_t size)
{
    uint8_t *body = malloc(4096); /* its own allocation: ASan sees a byte beyond */
    int err = 0;
    if (body == NULL)
        abort();
    for (size_t at = 0; at + 8 <= size && err != -EPROTO; at += 8) {
        const uint32_t what = data[at], where = data[at + 1] | (uint32_t)data[at + 2] << 8;
        uint32_t value = 0;
        memcpy(&value, data + at + 4, sizeof value);
        struct harp_ring_way *way = peer->put.way;
        struct harp_ring_record r = {.bytes = value % 4100, .op = where};
        switch (what % 8) {
        case 0: /* a word of the header page */
            memcpy((uint8_t *)peer->map + where % 1024 / 4 * 4, &value, 4);
            break;
        case 1: /* a word of the ring, near where it is read */
            memcpy(peer->put.data + (ring->take.head + where % 64 * 4) % SMALL, &value, 4);
            break;
        case 2: /* the tail, not far off */
            way->tail = ring->take.head + value % 200;
            break;
        case 3: /* an odd header where the next record is */
            r.bytes = value;
            r.op = where % 2 != 0 ? HARP_RING_SKIP : where;
            r.seq = ring->take.seq + 1;
            if (ring->take.head % SMALL <= SMALL - sizeof r)
                memcpy(peer->put.data + ring->take.head % SMALL, &r, sizeof r);
            way->tail = ring->take.head + (where % 3 != 0 ? 32 + ((value + 7ull) & ~7ull) : where);
            break;
        default:
            r.flags = what % 16 == 9 ? HARP_FRAME_BULK : 0;
            static uint8_t zeroes[5000];
            harp_ring_put(peer, &r, zeroes);
        }
        err = harp_ring_take(ring, &r, body, 4096);
        if (err == 1) {
            seen.records++;
            if (r.bytes > 4096 || r.op == HARP_RING_SKIP)
                never("a record that is none came out");
            uint64_t offset = (uint64_t)value << what % 32, bytes = (uint64_t)where << what % 32;
            if (harp_ring_region(ring, offset, bytes) != NULL && offset + bytes > sizes.bulk)
                never("a region outside the bulk area");
        }
        if (err != -EPROTO && what % 3 == 0) {
            r = (struct harp_ring_record){.bytes = value % 9000};
            uint8_t *to;
            int put = harp_ring_reserve(ring, r.bytes, &to);
            if (put == 0) {
                memset(to, 1, r.bytes);
                harp_ring_commit(ring, &r);
                seen.puts++;
            }
            err = put == -EPROTO ? put : err;
        }
    }
    seen.broken += err == -EPROTO;
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct harp_ring peer, ring;
    static int memfd = -1;
    if (memfd < 0 && harp_ring_make(&peer, &sizes, &memfd) != 0)
        abort();
    /* Mapped once: a session begins where memory is as the last one left it. */
    static struct harp_ring fresh_peer, fresh;
    if (fresh.map == NULL) {
        if (harp_ring_join(&ring, HARP_RING_WORKER, &sizes, memfd) != 0)
            abort();
        fresh_peer = peer;
        fresh = ring;
    }
    peer = fresh_peer;
    ring = fresh;
    memset(peer.map, 0, sizeof(struct harp_ring_header));
    session(&peer, &ring, data, size);
    return 0;
}

#ifdef HARP_FUZZ_MAIN
static uint64_t next(uint64_t *seed)
{
    *seed += 0x9e3779b97f4a7c15ull;
    uint64_t x = *seed;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 100000;
    uint64_t steps[64];
    for (uint64_t i = 0; i < rounds; i++) {
        for (unsigned k = 0; k < 64; k++) {
            steps[k] = next(&seed);
            /* Lies are rare, so that a ring is in use when it meets one. */
            if (steps[k] % 8 < 4 && next(&seed) % 32 != 0)
                steps[k] |= 4;
        }
        LLVMFuzzerTestOneInput((const uint8_t *)steps, sizeof steps);
    }
    printf("%llu rounds: %llu records, %llu puts, %llu sessions ended\n",
           (unsigned long long)rounds, seen.records, seen.puts, seen.broken);
    return seen.records > rounds && seen.broken > rounds / 4 ? 0 : 1;
}
#endif
