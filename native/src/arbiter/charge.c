/* SPDX-License-Identifier: Apache-2.0
 *
 * Charges. A turn is charged one interval: from the first work that any of its processes reports to
 * the last, never outside the time it was open. Two turns of a lane may overlap at a hand-over;
 * each pays half of that, so that all charges together never exceed the time that passed. Until the
 * extent of an overlap is known, what might be one is charged by half. What only turns out after
 * the predecessor has paid for all of it is taken off its next charge.
 */
#include "policy.h"

static uint64_t overlap(struct interval a, struct interval b)
{
    uint64_t lo = a.lo > b.lo ? a.lo : b.lo, hi = a.hi < b.hi ? a.hi : b.hi;
    return hi > lo ? hi - lo : 0;
}

static int worked(const struct turn *turn)
{
    return turn->work.hi > turn->work.lo;
}

/* What is known of the current turn's work, while its predecessor is charged for the last time. */
enum known { NOTHING, ITS_BEGIN, ALL };

/* What of the turn's interval others may have used too. */
static uint64_t shared_ns(const struct harp_core *k, const struct lane *l, const struct turn *turn,
                          enum known next)
{
    uint64_t shared = turn->shared_ns + overlap(turn->work, turn->before);
    if (turn == &l->turn && l->before.open > 0)
        shared += overlap(turn->work, (struct interval){l->before.opened_ns, k->now});
    if (turn == &l->before && l->turn.tenant >= 0) {
        struct interval claimed = {l->turn.opened_ns, HARP_NEVER};
        if (next == ALL || (next == ITS_BEGIN && !worked(&l->turn)))
            claimed = l->turn.work;
        else if (next == ITS_BEGIN)
            claimed.lo = l->turn.work.lo; /* what it did not report yet, it may still */
        shared += overlap(turn->work, claimed);
    }
    return shared;
}

/* So much of what was charged is an estimate; the same ns may be for two reasons. */
static void estimate(struct account *a, uint64_t ns)
{
    uint64_t measured = a->used_ns - a->estimated_ns;
    a->estimated_ns += ns < measured ? ns : measured;
}

static void book_exactly(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                         uint64_t beside_ns, uint64_t estimated_ns)
{
    struct account *a = account_of(k, l, tenant);
    uint64_t ns = alone_ns + beside_ns;
    active_expire(k, l);
    a->used_ns += ns;
    estimate(a, estimated_ns < ns ? estimated_ns : ns);
    l->charged_ns += ns;
    cap_charge(a, ns);
    policy_of(k)->charge(k, l, tenant, alone_ns, beside_ns);
}

/* What was paid for another earlier comes off, and is the other's. */
static void book(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t alone_ns,
                 uint64_t beside_ns, uint64_t estimated_ns)
{
    struct account *a = account_of(k, l, tenant);
    uint64_t back = a->refund_ns < beside_ns ? a->refund_ns : beside_ns;
    if (back != 0) {
        a->refund_ns -= back;
        beside_ns -= back;
        if (k->tenant[a->refund_of].id == a->refund_of_id)
            book_exactly(k, l, a->refund_of, 0, back, back);
    }
    book_exactly(k, l, tenant, alone_ns, beside_ns, estimated_ns);
}

static void charge_due(struct harp_core *k, struct lane *l, struct turn *turn, enum known next)
{
    if (!worked(turn) || k->tenant[turn->tenant].id != turn->tenant_id)
        return;
    uint64_t length = turn->work.hi - turn->work.lo - turn->gaps_ns;
    uint64_t half = (shared_ns(k, l, turn, next) + 1) / 2;
    uint64_t due = length > half ? length - half : 0;
    if (due <= turn->charged_ns)
        return;
    uint64_t delta = due - turn->charged_ns, beside = delta;
    if (turn->quantum_ns == 0) {
        uint64_t tail = turn->close_ns != 0 ? k->now - turn->close_ns : 0;
        beside = delta < tail ? delta : tail;
    } else if (turn->sole) {
        beside = 0;
    }
    turn->charged_ns = due;
    book(k, l, (uint32_t)turn->tenant, delta - beside, beside, turn->estimated ? delta : 0);
}

void charge_report(struct harp_core *k, struct lane *l, struct turn *turn, uint64_t used_ns,
                   uint64_t age_ns, int estimated)
{
    uint64_t wall = k->now > turn->floor_ns ? k->now - turn->floor_ns : 0;
    uint64_t hi = k->now - (age_ns < wall ? age_ns : wall);
    uint64_t room = hi > turn->floor_ns ? hi - turn->floor_ns : 0;
    uint64_t lo = hi - (used_ns < room ? used_ns : room);
    uint64_t since = hi > turn->opened_ns ? hi - turn->opened_ns : 0;
    uint64_t first = hi - (used_ns < since ? used_ns : since);
    if (first < hi && (turn->first_ns == 0 || first < turn->first_ns))
        turn->first_ns = first;
    if (lo >= hi)
        return;
    if (!worked(turn)) {
        turn->work = (struct interval){lo, hi};
    } else {
        /* A gap within a quantum is its holder's own; an open-ended turn keeps nobody away. */
        if (turn->quantum_ns == 0 && lo > turn->work.hi)
            turn->gaps_ns += lo - turn->work.hi;
        turn->work.lo = lo < turn->work.lo ? lo : turn->work.lo;
        turn->work.hi = hi > turn->work.hi ? hi : turn->work.hi;
    }
    turn->estimated = estimated != 0;
    charge_due(k, l, turn, NOTHING);
    turn->estimated = 0;
}

