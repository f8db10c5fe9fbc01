/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/gpu/function_service.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "soft/ptxc/ptx_rt.h"
#include "soft/ptxc/service.h"

#define TIMEOUT_MS    300000 /* with all that wait before us */
#define PIECE_MS      30000
#define MEMFD_CLOEXEC 1u

enum outcome { ANSWERED, BUSY, LOST, LATE };

struct asking {
    const char *path, *kernel;
    int text, cc;
    bool quick;
    size_t text_bytes;
    int64_t end_ms;
    bool asked; /* the last time a service took the request */
    char why[200];
};

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static enum outcome lost(struct asking *ask, const char *what, int err)
{
    snprintf(ask->why, sizeof ask->why, "%s: %s", what, strerror(err));
    return LOST;
}

/* Who may write to the folder may put another socket there, and what it answers is run. */
static bool folder_is_safe(const char *path, char *why, size_t why_bytes)
{
    char folder[sizeof(struct sockaddr_un)];
    struct stat st;
    const char *slash = strrchr(path, '/');
    if (path[0] != '/' || strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        snprintf(why, why_bytes, "it must be an absolute path of up to %zu bytes",
                 sizeof((struct sockaddr_un *)0)->sun_path - 1);
        return false;
    }
    snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    if (stat(folder, &st) == 0 && (st.st_mode & 022) != 0) {
        snprintf(why, why_bytes, "others may write to its folder, mode %o",
                 (unsigned)st.st_mode & 07777u);
        return false;
    }
    return true;
}

static enum outcome await(struct asking *ask, int fd, int64_t end_ms)
{
    for (;;) {
        struct pollfd one = {fd, POLLIN, 0};
        int64_t left = end_ms - now_ms();
        if (left <= 0)
            return LATE;
        int n = poll(&one, 1, (int)left);
        if (n > 0)
            return ANSWERED;
        if (n < 0 && errno != EINTR)
            return lost(ask, "poll", errno);
    }
}

/* The object into memory of this process: the service keeps none for us. */
static enum outcome take_object(struct asking *ask, int fd, uint64_t bytes, int *object)
{
    char *piece = malloc(PTXC_PIECE);
    int file = (int)syscall(SYS_memfd_create, "harp-kernel", MEMFD_CLOEXEC);
    enum outcome out = ANSWERED;
    if (piece == NULL || file < 0)
        out = lost(ask, "memory for the compiled kernel", piece == NULL ? ENOMEM : errno);
    for (uint64_t done = 0; out == ANSWERED && done < bytes;) {
        int stray = -1;
        out = await(ask, fd, now_ms() + PIECE_MS);
        if (out != ANSWERED)
            break;
        ssize_t n = ptxc_receive(fd, piece, PTXC_PIECE, &stray);
        if (stray >= 0)
            close(stray);
        if (n <= 0 || (uint64_t)n > bytes - done) {
            out = lost(ask, "the compiled kernel", n < 0 ? (int)-n : EPIPE);
            break;
        }
        for (ssize_t put = 0; put < n;) {
            ssize_t m = write(file, piece + put, (size_t)(n - put));
            if (m < 0 && errno == EINTR)
                continue;
            if (m <= 0) {
                out = lost(ask, "memory for the compiled kernel", m < 0 ? errno : ENOSPC);
                break;
            }
            put += m;
        }
        done += (uint64_t)n;
    }
    free(piece);
    if (out == ANSWERED)
        *object = file;
    else if (file >= 0)
        close(file);
    return out;
}

static enum outcome take_answer(struct asking *ask, int fd, struct soft_spawned *done)
{
    char message[PTXC_REPLY_MAX], said[PTXC_WHY_MAX + 1];
    struct ptxc_reply reply;
    int stray = -1;
    enum outcome out = await(ask, fd, ask->end_ms);
    if (out != ANSWERED)
        return out;
    ssize_t n = ptxc_receive(fd, message, sizeof message, &stray);
    if (stray >= 0)
        close(stray);
    if (n <= 0)
        return lost(ask, "the answer", n < 0 ? (int)-n : EPIPE);
    if (!ptxc_reply_read(message, (size_t)n, &reply, said))
        return lost(ask, "the answer", EPROTO);
    if (reply.status == PTXC_BUSY)
        return BUSY;
    done->exit_status = (int)reply.status;
    snprintf(done->errors, sizeof done->errors, "%s", said);
    return reply.status == 0 ? take_object(ask, fd, reply.object_bytes, &done->object) : ANSWERED;
}

