/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection: handshake, questions and answers, pushes, loss and return, fork.
 *
 * Before the service thread runs (a program that only asks for the size of a device) the asking
 * thread reads the socket itself; afterwards the service thread does.
 */
#include "src/shim/gate/session.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/link.h"

#define MS       1000000ull
#define ASK_NS   (HARP_MEM_WAIT_NS + 500 * MS) /* the arbiter's own limit comes first */
#define AGAIN_NS (1000 * MS)                   /* after a failure: deny at once for so long */

struct question {
    uint32_t seq; /* 0: free */
    bool done;
    struct harp_msg answer;
};

static struct {
    pthread_mutex_t lock;      /* all below but `fd` */
    pthread_cond_t changed;    /* an answer came, or the connection changed */
    pthread_mutex_t send_lock; /* fd: taken last */
    int fd;
    int pid; /* whose connection it is: a forked child starts again */
    bool ever, thread;
    unsigned lanes;
    int wake;
    uint32_t seq;
    uint64_t failed_ns; /* when connecting last failed */
    uint64_t backoff_ns;
    struct question asked[HARP_MAX_WAITING];
    struct harp_device devices[HARP_MAX_DEVICES]; /* by our own number, for good: see `wire` */
} s = {.lock = PTHREAD_MUTEX_INITIALIZER,
       .changed = PTHREAD_COND_INITIALIZER,
       .send_lock = PTHREAD_MUTEX_INITIALIZER,
       .fd = -1,
       .lanes = 1,
       .wake = -1};

uint64_t harp_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};
    nanosleep(&t, NULL);
}

/* In a forked child: locks may be held by threads that do not exist here; all starts again. */
static void check_fork(void)
{
    int pid = (int)getpid();
    if (s.pid == pid)
        return;
    if (s.pid != 0) {
        pthread_mutex_init(&s.lock, NULL);
        pthread_cond_init(&s.changed, NULL);
        pthread_mutex_init(&s.send_lock, NULL);
        if (s.fd >= 0)
            close(s.fd);
        if (s.wake >= 0)
            close(s.wake);
        s.fd = s.wake = -1;
        s.thread = s.ever = false;
        s.failed_ns = s.backoff_ns = 0;
        memset(s.asked, 0, sizeof s.asked);
        memset(s.devices, 0, sizeof s.devices);
        harp_memory_forked();
        harp_time_forked();
    }
    s.pid = pid;
}

/* --- sending --------------------------------------------------------------------------------- */

/* `dev` is the arbiter's number already. */
static bool send_raw(struct harp_msg *msg)
{
    msg->version = HARP_LEASE_VERSION;
    pthread_mutex_lock(&s.send_lock);
    bool ok = s.fd >= 0 && harp_link_send(s.fd, msg);
    pthread_mutex_unlock(&s.send_lock);
    return ok;
}

/* No lock: a device that goes and comes back in mid-flight is told something harmless. */
static bool send_msg(const struct harp_msg *msg)
{
    struct harp_msg out = *msg;
    const struct harp_device *d = &s.devices[msg->dev % HARP_MAX_DEVICES];
    out.dev = __atomic_load_n(&d->wire, __ATOMIC_RELAXED);
    return __atomic_load_n(&d->known, __ATOMIC_RELAXED) && send_raw(&out);
}

void harp_session_tell(struct harp_msg *msg)
{
    int saved = errno;
    if (harp_session_own()) /* a forked child must not speak for its parent */
        send_msg(msg);
    errno = saved;
}

/* --- connecting; session lock held ----------------------------------------------------------- */

/* Our number of the device that this arbiter calls `wire`; -1: not announced on this connection. */
static int device_at(uint32_t wire)
{
    for (int i = 0; i < (int)HARP_MAX_DEVICES; i++)
        if (s.devices[i].known && s.devices[i].wire == wire)
            return i;
    return -1;
}

/* A device keeps our number when another arbiter gives it another of its own. */
static int place_for(const uint8_t uuid[16])
{
    for (int i = 0; i < (int)HARP_MAX_DEVICES; i++)
        if (s.devices[i].ever && memcmp(s.devices[i].uuid, uuid, 16) == 0)
            return i;
    for (int i = 0; i < (int)HARP_MAX_DEVICES; i++)
        if (!s.devices[i].ever)
            return i;
    return -1;
}

