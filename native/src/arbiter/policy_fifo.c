/* SPDX-License-Identifier: Apache-2.0
 *
 * First come, first served in equal quanta; who has more work goes to the end of the queue (round
 * robin: Kleinrock, "Analysis of a time-shared processor", 1964). No shares, no classes: the
 * control that others are measured against. Caps hold as under every policy.
 */
#include "policy.h"

static void nothing(struct harp_core *k, struct lane *l, uint32_t tenant)
{
}

static void idle(struct harp_core *k, struct lane *l)
{
}

static void charge(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                   uint64_t beside_ns)
{
}

static enum rank rank(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    return RANK_STANDARD;
}

static int runs_before(const struct harp_core *k, const struct lane *l, uint32_t a, uint32_t b)
{
    return account_of(k, l, a)->arrived < account_of(k, l, b)->arrived;
}

static int ahead(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t holder,
                 uint64_t held_ns)
{
    return 0;
}

const struct policy policy_fifo = {.name = "fifo",
                                   .arrive = nothing,
                                   .rank = rank,
                                   .runs_before = runs_before,
                                   .serve = nothing,
                                   .idle = idle,
                                   .charge = charge,
                                   .ahead = ahead,
                                   .behind = runs_before};