static enum outcome ask_once(struct asking *ask, struct soft_spawned *done)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ptxc_request request = {.magic = PTXC_MAGIC,
                                   .version = PTXC_VERSION,
                                   .abi = PTX_RT_ABI,
                                   .sm = (uint32_t)ask->cc,
                                   .text_bytes = ask->text_bytes,
                                   .kernel_bytes = (uint32_t)strlen(ask->kernel),
                                   .fast = !ask->quick};
    enum outcome out;
    ask->asked = false;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return lost(ask, "socket", errno);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", ask->path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        out = errno == EAGAIN ? BUSY : lost(ask, "connect", errno);
    } else {
        int err =
            ptxc_send(fd, &request, sizeof request, ask->kernel, request.kernel_bytes, ask->text);
        ask->asked = err == 0;
        out = err != 0 ? lost(ask, "send", -err) : take_answer(ask, fd, done);
    }
    close(fd);
    return out;
}

int soft_ask_service(const char *socket, int64_t patience_ms, const char *ptx, size_t ptx_bytes,
                     const char *kernel, int cc, bool quick, struct soft_spawned *done)
{
    struct asking ask = {.path = socket,
                         .kernel = kernel,
                         .cc = cc,
                         .quick = quick,
                         .text_bytes = ptx_bytes,
                         .end_ms = now_ms() + TIMEOUT_MS};
    int64_t until_ms = now_ms() + patience_ms;
    *done = (struct soft_spawned){.exit_status = -1, .object = -1};
    if (!folder_is_safe(socket, ask.why, sizeof ask.why)) {
        snprintf(done->errors, sizeof done->errors, "HARP_PTXC_SOCKET=%.150s: %s", socket, ask.why);
        return -EINVAL;
    }
    if (strlen(kernel) > PTXC_KERNEL_MAX || ptx_bytes > PTXC_TEXT_MAX) {
        snprintf(done->errors, sizeof done->errors,
                 "kernel %.100s: %zu bytes of PTX, a name of %zu; the compiler's service takes up "
                 "to %d and %d",
                 kernel, ptx_bytes, strlen(kernel), PTXC_TEXT_MAX, PTXC_KERNEL_MAX);
        return -E2BIG;
    }
    ask.text = ptxc_sealed_file(ptx, ptx_bytes);
    if (ask.text < 0) {
        snprintf(done->errors, sizeof done->errors, "a memory file for the PTX: %s",
                 strerror(-ask.text));
        return ask.text;
    }
    enum outcome out;
    for (unsigned tries = 1;; tries++) {
        out = ask_once(&ask, done);
        int64_t now = now_ms();
        if (out == ANSWERED || out == LATE || now >= ask.end_ms)
            break;
        if (out == BUSY || ask.asked)
            until_ms = now + patience_ms; /* it is there, or was until now */
        else if (now >= until_ms)
            break;
        /* not all who wait at once */
        poll(NULL, 0, 20 + (int)(((unsigned)getpid() * 7919u + tries * 104729u) % 100u));
    }
    close(ask.text);
    if (out == ANSWERED)
        return 0;
    done->exit_status = -1;
    if (out == LOST && now_ms() < ask.end_ms) {
        snprintf(done->errors, sizeof done->errors,
                 "no compiler answers at HARP_PTXC_SOCKET=%.150s (%s); remedy: python -m "
                 "harp.softgpu compiler --socket PATH",
                 socket, ask.why);
        return -ECONNREFUSED;
    }
    snprintf(done->errors, sizeof done->errors,
             "the compiler at HARP_PTXC_SOCKET=%.150s took more than %d s for kernel %.150s",
             socket, TIMEOUT_MS / 1000, kernel);
    return 0;
}
