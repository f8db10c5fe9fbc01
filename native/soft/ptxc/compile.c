/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/compile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/ptxc/compiler.h"
#include "soft/ptxc/prelude.h"
#include "soft/ptxc/ptx_rt.h"

char *compile_read(struct job *job, const char *file, size_t *bytes)
{
    int fd = strcmp(file, "-") == 0 ? 0 : open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        job_fail(job, PTXC_USAGE, "%s: %s", file, strerror(errno));
    size_t room = 1 << 16, used = 0;
    char *text = malloc(room);
    while (text) {
        ssize_t n = read(fd, text + used, room - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            job_fail(job, PTXC_USAGE, "%s: %s", file, strerror(errno));
        if (!n)
            break;
        used += (size_t)n;
        if (used == room) {
            char *more = room < (size_t)1 << 31 ? realloc(text, room * 2) : NULL;
            if (!more)
                free(text);
            text = more;
            room *= 2;
        }
    }
    if (fd)
        close(fd);
    if (!text)
        job_fail(job, PTXC_NO_MEMORY, "out of memory");
    *bytes = used;
    return text;
}

void compile_emit(struct job *job, const struct compile_wish *wish, const char *text, size_t bytes,
                  struct text *out)
{
    struct emitter e = {.job = job, .quick = wish->quick};
    e.module = module_read(job, text, bytes);
    /* A device runs PTX made for it or for an older one. */
    if (e.module->target > wish->sm)
        job_fail(job, PTXC_INVALID, "kernel %s: .target sm_%u; this device is sm_%u", wish->kernel,
                 e.module->target, wish->sm);
    emit_kernel(&e, wish->kernel);
    *out = e.out;
}

static void write_file(struct job *job, const char *name, const void *data, size_t bytes)
{
    FILE *f = fopen(name, "we");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f) != 0)
        job_fail(job, PTXC_INTERNAL, "writing %s: %s", name, strerror(errno));
}

static bool patch(char *file, size_t bytes, uint64_t mark, uint64_t **at)
{
    char *found = memmem(file, bytes, &mark, sizeof(mark));
    *at = (uint64_t *)(void *)found;
    return found && !memmem(found + 8, bytes - (size_t)(found - file) - 8, &mark, sizeof(mark));
}

/* Fills in how much stack a thread takes, now that the compiler has said. */
static void set_stack(struct job *job, bool fibers)
{
    size_t bytes;
    if (!fibers)
        return;
    uint64_t frames = compiler_stack(job), *stack, *thread, value[4];
    char *file = compile_read(job, "kernel.so", &bytes);
    if (!frames)
        frames = 256 << 10;
    if (!patch(file, bytes, PTXC_STACK_MARK, &stack) ||
        !patch(file, bytes, PTXC_THREAD_MARK, &thread) || (char *)(stack + 4) > file + bytes) {
        free(file);
        job_fail(job, PTXC_INTERNAL, "the compiled kernel lacks its stack marks");
    }
    memcpy(value, stack, sizeof(value));
    value[3] = frames + 2048;
    /* 16 times an odd number: what fibers, or rows of 16, have at the same depth does not fall into
     * the same few sets of a cache. */
    value[0] = ((value[1] + frames + 15) & ~15ull) | 16;
    memcpy(stack, value, sizeof(value));
    value[2] += value[0];
    memcpy(thread, &value[2], 8);
    write_file(job, "kernel.so", file, bytes);
    free(file);
}

const char *compile_kernel(struct job *job, const struct compile_wish *wish, const char *text,
                           size_t bytes, struct cache_work *work)
{
    struct compiler compiler;
    struct text c;
    char keys[2][65];
    compiler_find(job, &compiler);
    const char *folder = cache_folder(job, wish->cache);
    compile_keys(job, wish, &compiler, "/proc/self/exe", text, bytes, keys);
    const char *path = compile_cached(job, wish, folder, keys, NULL);
    if (path)
        return path;
    compile_emit(job, wish, text, bytes, &c); /* refusals come before the lock */
    if (!cache_begin(job, work, folder, keys[wish->quick])) {
        write_file(job, "kernel.c", c.at, c.bytes);
        compiler_run(job, &compiler,
                     strstr(c.at, "#define RT_QUICK 1\n") ? "-O1"
                     : strstr(c.at, "#define RT_BIG 0\n") ? "-O2"
                     : strstr(c.at, "#define RT_BIG 1\n") ? "-O1"
                                                          : "-O0");
        set_stack(job, strstr(c.at, "#define RT_FIBERS 1\n") != NULL);
        cache_publish(job, work);
    }
    return work->final;
}

void compile_reason(const struct job *job, const struct compile_wish *wish, char *why,
                    size_t why_bytes)
{
    bool named = !wish->kernel || job->code > PTXC_INVALID || strncmp(job->why, "kernel ", 7) == 0;
    if (named)
        snprintf(why, why_bytes, "%s", job->why);
    else
        snprintf(why, why_bytes, "kernel %s: %s", wish->kernel, job->why);
}

int compile_exit(const struct job *job)
{
    return job->code == PTXC_NO_MEMORY ? PTXC_INTERNAL : job->code;
}
