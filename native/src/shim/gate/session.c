/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection: handshake, pushes, loss and return, fork.
 *
 * Before the service thread runs (a program that only asks for the size of a device) the asking
 * thread reads the socket itself; afterwards the service thread does, and an asking thread what
 * comes at once.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/link.h"
#include "src/shim/gate/profile.h"
#include "src/shim/gate/session_state.h"
#include "src/shim/gate/swap.h"
#include "src/shim/trace/trace.h"

struct harp_session_state harp_session_state = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                                .changed = PTHREAD_COND_INITIALIZER,
                                                .send_lock = PTHREAD_MUTEX_INITIALIZER,
                                                .fd = -1,
                                                .lanes = 1,
                                                .classes = HARP_MEM_OVERHEAD + 1,
                                                .wake = -1};

uint64_t harp_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* In a forked child: locks may be held by threads that do not exist here; all starts again. */
void harp_session_check_fork(void)
{
    int pid = (int)getpid();
    if (s->pid == pid)
        return;
    if (s->pid != 0) {
        pthread_mutex_init(&s->lock, NULL);
        pthread_cond_init(&s->changed, NULL);
        pthread_mutex_init(&s->send_lock, NULL);
        if (s->fd >= 0)
            close(s->fd);
        if (s->wake >= 0)
            close(s->wake);
        s->fd = s->wake = -1;
        s->thread = s->ever = s->serve_soon = false;
        s->failed_ns = s->backoff_ns = 0;
        memset(s->asked, 0, sizeof s->asked);
        memset(s->devices, 0, sizeof s->devices);
        harp_memory_forked();
        harp_contexts_forked();
        harp_host_forked();
        harp_code_forked();
        harp_limit_forked();
        harp_local_forked();
        harp_time_forked();
        harp_trace_after_fork();
        harp_swap_forked();
        s->pid = pid;
        return;
    }
    s->pid = pid;
    harp_fork_watch();
}

/* --- sending --------------------------------------------------------------------------------- */

/* `dev` is the arbiter's number already. */
static bool send_raw(struct harp_msg *msg)
{
    msg->version = __atomic_load_n(&s->version, __ATOMIC_RELAXED);
    pthread_mutex_lock(&s->send_lock);
    bool ok = s->fd >= 0 && harp_link_send(s->fd, msg);
    pthread_mutex_unlock(&s->send_lock);
    return ok;
}

/* No lock: a device that goes and comes back in mid-flight is told something harmless. */
bool harp_session_send(const struct harp_msg *msg)
{
    struct harp_msg out = *msg;
    const struct harp_device *d = &s->devices[msg->dev % HARP_MAX_DEVICES];
    out.dev = __atomic_load_n(&d->wire, __ATOMIC_RELAXED);
    return __atomic_load_n(&d->known, __ATOMIC_RELAXED) && send_raw(&out);
}

void harp_session_tell(struct harp_msg *msg)
{
    int saved = errno;
    if (harp_session_own()) /* a forked child must not speak for its parent */
        harp_session_send(msg);
    errno = saved;
}

/* --- connecting; session lock held ----------------------------------------------------------- */

/* Our number of the device that this arbiter calls `wire`; -1: not announced on this connection. */
static int device_at(uint32_t wire)
{
    for (int i = 0; i < (int)HARP_MAX_DEVICES; i++)
        if (s->devices[i].known && s->devices[i].wire == wire)
            return i;
    return -1;
}

/* A device keeps our number when another arbiter gives it another of its own. */
static int place_for(const uint8_t uuid[16])
{
    for (int i = 0; i < (int)HARP_MAX_DEVICES; i++)
        if (s->devices[i].ever && memcmp(s->devices[i].uuid, uuid, 16) == 0)
            return i;
    for (int i = 0; i < (int)HARP_MAX_DEVICES; i++)
        if (!s->devices[i].ever)
            return i;
    return -1;
}

/* Restored on another device: what was ours on the one we have on the other, by the same number of
 * ours, which programs' handles hang on. */
static void device_moved(uint32_t from_wire, const uint8_t uuid[16])
{
    int i = device_at(from_wire), j = place_for(uuid);
    if (i < 0 || j < 0 || i == j)
        return;
    struct harp_device was = s->devices[i];
    s->devices[i] = s->devices[j];
    s->devices[j] = was;
    s->devices[i].ever = s->devices[i].known = true; /* nothing of it is to be adopted */
    memcpy(s->devices[i].uuid, uuid, sizeof was.uuid);
    harp_log("device_moved number=%d", i);
}

/* What we hold on it is said before anything is asked for there. */
static bool device_said(int fd, const struct harp_msg *msg)
{
    if (msg->epoch != 0)
        device_moved((uint32_t)msg->epoch - 1, msg->uuid);
    int i = place_for(msg->uuid);
    if (i < 0)
        return true;
    struct harp_device *d = &s->devices[i];
    bool fresh = !d->known;
    d->ever = true;
    __atomic_store_n(&d->wire, msg->dev, __ATOMIC_RELAXED);
    __atomic_store_n(&d->known, true, __ATOMIC_RELAXED);
    memcpy(d->uuid, msg->uuid, sizeof d->uuid);
    d->limit_bytes = msg->limit_bytes;
    d->capacity_bytes = msg->capacity_bytes;
    __atomic_store_n(&d->slack_bytes, msg->slack_bytes, __ATOMIC_RELAXED);
    d->overhead_bytes = msg->overhead_bytes;
    d->share_ppm = msg->b;
    d->limit_ppm = msg->c;
    harp_swap_granted(i, msg->a);
    for (uint32_t cls = 0; fresh && cls < HARP_MEM_CLASSES && harp_session_counts(cls); cls++) {
        struct harp_msg adopt = {.version = s->version,
                                 .op = HARP_ADOPT_MEM,
                                 .dev = msg->dev,
                                 .cls = cls,
                                 .a = cls == HARP_MEM_SWAP && harp_swap_away(i),
                                 .bytes = harp_memory_leased(i, cls)};
        if (adopt.bytes != 0 && !harp_link_send(fd, &adopt))
            return false;
    }
    return true;
}

