/* SPDX-License-Identifier: Apache-2.0
 *
 * When the work of a turn was done, as far as a host that only asks now and then can know.
 */
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "src/shim/gate/span.h"

#define US 1000ull
#define MS 1000000ull

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* The first event is at `truth`; polls come every `poll`, the first one at `phase`. */
static void polled(uint64_t truth, uint64_t poll, uint64_t phase, uint64_t kernel, int kernels)
{
    struct harp_span s;
    harp_span_start(&s, truth - 300 * US); /* recorded before an idle device got to it */
    CHECK(!harp_span_known(&s));
    for (int i = 1; i <= kernels; i++) {
        uint64_t end = truth + (uint64_t)i * kernel, ready = truth + phase;
        while (ready < end)
            ready += poll;
        harp_span_done(&s, end - truth, ready - poll, ready);
    }
    CHECK(harp_span_known(&s) && s.used_ns == (uint64_t)kernels * kernel);
    CHECK(distance(harp_span_from_ns(&s), truth) <= poll / 2 + 1);
    CHECK(harp_span_until_ns(&s) == harp_span_from_ns(&s) + s.used_ns);
    if (kernels > 20) /* many looks at many ends: closer than one look can be */
        CHECK(distance(harp_span_from_ns(&s), truth) <= poll / 5);
    struct harp_span before = s;
    harp_span_rebase(&s);
    CHECK(s.used_ns == 0 && harp_span_from_ns(&s) == harp_span_until_ns(&before));
}

static void spans(void)
{
    for (uint64_t phase = 0; phase < 100 * US; phase += 7 * US) {
        polled(1000 * MS, 100 * US, phase, 1 * MS, 1);
        polled(1000 * MS, 100 * US, phase, 203 * US, 25);
    }
    /* asked once only, long after: recorded then at the earliest */
    struct harp_span s;
    harp_span_start(&s, 10 * MS);
    harp_span_done(&s, 1 * MS, 0, 11 * MS + 100 * US);
    CHECK(harp_span_from_ns(&s) >= 10 * MS && harp_span_until_ns(&s) <= 11 * MS + 100 * US);
    /* clocks that disagree: never later than it was seen */
    harp_span_start(&s, 10 * MS);
    harp_span_done(&s, 2 * MS, 0, 11 * MS);
    CHECK(harp_span_until_ns(&s) == 11 * MS);
    /* ends out of order, of several streams */
    harp_span_done(&s, 1 * MS, 0, 20 * MS);
    CHECK(s.used_ns == 2 * MS);
}

static void lead_in(void)
{
    struct harp_span s;
    harp_span_start(&s, 10 * MS);
    harp_span_led_in(&s, 1300 * US, 1000 * US); /* another context ran for 300 us still */
    harp_span_done(&s, 1300 * US, 11300 * US, 11300 * US);
    CHECK(harp_span_from_ns(&s) == 10 * MS && harp_span_begin_ns(&s) == 10300 * US);
    CHECK(harp_span_until_ns(&s) == 11300 * US);
    /* sooner than expected: no lead-in; far later: no more than is likely to be one */
    harp_span_led_in(&s, 900 * US, 1000 * US);
    CHECK(harp_span_begin_ns(&s) == 10 * MS);
    harp_span_done(&s, 50 * MS, 0, 60 * MS);
    harp_span_led_in(&s, 50 * MS, 1000 * US);
    CHECK(harp_span_begin_ns(&s) == 10 * MS + HARP_LEAD_IN_NS);
    /* never past its end */
    harp_span_start(&s, 10 * MS);
    harp_span_done(&s, 100 * US, 0, 10100 * US);
    harp_span_led_in(&s, 400 * US, 0);
    CHECK(harp_span_begin_ns(&s) == harp_span_until_ns(&s));
    /* a turn that goes on has none */
    harp_span_rebase(&s);
    harp_span_done(&s, 300 * US, 0, 10400 * US);
    harp_span_led_in(&s, 300 * US, 100 * US);
    CHECK(harp_span_begin_ns(&s) == harp_span_from_ns(&s));
}

static void envelopes(void)
{
    struct harp_envelope e = {0};
    CHECK(harp_envelope_ns(&e) == 0);
    harp_envelope_add(&e, 10 * MS, 14 * MS);
    harp_envelope_add(&e, 11 * MS, 13 * MS); /* within: nothing more */
    CHECK(harp_envelope_ns(&e) == 4 * MS);
    harp_envelope_add(&e, 13 * MS, 15 * MS);
    CHECK(harp_envelope_ns(&e) == 5 * MS && e.from_ns == 10 * MS && e.until_ns == 15 * MS);
    harp_envelope_add(&e, 8 * MS, 9 * MS);
    CHECK(harp_envelope_ns(&e) == 7 * MS);
}

int main(void)
{
    spans();
    lead_in();
    envelopes();
    return 0;
}
