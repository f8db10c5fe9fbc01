/* SPDX-License-Identifier: Apache-2.0
 *
 * The admin socket: harpd alone (its uid, mode 0600). Answers and events queue up, bounded, while
 * it does not read. ADD_DEVICE and ADD_TENANT touch the world (a lock, a descriptor), so they are
 * finished here.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server.h"

#define QUEUE_MAX     65536u
#define BATCH         64
#define LAST_WORDS_MS 1000

int admin_open(struct server *s)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "admin.sock"};
    unlink(at.sun_path); /* we hold the run folder's lock: it is a leftover */
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    s->admin_listener = fd;
    mode_t before = umask(0177);
    int bound = bind(fd, (const struct sockaddr *)&at, sizeof at);
    int number = errno;
    umask(before);
    if (bound != 0)
        return -number;
    if (listen(fd, 64) != 0)
        return -errno;
    return server_watch(s, fd, EPOLLIN, SOURCE_ADMIN_LISTENER, 0);
}

static void tell_watchers(struct server *s)
{
    struct harp_event event = {.kind = HARP_EV_WATCHED};
    for (uint32_t i = 0; i < ADMIN_MAX; i++)
        event.msg.a += s->admins[i].fd >= 0 && s->admins[i].subscribed;
    server_step(s, &event);
}

static void drop(struct server *s, uint32_t index)
{
    struct admin *a = &s->admins[index];
    int watched = a->subscribed;
    if (a->fd < 0)
        return;
    close(a->fd);
    free(a->queue);
    *a = (struct admin){.fd = -1};
    log_event("admin_left", "connection=%u", index);
    if (watched)
        tell_watchers(s);
}

void admin_accept(struct server *s)
{
    int fd = accept4(s->admin_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct ucred who = {.uid = UINT32_MAX};
    socklen_t n = sizeof who;
    uint32_t i = 0;
    while (i < ADMIN_MAX && s->admins[i].fd >= 0)
        i++;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) != 0 ||
        (who.uid != 0 && who.uid != geteuid()) || i == ADMIN_MAX ||
        server_watch(s, fd, EPOLLIN, SOURCE_ADMIN, i) != 0) {
        log_event("admin_refused", "uid=%u", who.uid);
        close(fd);
        return;
    }
    s->admins[i] = (struct admin){.fd = fd, .version = HARP_LEASE_OLDEST};
    log_event("admin_joined", "connection=%u pid=%d", i, who.pid);
}

static void watch_output(struct server *s, uint32_t index, int on)
{
    struct epoll_event e = {.events = EPOLLIN | (on ? EPOLLOUT : 0u),
                            .data.u64 = (uint64_t)SOURCE_ADMIN << 32 | index};
    (void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->admins[index].fd, &e);
}

/* One message, with the tenant's listening socket and page if it asks for them. */
static int deliver(struct server *s, const struct admin *a, struct harp_msg *m)
{
    int fds[RIGHTS_MAX];
    unsigned n = 0;
    if (m->op == HARP_SNAP_TENANT && m->b != 0) {
        const int there[] = {peer_listener(s, m->tenant), peer_page(s, m->tenant)};
        uint32_t asked = m->b;
        m->b = 0;
        for (uint32_t i = 0; i < RIGHTS_MAX; i++)
            if ((asked >> i & 1) != 0 && there[i] >= 0) {
                fds[n++] = there[i];
                m->b |= 1u << i;
            }
    }
    int r = rights_send(a->fd, m, fds, n);
    if (r == -ETOOMANYREFS) { /* to wait for others who do not read would be to turn round */
        m->b = 0;
        r = rights_send(a->fd, m, NULL, 0);
    }
    return r == 0;
}

/* A row of a picture that comes without a descriptor. */
static int is_row(const struct harp_msg *m)
{
    return (m->op >= HARP_SNAP_DEVICE && m->op <= HARP_SNAP_LEASE &&
            !(m->op == HARP_SNAP_TENANT && m->b != 0)) ||
           m->op == HARP_SNAP_RESIDENCY || m->op == HARP_SNAP_TIME;
}

/* Rows at the queue's head, as one datagram. Answers how many; 0: not now. */
static uint32_t deliver_rows(const struct admin *a)
{
    struct iovec iov[HARP_TOGETHER];
    struct msghdr h = {.msg_iov = iov};
    uint32_t n = 0;
    for (; n < HARP_TOGETHER && n < a->count; n++) {
        struct harp_msg *m = &a->queue[(a->head + n) % a->capacity];
        if (!is_row(m))
            break;
        iov[n] = (struct iovec){.iov_base = m, .iov_len = sizeof *m};
    }
    h.msg_iovlen = n;
    return sendmsg(a->fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL) > 0 ? n : 0;
}

