/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs here share: the driver by dlopen, the clock, how they fail.
 */
#ifndef HARP_BENCH_BENCH_H
#define HARP_BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "generated/cuda_abi.h"

uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC */

/* Says what, with the program's name, and ends this process. */
_Noreturn void bench_fail(const char *what, int code);

void *bench_open(const char *path); /* a library, or fails */
void *bench_symbol(void *lib, const char *name);

/* The value that `part` of all do not exceed; sorts them. */
double bench_at(double *values, size_t n, double part);

#define BENCH_CALL(lib, name) ((__typeof__(&name))bench_symbol(lib, #name))

/* A call that must succeed; looked up once for each place that calls. */
#define BENCH_DO(lib, name, ...)                                                                   \
    do {                                                                                           \
        static __typeof__(&name) do_f;                                                             \
        if (do_f == NULL)                                                                          \
            do_f = BENCH_CALL(lib, name);                                                          \
        CUresult do_r = do_f(__VA_ARGS__);                                                         \
        if (do_r != CUDA_SUCCESS)                                                                  \
            bench_fail(#name, (int)do_r);                                                          \
    } while (0)

#define BENCH_PTX ".version 7.0\n.target sm_70\n.address_size 64\n"

/* A kernel that sleeps `loops` times `each` ns. */
#define BENCH_SLEEPER                                                                              \
    ".visible .entry sleeper(.param .u32 loops, .param .u32 each)\n{\n"                            \
    ".reg .pred %p;\n.reg .b32 %r<3>;\n"                                                           \
    "ld.param.u32 %r1, [loops];\nld.param.u32 %r2, [each];\n"                                      \
    "AGAIN:\nnanosleep.u32 %r2;\nsub.u32 %r1, %r1, 1;\n"                                           \
    "setp.ne.u32 %p, %r1, 0;\n@%p bra AGAIN;\nret;\n}\n"

#endif
