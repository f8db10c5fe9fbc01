/* SPDX-License-Identifier: Apache-2.0
 *
 * Looks whether the cache has what harp-ptxc would make (compile_find.h), else runs it: posix_spawn
 * (a client may have threads), PTX as a sealed-in-memory file on its standard input (no deadlock,
 * no SIGPIPE in the client), output read with a time limit, none of the client's LD_* or HARP_*
 * injection in its environment.
 *
 * It is a child of the client's process, at times that the client does not choose: one that waits
 * for any child may be told of it. Another exit signal does not hide it: exec sets SIGCHLD again.
 */
#include "soft/gpu/function_spawn.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "soft/gpu/function_environment.h"
#include "soft/gpu/function_service.h"
#include "soft/gpu/mounted.h"
#include "soft/ptxc/compile_find.h"

/* A container's; also a program with an empty environment is compiled for. */
#define MOUNTED_SOCKET "/opt/harp/ptxc/sock"
#define TIMEOUT_MS     300000 /* a huge kernel on a loaded machine */
#define LOOK_MS        200
#ifndef SYS_memfd_create
#define SYS_memfd_create 319
#endif
#define MEMFD_CLOEXEC_FLAG 1u

static bool executable(const char *path)
{
    return access(path, X_OK) == 0;
}

/* Beside the library, then $HARP_PTXC, then one folder up (the installed layout). */
static int find_ptxc(const char *told, char *path, size_t bytes)
{
    Dl_info info;
    char real[PATH_MAX] = "";
    if (dladdr((void *)(uintptr_t)&soft_spawn_ptxc, &info) != 0 && info.dli_fname != NULL &&
        realpath(info.dli_fname, real) != NULL) {
        char *slash = strrchr(real, '/');
        if (slash != NULL)
            *slash = '\0';
        snprintf(path, bytes, "%s/harp-ptxc", real);
        if (executable(path))
            return 0;
    }
    if (told != NULL && told[0] == '/') {
        snprintf(path, bytes, "%s", told);
        if (executable(path))
            return 0;
    }
    snprintf(path, bytes, "%s/../harp-ptxc", real);
    return executable(path) ? 0 : -ENOENT;
}

