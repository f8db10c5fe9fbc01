/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict priority by class, within a class first come, first served in equal quanta: static
 * priorities as in Liu & Layland (J. ACM 20(1), 1973), preemptive between latency and the rest. A
 * lower class may starve; that is the point of comparing with it.
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
    switch (class_of(k, l, tenant)) {
    case HARP_CLASS_LATENCY:
        return RANK_LATENCY;
    case HARP_CLASS_BEST_EFFORT:
        return RANK_BEST;
    default:
        return RANK_STANDARD;
    }
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

static int behind(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t other)
{
    enum rank mine = rank(k, l, tenant), his = rank(k, l, other);
    return mine < his || (mine == his && runs_before(k, l, tenant, other));
}

const struct policy policy_priority = {.name = "priority",
                                       .arrive = nothing,
                                       .rank = rank,
                                       .runs_before = runs_before,
                                       .serve = nothing,
                                       .idle = idle,
                                       .charge = charge,
                                       .ahead = ahead,
                                       .behind = behind};
