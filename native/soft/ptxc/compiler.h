/* SPDX-License-Identifier: Apache-2.0
 *
 * The C compiler of this machine: which one, and running it.
 */
#ifndef HARP_PTXC_COMPILER_H
#define HARP_PTXC_COMPILER_H

#include "soft/ptxc/job.h"
#include "soft/ptxc/sha256.h"

enum { FLAGS_MOST = 32 };
extern const char *const compiler_flags[]; /* NULL at the end; of every kernel */

struct compiler {
    const char *path;
};

/* $HARP_PTXC_CC, else cc, gcc, clang in PATH. Fails the job with PTXC_NO_COMPILER. */
void compiler_find(struct job *job, struct compiler *out);
/* All that may change what it makes: the compiler itself, its flags, this processor. */
void compiler_identity(struct job *job, const struct compiler *compiler, struct sha256 *sha);
/* In the current folder: kernel.c -> kernel.so and a report of stack use. `level`: "-O2" ... */
void compiler_run(struct job *job, const struct compiler *compiler, const char *level);
/* Sum of the stack frames that the report names, in bytes; 0 if there is no report. */
uint64_t compiler_stack(struct job *job);

#endif
