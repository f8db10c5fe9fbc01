/* SPDX-License-Identifier: Apache-2.0
 *
 * One piece of work over one PTX text: its memory (freed at once) and its way out on failure.
 *
 * Every parser here calls job_fail() where it stands; the outermost caller has set `out`. So no
 * parser returns an error, and none can forget to pass one on.
 */
#ifndef HARP_PTXC_JOB_H
#define HARP_PTXC_JOB_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes of harp-ptxc, and reasons of job_fail. */
enum {
    PTXC_OK = 0,
    PTXC_USAGE = 2,
    PTXC_UNSUPPORTED = 3,
    PTXC_INVALID = 4,
    PTXC_NO_COMPILER = 5,
    PTXC_INTERNAL = 6,
    PTXC_NO_MEMORY = 7, /* reported as 6 by the program, as -ENOMEM by the library */
};

struct job_chunk;

struct job {
    struct job_chunk *chunks;
    jmp_buf out;
    int code;      /* PTXC_* */
    char why[400]; /* one line */
    /* "NAME=value" and NULL at the end, of whom it is done for; NULL: this process's own. */
    char *const *env;
};

/* The variable's value, or NULL. */
const char *job_env(const struct job *job, const char *name);

/* Zeroed memory that lives as long as the job; fails the job when there is none. */
void *job_new(struct job *job, size_t count, size_t bytes);
char *job_text(struct job *job, const char *text, size_t bytes);
_Noreturn void job_fail(struct job *job, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Frees a list of chunks (job->chunks, or what was kept of it). */
void job_free(struct job_chunk *chunks);

/* Room for one more in a growing array: returns the (perhaps moved) array. */
void *job_grow(struct job *job, void *array, uint32_t count, uint32_t *room, size_t bytes);

#endif
