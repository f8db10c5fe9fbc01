/* SPDX-License-Identifier: Apache-2.0
 *
 * Tenants' listening sockets and their clients. A tenant is not trusted: its listening socket is
 * shared with its own processes, its clients may send anything and read nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "server.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define SYS_PIDFD_OPEN  434L /* the same on x86-64 and aarch64; newer than the libc we build for */
#define BATCH           16   /* messages or connections served before others get their turn */
#define ACCEPT_STUCK_US 50000

static struct conn *find(struct server *s, uint32_t id)
{
    uint32_t slot = (id & 0x3fffu) - 1u;
    if (id == 0 || slot >= s->config.max_clients || s->conns[slot].id != id)
        return NULL;
    return &s->conns[slot];
}

static int option(int fd, int name)
{
    int value = -1;
    socklen_t n = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &n) == 0 ? value : -1;
}

static struct listener *of_tenant(const struct server *s, uint32_t tenant)
{
    for (uint32_t i = 0; i < s->config.max_tenants; i++)
        if (tenant != 0 && s->listeners[i].tenant == tenant)
            return &s->listeners[i];
    return NULL;
}

int peer_listen(struct server *s, uint32_t tenant, int fd, int page)
{
    if (option(fd, SO_DOMAIN) != AF_UNIX || option(fd, SO_TYPE) != SOCK_SEQPACKET ||
        option(fd, SO_ACCEPTCONN) != 1)
        return -EINVAL;
    struct listener *l = of_tenant(s, tenant);
    int before = -1;
    if (l != NULL) {
        if (page < 0) { /* it is not said again: it stays */
            before = page = l->page;
            l->page = -1;
        }
        peer_unlisten(s, tenant);
    }
    for (uint32_t i = 0; i < s->config.max_tenants; i++) {
        if (s->listeners[i].tenant != 0)
            continue;
        int r = server_watch(s, fd, EPOLLIN, SOURCE_LISTENER, i);
        if (r == 0)
            s->listeners[i] = (struct listener){.tenant = tenant, .fd = fd, .page = page};
        else if (before >= 0)
            close(before);
        return r;
    }
    return -ENOSPC; /* none was there before: else there were room */
}

int peer_listener(const struct server *s, uint32_t tenant)
{
    const struct listener *l = of_tenant(s, tenant);
    return l != NULL ? l->fd : -1;
}

int peer_page(const struct server *s, uint32_t tenant)
{
    const struct listener *l = of_tenant(s, tenant);
    return l != NULL ? l->page : -1;
}

void peer_unlisten(struct server *s, uint32_t tenant)
{
    struct listener *l = of_tenant(s, tenant);
    if (l == NULL)
        return;
    /* Others hold the socket: by our close alone it would go on to wake us, under this number. */
    (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, l->fd, NULL);
    close(l->fd);
    if (l->page >= 0)
        close(l->page);
    l->tenant = 0;
}

/* accept() obeys O_NONBLOCK of the *shared* description, which the tenant may clear at any time
 * while it snatches the connection away; so the call is also bounded by a signal (SIGALRM, whose
 * handler does nothing). */
static int bounded_accept(int listener)
{
    struct itimerval arm = {.it_value = {.tv_usec = ACCEPT_STUCK_US}}, off = {{0, 0}, {0, 0}};
    int flags = fcntl(listener, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK))
        (void)fcntl(listener, F_SETFL, flags | O_NONBLOCK);
    setitimer(ITIMER_REAL, &arm, NULL);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int number = errno;
    setitimer(ITIMER_REAL, &off, NULL);
    errno = number;
    return fd < 0 ? -errno : fd;
}

static int process_handle(int fd, pid_t pid)
{
    int handle = -1;
    socklen_t n = sizeof handle;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &handle, &n) == 0 && handle >= 0) {
        (void)fcntl(handle, F_SETFD, FD_CLOEXEC);
        return handle;
    }
    return pid > 0 ? (int)syscall(SYS_PIDFD_OPEN, pid, 0u) : -1;
}

