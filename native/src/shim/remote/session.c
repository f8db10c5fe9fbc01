/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening, asking, reading.
 */
#include "src/shim/remote/session_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/shim/entry/api.h"
#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
/* A link may have to wait for a session (10 s), to dial, and for the other side to open its driver
 * (25 s). It refuses by itself before that; who has died is seen at once. */
#define OPEN_MS 40000
#define SPIN_US 50
#define ROOM_MS 2 /* then answers are read, which the worker may have no room for */

struct harp_remote_session harp_remote_session = {.put = PTHREAD_MUTEX_INITIALIZER,
                                                  .answers = PTHREAD_MUTEX_INITIALIZER,
                                                  .changed = PTHREAD_COND_INITIALIZER};
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

static CUresult open_now(void)
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
    err = harp_ring_dial(&s->ring, fd, NULL, table, OPEN_MS, text, sizeof text);
    if (err != 0)
        return failed(fd, err, text);
    if (s->ring.mapped != 0)
        madvise(s->ring.map, s->ring.mapped, MADV_DONTFORK);
    s->sock = fd;
    s->ring.spin_us = harp_ring_spin_us(SPIN_US);
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
        r = open_now();
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

/* --- reading ---------------------------------------------------------------------------------- */

int harp_remote_over(int err)
{
    int saved = errno;
    if (s->over)
        return err;
    __atomic_store_n(&s->over, true, __ATOMIC_RELAXED);
    for (struct harp_moving *m = s->moving; m != NULL; m = m->next)
        if (!m->done)
            m->to = NULL;
    shutdown(s->sock, SHUT_RDWR); /* who writes nonsense is not to wait for us */
    harp_log("remote_session_over error=%d why=\"%s\" remedy=\"start the program again\"", -err,
             err == -EPROTO ? "what came is not of this protocol"
                            : "the worker or the link is gone");
    errno = saved;
    return err;
}

static int reply_came(const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_waiting *w = record->lane <= HARP_REMOTE_LANES ? s->waiting[record->lane] : NULL;
    if (w == NULL)
        return -EPROTO;
    s->waiting[record->lane] = w->next;
    memcpy(w->body, body, record->bytes);
    w->bytes = record->bytes;
    w->done = true;
    return 0;
}

/* With `answers` held. */
static int came(const struct harp_ring_record *record, const uint8_t *body)
{
    if (record->seq != 0)
        s->taken = record->seq;
    if (record->flags & HARP_FRAME_BULK)
        return harp_remote_bulk_came(record, body);
    if (record->flags & HARP_FRAME_REVERSE)
        return harp_remote_said(record, body);
    return record->flags & HARP_FRAME_REPLY ? reply_came(record, body) : -EPROTO;
}

/* What is there, and if `wait` what comes first. `answers` is held, and given up meanwhile. */
static int read_all(bool wait)
{
    struct harp_ring_record record;
    s->reading = true;
    pthread_mutex_unlock(&s->answers);
    int err = wait ? harp_ring_wait(&s->ring, HARP_RING_FIRST, -1) : 0;
    int got = err;
    if (err == 0)
        got = harp_ring_take(&s->ring, &record, s->in, HARP_REMOTE_SCRATCH);
    pthread_mutex_lock(&s->answers);
    while (got == 1) {
        err = came(&record, s->in);
        /* the body has been copied: the next may take its place, and others may get the lock */
        got = err != 0 ? err : harp_ring_take(&s->ring, &record, s->in, HARP_REMOTE_SCRATCH);
    }
    s->reading = false;
    if (got < 0)
        harp_remote_over(got);
    if (s->waiters > 0)
        pthread_cond_broadcast(&s->changed);
    return s->over ? -EPIPE : 0;
}

int harp_remote_wait(void)
{
    if (s->over)
        return -EPIPE;
    s->waiters++;
    pthread_cond_wait(&s->changed, &s->answers);
    s->waiters--;
    return s->over ? -EPIPE : 0;
}

int harp_remote_read(void)
{
    return s->over || s->reading ? harp_remote_wait() : read_all(true);
}

/* --- putting ---------------------------------------------------------------------------------- */

