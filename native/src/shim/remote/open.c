/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening: the first session, and another once one has ended. With the old one all is forgotten
 * that was known by it, and only when no call is under way that might follow any of that.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/session_state.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
/* A link may have to wait for a session (10 s), to dial, and for the other side to open its driver
 * (25 s). It refuses by itself before that; who has died is seen at once. */
#define OPEN_MS  40000
#define LEAVE_MS 2000 /* for calls of a session that has ended to come back */

static struct harp_remote_session *const s = &harp_remote_session;

enum { CLOSED, OPEN };
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
/* A page that a child made by fork finds empty. Written under `open_lock`, then only read. */
static struct {
    uint32_t state;
    uint32_t initialised;
} *life;
static bool ever; /* the process, or one it is a child of, has had a session */

/* --- opening ---------------------------------------------------------------------------------- */

static int dial(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof at.sun_path)
        return -ENAMETOOLONG;
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    while (connect(fd, (struct sockaddr *)&at, sizeof at) != 0)
        if (errno != EINTR) {
            int err = -errno;
            close(fd);
            return err;
        }
    return fd;
}

static CUresult failed(int fd, int err, const char *text)
{
    harp_log("remote_not_opened path=%s error=%d why=\"%s\" remedy=\"%s\"", harp_env()->remote,
             -err, *text != '\0' ? text : strerror(-err),
             err == -EPROTO ? "run the same release of HARP on both sides"
                            : "see whether harp-worker or harp-link still listens there");
    if (fd >= 0)
        close(fd);
    return err == -EPROTO   ? CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
           : err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY
                            : CUDA_ERROR_NO_DEVICE;
}

/* A child has the parent's memory but for this page: it is not connected, and says so. */
static int prepare(void)
{
    if (life != NULL)
        return 0;
    long page = sysconf(_SC_PAGESIZE);
    void *at = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -ENOMEM;
    if (madvise(at, (size_t)page, MADV_WIPEONFORK) != 0)
        harp_log("remote_fork_unsafe why=\"the kernel is older than 4.14\" remedy=\"do not use the "
                 "GPU in a process made by fork\"");
    s->in = malloc(HARP_REMOTE_SCRATCH);
    s->bulk.pages = HARP_RING_BULK_BYTES / HARP_RING_PAGE;
    s->bulk.taken = calloc((s->bulk.pages + 63) / 64, sizeof *s->bulk.taken);
    if (s->in == NULL || s->bulk.taken == NULL)
        return -ENOMEM; /* and once a process, what is left behind does not matter */
    life = at;
    return 0;
}

static CUresult open_ring(struct harp_ring *ring, int *sock)
{
    struct harp_table_id own;
    char table[HARP_TABLE_TEXT], text[256] = "";
    int err = prepare(), fd = -1;
    if (err == 0)
        err = fd = dial(harp_env()->remote);
    if (err < 0)
        return failed(fd, err, text);
    harp_table_own(&own, "libharp");
    harp_table_put(table, &own);
    err = harp_ring_dial(ring, fd, NULL, table, OPEN_MS, text, sizeof text);
    if (err != 0)
        return failed(fd, err, text);
    if (ring->mapped != 0)
        madvise(ring->map, ring->mapped, MADV_DONTFORK);
    *sock = fd;
    ring->yield.most_us = HARP_YIELD_US;
    return CUDA_SUCCESS;
}

static CUresult open_first(void)
{
    CUresult r = open_ring(&s->ring, &s->sock);
    if (r != CUDA_SUCCESS)
        return r;
    ever = true;
    __atomic_store_n(&life->state, OPEN, __ATOMIC_RELEASE);
    return CUDA_SUCCESS;
}