/* What we hold on it is said before anything is asked for there. */
static bool device_said(int fd, const struct harp_msg *msg)
{
    int i = place_for(msg->uuid);
    if (i < 0)
        return true;
    struct harp_device *d = &s.devices[i];
    bool fresh = !d->known;
    d->ever = true;
    __atomic_store_n(&d->wire, msg->dev, __ATOMIC_RELAXED);
    __atomic_store_n(&d->known, true, __ATOMIC_RELAXED);
    memcpy(d->uuid, msg->uuid, sizeof d->uuid);
    d->limit_bytes = msg->limit_bytes;
    d->capacity_bytes = msg->capacity_bytes;
    d->slack_bytes = msg->slack_bytes;
    d->overhead_bytes = msg->overhead_bytes;
    d->share_ppm = msg->b;
    d->limit_ppm = msg->c;
    for (uint32_t cls = 0; fresh && cls < HARP_MEM_CLASSES; cls++) {
        struct harp_msg adopt = {.version = HARP_LEASE_VERSION,
                                 .op = HARP_ADOPT_MEM,
                                 .dev = msg->dev,
                                 .cls = cls,
                                 .bytes = harp_memory_leased(i, cls)};
        if (adopt.bytes != 0 && !harp_link_send(fd, &adopt))
            return false;
    }
    return true;
}

static bool handshake(int fd)
{
    struct harp_msg msg;
    if (!harp_link_hello(fd, s.pid, s.ever, &msg))
        return false;
    uint32_t count = msg.a;
    __atomic_store_n(&s.lanes, msg.b >= HARP_TIME_LANES ? HARP_TIME_LANES : 1u, __ATOMIC_RELAXED);
    for (size_t i = 0; i < HARP_MAX_DEVICES; i++)
        __atomic_store_n(&s.devices[i].known, false, __ATOMIC_RELAXED);
    while (count-- > 0) {
        if (!harp_link_receive(fd, &msg, HARP_HANDSHAKE_MS) || msg.op != HARP_DEVICE ||
            !device_said(fd, &msg))
            return false;
    }
    return true;
}

static bool try_connect(void)
{
    if (s.fd >= 0)
        return true;
    int fd = harp_link_connect(harp_env()->grant);
    if (fd >= 0 && !handshake(fd)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0)
        return false;
    pthread_mutex_lock(&s.send_lock);
    __atomic_store_n(&s.fd, fd, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s.send_lock);
    if (s.ever)
        harp_log("arbiter_back");
    s.ever = true;
    s.failed_ns = s.backoff_ns = 0;
    harp_time_connection(true, s.lanes);
    pthread_cond_broadcast(&s.changed);
    return true;
}

static void disconnect(void)
{
    pthread_mutex_lock(&s.send_lock);
    if (s.fd >= 0)
        close(s.fd);
    __atomic_store_n(&s.fd, -1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s.send_lock);
    harp_log("arbiter_gone leases=kept");
    harp_time_connection(false, s.lanes);
    pthread_cond_broadcast(&s.changed);
    harp_session_wake(); /* it may be waiting on the socket that is closed now */
}

/* --- receiving; session lock held ------------------------------------------------------------ */

static struct question *question_of(uint32_t seq)
{
    for (size_t i = 0; seq != 0 && i < HARP_MAX_WAITING; i++)
        if (s.asked[i].seq == seq)
            return &s.asked[i];
    return NULL;
}

static void handle(struct harp_msg *msg)
{
    struct question *q = NULL;
    if (msg->op == HARP_DEVICE) {
        device_said(s.fd, msg);
        pthread_cond_broadcast(&s.changed);
        return;
    }
    int dev = device_at(msg->dev);
    if (dev < 0)
        return;
    uint32_t wire = msg->dev;
    msg->dev = (uint32_t)dev;
    switch (msg->op) {
    case HARP_MEM_GRANT:
    case HARP_MEM_DENY:
    case HARP_MEM_STATE:
        q = question_of(msg->seq);
        if (msg->op == HARP_MEM_GRANT)
            harp_memory_granted(msg, q != NULL);
        if (q != NULL) {
            q->answer = *msg;
            q->done = true;
            pthread_cond_broadcast(&s.changed);
        }
        break;
    case HARP_RECALL_MEM: {
        struct harp_msg back = {.op = HARP_RECALLED, .dev = wire, .seq = msg->seq};
        back.bytes = harp_memory_recall((int)msg->dev, msg->bytes);
        send_raw(&back);
        break;
    }
    case HARP_OPEN_GATE:
        harp_time_open_gate(msg);
        break;
    case HARP_CLOSE_GATE:
        harp_time_close_gate(msg);
        break;
    default:
        break; /* a later arbiter may say more */
    }
}

