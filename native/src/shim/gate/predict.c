/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/predict.h"

#define UNMEASURED_AT_ONCE 4u
#define STEP_SHIFT         4 /* a step is at most a sixteenth of the estimate ... */
#define STEP_LEAST_NS      1000u
#define STEP_FIRST         8
#define STEP_RUN           4 /* ... doubled thrice while measures stay on one side of it */
#define PPM                1000000u
#define BUCKET_NS          50000000ll /* most that is saved up */

struct harp_estimate *harp_predict(struct harp_predictor *p, const void *what, uint64_t size)
{
    uint64_t h =
        ((uint64_t)(uintptr_t)what ^ (size * 0x9e3779b97f4a7c15ull)) * 0xff51afd7ed558ccdull;
    struct harp_estimate *e = &p->at[(h >> 40) % HARP_ESTIMATES];
    if (e->what != what || e->size != size)
        *e = (struct harp_estimate){.what = what, .size = size, .ns = HARP_ESTIMATE_UNKNOWN};
    return e;
}

uint64_t harp_estimate_ns(const struct harp_estimate *e)
{
    return e->ns;
}

static void step(struct harp_estimate *e, uint64_t mine, bool first)
{
    bool longer = mine > e->ns;
    uint64_t delta = (longer ? mine - e->ns : e->ns - mine) / 4;
    int32_t run = longer ? e->trend : -e->trend;
    run = run > 0 ? run + (run < STEP_RUN) : 1;
    uint64_t most = ((e->ns >> STEP_SHIFT) + STEP_LEAST_NS) << (run - 1);
    if (longer && first)
        most /= STEP_FIRST;
    e->trend = longer ? run : -run;
    if (delta > most)
        delta = most;
    e->ns += longer ? delta : -delta;
    if (e->ns == 0)
        e->ns = 1;
}

static bool seen_before(struct harp_estimate *const *parts, unsigned i)
{
    for (unsigned j = 0; j < i; j++)
        if (parts[j] == parts[i])
            return true;
    return false;
}

void harp_estimate_learn(struct harp_estimate *const *parts, unsigned n, uint64_t elapsed_ns,
                         bool first)
{
    uint64_t sum = 0, known = 0;
    unsigned fresh = 0;
    for (unsigned i = 0; i < n; i++) {
        sum += parts[i]->ns;
        if (parts[i]->measured != 0)
            known += parts[i]->ns;
        else
            fresh++;
    }
    double ratio = sum != 0 ? (double)elapsed_ns / (double)sum : 0;
    uint64_t left = fresh != 0 && elapsed_ns > known ? (elapsed_ns - known) / fresh : 0;
    for (unsigned i = 0; i < n; i++) {
        struct harp_estimate *e = parts[i];
        if (seen_before(parts, i))
            continue;
        if (fresh == 0) /* all known: in proportion */
            step(e, (uint64_t)(ratio * (double)e->ns), first);
        else if (e->measured == 0) /* the known take what they are known for */
            e->ns = left != 0 ? left : 1;
    }
    /* after the loop: a part may appear in a batch several times */
    for (unsigned i = 0; i < n; i++)
        if (parts[i]->measured != UINT32_MAX)
            parts[i]->measured++;
}

static uint64_t start_of(const struct harp_quantum *q, uint64_t now_ns)
{
    return q->queue_end_ns > now_ns ? q->queue_end_ns : now_ns;
}

enum harp_admit harp_quantum_admit(const struct harp_quantum *q, uint64_t now_ns, uint64_t ns,
                                   bool measured)
{
    if (q->launched == 0)
        return HARP_GO;
    uint64_t start = start_of(q, now_ns);
    if (now_ns >= q->deadline_ns || start + ns > q->deadline_ns)
        return HARP_SHUT;
    if (!measured && q->unmeasured >= UNMEASURED_AT_ONCE)
        return HARP_LATER;
    if (q->window_ns != 0 && start > now_ns && start - now_ns + ns > q->window_ns)
        return HARP_LATER;
    return HARP_GO;
}

void harp_quantum_launched(struct harp_quantum *q, uint64_t now_ns, uint64_t ns, bool measured)
{
    q->queue_end_ns = start_of(q, now_ns) + ns;
    q->launched++;
    if (!measured)
        q->unmeasured++;
}

void harp_quantum_observed(struct harp_quantum *q, uint64_t from_ns, uint64_t rest_ns,
                           uint32_t unmeasured)
{
    q->queue_end_ns = from_ns + rest_ns;
    q->unmeasured = unmeasured;
}

void harp_bucket_start(struct harp_bucket *b, uint64_t now_ns, uint32_t rate_ppm)
{
    *b = (struct harp_bucket){.rate_ppm = rate_ppm < PPM ? rate_ppm : PPM, .at_ns = now_ns};
}

uint64_t harp_bucket_wait_ns(struct harp_bucket *b, uint64_t now_ns)
{
    uint64_t passed = now_ns > b->at_ns ? now_ns - b->at_ns : 0;
    b->tokens_ns += (int64_t)(passed / PPM * b->rate_ppm + passed % PPM * b->rate_ppm / PPM);
    if (b->tokens_ns > BUCKET_NS)
        b->tokens_ns = BUCKET_NS;
    b->at_ns += passed;
    if (b->tokens_ns >= 0)
        return 0;
    uint64_t debt = (uint64_t)-b->tokens_ns;
    return b->rate_ppm != 0 ? debt / b->rate_ppm * PPM + debt % b->rate_ppm * PPM / b->rate_ppm + 1
                            : UINT64_MAX;
}

void harp_bucket_spend(struct harp_bucket *b, uint64_t ns)
{
    b->tokens_ns -= ns < INT64_MAX / 4 ? (int64_t)ns : INT64_MAX / 4;
}