static void charge_last(struct harp_core *k, struct lane *l, enum known next)
{
    struct turn *before = &l->before;
    if (before->tenant < 0 || before->open > 0)
        return;
    if (l->turn.tenant >= 0) {
        /* A process that has not reported yet may have begun sooner, but not within what the one
         * before is charged for now. */
        if (worked(&l->turn) && l->turn.work.lo < before->work.hi)
            l->turn.floor_ns = l->turn.work.lo;
        else if (before->work.hi > l->turn.floor_ns)
            l->turn.floor_ns = before->work.hi;
    }
    charge_due(k, l, before, next);
    if (k->tenant[before->tenant].id == before->tenant_id && l->turn.tenant >= 0)
        estimate(account_of(k, l, (uint32_t)before->tenant),
                 overlap(before->work, l->turn.work) / 2);
    before->tenant = -1;
}

/* The lane's turn before has its last word, and so has the current one about where it began. */
void charge_before(struct harp_core *k, struct lane *l)
{
    charge_last(k, l, ITS_BEGIN);
}

/* Where the turn's work began before its predecessor's end, the predecessor has paid for what both
 * had. Half of that is the turn's: it is taken off what the other is charged next, and is charged
 * to this tenant then, so that what is charged never goes back and never exceeds the time. */
static void settle_overlap(struct harp_core *k, struct lane *l, struct turn *turn)
{
    if (turn->after < 0 || k->tenant[turn->after].id != turn->after_id || turn->first_ns == 0 ||
        turn->first_ns >= turn->before.hi || !worked(turn) || turn->work.lo < turn->before.hi)
        return; /* what is charged begins before the end: charge_due has seen to it */
    struct interval both = {turn->first_ns, turn->work.hi};
    uint64_t half = overlap(both, turn->before) / 2;
    struct account *payer = account_of(k, l, (uint32_t)turn->after);
    if (payer->refund_of_id != turn->tenant_id) /* an older one is lost: it was small */
        payer->refund_ns = 0;
    payer->refund_of = (uint32_t)turn->tenant;
    payer->refund_of_id = turn->tenant_id;
    payer->refund_ns += half;
}

/* All of the turn is known, but for what a successor that is open already takes from its end. */
void charge_over(struct harp_core *k, struct lane *l, struct turn *turn)
{
    if (turn == &l->turn) {
        charge_last(k, l, ALL);
        if (l->before.open > 0 && worked(turn))
            l->before.shared_ns += turn->work.hi - turn->work.lo;
    }
    charge_due(k, l, turn, NOTHING);
    estimate(account_of(k, l, (uint32_t)turn->tenant), overlap(turn->work, turn->before) / 2);
    settle_overlap(k, l, turn);
}

/* A holder given up earlier says at last what it used: charge what nobody else used meanwhile, as
 * far as those that are open now cannot claim it. */
void charge_late(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t epoch,
                 uint64_t used_ns, uint64_t age_ns)
{
    struct late *late = &l->late;
    if (late->epoch != epoch || late->tenant != (int32_t)tenant)
        return;
    uint64_t end = k->now - (age_ns < k->now - late->opened_ns ? age_ns : k->now - late->opened_ns);
    uint64_t others = l->charged_ns - late->others_ns;
    const struct turn *open[2] = {&l->turn, &l->before};
    for (int i = 0; i < 2; i++) {
        if (open[i]->tenant < 0 || open[i]->opened_ns < late->opened_ns)
            continue;
        others -= open[i]->charged_ns < others ? open[i]->charged_ns : others;
        if (end > open[i]->opened_ns)
            end = open[i]->opened_ns;
    }
    uint64_t wall = end > late->opened_ns ? end - late->opened_ns : 0;
    uint64_t known = late->charged_ns + others;
    uint64_t total = used_ns < wall ? used_ns : wall;
    if (total <= known)
        return;
    late->charged_ns += total - known;
    book(k, l, tenant, 0, total - known, total - known);
    late->others_ns += total - known;
}

/* What the turn will still be charged if its work ends then. */
uint64_t charge_predicted(const struct turn *turn, uint64_t ends_ns)
{
    uint64_t from = worked(turn) ? turn->work.hi : turn->opened_ns;
    return ends_ns > from ? ends_ns - from : 0;
}