/* Takes one connection. 0: there may be more. */
static int accept_one(struct server *s, const struct listener *l)
{
    int fd = bounded_accept(l->fd);
    if (fd == -EMFILE || fd == -ENFILE) {
        /* Out of descriptors: spend the spare one to turn the caller away. */
        close(s->spare);
        fd = bounded_accept(l->fd);
        if (fd >= 0)
            close(fd);
        s->spare = dup(s->epoll);
        log_event("join_refused", "tenant=%u reason=descriptors", l->tenant);
        return -EMFILE;
    }
    if (fd == -EINTR) {
        log_event("listener_dropped", "tenant=%u reason=accept_blocked", l->tenant);
        peer_unlisten(s, l->tenant);
    }
    if (fd < 0)
        return fd;
    struct ucred who = {.pid = 0, .uid = UINT32_MAX, .gid = UINT32_MAX};
    socklen_t n = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) != 0) {
        close(fd);
        return 0;
    }
    struct harp_event join = {.kind = HARP_EV_JOIN,
                              .msg = {.tenant = l->tenant, .pid = who.pid, .uid = who.uid}};
    s->joined = 0;
    server_step(s, &join);
    uint32_t id = s->joined;
    if (id == 0) {
        close(fd);
        return 0;
    }
    struct conn *c = &s->conns[(id & 0x3fffu) - 1u];
    *c = (struct conn){.id = id, .fd = fd, .pidfd = process_handle(fd, who.pid)};
    int watched = server_watch(s, fd, EPOLLIN, SOURCE_CLIENT, id);
    if (watched == 0 && c->pidfd >= 0)
        (void)server_watch(s, c->pidfd, EPOLLIN, SOURCE_PIDFD, id);
    if (watched != 0) {
        struct harp_event dead = {.kind = HARP_EV_DEAD, .client = id};
        peer_close(s, id);
        server_step(s, &dead);
    }
    return 0;
}

void peer_accept(struct server *s, uint32_t index)
{
    for (int i = 0; i < BATCH && s->listeners[index].tenant != 0; i++)
        if (accept_one(s, &s->listeners[index]) != 0)
            return;
}

void peer_close(struct server *s, uint32_t id)
{
    struct conn *c = find(s, id);
    if (c == NULL)
        return;
    close(c->fd);
    if (c->pidfd >= 0)
        close(c->pidfd);
    c->id = 0;
}

static void lost(struct server *s, uint32_t id)
{
    struct harp_event dead = {.kind = HARP_EV_DEAD, .client = id};
    peer_close(s, id);
    server_step(s, &dead);
}

void peer_read(struct server *s, uint32_t id)
{
    struct harp_event event = {.kind = HARP_EV_MESSAGE, .client = id};
    for (int i = 0; i < BATCH; i++) {
        struct conn *c = find(s, id); /* a step may have closed it */
        if (c == NULL)
            return;
        ssize_t n = recv(c->fd, &event.msg, sizeof event.msg, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n != (ssize_t)sizeof event.msg) {
            if (n > 0)
                log_event("protocol_error", "client=%u length=%zd", id, n);
            lost(s, id);
            return;
        }
        server_step(s, &event);
    }
}

void peer_send(struct server *s, uint32_t id, const struct harp_msg *msg)
{
    struct conn *c = find(s, id);
    if (c == NULL)
        return;
    int page = msg->op == HARP_WELCOME && msg->version >= 3 ? peer_page(s, msg->tenant) : -1;
    int r = rights_send(c->fd, msg, &page, page >= 0);
    if (r == -ETOOMANYREFS) /* too many are on their way, to clients that do not read */
        r = rights_send(c->fd, msg, NULL, 0);
    if (r == 0)
        return;
    if (r == -EAGAIN)
        log_event("client_disconnected", "client=%u reason=does_not_read", id);
    peer_close(s, id);
    s->doomed[s->n_doomed++] = id;
}
