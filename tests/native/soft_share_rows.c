/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows that shared memory has in the state file: who joins, and who ends them.
 */
#include "soft_share_test.h"

/* Many come and go at one row, so that who joins meets who ends it: whoever was let in finds it
 * alive, and charged, until he leaves. */
struct row {
    _Atomic uint64_t row, word; /* may not fit each other, or be long gone */
    _Atomic int joined, gone, wrong;
};

static struct row *the_row;

static void comer(void *arg)
{
    struct soft_state *state;

    OK(cuInit(0));
    state = soft_the_state;
    CHECK(soft_slot_take(state) >= 0);
    for (;;) {
        int row = (int)atomic_load(&the_row->row);
        uint64_t word = atomic_load(&the_row->word);

        if (soft_object_join(state, row, word) != 0) {
            atomic_fetch_add(&the_row->gone, 1);
            row = soft_object_make(state, 0, 3 * GRANULE, &word);
            CHECK(row >= 0);
            atomic_store(&the_row->row, (uint64_t)row);
            atomic_store(&the_row->word, word);
        } else {
            atomic_fetch_add(&the_row->joined, 1);
        }
        for (int i = 0; i < 3; i++) {
            uint64_t now = atomic_load(&state->map->object[row].word);

            if (!SOFT_OBJECT_SAME(now, word) || SOFT_SLOT_IS(now) == SOFT_SLOT_FREE ||
                SOFT_SLOT_IS(now) == SOFT_SLOT_DRAINING ||
                soft_hold_bytes(state, 0, SOFT_MAX_SLOTS + row) != 3 * GRANULE)
                atomic_fetch_add(&the_row->wrong, 1);
        }
        soft_object_leave(state, row, word);
    }
}

static bool enough_met(void)
{
    return atomic_load(&the_row->joined) > 1000 && atomic_load(&the_row->gone) > 1000;
}

static void join_at_the_last_moment(void *arg)
{
    struct soft_state *state;
    char why[256];
    pid_t pid[CROWD];
    unsigned seed = 11;

    the_row = shared_page();
    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    for (int i = 0; i < CROWD; i++)
        pid[i] = child(comer, NULL);
    /* On a machine with other work few meet in that time: then it goes on. */
    for (int round = 0; round < 300 || (!enough_met() && round < 20000); round++) {
        int v = (int)below(&seed, CROWD);

        sleep_ns(below(&seed, 8000) * 1000);
        if (round % 4 != 0) {
            kill(pid[v], SIGSTOP);
            sleep_ns(below(&seed, 8000) * 1000);
            kill(pid[v], SIGCONT);
        } else {
            kill(pid[v], SIGKILL);
            reap_killed(pid[v]);
            pid[v] = child(comer, NULL);
        }
    }
    for (int i = 0; i < CROWD; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < CROWD; i++)
        reap_killed(pid[i]);
    CHECK(enough_met());
    CHECK_IS(0, atomic_load(&the_row->wrong));
    CHECK_IS(0, soft_state_used_bytes(state, 0));
    CHECK_IS(0, rows_in_use(state));
}

/* ------------------------------------------------- the rows themselves, a step at a time --------
 */
/* Someone looked at the cells, found nobody, and sleeps: what happens to the row meanwhile must
 * not let it take from those who came. */
static void late_joiner(void *arg)
{
    struct soft_state *state;
    struct soft_shared_object *o;
    uint64_t word, next, owner;
    int row;

    context();
    state = soft_the_state;
    owner = atomic_load(&state->map->slot[state->slot].state) >> 8 << 16 |
            (uint64_t)(unsigned)(state->slot + 1);
    row = soft_object_make(state, 0, 3 * GRANULE, &word);
    CHECK(row >= 0);
    o = &state->map->object[row];
    CHECK_IS(CONTEXT + 3 * GRANULE, used_with_context());
    /* a sleeper took it from LIVE as the last holder left; somebody joins */
    atomic_store(&o->holder[0], 0);
    atomic_store(&o->word, (word & ~0xffull) | SOFT_SLOT_RETIRING);
    OK((CUresult)soft_object_join(state, row, word));
    next = atomic_load(&o->word);
    CHECK_IS(SOFT_SLOT_LIVE, SOFT_SLOT_IS(next));
    /* the sleeper wakes, and has not the word that it would need */
    soft_hold_retire(state, 0, SOFT_MAX_SLOTS + row, (word & ~0xffull) | SOFT_SLOT_DRAINING);
    CHECK_IS(CONTEXT + 3 * GRANULE, used_with_context());
    /* once it drains nobody joins */
    atomic_store(&o->holder[0], 0);
    atomic_store(&o->word, (next & ~0xffull) | SOFT_SLOT_DRAINING);
    CHECK_IS(-ENOENT, soft_object_join(state, row, word));
    CHECK_IS(CONTEXT, used_with_context());
    CHECK_IS(0, rows_in_use(state));
    /* who comes with the name of a use long gone leaves the next one alone */
    CHECK_IS(row, soft_object_make(state, 0, GRANULE, &next));
    CHECK_IS(-ENOENT, soft_object_join(state, row, word));
    CHECK_IS(owner, atomic_load(&o->holder[0]));
    CHECK_IS(0, atomic_load(&o->holder[1]));
    soft_object_leave(state, row, word); /* nor does his leaving */
    CHECK_IS(CONTEXT + GRANULE, used_with_context());
    soft_object_leave(state, row, next);
    CHECK_IS(CONTEXT, used_with_context());
    CHECK_IS(0, rows_in_use(state));
}

int main(void)
{
    test_run("late joiner", "tiny", "0", late_joiner);
    test_run("join at the last moment", "tiny", "0", join_at_the_last_moment);
    return 0;
}