int harp_remote_put(struct harp_ring_record *record, const void *body)
{
    int err;
    if (!(record->flags & (HARP_FRAME_BULK | HARP_FRAME_REVERSE))) /* else it says another thing */
        record->ack = __atomic_load_n(&s->taken, __ATOMIC_RELAXED);
    while ((err = harp_ring_put(&s->ring, record, body)) == -EAGAIN) {
        err = harp_ring_wait_room(&s->ring, record->bytes, ROOM_MS);
        if (err != 0 && err != -ETIMEDOUT)
            break;
        pthread_mutex_lock(&s->answers);
        if (!s->reading)
            read_all(false);
        bool over = s->over;
        pthread_mutex_unlock(&s->answers);
        if (over)
            return -EPIPE;
    }
    if (err == -EPIPE || err == -EPROTO) {
        pthread_mutex_lock(&s->answers);
        harp_remote_over(err);
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->answers);
        err = -EPIPE;
    }
    return err;
}

/* The worker's thread shall have the lane's context current. A stack of its own grows with the
 * contexts that are made there: to have none current, all of them are taken away. */
int harp_remote_tell_context(const struct harp_lane *lane)
{
    uint64_t want = harp_lane_current(lane), *told = &s->told[lane->number - 1];
    uint32_t *contexts = &s->contexts[lane->number - 1];
    if (*told == want)
        return 0;
    if (want != 0 && harp_thing_by_id(HARP_HANDLE_CUcontext, want, false) == NULL)
        return -ESTALE;
    uint32_t times = want != 0 ? 1 : *contexts;
    for (uint32_t i = 0; i < times; i++) {
        struct harp_ring_record record = {
            .bytes = sizeof want, .op = HARP_OP_cuCtxSetCurrent, .lane = lane->number};
        int err = harp_remote_put(&record, &want);
        if (err != 0)
            return err;
    }
    *contexts = want == 0 ? 0 : *contexts == 0 ? 1 : *contexts;
    *told = want;
    return 0;
}

/* With `put` held. */
static int put_call(struct harp_lane *lane, const struct harp_remote_call *call, uint32_t flags)
{
    int err = harp_remote_tell_context(lane);
    if (err == -ESTALE && call->anywhere)
        err = 0;
    for (unsigned i = 0; i < call->n_moves && err == 0; i++)
        err = harp_remote_announce(lane->number, call->moves[i]);
    if (err != 0)
        return err;
    struct harp_ring_record record = {
        .bytes = call->bytes, .op = call->op, .flags = call->flags | flags, .lane = lane->number};
    err = harp_remote_put(&record, call->body);
    if (err == 0)
        harp_ring_wake(&s->ring);
    return err;
}

int harp_remote_tell(struct harp_lane *lane, const struct harp_remote_call *call)
{
    int saved = errno;
    pthread_mutex_lock(&s->put);
    int err = put_call(lane, call, 0);
    pthread_mutex_unlock(&s->put);
    errno = saved;
    return err;
}

static uint64_t trips;

uint64_t harp_remote_trips(void)
{
    return __atomic_load_n(&trips, __ATOMIC_RELAXED);
}

int harp_remote_ask(struct harp_lane *lane, const struct harp_remote_call *call, uint8_t *answer,
                    uint32_t *bytes)
{
    int saved = errno;
    struct harp_waiting own = {.body = answer}, **last;
    __atomic_add_fetch(&trips, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&s->put); /* threads that share a lane wait in the order they ask */
    pthread_mutex_lock(&s->answers);
    for (last = &s->waiting[lane->number]; *last != NULL; last = &(*last)->next)
        ;
    *last = &own;
    pthread_mutex_unlock(&s->answers);
    int err = put_call(lane, call, HARP_FRAME_WANTED);
    pthread_mutex_unlock(&s->put);

    pthread_mutex_lock(&s->answers);
    while (err == 0 && !own.done)
        err = harp_remote_read();
    if (own.done)
        err = 0; /* even if it was the last that came */
    if (!own.done) {
        for (last = &s->waiting[lane->number]; *last != NULL && *last != &own;)
            last = &(*last)->next;
        if (*last == &own)
            *last = own.next;
    }
    pthread_mutex_unlock(&s->answers);
    *bytes = own.bytes;
    errno = saved;
    return err;
}

void harp_remote_moved(struct harp_lane *lane)
{
    pthread_mutex_lock(&s->put);
    s->told[lane->number - 1] = HARP_REMOTE_ANOTHER;
    s->contexts[lane->number - 1]++;
    pthread_mutex_unlock(&s->put);
}
