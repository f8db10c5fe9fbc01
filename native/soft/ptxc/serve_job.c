/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/serve_job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/ptxc/compile.h"
#include "soft/ptxc/serve_log.h"
#include "soft/ptxc/service.h"

enum {
    SEND_MS = 30000, /* for all of a kernel; a reader may be slow, but not hold a place for long */
    FILES_MIB = 256, /* what a compile may write */
};

int serve_refuse(int socket, uint32_t status, const char *why)
{
    size_t bytes = strlen(why);
    struct ptxc_reply reply = {.magic = PTXC_MAGIC, .version = PTXC_VERSION, .status = status};
    reply.why_bytes = (uint32_t)(bytes > PTXC_WHY_MAX ? PTXC_WHY_MAX : bytes);
    return ptxc_send(socket, &reply, sizeof(reply), why, reply.why_bytes, -1);
}

static void set_limit(int which, uint64_t value)
{
    struct rlimit limit;
    if (getrlimit(which, &limit) == 0 && value < limit.rlim_max)
        limit.rlim_max = value;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(which, &limit);
}

static char *read_text(struct job *job, const struct serve_request *asked)
{
    char *text = malloc(asked->text_bytes);
    if (!text)
        job_fail(job, PTXC_NO_MEMORY, "out of memory");
    for (uint64_t done = 0; done < asked->text_bytes;) {
        /* pread: the program shares the file's position, and could move it */
        ssize_t n = pread(asked->text, text + done, asked->text_bytes - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(text);
            job_fail(job, PTXC_INTERNAL, "reading the text: %s", n ? strerror(errno) : "it ends");
        }
        done += (uint64_t)n;
    }
    return text;
}

/* The compiled kernel's file; -1: it was taken away meanwhile, since others needed the room. */
static int open_object(struct job *job, const char *path, uint64_t *bytes)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return -1;
    if (fd < 0 || fstat(fd, &st) != 0)
        job_fail(job, PTXC_INTERNAL, "%s: %s", path, strerror(errno));
    if (st.st_size <= 0 || st.st_size > PTXC_OBJECT_MAX)
        job_fail(job, PTXC_INTERNAL, "the compiled kernel has %lld bytes; up to %d",
                 (long long)st.st_size, PTXC_OBJECT_MAX);
    *bytes = (uint64_t)st.st_size;
    utimensat(AT_FDCWD, path, NULL, 0); /* used just now */
    return fd;
}

/* The socket stays one that never blocks: the service has the same one open. */
static int send_patiently(int socket, const void *bytes, size_t count, uint64_t end_ms)
{
    for (;;) {
        struct pollfd room = {.fd = socket, .events = POLLOUT};
        int err = ptxc_send(socket, bytes, count, NULL, 0, -1);
        if (err != -EAGAIN)
            return err;
        uint64_t now = serve_now_ms();
        if (now >= end_ms)
            return -ETIMEDOUT;
        if (poll(&room, 1, (int)(end_ms - now)) < 0 && errno != EINTR)
            return -errno;
    }
}

static void send_object(int socket, int fd, uint64_t bytes)
{
    static char piece[PTXC_PIECE];
    struct ptxc_reply reply = {.magic = PTXC_MAGIC, .version = PTXC_VERSION, .object_bytes = bytes};
    uint64_t end_ms = serve_now_ms() + SEND_MS;
    int err = send_patiently(socket, &reply, sizeof(reply), end_ms);
    for (uint64_t done = 0; !err && done < bytes;) {
        ssize_t n = read(fd, piece, sizeof(piece));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* the program sees that the end is missing */
        err = send_patiently(socket, piece, (size_t)n, end_ms);
        done += (uint64_t)n;
    }
}

_Noreturn void serve_job(const struct serve_settings *settings, const struct serve_request *asked)
{
    static struct job job;
    static struct cache_work work = {.lock = -1};
    static char *text;
    struct compile_wish wish = {
        .kernel = asked->kernel, .cache = settings->cache, .sm = asked->sm, .quick = asked->quick};
    set_limit(RLIMIT_AS, (uint64_t)settings->memory_mib << 20);
    set_limit(RLIMIT_CPU, settings->timeout_s); /* also if the service is killed meanwhile */
    set_limit(RLIMIT_FSIZE, (uint64_t)FILES_MIB << 20);
    set_limit(RLIMIT_CORE, 0);
    if (setjmp(job.out) == 0) {
        uint64_t bytes = 0;
        int fd = -1;
        text = read_text(&job, asked);
        for (int tries = 0; fd < 0 && tries < 3; tries++) {
            const char *path = compile_kernel(&job, &wish, text, asked->text_bytes, &work);
            fd = open_object(&job, path, &bytes);
            cache_end(&work);
        }
        if (fd < 0)
            job_fail(&job, PTXC_INTERNAL, "the cache has no room for the compiled kernel");
        *asked->begun = true;
        send_object(asked->socket, fd, bytes);
    } else {
        char why[PTXC_WHY_MAX + 1];
        cache_end(&work);
        compile_reason(&job, &wish, why, sizeof(why));
        *asked->begun = true;
        serve_refuse(asked->socket, (uint32_t)compile_exit(&job), why);
    }
    _exit(compile_exit(&job));
}