static void flush(struct server *s, uint32_t index)
{
    struct admin *a = &s->admins[index];
    while (a->count > 0) {
        struct harp_msg *first = &a->queue[a->head];
        uint32_t n =
            a->together && is_row(first) ? deliver_rows(a) : (uint32_t)deliver(s, a, first);
        if (n == 0)
            return; /* EAGAIN: later; a broken one is dropped when it is read */
        a->head = (a->head + n) % a->capacity;
        a->count -= n;
    }
    watch_output(s, index, 0);
}

static int grow(struct admin *a)
{
    uint32_t capacity = a->capacity == 0 ? 256 : a->capacity * 2;
    if (capacity > QUEUE_MAX)
        return -ENOBUFS;
    struct harp_msg *queue = malloc(capacity * sizeof *queue);
    if (queue == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < a->count; i++)
        queue[i] = a->queue[(a->head + i) % a->capacity];
    free(a->queue);
    a->queue = queue;
    a->head = 0;
    a->capacity = capacity;
    return 0;
}

void admin_reply(struct server *s, uint32_t index, const struct harp_msg *msg)
{
    struct admin *a = &s->admins[index];
    struct harp_msg out = *msg;
    if (a->fd < 0 || !wire_narrow(a->version, &out))
        return;
    const int kept = a->together && is_row(&out); /* until there are some, or the OK comes */
    if (!kept && a->count == 0 && deliver(s, a, &out))
        return;
    if (a->count == a->capacity && grow(a) != 0) {
        log_event("admin_disconnected", "connection=%u reason=does_not_read", index);
        (void)shutdown(a->fd, SHUT_RDWR); /* dropped when its end of file is read */
        a->count = 0;
        return;
    }
    a->queue[(a->head + a->count++) % a->capacity] = out;
    if (kept && a->count % HARP_TOGETHER != 0)
        return;
    if (a->together)
        flush(s, index);
    if (a->together ? a->count > 0 : a->count == 1)
        watch_output(s, index, 1);
}

void admin_publish(struct server *s, const struct harp_msg *msg)
{
    for (uint32_t i = 0; i < ADMIN_MAX; i++)
        if (s->admins[i].fd >= 0 && s->admins[i].subscribed)
            admin_reply(s, i, msg);
}

static void refuse(struct server *s, uint32_t index, struct harp_msg *err, uint32_t seq, int number,
                   const char *text)
{
    err->version = HARP_LEASE_VERSION;
    err->op = HARP_ERR;
    err->seq = seq;
    err->a = (uint32_t)number;
    if (text != NULL)
        snprintf(err->text, sizeof err->text, "%s", text);
    admin_reply(s, index, err);
}

static void answer_ok(struct server *s, uint32_t index, uint32_t seq)
{
    struct harp_msg ok = {.version = HARP_LEASE_VERSION, .op = HARP_OK, .seq = seq};
    admin_reply(s, index, &ok);
}

/* Steps the core; its OK or ERR is kept back in s->reply, other answers go out. */
static void step(struct server *s, uint32_t index, const struct harp_msg *m)
{
    struct harp_event event = {.kind = HARP_EV_ADMIN, .msg = *m};
    s->replying_to = (int)index;
    memset(&s->reply, 0, sizeof s->reply);
    server_step(s, &event);
    s->replying_to = -1;
}

/* fds: its listening socket, its page. */
static void add_tenant(struct server *s, uint32_t index, const struct harp_msg *m,
                       const int fds[RIGHTS_MAX])
{
    struct harp_msg err = {.op = 0};
    if (fds[0] < 0) {
        refuse(s, index, &err, m->seq, EBADF, "send the listening socket along (SCM_RIGHTS)");
        return;
    }
    step(s, index, m);
    if (s->reply.op == HARP_OK) {
        int r = peer_listen(s, s->reply.tenant, fds[0], fds[1]);
        if (r == 0) {
            admin_reply(s, index, &s->reply);
            return;
        }
        struct harp_msg undo = {
            .version = HARP_LEASE_VERSION, .op = HARP_DEL_TENANT, .tenant = s->reply.tenant};
        step(s, index, &undo);
        refuse(s, index, &err, m->seq, -r, "not a listening unix SEQPACKET socket");
    } else {
        admin_reply(s, index, &s->reply);
    }
    rights_close(fds);
}

