/* SPDX-License-Identifier: Apache-2.0
 *
 * What the process is told: its grant, where the real driver is, where to log. Read once, lazily:
 * there is no constructor, so loading libharp into a program that never touches CUDA does nothing.
 *
 * Everything here is callable from any thread at any time and keeps errno.
 */
#ifndef HARP_SHIM_ENTRY_H
#define HARP_SHIM_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct harp_env {
    const char *grant; /* folder of the tenant; NULL: no limits, everything passes through */
    const char *cuda_real;
    const char *nvml_real;
    const char *remote; /* socket of a worker or link; NULL: the GPUs are this machine's */
    const char *log;
    const char *trace; /* what is to be recorded, where no grant says so: trace/control.c */
    bool strict;       /* HARP_STRICT=1: what HARP cannot do is an error, never a quiet pass */
    bool gate_off;     /* HARP_GATE=off: memory limits stay, GPU time is not shared out (benches) */
    void *(*dlopen)(const char *, int); /* the C library's own */
};

const struct harp_env *harp_env(void);

/* One line to $HARP_LOG (a path, or a number: that descriptor). Nowhere when unset. */
void harp_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Calls of this thread into the driver that HARP's hooks are round: inside, entries pass through.
 * No ELF thread-local storage: a thread-specific value holds the depth itself. */
bool harp_inside(void);
void harp_enter(void);
void harp_leave(void);

/* Loads the real library and fills the tables; false if there is none. Once per process. */
bool harp_entry_load(void);
/* symbols.c: what dlsym(handle, name) answers, for each of the names. `hashes` are those of
 * DT_GNU_HASH. */
void harp_symbols(void *handle, const char *const *names, const uint32_t *hashes, unsigned count,
                  void **found);
/* Base address of the real library, NULL before it is loaded. */
const void *harp_real_base(void);

/* Path of the library we are in (as loaded), and of its sibling; "" if unknown. */
const char *harp_own_path(void);
const char *harp_sibling_path(void);

/* loader.c: path of the real library with these base names; dlopens it. NULL: none found. */
void *harp_loader_open(const char *told, const char *soname);
/* Whether a file name, as given to dlopen, means the CUDA (1) or NVML (2) library; 0: neither. */
int harp_loader_which(const char *file);

#endif