/* Reads all that is there. */
static void drain_socket(void)
{
    while (s.fd >= 0) {
        struct harp_msg msg;
        ssize_t n = recv(s.fd, &msg, sizeof msg, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n != (ssize_t)sizeof msg || msg.version != HARP_LEASE_VERSION)
            disconnect();
        else
            handle(&msg);
    }
}

/* --- questions ------------------------------------------------------------------------------- */

static void wait_changed(uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t); /* the default clock of a condition, in glibc and musl */
    uint64_t at = (uint64_t)t.tv_nsec + ns;
    t.tv_sec += (time_t)(at / 1000000000ull);
    t.tv_nsec = (long)(at % 1000000000ull);
    pthread_cond_timedwait(&s.changed, &s.lock, &t);
}

/* Lets time pass until something may have changed. Without a service thread we read ourselves. */
static void await(uint64_t ns)
{
    if (s.thread || s.fd < 0) {
        wait_changed(ns);
        return;
    }
    struct pollfd p = {.fd = s.fd, .events = POLLIN};
    int fd_before = s.fd;
    if (poll(&p, 1, (int)(ns / MS)) > 0 && s.fd == fd_before)
        drain_socket();
}

static bool ready_until(uint64_t deadline)
{
    if (s.failed_ns != 0 && harp_now_ns() - s.failed_ns < AGAIN_NS)
        return s.fd >= 0;
    for (;;) {
        if (try_connect())
            return true;
        uint64_t now = harp_now_ns();
        if (now >= deadline)
            break;
        wait_changed(50 * MS);
    }
    if (s.failed_ns == 0)
        harp_log("arbiter_unreachable grant=%s effect=\"new memory is refused\" remedy=\"is harp "
                 "daemon running? try: harp doctor\"",
                 harp_env()->grant);
    s.failed_ns = harp_now_ns();
    return false;
}

bool harp_session_ready(void)
{
    if (harp_env()->grant == NULL)
        return false;
    int saved = errno;
    check_fork();
    pthread_mutex_lock(&s.lock);
    bool ok = s.fd >= 0 || ready_until(harp_now_ns() + HARP_MEM_WAIT_NS);
    pthread_mutex_unlock(&s.lock);
    errno = saved;
    return ok;
}

bool harp_session_own(void)
{
    return s.pid == (int)getpid();
}

bool harp_session_live(void)
{
    return __atomic_load_n(&s.fd, __ATOMIC_RELAXED) >= 0;
}

unsigned harp_session_lanes(void)
{
    return __atomic_load_n(&s.lanes, __ATOMIC_RELAXED);
}

uint32_t harp_session_rate(int dev)
{
    const struct harp_device *d = &s.devices[dev];
    if (d->share_ppm == 0 || (d->limit_ppm != 0 && d->limit_ppm < d->share_ppm))
        return d->limit_ppm;
    return d->share_ppm;
}

int harp_session_ask(struct harp_msg *msg)
{
    int saved = errno;
    check_fork();
    uint64_t deadline = harp_now_ns() + ASK_NS;
    int result = -1;
    pthread_mutex_lock(&s.lock);
    struct question *q = NULL;
    while ((q = NULL, harp_now_ns() < deadline)) {
        for (size_t i = 0; i < HARP_MAX_WAITING && q == NULL; i++)
            if (s.asked[i].seq == 0)
                q = &s.asked[i];
        if (q != NULL)
            break;
        await(20 * MS); /* as many questions as the arbiter takes are open already */
    }
    if (q == NULL)
        goto out;
    q->done = false;
    while (!q->done && harp_now_ns() < deadline) {
        if (s.fd < 0 && !ready_until(deadline))
            break;
        if (q->done)
            break;
        if (!s.devices[msg->dev % HARP_MAX_DEVICES].known) {
            await(20 * MS); /* a new arbiter is still being told of devices and tenants */
            continue;
        }
        q->seq = msg->seq = ++s.seq != 0 ? s.seq : ++s.seq;
        if (!send_msg(msg)) {
            disconnect();
            continue;
        }
        int fd = s.fd;
        while (!q->done && s.fd == fd && harp_now_ns() < deadline)
            await(100 * MS);
    }
    if (q->done) {
        *msg = q->answer;
        result = 0;
    }
    q->seq = 0;
    pthread_cond_broadcast(&s.changed);
out:
    pthread_mutex_unlock(&s.lock);
    errno = saved;
    return result;
}

