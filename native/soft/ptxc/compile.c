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

/* This program tells apart its own versions, which nobody chooses to be alike: SHA-256 would take
 * longer over it than all else that a kernel needs which the cache has. */
static void add_self(struct sha256 *sha)
{
    static uint64_t words[1 << 13];
    uint64_t sum[2] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full}, length = 0;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && (n = read(fd, words, sizeof(words))) > 0; length += (uint64_t)n) {
        memset((char *)words + n, 0, sizeof(words) - (size_t)n);
        for (size_t i = 0; i * sizeof(words[0]) < (size_t)n; i++) {
            sum[0] = (sum[0] ^ words[i]) * 0xff51afd7ed558ccdull;
            sum[0] ^= sum[0] >> 32;
            sum[1] = (sum[1] + words[i]) * 0xc4ceb9fe1a85ec53ull;
            sum[1] ^= sum[1] >> 29;
        }
    }
    if (fd >= 0)
        close(fd);
    sha256_add(sha, &length, sizeof(length));
    sha256_add(sha, sum, sizeof(sum));
}

/* Of everything that decides what comes out, but for `quick`. */
static void add_all(struct job *job, const struct compile_wish *wish,
                    const struct compiler *compiler, const char *text, size_t bytes,
                    struct sha256 *sha)
{
    uint32_t numbers[2] = {PTX_RT_ABI, wish->sm};
    uint64_t length = bytes;
    sha256_init(sha);
    sha256_add(sha, &length, sizeof(length));
    sha256_add(sha, text, bytes);
    sha256_add(sha, wish->kernel, strlen(wish->kernel) + 1);
    sha256_add(sha, numbers, sizeof(numbers));
    compiler_identity(job, compiler, sha);
    add_self(sha);
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
    value[0] = (value[1] + frames + 63) & ~63ull;
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
    struct sha256 all;
    struct text c;
    char key[65], name[80];
    compiler_find(job, &compiler);
    const char *folder = cache_folder(job, wish->cache);
    char *path = job_new(job, strlen(folder) + sizeof(name), 1);
    add_all(job, wish, &compiler, text, bytes, &all);
    /* Who wants it soon is given the fast one where it is. */
    for (uint8_t quick = 0; quick <= wish->quick; quick++) {
        struct sha256 sha = all;
        sha256_add(&sha, &quick, 1);
        sha256_hex(&sha, key);
        snprintf(name, sizeof(name), "/%s.so", key);
        strcat(strcpy(path, folder), name);
        if (quick < wish->quick && cache_trusts(job, path))
            return path;
    }
    if (!cache_trusts(job, path)) {
        compile_emit(job, wish, text, bytes, &c); /* refusals come before the lock */
        if (!cache_begin(job, work, folder, key)) {
            write_file(job, "kernel.c", c.at, c.bytes);
            compiler_run(job, &compiler,
                         strstr(c.at, "#define RT_QUICK 1\n") ? "-O1"
                         : strstr(c.at, "#define RT_BIG 0\n") ? "-O2"
                         : strstr(c.at, "#define RT_BIG 1\n") ? "-O1"
                                                              : "-O0");
            set_stack(job, strstr(c.at, "#define RT_FIBERS 1\n") != NULL);
            cache_publish(job, work);
        }
    }
    return path;
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
