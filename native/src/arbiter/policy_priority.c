/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict priority by class, within a class first come, first served in equal quanta: static
 * priorities as in Liu & Layland (J. ACM 20(1), 1973), preemptive between latency and the rest. A
 * lower class may starve; that is the point of comparing with it.
 */
#include "policy.h"

static enum rank rank(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    switch (class_of(k, l, tenant)) {
    case HARP_CLASS_LATENCY:
        return RANK_LATENCY;
    case HARP_CLASS_BEST_EFFORT:
        return RANK_BEST;
    default:
        return RANK_STANDARD;
    }
}

static int behind(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t other)
{
    enum rank mine = rank(k, l, tenant), his = rank(k, l, other);
    return mine < his || (mine == his && policy_came_before(k, l, tenant, other));
}

const struct policy policy_priority = {.name = "priority",
                                       .arrive = policy_no_event,
                                       .rank = rank,
                                       .runs_before = policy_came_before,
                                       .serve = policy_no_event,
                                       .idle = policy_no_idle,
                                       .charge = policy_no_charge,
                                       .ahead = policy_never_ahead,
                                       .behind = behind};
