/* SPDX-License-Identifier: Apache-2.0
 *
 * What a launch is expected to take, and whether it may still start in this turn.
 */
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "src/shim/gate/predict.h"

#define US 1000ull
#define MS 1000000ull

static void estimates(void)
{
    static struct harp_predictor p;
    static int kernel, other;
    struct harp_estimate *a = harp_predict(&p, &kernel, 64);
    CHECK(harp_estimate_ns(a) == HARP_ESTIMATE_UNKNOWN && a->measured == 0);
    CHECK(harp_predict(&p, &kernel, 64) == a);
    struct harp_estimate *parts[8] = {a, a, a, a, a, a, a, a};
    harp_estimate_learn(parts, 8, 8 * 200 * US, false); /* first measure: taken as it is */
    CHECK(harp_estimate_ns(a) == 200 * US && a->measured == 8);
    for (int i = 0; i < 100; i++)
        harp_estimate_learn(parts, 8, 8 * 300 * US, false);
    CHECK(harp_estimate_ns(a) > 295 * US && harp_estimate_ns(a) < 305 * US);
    /* an unknown one among known ones gets what is left */
    struct harp_estimate *b = harp_predict(&p, &other, 1);
    CHECK(b != a);
    uint64_t known = harp_estimate_ns(a);
    struct harp_estimate *mixed[2] = {a, b};
    harp_estimate_learn(mixed, 2, known + 5 * MS, false);
    CHECK(harp_estimate_ns(a) == known && harp_estimate_ns(b) == 5 * MS);
    /* less than nothing left: still a positive guess */
    struct harp_estimate *c = harp_predict(&p, &other, 2);
    struct harp_estimate *odd[2] = {a, c};
    harp_estimate_learn(odd, 2, 1, false);
    CHECK(harp_estimate_ns(c) > 0);
}

/* One batch in five had another tenant's slice in it. */
static void outliers(void)
{
    static struct harp_predictor p;
    static int kernel;
    struct harp_estimate *e = harp_predict(&p, &kernel, 1);
    struct harp_estimate *parts[5] = {e, e, e, e, e};
    harp_estimate_learn(parts, 5, 5 * 200 * US, false);
    for (int i = 0; i < 500; i++) {
        harp_estimate_learn(parts, 5, 5 * 200 * US + (i % 5 == 0 ? 4 * MS : 0), false);
        CHECK(e->ns > 195 * US && e->ns < 230 * US);
    }
    /* every third is the first of a turn, and waits as long as two kernels take */
    for (int i = 0; i < 500; i++) {
        bool first = i % 3 == 0;
        harp_estimate_learn(parts, 2, 2 * 200 * US + (first ? 400 * US : 0), first);
        CHECK(e->ns > 195 * US && e->ns < 220 * US);
    }
    /* a first measure that was one is soon forgotten; a kernel that grows is soon known */
    struct harp_estimate *f = harp_predict(&p, &kernel, 2);
    harp_estimate_learn(&f, 1, 20 * MS, false);
    for (int i = 0; i < 25; i++)
        harp_estimate_learn(&f, 1, 200 * US, false);
    CHECK(f->ns > 195 * US && f->ns < 230 * US);
    for (int i = 0; i < 25; i++)
        harp_estimate_learn(&f, 1, 20 * MS, false);
    CHECK(f->ns > 18 * MS && f->ns <= 20 * MS);
}

