/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of the driver, recorded. Off, nothing of this is met: exported names jump as ever. While a
 * trace is on, `harp_entry` leads to traced_<symbol> (generated/shim_trace.c), which says what is
 * called, goes on to where the entry led before, and says what came of it.
 *
 * What runs inside another call of the same thread is not recorded, only counted. All functions
 * keep errno, none waits but for the file's lock.
 */
#ifndef HARP_SHIM_TRACE_H
#define HARP_SHIM_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/cuda_abi.h"

struct harp_trace_thread;

struct harp_trace_row { /* by symbol */
    uint16_t op;        /* of the wire; 0: none */
    uint8_t kind;       /* enum harp_trace_symbol_kind */
    uint8_t per_thread;
    uint16_t parameters;
};
extern const struct harp_trace_row harp_trace_rows[];
extern void *const harp_traced[]; /* NULL: not recorded */

/* Where each entry leads without a trace; filled once. */
extern void *harp_trace_next[];

/* The call begins: its slots, its stream (0: none), the bytes that it is about. NULL: it is not
 * recorded. Else harp_trace_end follows, which answers `result`. */
struct harp_trace_thread *harp_trace_begin(unsigned symbol, const uint64_t *slots, uint64_t stream,
                                           uint64_t bytes);
CUresult harp_trace_end(struct harp_trace_thread *thread, CUresult result);

/* entry.c: the entries are filled; control.c looks whether a trace is wanted. */
void harp_trace_loaded(void);
/* session.c and serve.c: something is said of the tenant, so a trace may be wanted or no longer;
 * the service thread looks, if that is so. */
void harp_trace_due(void);
void harp_trace_check(void);

/* session.c: in a forked child, whose parent may have been anywhere in here. */
void harp_trace_after_fork(void);
/* track.c: the program ends. */
void harp_trace_exiting(void);

/* time.c and meter.c: whether launches and copies are to be measured, one by one; the call that
 * this thread is in (0: none is recorded), which passes the gate now, or goes into a graph; what
 * the device was at. */
extern int harp_trace_times;
static inline bool harp_trace_measures(void)
{
    return __atomic_load_n(&harp_trace_times, __ATOMIC_RELAXED) != 0;
}
uint64_t harp_trace_entered(bool measured);
void harp_trace_captured(void);
void harp_trace_measured(uint64_t call, uint64_t begin_ns, uint64_t duration_ns);
/* marks.c: all launches come by again. */
void harp_time_unsee_all(void);

#endif