static void unknown(struct server *s, uint32_t index, const struct harp_msg *m)
{
    struct harp_msg err = {.op = 0};
    if (!s->admins[index].odd)
        log_event("unknown_question", "connection=%u op=%u version=%u", index, m->op, m->version);
    s->admins[index].odd = 1;
    refuse(s, index, &err, m->seq, ENOSYS, "not an operation of this version of the admin socket");
}

/* The last picture: nothing is granted after it. */
static void hand_over(struct server *s, uint32_t index, const struct harp_msg *m)
{
    struct harp_msg look = {.version = m->version, .op = HARP_SNAPSHOT, .seq = m->seq};
    step(s, index, &look);
    admin_reply(s, index, &s->reply);
    log_event("arbiter_hands_over", "connection=%u", index);
}

static void serve(struct server *s, uint32_t index, const struct harp_msg *m,
                  const int fds[RIGHTS_MAX])
{
    struct harp_msg err = {.op = 0};
    uint32_t spoken = m->op == HARP_SUBSCRIBE ? wire_agreed(m) : m->version;
    if (s->admins[index].version < spoken)
        s->admins[index].version = spoken;
    if (m->op == HARP_ADD_TENANT) {
        add_tenant(s, index, m, fds);
        return;
    }
    rights_close(fds);
    if (!wire_consistent(m)) {
        unknown(s, index, m);
        return;
    }
    if (m->op == HARP_SNAPSHOT && m->b == 1 && s->admins[index].version >= 3)
        s->admins[index].together = 1;
    switch (m->op) {
    case HARP_ADD_DEVICE: {
        int r = devlock_take(s, m->uuid, &err);
        if (r != 0) {
            log_event("device_refused", "errno=%d holder_pid=%d holder_run=%s", -r, err.pid,
                      err.text);
            refuse(s, index, &err, m->seq, -r, r == -EBUSY ? NULL : "device lock not to be had");
            return;
        }
        break;
    }
    case HARP_SUBSCRIBE:
        s->admins[index].subscribed = m->a != 0;
        tell_watchers(s);
        answer_ok(s, index, m->seq);
        return;
    case HARP_SHUTDOWN:
        s->stopping = 1;
        if (m->version >= 2 && m->a == 1)
            hand_over(s, index, m);
        else
            answer_ok(s, index, m->seq);
        return;
    default:
        break;
    }
    step(s, index, m);
    if (s->reply.op == HARP_ERR && s->reply.a == ENOSYS) {
        unknown(s, index, m);
        return;
    }
    if (m->op == HARP_DEL_TENANT && s->reply.op == HARP_OK)
        peer_unlisten(s, m->tenant);
    admin_reply(s, index, &s->reply);
}

void admin_event(struct server *s, uint32_t index, uint32_t events)
{
    if (s->admins[index].fd < 0)
        return;
    if (events & EPOLLOUT)
        flush(s, index);
    for (int i = 0; i < BATCH && s->admins[index].fd >= 0 && !s->stopping; i++) {
        struct harp_msg m;
        int fds[RIGHTS_MAX], r = rights_receive(s->admins[index].fd, &m, fds);
        if (r == -EAGAIN || r == -EINTR)
            return;
        if (r != 0 || !wire_understood(&m)) {
            rights_close(fds);
            drop(s, index);
            return;
        }
        serve(s, index, &m, fds);
    }
}

/* What was answered before the end is heard, by who reads. */
static void flush_last(struct server *s, uint32_t index)
{
    for (int i = 0; i < 20 && s->admins[index].count > 0; i++) {
        struct pollfd p = {.fd = s->admins[index].fd, .events = POLLOUT};
        (void)poll(&p, 1, LAST_WORDS_MS / 20);
        flush(s, index);
    }
}

void admin_close_all(struct server *s)
{
    for (uint32_t i = 0; i < ADMIN_MAX; i++) {
        if (s->admins[i].fd < 0)
            continue;
        flush_last(s, i);
        close(s->admins[i].fd);
        free(s->admins[i].queue);
        s->admins[i] = (struct admin){.fd = -1};
    }
    if (s->admin_listener >= 0) {
        close(s->admin_listener);
        unlink("admin.sock");
    }
}
