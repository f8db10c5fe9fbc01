/* SPDX-License-Identifier: Apache-2.0
 *
 * Health, settings, power and energy of a board: plain words, each good by itself.
 *
 * Power is a formula, not a measurement: P = idle + (limit - idle) x (90 % compute + 5 % copies in
 * + 5 % copies out), each engine's busy share of the window; an instance counts by its part of the
 * board. Energy is its integral: idling since the state was made, and what each stretch of busy
 * time took at the limit of that moment, so it never falls and agrees with power at any window.
 */
#include "soft/gpu/shared.h"

#include <errno.h>

struct soft_board *soft_board_of(const struct soft_state *state, int dev)
{
    int first = soft_state_board_dev(state, soft_state_board(state, dev));

    return &state->map->dev[first].on_board;
}

static uint64_t get(const soft_u64 *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

/* --------------------------------------------------------------------------------- health ---- */
void soft_state_ecc_add(struct soft_state *state, int dev, enum soft_ecc_kind kind,
                        enum soft_ecc_place place, uint64_t count)
{
    struct soft_board *board = soft_board_of(state, dev);

    for (int scope = 0; scope < SOFT_ECC_SCOPES; scope++)
        atomic_fetch_add(&board->ecc[scope][kind][place], count);
}

uint64_t soft_state_ecc_get(const struct soft_state *state, int dev, enum soft_ecc_scope scope,
                            enum soft_ecc_kind kind, enum soft_ecc_place place)
{
    const soft_u64 *at = soft_board_of(state, dev)->ecc[scope][kind];
    uint64_t sum = 0;

    if (place != SOFT_ECC_PLACES)
        return get(&at[place]);
    for (int i = 0; i < SOFT_ECC_PLACES; i++)
        sum += get(&at[i]);
    return sum;
}

void soft_state_ecc_clear(struct soft_state *state, int dev, enum soft_ecc_scope scope)
{
    struct soft_board *board = soft_board_of(state, dev);

    for (int kind = 0; kind < SOFT_ECC_KINDS; kind++)
        for (int place = 0; place < SOFT_ECC_PLACES; place++)
            atomic_store(&board->ecc[scope][kind][place], 0);
}

void soft_state_rows_remap(struct soft_state *state, int dev, enum soft_ecc_kind kind,
                           uint32_t count)
{
    atomic_fetch_add(&soft_board_of(state, dev)->rows[kind], count);
}

uint32_t soft_state_rows_remapped(const struct soft_state *state, int dev, enum soft_ecc_kind kind)
{
    return atomic_load(&soft_board_of(state, dev)->rows[kind]);
}

int soft_state_page_retire(struct soft_state *state, int dev, enum soft_ecc_kind kind,
                           uint64_t address)
{
    struct soft_board *board = soft_board_of(state, dev);
    uint64_t word = (address & ~0xfffull) | (uint64_t)(kind + 1);

    for (int i = 0; i < SOFT_RETIRED; i++) {
        uint64_t none = 0;

        if (atomic_compare_exchange_strong(&board->retired[i], &none, word) || none == word)
            return 0;
    }
    return -ENOSPC;
}

int soft_state_pages_retired(const struct soft_state *state, int dev, enum soft_ecc_kind kind,
                             uint64_t *out, int max)
{
    const struct soft_board *board = soft_board_of(state, dev);
    int count = 0;

    for (int i = 0; i < SOFT_RETIRED; i++) {
        uint64_t word = get(&board->retired[i]);

        if ((word & 0xfff) != (uint64_t)(kind + 1))
            continue;
        if (out != NULL && count < max)
            out[count] = word & ~0xfffull;
        count++;
    }
    return count;
}

void soft_state_lost_set(struct soft_state *state, int dev, bool lost)
{
    atomic_store(&soft_board_of(state, dev)->lost, lost ? 1 : 0);
}

bool soft_state_lost(const struct soft_state *state, int dev)
{
    return atomic_load_explicit(&soft_board_of(state, dev)->lost, memory_order_relaxed) != 0;
}

/* ------------------------------------------------------------------------------- settings ---- */
void soft_state_set(struct soft_state *state, int dev, enum soft_setting setting, uint32_t value)
{
    atomic_store(&soft_board_of(state, dev)->setting[setting], value);
}

uint32_t soft_state_setting(const struct soft_state *state, int dev, enum soft_setting setting)
{
    return atomic_load_explicit(&soft_board_of(state, dev)->setting[setting], memory_order_relaxed);
}

void soft_state_accounting_set(struct soft_state *state, int dev, uint64_t since_ns)
{
    atomic_store(&soft_board_of(state, dev)->accounting_ns, since_ns);
}

uint64_t soft_state_accounting(const struct soft_state *state, int dev)
{
    return get(&soft_board_of(state, dev)->accounting_ns);
}

void soft_state_accounting_forget(struct soft_state *state, int dev, uint64_t before_ns)
{
    atomic_store(&soft_board_of(state, dev)->forgotten_ns, before_ns);
}

uint64_t soft_state_accounting_forgotten(const struct soft_state *state, int dev)
{
    return get(&soft_board_of(state, dev)->forgotten_ns);
}

uint32_t soft_state_sm_most_mhz(const struct soft_state *state, int dev)
{
    const struct soft_profile *p = soft_state_board_profile(state, soft_state_board(state, dev));
    uint32_t most = (uint32_t)p->clock_khz / 1000;
    uint32_t locked = soft_state_setting(state, dev, SOFT_SET_SM_MAX_MHZ);
    uint32_t wished = soft_state_setting(state, dev, SOFT_SET_APP_SM_MHZ);

    if (wished != 0 && wished < most)
        most = wished;
    return locked != 0 && locked < most ? locked : most;
}

uint32_t soft_state_sm_mhz(struct soft_state *state, int dev)
{
    int board = soft_state_board(state, dev), first = soft_state_board_dev(state, board);
    uint32_t least = (uint32_t)soft_state_board_profile(state, board)->idle_clock_khz / 1000;
    uint32_t locked = soft_state_setting(state, dev, SOFT_SET_SM_MIN_MHZ);

    for (int d = first; d < first + soft_state_board_size(state, board); d++)
        if (soft_state_utilization(state, d, SOFT_COMPUTE, 1000000000) > 0)
            return soft_state_sm_most_mhz(state, dev);
    return locked > least ? locked : least;
}

/* ------------------------------------------------------------------------ power and energy ---- */
static const unsigned weight_percent[SOFT_ENGINES] = {
    [SOFT_COMPUTE] = 90, [SOFT_COPY_IN] = 5, [SOFT_COPY_OUT] = 5};

/* What the board may take beyond idling, at all engines busy. */
static uint64_t span_mw(const struct soft_state *state, int dev)
{
    const struct soft_profile *p = soft_state_board_profile(state, soft_state_board(state, dev));
    uint32_t limit = soft_state_setting(state, dev, SOFT_SET_POWER_MW);

    if (limit == 0)
        limit = (uint32_t)p->power_w * 1000;
    return limit - (uint32_t)p->idle_w * 1000;
}

void soft_board_energy_add(struct soft_state *state, int dev, enum soft_engine engine,
                           uint64_t busy_ns)
{
    uint64_t mw = span_mw(state, dev) * weight_percent[engine] / 100;

    mw /= (uint64_t)soft_state_board_size(state, soft_state_board(state, dev));
    atomic_fetch_add_explicit(&soft_board_of(state, dev)->dynamic_uj, busy_ns * mw / 1000000,
                              memory_order_relaxed);
}

uint32_t soft_state_power_mw(struct soft_state *state, int dev, uint64_t window_ns)
{
    int board = soft_state_board(state, dev), size = soft_state_board_size(state, board);
    int first = soft_state_board_dev(state, board);
    double share = 0;

    for (int d = first; d < first + size; d++)
        for (int e = 0; e < SOFT_ENGINES; e++)
            share += soft_state_utilization(state, d, (enum soft_engine)e, window_ns) *
                     weight_percent[e] / 100.0 / size;
    return (uint32_t)soft_state_board_profile(state, board)->idle_w * 1000 +
           (uint32_t)((double)span_mw(state, dev) * share);
}

uint64_t soft_state_energy_mj(struct soft_state *state, int dev)
{
    const struct soft_profile *p = soft_state_board_profile(state, soft_state_board(state, dev));
    uint64_t age_us = (soft_now_ns() - state->map->made_ns) / 1000;

    return age_us * (uint64_t)p->idle_w / 1000 + get(&soft_board_of(state, dev)->dynamic_uj) / 1000;
}
