/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-busy: what was asked for (busy.c), and the doing of it (busy_work.c).
 */
#ifndef HARP_BENCH_BUSY_H
#define HARP_BENCH_BUSY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum busy_mode {
    BUSY_SATURATE, /* kernels queued at all times */
    BUSY_SYNC,     /* one kernel, one synchronisation */
    BUSY_GRAPH,    /* as SATURATE, by launches of graphs */
    BUSY_COPY,     /* copies to the device queued at all times */
    BUSY_REQUESTS, /* now and then some kernels and a synchronisation */
    BUSY_MODES
};

struct busy_options {
    enum busy_mode mode;
    unsigned kernel_us;
    int graph_nodes;
    size_t copy_bytes;
    int request_kernels, rate;
    bool poisson;
    uint64_t seed;
    long requests;
    int processes, report_ms, seconds;
    bool go, calibrate;
};

extern struct busy_options busy; /* constant once main() has read the command line, but the seed */

const char *busy_mode_name(void);
void busy_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
int busy_work(void); /* exit status */

#endif
