/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/job.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *job_env(const struct job *job, const char *name)
{
    size_t bytes = strlen(name);
    if (!job->env)
        return getenv(name);
    for (char *const *at = job->env; *at; at++)
        if (strncmp(*at, name, bytes) == 0 && (*at)[bytes] == '=')
            return *at + bytes + 1;
    return NULL;
}

struct job_chunk {
    struct job_chunk *next;
    size_t used, room;
    _Alignas(16) unsigned char bytes[];
};

enum { CHUNK = 64 << 10 };

void *job_new(struct job *job, size_t count, size_t bytes)
{
    if (bytes && count > (SIZE_MAX / 2) / bytes)
        job_fail(job, PTXC_NO_MEMORY, "out of memory");
    size_t need = (count * bytes + 15) & ~(size_t)15;
    struct job_chunk *chunk = job->chunks;
    if (!chunk || chunk->room - chunk->used < need) {
        size_t room = need > CHUNK ? need : CHUNK;
        struct job_chunk *fresh = malloc(sizeof(*fresh) + room);
        if (!fresh)
            job_fail(job, PTXC_NO_MEMORY, "out of memory");
        fresh->used = 0;
        fresh->room = room;
        /* A big one goes behind the current chunk, which still has room for small ones. */
        if (chunk && need > CHUNK) {
            fresh->next = chunk->next;
            chunk->next = fresh;
        } else {
            fresh->next = chunk;
            job->chunks = fresh;
        }
        chunk = fresh;
    }
    void *out = chunk->bytes + chunk->used;
    chunk->used += need;
    memset(out, 0, need);
    return out;
}

char *job_text(struct job *job, const char *text, size_t bytes)
{
    char *out = job_new(job, bytes + 1, 1);
    memcpy(out, text, bytes);
    return out;
}

void job_fail(struct job *job, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(job->why, sizeof(job->why), format, args);
    va_end(args);
    for (char *c = job->why; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    job->code = code;
    longjmp(job->out, 1);
}

void job_free(struct job_chunk *chunks)
{
    while (chunks) {
        struct job_chunk *next = chunks->next;
        free(chunks);
        chunks = next;
    }
}

void *job_grow(struct job *job, void *array, uint32_t count, uint32_t *room, size_t bytes)
{
    if (count < *room)
        return array;
    if (*room > UINT32_MAX / 2)
        job_fail(job, PTXC_NO_MEMORY, "out of memory");
    uint32_t more = *room ? *room * 2 : 8;
    void *out = job_new(job, more, bytes);
    if (count)
        memcpy(out, array, count * bytes);
    *room = more;
    return out;
}
