/* SPDX-License-Identifier: Apache-2.0
 *
 * Environment, log and the thread's depth inside the driver.
 */
#include "src/shim/entry/entry.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* In a container all of ours is mounted here by who started it: device_plugin/answer.py. */
#define INSIDE_GRANT  "/opt/harp/grant"
#define INSIDE_CUDA   "/opt/harp/driver/libcuda.so.1"
#define INSIDE_NVML   "/opt/harp/driver/libnvidia-ml.so.1"
#define INSIDE_REMOTE "/opt/harp/remote" /* ...; or this one: device_plugin/remote_share.py */
#define OVERFLOW_UID  65534u             /* who has no number in our user namespace */

static struct harp_env env;      /* written once under `env_once` */
static pthread_key_t inside_key; /* value: depth as an integer */
static pthread_once_t env_once = PTHREAD_ONCE_INIT;

static const char *text(const char *name)
{
    /* secure_getenv: in a set-user-ID program none of this may choose what is loaded or written */
    const char *value = secure_getenv(name);
    if (value == NULL || *value == '\0')
        return NULL;
    return strdup(value); /* programs rewrite their environment; ours must stay */
}

static void *no_dlopen(const char *file, int flags)
{
    (void)file;
    (void)flags;
    return NULL;
}

/* Whether uids here are not the host's: its root has no number then. */
static bool in_user_namespace(void)
{
    unsigned inside = 0, outside = 0, count = 0;
    char line[64] = "";
    int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    return n > 0 && sscanf(line, "%u %u %u", &inside, &outside, &count) == 3 &&
           (inside != 0 || outside != 0 || count != UINT32_MAX);
}

/* Whether a folder was mounted for us. On a plain host none is there, and only root could put one
 * there; a folder that others own or may write to is none, so that nobody can trap another. */
static bool is_mounted(const char *folder)
{
    struct stat st;
    memset(&st, 0, sizeof st);
    /* by number, as in loader.c */
    if (syscall(SYS_newfstatat, AT_FDCWD, folder, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    if (!S_ISDIR(st.st_mode) || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return false;
    return st.st_uid == 0 || st.st_uid == geteuid() ||
           (st.st_uid == OVERFLOW_UID && in_user_namespace());
}

/* The grant that is mounted decides, whatever the environment says: an edited or emptied one must
 * not give a container the whole GPU. */
static void take_mounted_grant(void)
{
    if (!is_mounted(INSIDE_GRANT)) {
        /* No GPU of this host is there then: also who has no environment is to find the one. */
        if (is_mounted(INSIDE_REMOTE)) {
            env.grant = NULL;
            env.remote = INSIDE_REMOTE "/near.sock";
        }
        return;
    }
    env.grant = INSIDE_GRANT;
    env.remote = NULL;
    env.gate_off = false;
    if (access(INSIDE_CUDA, R_OK) == 0)
        env.cuda_real = INSIDE_CUDA;
    if (access(INSIDE_NVML, R_OK) == 0)
        env.nvml_real = INSIDE_NVML;
}

static void env_read(void)
{
    int saved = errno;
    const char *strict = secure_getenv("HARP_STRICT"), *gate = secure_getenv("HARP_GATE");
    env.grant = text("HARP_GRANT");
    env.cuda_real = text("HARP_CUDA_REAL");
    env.nvml_real = text("HARP_NVML_REAL");
    env.remote = text("HARP_REMOTE");
    env.log = text("HARP_LOG");
    env.trace = text("HARP_TRACE");
    env.strict = strict != NULL && strcmp(strict, "1") == 0;
    env.gate_off = gate != NULL && strcmp(gate, "off") == 0;
    take_mounted_grant();
    void *(*volatile found)(const char *, int) =
        (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    env.dlopen = found != NULL ? found : no_dlopen;
    pthread_key_create(&inside_key, NULL);
    errno = saved;
}

const struct harp_env *harp_env(void)
{
    pthread_once(&env_once, env_read);
    return &env;
}

void harp_log(const char *format, ...)
{
    const char *to = harp_env()->log;
    if (to == NULL)
        return;
    int saved = errno;
    char line[512];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int n = snprintf(line, sizeof line, "%lld.%03ld harp pid=%d ", (long long)now.tv_sec,
                     now.tv_nsec / 1000000, (int)getpid());
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    va_end(args);
    size_t length = strlen(line);
    line[length++] = '\n';
    (void)m;
    char *end;
    long number = strtol(to, &end, 10);
    int fd = *end == '\0' ? (int)number
                          : open(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd >= 0 && write(fd, line, length) < 0)
        fd = *end == '\0' ? -1 : fd; /* nobody to tell */
    if (*end != '\0' && fd >= 0)
        close(fd);
    errno = saved;
}

bool harp_inside(void)
{
    harp_env();
    return pthread_getspecific(inside_key) != NULL;
}

void harp_enter(void)
{
    harp_env();
    uintptr_t depth = (uintptr_t)pthread_getspecific(inside_key);
    pthread_setspecific(inside_key, (void *)(depth + 1));
}

void harp_leave(void)
{
    uintptr_t depth = (uintptr_t)pthread_getspecific(inside_key);
    pthread_setspecific(inside_key, (void *)(depth - 1));
}