static int file_of(const char *text, size_t bytes)
{
    int fd = (int)syscall(SYS_memfd_create, "harp-ptx", MEMFD_CLOEXEC_FLAG);
    if (fd < 0)
        return -errno;
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = write(fd, text + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            close(fd);
            return -EIO;
        }
        done += (size_t)n;
    }
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int spawn(const char *program, char *const *env, const char *kernel, int cc, bool quick,
                 int in, int out, int errors, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in, 0);
    posix_spawn_file_actions_adddup2(&files, out, 1);
    posix_spawn_file_actions_adddup2(&files, errors, 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    char sm[16];
    snprintf(sm, sizeof sm, "%d", cc);
    const char *argv[] = {"harp-ptxc", "compile", "--kernel", kernel, "--sm", sm, "-", NULL, NULL};
    if (quick)
        argv[7] = "--quick";
    int err = posix_spawn(pid, program, &files, &attributes, (char *const *)(uintptr_t)argv, env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return -err;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

struct sink {
    int fd;
    char *text;
    size_t bytes, used;
};

/* Keeps what fits, drops the rest; closes at the end of the stream. */
static void drain(struct sink *sink)
{
    char buffer[4096];
    ssize_t n = read(sink->fd, buffer, sizeof buffer);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        close(sink->fd);
        sink->fd = -1;
        return;
    }
    size_t room = sink->bytes - 1 - sink->used;
    size_t take = (size_t)n < room ? (size_t)n : room;
    memcpy(sink->text + sink->used, buffer, take);
    sink->used += take;
    sink->text[sink->used] = '\0';
}

/* Also true if somebody else has reaped it. */
static bool is_gone(pid_t pid)
{
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
        return errno == ECHILD;
    return info.si_pid == pid;
}

/* Until both streams end, or the child is gone and they are empty: a process that the client forked
 * while the child was started may hold them open for as long as it likes. */
static bool collect(pid_t pid, struct sink *out, struct sink *errors)
{
    int64_t end = now_ms() + TIMEOUT_MS;
    bool gone = false;
    while (out->fd >= 0 || errors->fd >= 0) {
        if (now_ms() >= end)
            return false;
        struct pollfd fds[2] = {{out->fd, POLLIN, 0}, {errors->fd, POLLIN, 0}};
        int ready = poll(fds, 2, gone ? 0 : LOOK_MS);
        if (ready < 0 && errno != EINTR)
            return false;
        if (ready == 0 && gone)
            return true;
        if (ready > 0 && out->fd >= 0 && fds[0].revents != 0)
            drain(out);
        if (ready > 0 && errors->fd >= 0 && fds[1].revents != 0)
            drain(errors);
        if (ready == 0)
            gone = is_gone(pid);
    }
    return true;
}

static int finish(pid_t pid, bool in_time)
{
    int status = 0;
    if (!in_time)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1; /* the client reaps all children itself */
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int soft_spawn_ptxc(const char *ptx, size_t ptx_bytes, const char *kernel, int cc, bool quick,
                    struct soft_spawned *done)
{
    const struct soft_environment *environment = soft_environment();
    *done = (struct soft_spawned){.exit_status = -1, .object = -1};
    if (environment == NULL) {
        snprintf(done->errors, sizeof done->errors, "no memory to start harp-ptxc");
        return -ENOMEM;
    }
    const char *service = environment->service;
    if (soft_is_mounted(MOUNTED_SOCKET))
        service = MOUNTED_SOCKET;
    if (service != NULL && service[0] != '\0')
        return soft_ask_service(service, environment->service_wait_ms, ptx, ptx_bytes, kernel, cc,
                                quick, done);
    char program[PATH_MAX + 16];
    int out[2] = {-1, -1}, errors[2] = {-1, -1}, in = -1, err = 0;
    pid_t pid = -1;
    if (find_ptxc(environment->program, program, sizeof program) != 0) {
        snprintf(done->errors, sizeof done->errors,
                 "harp-ptxc is not beside the library; remedy: set HARP_PTXC to its absolute path");
        return -ENOENT;
    }
    const struct compile_wish wish = {.kernel = kernel, .sm = (uint32_t)cc, .quick = quick};
    done->object = compile_find(&wish, program, environment->passed, ptx, ptx_bytes, done->path,
                                sizeof done->path);
    if (done->object >= 0) {
        done->exit_status = 0;
        return 0;
    }
    in = file_of(ptx, ptx_bytes);
    if (in < 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(errors, O_CLOEXEC) != 0) {
        err = in < 0 ? in : -errno;
        goto out;
    }
    err = spawn(program, environment->passed, kernel, cc, quick, in, out[1], errors[1], &pid);
    if (err != 0)
        goto out;
    close(out[1]);
    close(errors[1]);
    out[1] = errors[1] = -1;
    struct sink said = {out[0], done->path, sizeof done->path, 0};
    struct sink complained = {errors[0], done->errors, sizeof done->errors, 0};
    bool in_time = collect(pid, &said, &complained);
    out[0] = said.fd;
    errors[0] = complained.fd;
    done->exit_status = finish(pid, in_time);
    done->path[strcspn(done->path, "\n")] = '\0';
    done->errors[strcspn(done->errors, "\n")] = '\0';
    if (done->exit_status > 0)
        done->path[0] = '\0';
    if (!in_time)
        snprintf(done->errors, sizeof done->errors, "harp-ptxc took more than %d s for kernel %s",
                 TIMEOUT_MS / 1000, kernel);
out:
    if (err != 0)
        snprintf(done->errors, sizeof done->errors, "harp-ptxc does not start: %s", strerror(-err));
    for (int i = 0; i < 2; i++) {
        if (out[i] >= 0)
            close(out[i]);
        if (errors[i] >= 0)
            close(errors[i]);
    }
    if (in >= 0)
        close(in);
    return err;
}