static void turns(void)
{
    uint64_t now = 1000 * MS;
    struct harp_quantum q = {.deadline_ns = now + 5 * MS};
    /* the first always goes, however long */
    CHECK(harp_quantum_admit(&q, now, 50 * MS, true) == HARP_GO);
    CHECK(harp_quantum_admit(&q, now + 6 * MS, 50 * MS, true) == HARP_GO);
    harp_quantum_launched(&q, now, 50 * MS, true);
    CHECK(harp_quantum_admit(&q, now, 1 * US, true) == HARP_SHUT);

    /* as many as end before the deadline */
    q = (struct harp_quantum){.deadline_ns = now + 5 * MS};
    int n = 0;
    while (harp_quantum_admit(&q, now, 200 * US, true) == HARP_GO) {
        harp_quantum_launched(&q, now, 200 * US, true);
        n++;
    }
    CHECK(n == 25);
    CHECK(harp_quantum_admit(&q, now, 200 * US, true) == HARP_SHUT);
    /* the queue turned out shorter than predicted: there is room again */
    harp_quantum_observed(&q, now + 1 * MS, 2 * MS, 0);
    CHECK(harp_quantum_admit(&q, now + 1 * MS, 200 * US, true) == HARP_GO);
    CHECK(harp_quantum_admit(&q, now + 5 * MS, 200 * US, true) == HARP_SHUT);

    /* the window bounds what is queued at once */
    q = (struct harp_quantum){.deadline_ns = now + 5 * MS, .window_ns = 1 * MS};
    n = 0;
    while (harp_quantum_admit(&q, now, 300 * US, true) == HARP_GO) {
        harp_quantum_launched(&q, now, 300 * US, true);
        n++;
    }
    CHECK(n == 3 && harp_quantum_admit(&q, now, 300 * US, true) == HARP_LATER);
    /* a single one longer than the window goes when nothing is queued */
    CHECK(harp_quantum_admit(&q, now + 1 * MS, 2 * MS, true) == HARP_GO);

    /* few of unknown length at once */
    q = (struct harp_quantum){.deadline_ns = now + 5 * MS};
    n = 0;
    while (harp_quantum_admit(&q, now, HARP_ESTIMATE_UNKNOWN, false) == HARP_GO) {
        harp_quantum_launched(&q, now, HARP_ESTIMATE_UNKNOWN, false);
        n++;
    }
    CHECK(n == 4 && harp_quantum_admit(&q, now, HARP_ESTIMATE_UNKNOWN, false) == HARP_LATER);
    CHECK(harp_quantum_admit(&q, now, 10 * US, true) == HARP_GO);
    harp_quantum_observed(&q, now, 0, 0);
    CHECK(harp_quantum_admit(&q, now, HARP_ESTIMATE_UNKNOWN, false) == HARP_GO);
}

/* Nobody gives turns: what a tenant takes in a second of wall time. */
static uint64_t taken(uint32_t rate_ppm, uint64_t ns)
{
    struct harp_bucket b;
    uint64_t now = 1000 * MS, end = now + 1000 * MS, sum = 0;
    harp_bucket_start(&b, now, rate_ppm);
    while (now < end) {
        uint64_t wait = harp_bucket_wait_ns(&b, now);
        if (wait == 0) {
            harp_bucket_spend(&b, ns);
            sum += ns;
        } else {
            now += wait < 10 * MS ? wait : 10 * MS;
        }
    }
    return sum;
}

static void buckets(void)
{
    CHECK(taken(300000, 200 * US) > 299 * MS && taken(300000, 200 * US) < 301 * MS);
    CHECK(taken(1000000, 1 * MS) > 998 * MS && taken(1000000, 1 * MS) < 1003 * MS);
    /* one longer than all that is saved up goes, and is paid for */
    CHECK(taken(100000, 80 * MS) == 160 * MS);
    CHECK(taken(100000, 100 * MS) == 100 * MS || taken(100000, 100 * MS) == 200 * MS);
    /* idle for an hour: no more than 50 ms are saved up */
    struct harp_bucket b;
    harp_bucket_start(&b, 0, 500000);
    CHECK(harp_bucket_wait_ns(&b, 3600 * 1000 * MS) == 0 && b.tokens_ns == 50 * (int64_t)MS);
    harp_bucket_spend(&b, 60 * MS);
    uint64_t wait = harp_bucket_wait_ns(&b, 3600 * 1000 * MS);
    CHECK(wait >= 20 * MS && wait <= 20 * MS + 2);
    CHECK(harp_bucket_wait_ns(&b, 3600 * 1000 * MS + wait) == 0);
}

int main(void)
{
    estimates();
    outliers();
    buckets();
    turns();
    return 0;
}
