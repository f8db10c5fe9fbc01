/* SPDX-License-Identifier: Apache-2.0
 *
 * How much work may be queued in a turn. Beside a tenant of class latency a best-effort turn's
 * window follows the latency actually seen, by additive increase and multiplicative decrease (Chiu
 * & Jain, Computer Networks 17(1), 1989): the time from the latency tenant's wish until the device
 * was free of best-effort work.
 */
#include "policy.h"

uint64_t class_window_ns(const struct harp_core *k, const struct lane *l, uint32_t tenant,
                         uint64_t quantum_ns)
{
    const struct device *d = &k->device[l->dev];
    const struct tenant *t = &k->tenant[tenant];
    uint32_t own = t->live > 0 && t->use[l->dev].granted;
    uint64_t window = quantum_ns;
    if (quantum_ns == 0 && d->tenants > own)
        window = HARP_WINDOW_NS;
    if (d->latency == 0 || t->use[l->dev].cls == HARP_CLASS_LATENCY)
        return window;
    uint64_t most =
        t->use[l->dev].cls == HARP_CLASS_BEST_EFFORT ? l->best_window_ns : HARP_WINDOW_NS;
    return window == 0 || window > most ? most : window;
}

void class_observe(struct harp_core *k, struct lane *l, const struct turn *ended)
{
    const struct turn *turn = &l->turn;
    if (turn->tenant < 0 || turn->wanted_ns == 0 || ended->work.hi <= turn->wanted_ns ||
        class_of(k, l, (uint32_t)turn->tenant) != HARP_CLASS_LATENCY ||
        class_of(k, l, (uint32_t)ended->tenant) != HARP_CLASS_BEST_EFFORT)
        return;
    if (ended->work.hi - turn->wanted_ns > HARP_TARGET_NS)
        l->best_window_ns /= 2;
    else
        l->best_window_ns += HARP_BEST_STEP_NS;
    if (l->best_window_ns < HARP_BEST_LEAST_NS)
        l->best_window_ns = HARP_BEST_LEAST_NS;
    if (l->best_window_ns > HARP_WINDOW_NS)
        l->best_window_ns = HARP_WINDOW_NS;
}
