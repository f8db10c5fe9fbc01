/* SPDX-License-Identifier: Apache-2.0
 *
 * When was it done? Pure: no clock, no locks, no driver.
 *
 * Events of one context tell differences on the device's clock; the host only knows when a query
 * found one done and, before that, not done yet. All queries of a turn together bound the host's
 * time of its first event, and so of its last, closer than any single one does.
 */
#ifndef HARP_SHIM_SPAN_H
#define HARP_SHIM_SPAN_H

#include <stdbool.h>
#include <stdint.h>

struct harp_span {         /* one context's part of a turn */
    uint64_t used_ns;      /* first event to the latest that is known to be done */
    uint64_t lo_ns, hi_ns; /* bounds of the first event's time; hi 0: none is known to be done */
    uint64_t lead_in_ns;   /* from the first event to where the work began */
    bool goes_on;          /* rebased: its first event is not the turn's */
};

/* Most that is taken for a lead-in: several context switches of a device. */
#define HARP_LEAD_IN_NS 1000000ull

/* The first event of a turn was recorded at `recorded_ns`: it was not done before. */
void harp_span_start(struct harp_span *s, uint64_t recorded_ns);
/* An event `elapsed_ns` after the first one was done at `ready_ns`, and not yet at `unready_ns`
 * (0: nobody asked before). */
void harp_span_done(struct harp_span *s, uint64_t elapsed_ns, uint64_t unready_ns,
                    uint64_t ready_ns);
/* The first launches of the turn took `elapsed_ns` and were expected to take `predicted_ns`: what
 * is more is the device's coming from another context. That is nobody's work: charged, it would
 * cost who has short turns more than who has long ones. */
void harp_span_led_in(struct harp_span *s, uint64_t elapsed_ns, uint64_t predicted_ns);
/* The latest event becomes the first one of the same turn. */
void harp_span_rebase(struct harp_span *s);
bool harp_span_known(const struct harp_span *s);
uint64_t harp_span_from_ns(const struct harp_span *s);
uint64_t harp_span_begin_ns(const struct harp_span *s); /* of work: after the lead-in */
uint64_t harp_span_until_ns(const struct harp_span *s);

/* What several contexts did: one interval, never a sum. */
struct harp_envelope {
    uint64_t from_ns, until_ns; /* until 0: empty */
};
void harp_envelope_add(struct harp_envelope *e, uint64_t from_ns, uint64_t until_ns);
uint64_t harp_envelope_ns(const struct harp_envelope *e);

#endif
