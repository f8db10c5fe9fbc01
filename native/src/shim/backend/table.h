/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver as a table: one index per exported symbol (generated/shim_symbols.h).
 *
 * harp_entry[i] is where the exported jump goes: the lazy resolver, then the driver's function or
 * our hook. harp_real[i] is the driver's function, NULL if this driver has none of that name. Both
 * are filled once, by harp_entry_load(), before any hook runs; written by nobody afterwards.
 */
#ifndef HARP_SHIM_TABLE_H
#define HARP_SHIM_TABLE_H

#include <stdint.h>

struct harp_proc_row { /* what cuGetProcAddress answers: sorted by name, since */
    const char *name;
    int since;
    int per_thread;
    unsigned sym;
};

extern const char *const harp_sym_name[];
extern const uint32_t harp_sym_hash[]; /* of DT_GNU_HASH */
extern void *const harp_sym_stub[];
extern void *const harp_sym_hook[];
extern const unsigned harp_sym_count;
extern const struct harp_proc_row harp_proc_rows[];
extern const unsigned harp_proc_row_count;

extern void *harp_entry[];
extern void *harp_real[];

/* The driver's function, typed. Only where HARP_HAS, or in the hook of that very symbol. */
#define HARP_REAL(symbol) ((harp_fn_##symbol)harp_real[HARP_SYM_##symbol])
#define HARP_HAS(symbol)  (harp_real[HARP_SYM_##symbol] != 0)

#endif