static CUresult standing(void)
{
    if (life == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (__atomic_load_n(&life->state, __ATOMIC_ACQUIRE) != OPEN)
        return CUDA_ERROR_NOT_INITIALIZED;
    return __atomic_load_n(&s->over, __ATOMIC_RELAXED) ? CUDA_ERROR_DEVICE_UNAVAILABLE
                                                       : CUDA_SUCCESS;
}

CUresult harp_remote_open(void)
{
    CUresult r = standing();
    if (r != CUDA_ERROR_NOT_INITIALIZED || ever)
        return r;
    int saved = errno;
    pthread_mutex_lock(&open_lock);
    r = standing();
    if (r == CUDA_ERROR_NOT_INITIALIZED)
        r = open_first();
    pthread_mutex_unlock(&open_lock);
    errno = saved;
    return r;
}

CUresult harp_remote_ready(void)
{
    CUresult r = standing();
    if (r == CUDA_SUCCESS && !__atomic_load_n(&life->initialised, __ATOMIC_ACQUIRE))
        r = CUDA_ERROR_NOT_INITIALIZED;
    return r;
}

void harp_remote_initialised(void)
{
    __atomic_store_n(&life->initialised, 1, __ATOMIC_RELEASE);
}

/* --- again ------------------------------------------------------------------------------------ */

bool harp_remote_ended(void)
{
    return standing() == CUDA_ERROR_DEVICE_UNAVAILABLE;
}

bool harp_remote_gone(void)
{
    if (standing() != CUDA_SUCCESS)
        return harp_remote_ended();
    if (!harp_ring_gone(&s->ring))
        return false;
    pthread_mutex_lock(&s->answers);
    harp_remote_over(-EPIPE);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->answers);
    return true;
}

/* No call is under way, and none begins until `closing` is false again. What waits in a session
 * that has ended comes back at once; a function of the program's need not. */
static bool quiet(void)
{
    const struct timespec a_while = {.tv_nsec = 1000000};
    harp_lanes_close(true);
    for (int ms = 0; ms < LEAVE_MS; ms++) {
        if (harp_lanes_idle() && harp_remote_host_idle())
            return true;
        nanosleep(&a_while, NULL);
    }
    harp_lanes_close(false);
    return false;
}

static void replace(const struct harp_ring *ring, int sock)
{
    pthread_mutex_lock(&s->put);
    pthread_mutex_lock(&s->answers);
    harp_ring_close(&s->ring);
    close(s->sock);
    s->ring = *ring;
    s->sock = sock;
    memset(s->told, 0, sizeof s->told);
    memset(s->contexts, 0, sizeof s->contexts);
    memset(s->waiting, 0, sizeof s->waiting);
    harp_remote_forget_bulk();
    harp_remote_forget_ahead();
    s->taken = 0;
    __atomic_store_n(&life->initialised, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&s->over, false, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&s->answers);
    pthread_mutex_unlock(&s->put);
}

/* With `open_lock` held. The old session stays as it is until there is a new one. */
static CUresult open_second(void)
{
    struct harp_ring ring;
    int sock;
    if (harp_things_hold())
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    CUresult r = open_ring(&ring, &sock);
    if (r != CUDA_SUCCESS)
        return r;
    if (!quiet()) {
        harp_log("remote_not_opened error=%d why=\"calls of the session that has ended are still "
                 "under way\" remedy=\"call cuInit when they have come back\"",
                 EBUSY);
        harp_ring_close(&ring);
        close(sock);
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    harp_things_forget();
    harp_lanes_forget();
    harp_remote_forget_calls();
    harp_remote_forget_contexts();
    harp_remote_forget_devices();
    harp_remote_forget_graphs();
    harp_remote_forget_host();
    harp_remote_forget_images();
    harp_remote_forget_logs();
    harp_remote_forget_ranges();
    replace(&ring, sock);
    r = harp_remote_cuInit(0); /* whoever comes next finds devices */
    harp_lanes_close(false);
    return r;
}

CUresult harp_remote_again(void)
{
    int saved = errno;
    pthread_mutex_lock(&open_lock);
    CUresult r = standing();
    if (r == CUDA_ERROR_DEVICE_UNAVAILABLE)
        r = open_second();
    pthread_mutex_unlock(&open_lock);
    errno = saved;
    return r;
}
