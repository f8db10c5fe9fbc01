/* SPDX-License-Identifier: Apache-2.0
 *
 * First come, first served in equal quanta; who has more work goes to the end of the queue (round
 * robin: Kleinrock, "Analysis of a time-shared processor", 1964). No shares, no classes: the
 * control that others are measured against. Caps hold as under every policy.
 */
#include "policy.h"

static enum rank rank(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    return RANK_STANDARD;
}

const struct policy policy_fifo = {.name = "fifo",
                                   .arrive = policy_no_event,
                                   .rank = rank,
                                   .runs_before = policy_came_before,
                                   .serve = policy_no_event,
                                   .idle = policy_no_idle,
                                   .charge = policy_no_charge,
                                   .ahead = policy_never_ahead,
                                   .behind = policy_came_before};
