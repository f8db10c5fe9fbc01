/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-remote's parts.
 */
#ifndef HARP_BENCH_REMOTE_H
#define HARP_BENCH_REMOTE_H

#include "bench/bench.h"

/* What was asked of the other end, as its counts must have it. */
struct remote_done {
    int64_t trips; /* of the timed rounds */
    uint64_t syncs, launches, copied_bytes, sum;
};

void *remote_lib(void);
int64_t remote_trips(void);
void remote_open(void);
void remote_say(const char *mode, const uint64_t *ns, size_t n, const struct remote_done *done);

int remote_step(size_t n);

#endif
