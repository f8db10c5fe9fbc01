/* SPDX-License-Identifier: Apache-2.0
 *
 * How long will it take, and may it still start? Pure: no clock, no locks, no driver.
 */
#ifndef HARP_SHIM_PREDICT_H
#define HARP_SHIM_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#define HARP_ESTIMATES        1024
#define HARP_ESTIMATE_UNKNOWN 50000ull /* ns, of a launch never measured */

struct harp_estimate { /* one (function, grid), graph, or size class of a copy */
    const void *what;
    uint64_t size;
    uint64_t ns;
    uint32_t measured;
    int32_t trend; /* measures one after the other that were longer (positive) or shorter */
};

struct harp_predictor {
    struct harp_estimate at[HARP_ESTIMATES]; /* direct-mapped: a clash starts afresh */
};

struct harp_estimate *harp_predict(struct harp_predictor *p, const void *what, uint64_t size);
uint64_t harp_estimate_ns(const struct harp_estimate *e);
/* A batch took `elapsed_ns`: each of its parts learns its portion. An exponentially weighted mean
 * whose steps are bounded, wider while they go one way: a batch that another tenant's slice ran in,
 * at either end of a turn, is an outlier and must not look like a longer kernel. `first` of a turn:
 * it waited for the device to change hands, so that it was longer says little. */
void harp_estimate_learn(struct harp_estimate *const *parts, unsigned n, uint64_t elapsed_ns,
                         bool first);

struct harp_quantum { /* one turn on the device */
    uint64_t deadline_ns;
    uint64_t window_ns;    /* most predicted work queued at once; 0: no bound */
    uint64_t queue_end_ns; /* when the work queued so far is expected to end */
    uint32_t launched;
    uint32_t unmeasured; /* queued launches of unknown length */
};

enum harp_admit { HARP_GO, HARP_LATER, HARP_SHUT };

/* (1) The first launch of a quantum always goes, or a kernel longer than the quantum starves.
 * (2) Later ones go if they are expected to end before the deadline.
 * (3) LATER: the queue is long enough for now; ask again when some of it has ended. */
enum harp_admit harp_quantum_admit(const struct harp_quantum *q, uint64_t now_ns, uint64_t ns,
                                   bool measured);
void harp_quantum_launched(struct harp_quantum *q, uint64_t now_ns, uint64_t ns, bool measured);
/* What is still queued is expected to take `rest_ns` from `from_ns` on: the last known end. */
void harp_quantum_observed(struct harp_quantum *q, uint64_t from_ns, uint64_t rest_ns,
                           uint32_t unmeasured);

struct harp_bucket { /* nobody gives turns: a share of the wall time, kept to by oneself */
    uint32_t rate_ppm;
    int64_t tokens_ns; /* negative: in debt */
    uint64_t at_ns;
};

/* One launch may always go when the bucket is not in debt; it pays what it is expected to take. */
void harp_bucket_start(struct harp_bucket *b, uint64_t now_ns, uint32_t rate_ppm);
/* How long until the next one may go; 0: now. */
uint64_t harp_bucket_wait_ns(struct harp_bucket *b, uint64_t now_ns);
void harp_bucket_spend(struct harp_bucket *b, uint64_t ns);

#endif