static bool handshake(int fd)
{
    struct harp_msg msg;
    int page;
    if (!harp_link_hello(fd, s->pid, s->ever, &msg, &page))
        return false;
    if (page >= 0)
        harp_profile_given(page);
    uint32_t count = msg.a;
    s->odd = false;
    __atomic_store_n(&s->version, msg.version, __ATOMIC_RELAXED);
    __atomic_store_n(&s->lanes, msg.b >= HARP_TIME_LANES ? HARP_TIME_LANES : 1u, __ATOMIC_RELAXED);
    uint32_t classes = msg.c != 0 ? msg.c : HARP_MEM_OVERHEAD + 1u;
    __atomic_store_n(&s->classes, classes, __ATOMIC_RELAXED);
    for (size_t i = 0; i < HARP_MAX_DEVICES; i++)
        __atomic_store_n(&s->devices[i].known, false, __ATOMIC_RELAXED);
    while (count-- > 0) {
        if (!harp_link_receive(fd, &msg, HARP_HANDSHAKE_MS) || msg.op != HARP_DEVICE ||
            !device_said(fd, &msg))
            return false;
    }
    msg = (struct harp_msg){.version = s->version, .op = HARP_MEM_INFO};
    return !s->ever || harp_link_send(fd, &msg); /* that was all we hold */
}

bool harp_session_connect(void)
{
    if (s->fd >= 0)
        return true;
    int fd = harp_link_connect(harp_env()->grant);
    if (fd >= 0 && !handshake(fd)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0)
        return false;
    pthread_mutex_lock(&s->send_lock);
    __atomic_store_n(&s->fd, fd, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s->send_lock);
    s->connection++;
    if (s->ever)
        harp_log("arbiter_back");
    s->ever = true;
    s->failed_ns = s->backoff_ns = 0;
    harp_time_connection(true, s->lanes);
    pthread_cond_broadcast(&s->changed);
    return true;
}

void harp_session_disconnect(void)
{
    pthread_mutex_lock(&s->send_lock);
    if (s->fd >= 0)
        close(s->fd);
    __atomic_store_n(&s->fd, -1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s->send_lock);
    harp_log("arbiter_gone leases=kept");
    harp_time_connection(false, s->lanes);
    pthread_cond_broadcast(&s->changed);
    harp_session_wake(); /* it may be waiting on the socket that is closed now */
}

/* --- receiving; session lock held ------------------------------------------------------------ */

static struct question *question_of(uint32_t seq)
{
    for (size_t i = 0; seq != 0 && i < HARP_MAX_WAITING; i++)
        if (s->asked[i].seq == seq)
            return &s->asked[i];
    return NULL;
}

/* A later arbiter may say more. */
static void not_known(const struct harp_msg *msg)
{
    if (!s->odd)
        harp_log("unknown_message op=%u version=%u effect=ignored", msg->op, msg->version);
    s->odd = true;
}

/* True: a gate has been opened. */
static bool handle(struct harp_msg *msg)
{
    struct question *q = NULL;
    if (msg->op == HARP_DEVICE) {
        device_said(s->fd, msg);
        pthread_cond_broadcast(&s->changed);
        harp_trace_due();
        harp_session_wake();
        return false;
    }
    int dev = device_at(msg->dev);
    if (dev < 0)
        return false;
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
            __atomic_store_n(&q->done, true, __ATOMIC_RELAXED); /* looked at without the lock */
            pthread_cond_broadcast(&s->changed);
        }
        break;
    case HARP_RECALL_MEM: {
        struct harp_msg back = {.op = HARP_RECALLED, .dev = wire, .seq = msg->seq};
        back.bytes = harp_memory_recall((int)msg->dev, msg->bytes);
        if (back.bytes >= msg->bytes || !harp_swap_recall(dev, msg->seq, back.bytes))
            send_raw(&back);
        break;
    }
    case HARP_EVICT:
    case HARP_RESTORE:
        harp_swap_move(dev, msg->seq, msg->op);
        break;
    case HARP_OPEN_GATE:
        harp_time_open_gate(msg);
        return true;
    case HARP_CLOSE_GATE:
        harp_time_close_gate(msg);
        break;
    default:
        not_known(msg);
        break;
    }
    return false;
}

bool harp_session_drain(void)
{
    bool opened = false;
    while (s->fd >= 0) {
        struct harp_msg msg;
        ssize_t n = recv(s->fd, &msg, sizeof msg, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n != (ssize_t)sizeof msg || msg.version != s->version)
            harp_session_disconnect();
        else
            opened |= handle(&msg);
    }
    return opened;
}

bool harp_session_own(void)
{
    return s->pid == (int)getpid();
}

bool harp_session_live(void)
{
    return __atomic_load_n(&s->fd, __ATOMIC_RELAXED) >= 0;
}

bool harp_session_counts(uint32_t cls)
{
    return cls < __atomic_load_n(&s->classes, __ATOMIC_RELAXED);
}

unsigned harp_session_lanes(void)
{
    return __atomic_load_n(&s->lanes, __ATOMIC_RELAXED);
}
