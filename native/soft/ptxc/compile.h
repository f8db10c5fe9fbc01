/* SPDX-License-Identifier: Apache-2.0
 *
 * One kernel of a PTX text, from text to a file in the cache.
 */
#ifndef HARP_PTXC_COMPILE_H
#define HARP_PTXC_COMPILE_H

#include "soft/ptxc/compile_find.h"
#include "soft/ptxc/emit.h"

/* What a file holds; "-" is standard input. The caller's to free. */
char *compile_read(struct job *job, const char *file, size_t *bytes);
/* The C text of the kernel. */
void compile_emit(struct job *job, const struct compile_wish *wish, const char *text, size_t bytes,
                  struct text *out);
/* The path of the compiled kernel, the job's. cache_end() is due afterwards, whatever happens. */
const char *compile_kernel(struct job *job, const struct compile_wish *wish, const char *text,
                           size_t bytes, struct cache_work *work);
/* One line for the job's failure; the kernel is named in it. `wish` may name none. */
void compile_reason(const struct job *job, const struct compile_wish *wish, char *why,
                    size_t why_bytes);
/* What the program ends with for the job. */
int compile_exit(const struct job *job);

#endif
