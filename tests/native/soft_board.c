/* SPDX-License-Identifier: Apache-2.0
 *
 * Boards: health, power and energy, instances; and the ring of events, whoever dies in it.
 */
#include "soft_test.h"

static struct soft_state *open_state(void)
{
    char why[512];
    struct soft_state *state = soft_state_open(why, sizeof why);

    CHECK(state != NULL);
    return state;
}

static void health(void *arg)
{
    struct soft_state *s = open_state();
    uint64_t pages[4];

    CHECK_IS(0, soft_state_ecc_get(s, 0, SOFT_ECC_VOLATILE, SOFT_ECC_CORRECTED, SOFT_ECC_PLACES));
    soft_state_ecc_add(s, 0, SOFT_ECC_CORRECTED, SOFT_ECC_DRAM, 3);
    soft_state_ecc_add(s, 0, SOFT_ECC_CORRECTED, SOFT_ECC_L2, 1);
    soft_state_ecc_add(s, 0, SOFT_ECC_UNCORRECTED, SOFT_ECC_SRAM, 2);
    CHECK_IS(4, soft_state_ecc_get(s, 0, SOFT_ECC_VOLATILE, SOFT_ECC_CORRECTED, SOFT_ECC_PLACES));
    CHECK_IS(3, soft_state_ecc_get(s, 0, SOFT_ECC_VOLATILE, SOFT_ECC_CORRECTED, SOFT_ECC_DRAM));
    soft_state_ecc_clear(s, 0, SOFT_ECC_VOLATILE);
    CHECK_IS(0, soft_state_ecc_get(s, 0, SOFT_ECC_VOLATILE, SOFT_ECC_CORRECTED, SOFT_ECC_PLACES));
    CHECK_IS(2,
             soft_state_ecc_get(s, 0, SOFT_ECC_AGGREGATE, SOFT_ECC_UNCORRECTED, SOFT_ECC_PLACES));
    CHECK_IS(0, soft_state_ecc_get(s, 1, SOFT_ECC_AGGREGATE, SOFT_ECC_CORRECTED, SOFT_ECC_PLACES));
    soft_state_rows_remap(s, 0, SOFT_ECC_UNCORRECTED, 2);
    CHECK_IS(2, soft_state_rows_remapped(s, 0, SOFT_ECC_UNCORRECTED));
    CHECK_IS(0, soft_state_rows_remapped(s, 0, SOFT_ECC_CORRECTED));
    for (uint64_t i = 0; i < SOFT_RETIRED; i++)
        CHECK_IS(0, soft_state_page_retire(s, 1, SOFT_ECC_UNCORRECTED, i << 16 | 0x1234));
    CHECK_IS(0, soft_state_page_retire(s, 1, SOFT_ECC_UNCORRECTED, 0x1000)); /* again */
    CHECK_IS(-ENOSPC, soft_state_page_retire(s, 1, SOFT_ECC_CORRECTED, 0x1000));
    CHECK_IS(SOFT_RETIRED, soft_state_pages_retired(s, 1, SOFT_ECC_UNCORRECTED, pages, 4));
    CHECK_IS(3 << 16 | 0x1000, pages[3]);
    CHECK_IS(0, soft_state_pages_retired(s, 1, SOFT_ECC_CORRECTED, NULL, 0));
    CHECK(!soft_state_lost(s, 0));
    soft_state_lost_set(s, 0, true);
    CHECK(soft_state_lost(s, 0) && !soft_state_lost(s, 1));
}

static void instances_share_their_board(void *arg)
{
    struct soft_state *s = open_state();
    uint8_t uuids[4][16], board[16];

    CHECK_IS(4, soft_state_device_count(s));
    CHECK_IS(3, soft_state_board_count(s));
    CHECK_IS(1, soft_state_board_dev(s, 1));
    CHECK_IS(2, soft_state_board_size(s, 1));
    CHECK_IS(1, soft_state_board(s, 2));
    CHECK_IS(2, soft_state_board(s, 3));
    CHECK_IS(1, soft_state_instance(s, 1));
    CHECK_IS(2, soft_state_instance(s, 2));
    CHECK_IS(SOFT_NO_INSTANCE, soft_state_instance(s, 3));
    CHECK_IS(soft_state_pci_bus(s, 1), soft_state_pci_bus(s, 2));
    CHECK(soft_state_board_profile(s, 1)->memory_bytes >=
          2 * soft_state_profile(s, 1)->memory_bytes);
    for (int i = 0; i < 4; i++) {
        soft_state_uuid(s, i, uuids[i]);
        for (int k = 0; k < i; k++)
            CHECK(memcmp(uuids[i], uuids[k], 16) != 0);
        soft_state_board_uuid(s, soft_state_board(s, i), board);
        CHECK_IS(i == 1 || i == 2, memcmp(uuids[i], board, 16) != 0);
    }
    soft_state_lost_set(s, 2, true);
    CHECK(soft_state_lost(s, 1) && !soft_state_lost(s, 0) && !soft_state_lost(s, 3));
}

