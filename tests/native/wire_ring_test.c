/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings: records of all sizes round the end, a full ring, regions, peers that lie.
 */
#include <errno.h>
#include <string.h>

#include "ring_pair.h"

/* --- one process --- */

static void test_records_of_all_sizes_go_round(void)
{
    struct harp_ring client, worker;
    uint64_t seed = 7, put = 0, taken = 0, sizes[4096], full = 0, largest = 0;
    both(&client, &worker);
    CHECK(harp_ring_largest(&client) == SMALL / 2 - 32);
    while (taken < 60000) {
        struct harp_ring_record r = {.op = (uint32_t)(put % 500), .lane = 3, .ack = put * 3};
        r.bytes = (uint32_t)(next(&seed) % (next(&seed) % 16 == 0 ? SMALL / 2 - 31 : 120));
        fill(body, r.bytes, put);
        int err = harp_ring_put(&client, &r, body);
        if (err == 0) {
            CHECK(r.seq == put + 1);
            largest = r.bytes > largest ? r.bytes : largest;
            sizes[put++ % 4096] = r.bytes;
        } else {
            CHECK(err == -EAGAIN);
            full++;
        }
        if (err == 0 && next(&seed) % 3 != 0)
            continue;
        for (uint64_t n = next(&seed) % 8; n > 0 && taken < put; n--) {
            CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
            CHECK(r.bytes == sizes[taken % 4096] && r.ack == taken * 3 && r.lane == 3);
            CHECK(r.seq == taken + 1 && r.op == taken % 500);
            fill(body, r.bytes, taken++);
            CHECK(memcmp(got, body, r.bytes) == 0);
        }
    }
    CHECK(full > 100 && largest > SMALL / 2 - 1000);
    struct harp_ring_record big = {.bytes = SMALL / 2 - 31};
    CHECK(harp_ring_put(&client, &big, body) == -EMSGSIZE);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_what_is_left_before_the_end_is_skipped(void)
{
    /* Every distance from the end: 8, 16, 24 bytes have no room for a header. */
    for (uint32_t left = 8; left <= 96; left += 8) {
        struct harp_ring client, worker;
        both(&client, &worker);
        struct harp_ring_record r = {.bytes = SMALL / 2 - 32};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        r = (struct harp_ring_record){.bytes = SMALL / 2 - 32 - left};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        r = (struct harp_ring_record){.bytes = 100};
        fill(body, 100, left);
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(client.put.tail == SMALL + 136);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        CHECK(r.bytes == 100 && memcmp(got, body, 100) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 0);
        harp_ring_close(&client);
        harp_ring_close(&worker);
    }
}

static void test_an_empty_ring_has_room_for_the_largest(void)
{
    struct harp_ring client, worker;
    uint64_t seed = 11;
    both(&client, &worker);
    for (int i = 0; i < 500; i++) {
        struct harp_ring_record r = {.bytes = (uint32_t)(next(&seed) % 9000)};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        r = (struct harp_ring_record){.bytes = harp_ring_largest(&client)};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    }
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_a_region_lies_in_the_bulk_area(void)
{
    struct harp_ring client, worker;
    both(&client, &worker);
    CHECK(harp_ring_region(&worker, 4096, 100) == worker.bulk + 4096);
    CHECK(harp_ring_region(&worker, 0, 256u << 10) == worker.bulk);
    CHECK(harp_ring_region(&worker, 0, (256u << 10) + 1) == NULL);
    CHECK(harp_ring_region(&worker, 4096, 256u << 10) == NULL);
    CHECK(harp_ring_region(&worker, 4095, 1) == NULL);
    CHECK(harp_ring_region(&worker, 1ull << 63, 1) == NULL);
    CHECK(harp_ring_region(&worker, 4096, UINT64_MAX) == NULL);
    client.bulk[8192] = 77;
    CHECK(*harp_ring_region(&worker, 8192, 1) == 77);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_regions_do_not_overlap(void)
{
    enum { PAGES = 128, HELD = 64 };
    uint64_t words[PAGES / 64] = {0}, at[HELD] = {0}, bytes[HELD] = {0}, seed = 3;
    struct harp_bulk bulk = {.taken = words, .pages = PAGES};
    uint8_t owner[PAGES] = {0};
    CHECK(harp_bulk_largest(&bulk) == 32 * 4096);
    CHECK(harp_bulk_take(&bulk, 32 * 4096 + 1, &at[0]) == -EMSGSIZE);
    for (int i = 0; i < 4; i++) /* four of the largest, always */
        CHECK(harp_bulk_take(&bulk, 32 * 4096, &at[i]) == 0);
    CHECK(harp_bulk_take(&bulk, 1, &at[4]) == -EAGAIN);
    for (int i = 0; i < 4; i++)
        harp_bulk_give(&bulk, at[i], 32 * 4096);
    for (int round = 0; round < 20000; round++) {
        unsigned i = (unsigned)(next(&seed) % HELD);
        if (bytes[i] != 0) {
            for (uint64_t p = at[i] / 4096; p < (at[i] + bytes[i] + 4095) / 4096; p++) {
                CHECK(owner[p] == i + 1);
                owner[p] = 0;
            }
            harp_bulk_give(&bulk, at[i], bytes[i]);
            bytes[i] = 0;
            continue;
        }
        uint64_t want = 1 + next(&seed) % (20 * 4096);
        if (harp_bulk_take(&bulk, want, &at[i]) != 0)
            continue;
        bytes[i] = want;
        for (uint64_t p = at[i] / 4096; p < (at[i] + want + 4095) / 4096; p++) {
            CHECK(p < PAGES && owner[p] == 0);
            owner[p] = (uint8_t)(i + 1);
        }
    }
}

/* --- a peer that lies --- */

static void lie(void (*how)(struct harp_ring *client))
{
    struct harp_ring client, worker;
    struct harp_ring_record r = {.bytes = 40};
    both(&client, &worker);
    CHECK(harp_ring_put(&client, &r, body) == 0);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    r = (struct harp_ring_record){.bytes = 40};
    CHECK(harp_ring_put(&client, &r, body) == 0);
    how(&client);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == -EPROTO);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == -EPROTO); /* for good */
    CHECK(harp_ring_put(&worker, &r, body) == -EPROTO);
    CHECK(harp_ring_wait(&worker, HARP_RING_FIRST, 0) == -EPROTO);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static struct harp_ring_record *second(struct harp_ring *client)
{
    return (struct harp_ring_record *)(client->put.data + 72);
}

static void tail_back(struct harp_ring *c)
{
    c->put.way->tail = 64;
}
static void tail_beyond(struct harp_ring *c)
{
    c->put.way->tail = 72 + SMALL + 8;
}
static void tail_odd(struct harp_ring *c)
{
    c->put.way->tail += 4;
}
static void tail_short(struct harp_ring *c)
{
    c->put.way->tail = 72 + 64;
}
static void body_beyond(struct harp_ring *c)
{
    second(c)->bytes = 0xfffffff0u;
}
static void seq_twice(struct harp_ring *c)
{
    second(c)->seq = 1;
}
static void seq_gap(struct harp_ring *c)
{
    second(c)->seq = 3;
}
static void unknown_flag(struct harp_ring *c)
{
    second(c)->flags = 1u << 6;
}
static void bulk_in_order(struct harp_ring *c)
{
    second(c)->flags = HARP_FRAME_BULK;
}
static void skip_short(struct harp_ring *c)
{
    second(c)->op = HARP_RING_SKIP;
}
static void skip_to_nothing(struct harp_ring *c)
{
    *second(c) = (struct harp_ring_record){.op = HARP_RING_SKIP, .bytes = SMALL - 72 - 32};
    c->put.way->tail = SMALL;
}
/* All is well but for the size of what is skipped. */
static void skip_of_another_size(struct harp_ring *c)
{
    struct harp_ring_record r = {.seq = 2};
    *second(c) = (struct harp_ring_record){.op = HARP_RING_SKIP, .bytes = 8};
    memcpy(c->put.data, &r, sizeof r);
    c->put.way->tail = SMALL + 32;
}

static void test_a_tail_that_goes_back_is_a_lie(void)
{
    struct harp_ring client, worker;
    struct harp_ring_record r = {.bytes = 0};
    both(&client, &worker);
    for (int i = 0; i < 3; i++)
        CHECK(harp_ring_put(&client, &r, NULL) == 0);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    client.put.way->tail = 64; /* as if only the second one had ever been there */
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == -EPROTO);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_a_lie_ends_the_session(void)
{
    lie(tail_back);
    lie(tail_beyond);
    lie(tail_odd);
    lie(tail_short);
    lie(body_beyond);
    lie(seq_twice);
    lie(seq_gap);
    lie(unknown_flag);
    lie(bulk_in_order);
    lie(skip_short);
    lie(skip_to_nothing);
    lie(skip_of_another_size);
    struct harp_ring client, worker;
    for (int i = 0; i < 2; i++) {
        struct harp_ring_record r = {.bytes = SMALL / 2 - 32};
        both(&client, &worker);
        CHECK(harp_ring_put(&client, &r, body) == 0 && harp_ring_put(&client, &r, body) == 0);
        worker.take.way->head = i == 0 ? SMALL + 8 : 4; /* more than there is; between records */
        CHECK(harp_ring_put(&client, &r, body) == -EPROTO);
        harp_ring_close(&client);
        harp_ring_close(&worker);
    }
    both(&client, &worker);
    struct harp_ring_record r = {.bytes = 100};
    CHECK(harp_ring_put(&client, &r, body) == 0);
    CHECK(harp_ring_take(&worker, &r, got, 99) == -EPROTO); /* more than the taker has room for */
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

int main(void)
{
    test_records_of_all_sizes_go_round();
    test_what_is_left_before_the_end_is_skipped();
    test_an_empty_ring_has_room_for_the_largest();
    test_a_region_lies_in_the_bulk_area();
    test_regions_do_not_overlap();
    test_a_tail_that_goes_back_is_a_lie();
    test_a_lie_ends_the_session();
    return 0;
}
