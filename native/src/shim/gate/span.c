/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/span.h"

void harp_span_start(struct harp_span *s, uint64_t recorded_ns)
{
    *s = (struct harp_span){.lo_ns = recorded_ns};
}

void harp_span_done(struct harp_span *s, uint64_t elapsed_ns, uint64_t unready_ns,
                    uint64_t ready_ns)
{
    uint64_t hi = ready_ns > elapsed_ns ? ready_ns - elapsed_ns : 1;
    uint64_t lo = unready_ns > elapsed_ns ? unready_ns - elapsed_ns : 0;
    if (s->hi_ns == 0 || hi < s->hi_ns)
        s->hi_ns = hi;
    if (lo > s->lo_ns)
        s->lo_ns = lo;
    if (elapsed_ns > s->used_ns)
        s->used_ns = elapsed_ns;
}

void harp_span_led_in(struct harp_span *s, uint64_t elapsed_ns, uint64_t predicted_ns)
{
    uint64_t more = elapsed_ns > predicted_ns ? elapsed_ns - predicted_ns : 0;
    if (!s->goes_on)
        s->lead_in_ns = more < HARP_LEAD_IN_NS ? more : HARP_LEAD_IN_NS;
}

void harp_span_rebase(struct harp_span *s)
{
    s->lo_ns += s->used_ns;
    s->hi_ns += s->hi_ns != 0 ? s->used_ns : 0;
    s->used_ns = s->lead_in_ns = 0;
    s->goes_on = true;
}

bool harp_span_known(const struct harp_span *s)
{
    return s->hi_ns != 0;
}

uint64_t harp_span_from_ns(const struct harp_span *s)
{
    /* Two clocks need not agree to the last microsecond: what was seen done was done. */
    return s->lo_ns < s->hi_ns ? s->lo_ns + (s->hi_ns - s->lo_ns) / 2 : s->hi_ns;
}

uint64_t harp_span_begin_ns(const struct harp_span *s)
{
    return harp_span_from_ns(s) + (s->lead_in_ns < s->used_ns ? s->lead_in_ns : s->used_ns);
}

uint64_t harp_span_until_ns(const struct harp_span *s)
{
    return harp_span_from_ns(s) + s->used_ns;
}

void harp_envelope_add(struct harp_envelope *e, uint64_t from_ns, uint64_t until_ns)
{
    if (e->until_ns == 0 || from_ns < e->from_ns)
        e->from_ns = from_ns;
    if (until_ns > e->until_ns)
        e->until_ns = until_ns;
}

uint64_t harp_envelope_ns(const struct harp_envelope *e)
{
    return e->until_ns > e->from_ns ? e->until_ns - e->from_ns : 0;
}
