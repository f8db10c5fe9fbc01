/* SPDX-License-Identifier: Apache-2.0
 *
 * Two ends of a small ring in one process, and bytes to send round it.
 */
#ifndef HARP_TESTS_RING_PAIR_H
#define HARP_TESTS_RING_PAIR_H

#include <unistd.h>

#include "check.h"
#include "src/wire/ring.h"

#define SMALL (64u << 10)
static const struct harp_ring_sizes small = {SMALL, SMALL, 256u << 10};

static uint8_t body[1u << 20], got[1u << 20];

static inline uint64_t next(uint64_t *seed)
{
    *seed += 0x9e3779b97f4a7c15ull;
    uint64_t x = *seed;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    return (x ^ x >> 27) * 0x94d049bb133111ebull >> 16;
}

static inline void fill(uint8_t *to, uint32_t bytes, uint64_t seed)
{
    for (uint32_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(seed * 31 + i);
}

static inline void both(struct harp_ring *client, struct harp_ring *worker)
{
    int memfd;
    CHECK(harp_ring_make(client, &small, &memfd) == 0);
    CHECK(harp_ring_join(worker, HARP_RING_WORKER, &small, memfd) == 0);
    close(memfd);
}

#endif