int harp_session_device(const uint8_t uuid[16])
{
    int found = -1;
    pthread_mutex_lock(&s.lock);
    for (int i = 0; i < (int)HARP_MAX_DEVICES && found < 0; i++)
        if (s.devices[i].ever && memcmp(s.devices[i].uuid, uuid, 16) == 0)
            found = i;
    pthread_mutex_unlock(&s.lock);
    return found;
}

struct harp_device harp_session_about(int dev)
{
    struct harp_device d = {0};
    pthread_mutex_lock(&s.lock);
    if (dev >= 0 && dev < (int)HARP_MAX_DEVICES)
        d = s.devices[dev];
    pthread_mutex_unlock(&s.lock);
    return d;
}

bool harp_session_limited(void)
{
    if (!harp_session_ready())
        return true;
    bool limited = false;
    pthread_mutex_lock(&s.lock);
    for (size_t i = 0; i < HARP_MAX_DEVICES; i++)
        limited |= s.devices[i].limit_bytes != 0;
    pthread_mutex_unlock(&s.lock);
    return limited;
}

/* --- the service thread ---------------------------------------------------------------------- */

static void *serve(void *arg)
{
    (void)arg;
    prctl(PR_SET_NAME, "harp");
    prctl(PR_SET_TIMERSLACK, 1ul); /* ns: a turn's end is polled for in tens of microseconds */
    for (;;) {
        int64_t sleep = harp_time_round();
        pthread_mutex_lock(&s.lock);
        if (s.fd < 0) { /* come back with growing patience */
            if (!try_connect()) {
                s.backoff_ns = s.backoff_ns == 0 ? 10 * MS : s.backoff_ns * 2;
                if (s.backoff_ns > 1000 * MS)
                    s.backoff_ns = 1000 * MS;
                if (sleep < 0 || sleep > (int64_t)s.backoff_ns)
                    sleep = (int64_t)s.backoff_ns;
            } else {
                sleep = 0;
            }
        }
        struct pollfd p[2] = {{.fd = s.wake, .events = POLLIN}, {.fd = s.fd, .events = POLLIN}};
        pthread_mutex_unlock(&s.lock);
        struct timespec t = {(time_t)(sleep / 1000000000), (long)(sleep % 1000000000)};
        if (ppoll(p, 2, sleep < 0 ? NULL : &t, NULL) < 0 && errno != EINTR)
            sleep_ns(MS);
        if (p[0].revents != 0) {
            uint64_t count;
            if (read(p[0].fd, &count, sizeof count) < 0)
                count = 0; /* somebody else's wake-up */
        }
        if (p[1].revents != 0) {
            pthread_mutex_lock(&s.lock);
            drain_socket();
            pthread_mutex_unlock(&s.lock);
        }
    }
    return NULL;
}

bool harp_session_serve(void)
{
    check_fork();
    pthread_mutex_lock(&s.lock);
    if (!s.thread) {
        pthread_attr_t attr;
        pthread_t thread;
        sigset_t all, before;
        sigfillset(&all);
        s.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attr, 256 << 10); /* drivers want some stack in a query */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        s.thread = s.wake >= 0 && pthread_create(&thread, &attr, serve, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attr);
        if (!s.thread)
            harp_log("no_service_thread errno=%d effect=\"time is not shared\"", errno);
    }
    bool there = s.thread;
    pthread_mutex_unlock(&s.lock);
    return there;
}

void harp_session_wake(void)
{
    uint64_t one = 1;
    int saved = errno;
    if (s.wake >= 0 && write(s.wake, &one, sizeof one) < 0)
        errno = saved; /* full: it is awake */
    errno = saved;
}