static void energy_is_the_integral_of_power(void *arg)
{
    struct soft_state *s = open_state();
    uint64_t before, now, from;

    CHECK_IS(5000, soft_state_power_mw(s, 0, 1000 * MS));
    before = soft_state_energy_mj(s, 0);
    sleep_ns(200 * MS);
    CHECK_BETWEEN(900, 10000, soft_state_energy_mj(s, 0) - before); /* 5 W for 0.2 s, at least */
    /* a second of work: 5 W idling, 35 W more at 90 % */
    now = soft_now_ns();
    before = soft_state_energy_mj(s, 0);
    soft_busy_add(s, 0, SOFT_COMPUTE, now - 1000 * MS, now);
    CHECK_BETWEEN(31400, 41500, soft_state_energy_mj(s, 0) - before);
    CHECK_BETWEEN(30000, 36500, soft_state_power_mw(s, 0, 1000 * MS));
    /* half the span, by a lower limit: the same second takes half of it, and what was is kept */
    before = soft_state_energy_mj(s, 0);
    soft_state_set(s, 0, SOFT_SET_POWER_MW, 22500);
    from = soft_now_ns();
    soft_busy_add(s, 0, SOFT_COMPUTE, from - 1000 * MS, from);
    CHECK_BETWEEN(15700, 25800, soft_state_energy_mj(s, 0) - before);
    CHECK_BETWEEN(0, 22500, soft_state_power_mw(s, 0, 1000 * MS));
}

/* ------------------------------------------------------------------------------------ events -- */
static void poster(void *arg)
{
    struct soft_state *s = open_state();

    for (uint64_t i = 1;; i++)
        soft_state_event_post(s, 0, SOFT_EVENT_XID, i, (int32_t)getpid());
}

static void count_stays_right_whoever_dies(void *arg)
{
    struct soft_state *s = open_state();
    uint32_t cursor = soft_state_event_now(s);
    struct soft_state_event e;
    uint64_t seen = 0;

    for (int round = 0; round < 100; round++) {
        pid_t pids[3];

        for (int i = 0; i < 3; i++)
            pids[i] = child(poster, NULL);
        sleep_ns((uint64_t)round % 7 * (MS / 2) + MS);
        for (int i = 0; i < 3; i++)
            kill(pids[i], SIGKILL);
        while (soft_state_event_next(s, &cursor, &e)) {
            CHECK_IS(SOFT_EVENT_XID, e.type);
            CHECK(e.pid == pids[0] || e.pid == pids[1] || e.pid == pids[2]);
            CHECK(e.data > 0);
            seen++;
        }
        for (int i = 0; i < 3; i++)
            waitpid(pids[i], NULL, 0);
        cursor = soft_state_event_now(s);
        soft_state_event_post(s, 0, SOFT_EVENT_XID, 7777, 1); /* and the living go on */
        CHECK(soft_state_event_next(s, &cursor, &e));
        if (e.pid != 1) /* published by the dead, counted by us */
            CHECK(soft_state_event_next(s, &cursor, &e));
        CHECK_IS(7777, e.data);
        CHECK(!soft_state_event_next(s, &cursor, &e));
    }
    CHECK(seen > 0);
}

static void posts_later(void *arg)
{
    struct soft_state *s = open_state();

    sleep_ns(100 * MS);
    soft_state_event_post(s, 0, SOFT_EVENT_DBE, 5, 42);
}

static void waiter_is_woken(void *arg)
{
    struct soft_state *s = open_state();
    uint32_t cursor = soft_state_event_now(s);
    struct soft_state_event e;
    uint64_t from = soft_now_ns();
    pid_t pid;

    soft_state_event_wait(s, cursor, from + 50 * MS);
    CHECK_BETWEEN(50 * MS, 5000 * MS, soft_now_ns() - from);
    CHECK(!soft_state_event_next(s, &cursor, &e));
    pid = child(posts_later, NULL);
    for (int i = 0; i < 20 && soft_state_event_now(s) == cursor; i++)
        soft_state_event_wait(s, cursor, soft_now_ns() + 20000 * MS);
    CHECK(soft_state_event_next(s, &cursor, &e));
    CHECK_IS(SOFT_EVENT_DBE, e.type);
    CHECK_IS(5, e.data);
    CHECK_IS(42, e.pid);
    CHECK_BETWEEN(from, soft_now_ns(), e.when_ns);
    reap_ok(pid);
}

static void ring_forgets_the_oldest(void *arg)
{
    struct soft_state *s = open_state();
    uint32_t cursor = soft_state_event_now(s);
    struct soft_state_event e;

    for (uint64_t i = 0; i < 3 * SOFT_EVENTS + 5; i++)
        soft_state_event_post(s, 0, SOFT_EVENT_SBE, i, -1);
    for (uint64_t i = 2 * SOFT_EVENTS + 5; i < 3 * SOFT_EVENTS + 5; i++) {
        CHECK(soft_state_event_next(s, &cursor, &e));
        CHECK_IS(i, e.data);
        CHECK_IS(-1, e.pid);
    }
    CHECK(!soft_state_event_next(s, &cursor, &e));
}

int main(void)
{
    test_run("health", "tiny,tiny", "0", health);
    test_run("instances share their board", "tiny,h100-mig-2x40g,tiny", "0",
             instances_share_their_board);
    test_run("energy is the integral of power", "tiny", "0", energy_is_the_integral_of_power);
    test_run("events: count stays right whoever dies", "tiny", "0", count_stays_right_whoever_dies);
    test_run("events: waiter is woken", "tiny", "0", waiter_is_woken);
    test_run("events: ring forgets the oldest", "tiny", "0", ring_forgets_the_oldest);
    return 0;
}
