/* SPDX-License-Identifier: Apache-2.0
 *
 * What a policy of a lane decides: who runs next, and what having run means for that. Everything
 * else (gates, caps, charges, hand-over, gangs) is the same for all. One file per policy.
 */
#ifndef HARP_ARBITER_POLICY_H
#define HARP_ARBITER_POLICY_H

#include "state.h"

struct policy {
    const char *name;
    /* A tenant that was idle wants. */
    void (*arrive)(struct harp_core *k, struct lane *l, uint32_t tenant);
    /* Where the tenant stands before others; within a rank, runs_before() decides. */
    enum rank (*rank)(const struct harp_core *k, const struct lane *l, uint32_t tenant);
    int (*runs_before)(const struct harp_core *k, const struct lane *l, uint32_t a, uint32_t b);
    /* A turn of the tenant begins; nobody wants. */
    void (*serve)(struct harp_core *k, struct lane *l, uint32_t tenant);
    void (*idle)(struct harp_core *k, struct lane *l);
    /* The tenant used so much: while nobody else wanted, and beside others. */
    void (*charge)(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                   uint64_t beside_ns);
    /* Of one rank: is `tenant` owed so much that the holder should not keep its quantum? */
    int (*ahead)(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t holder,
                 uint64_t held_ns);
    /* What is the tenant's part of the device while all that are active want? NULL: it has none. */
    uint64_t (*weight)(const struct harp_core *k, const struct lane *l, uint32_t tenant);
    /* By how much engine time is it behind the tenant served last? < 0: ahead. NULL with weight. */
    int64_t (*credit_ns)(const struct harp_core *k, const struct lane *l, uint32_t tenant);
    /* Is `tenant` more than a quantum behind `other`? */
    int (*behind)(const struct harp_core *k, const struct lane *l, uint32_t tenant, uint32_t other);
};

extern const struct policy policy_drr, policy_priority, policy_fifo;

/* For policies that keep no account of time: who came first runs first, for a whole quantum. */
void policy_no_event(struct harp_core *k, struct lane *l, uint32_t tenant);
void policy_no_idle(struct harp_core *k, struct lane *l);
void policy_no_charge(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                      uint64_t beside_ns);
int policy_came_before(const struct harp_core *k, const struct lane *l, uint32_t a, uint32_t b);
int policy_never_ahead(const struct harp_core *k, const struct lane *l, uint32_t tenant,
                       uint32_t holder, uint64_t held_ns);

/* Who is to run next. */
struct choice {
    int32_t tenant; /* -1: nobody may */
    enum rank rank;
    uint32_t eligible; /* how many could, those that wait for their gang included */
    int follows;
};

const struct policy *policy_of(const struct harp_core *k);
struct choice policy_pick(struct harp_core *k, struct lane *l);
/* The same as if the current turn had ended as announced. */
struct choice policy_foresee(struct harp_core *k, struct lane *l);
enum rank policy_holder_rank(const struct harp_core *k, const struct lane *l);

static inline struct account *account_of(const struct harp_core *k, const struct lane *l,
                                         uint32_t tenant)
{
    return &k->tenant[tenant].use[l->dev].account[l->number];
}

static inline struct gate *gate_of(const struct lane *l, struct client *c)
{
    return &c->hold[l->dev].gate[l->number];
}

static inline uint32_t class_of(const struct harp_core *k, const struct lane *l, uint32_t tenant)
{
    return k->tenant[tenant].use[l->dev].cls;
}

/* Tenants on the lane's list, from l->first on; -1 ends. */
static inline int32_t first_of(const struct lane *l)
{
    return (int32_t)l->first - 1;
}

#endif
