/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets.
 */
#include "src/link/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A peer that does not answer for this long is dead: cable pulled, host gone. */
#define DEAD_MS     10000
#define PROBE_S     2
#define BACKLOG     64
#define PORT_LIMITS "1-65535 (0 for any, to listen)"

static bool is_loopback(const struct sockaddr *at)
{
    if (at->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)at;
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)at)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
}

/* Cut at the last colon; brackets off. */
static int split(struct harp_address *address, const char **port)
{
    const char *colon = strrchr(address->text, ':');
    const char *from = address->text, *to = colon;
    if (colon == NULL || colon == from || colon[1] == '\0')
        return -EINVAL;
    if (from[0] == '[' && to[-1] == ']') {
        from++;
        to--;
    } else if (memchr(from, ':', (size_t)(to - from)) != NULL) {
        return -EINVAL; /* an IPv6 address without brackets */
    }
    if (to <= from || (size_t)(to - from) >= sizeof address->host)
        return -EINVAL;
    memcpy(address->host, from, (size_t)(to - from));
    *port = colon + 1;
    return 0;
}

int harp_address_parse(struct harp_address *address, const char *text, char *why)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    const char *port = NULL;
    *address = (struct harp_address){.loopback = true};
    int n = snprintf(address->text, sizeof address->text, "%s", text);
    if (n < 0 || (size_t)n >= sizeof address->text || split(address, &port) != 0) {
        snprintf(why, HARP_WHY_BYTES, "%.200s is no address; remedy: host:port or [IPv6]:port",
                 text);
        return -EINVAL;
    }
    int err = getaddrinfo(address->host, port, &hints, &found);
    if (err != 0) {
        snprintf(why, HARP_WHY_BYTES, "%s cannot be looked up: %s; ports are " PORT_LIMITS, text,
                 gai_strerror(err));
        return -EINVAL;
    }
    for (const struct addrinfo *a = found; a != NULL && address->count < 4; a = a->ai_next) {
        if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
            continue;
        memcpy(&address->all[address->count].at, a->ai_addr, a->ai_addrlen);
        address->all[address->count++].size = a->ai_addrlen;
        address->loopback &= is_loopback(a->ai_addr);
    }
    freeaddrinfo(found);
    if (address->count == 0) {
        snprintf(why, HARP_WHY_BYTES, "%s is no internet address", text);
        return -EINVAL;
    }
    return 0;
}

int harp_address_plain(const struct harp_address *address, char *why)
{
    if (address->loopback)
        return 0;
    snprintf(why, HARP_WHY_BYTES,
             "%s is not this machine's own (127.0.0.0/8, ::1), and what goes there unencrypted can "
             "be read and changed; remedy: give a certificate",
             address->text);
    return -EACCES;
}

/* Small frames go at once; a host that is gone is noticed whether we send or wait. */
static void tune(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, PROBE_S}, {IPPROTO_TCP, TCP_KEEPINTVL, PROBE_S},
        {IPPROTO_TCP, TCP_KEEPCNT, 4},        {IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_MS},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

int harp_tcp_listen(const struct harp_address *address, int *fd, unsigned *port, char *why)
{
    const int on = 1;
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    int s = socket(address->all[0].at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(s, (const struct sockaddr *)&address->all[0].at, address->all[0].size) != 0 ||
        listen(s, BACKLOG) != 0 || getsockname(s, (struct sockaddr *)&at, &size) != 0) {
        int err = errno;
        snprintf(why, HARP_WHY_BYTES, "cannot listen on %s: %s", address->text, strerror(err));
        if (s >= 0)
            close(s);
        return -err;
    }
    *fd = s;
    *port = ntohs(at.ss_family == AF_INET
                      ? ((const struct sockaddr_in *)(const void *)&at)->sin_port
                      : ((const struct sockaddr_in6 *)(const void *)&at)->sin6_port);
    return 0;
}

int harp_tcp_dial(const struct harp_address *address, unsigned which)
{
    const struct sockaddr *at = (const struct sockaddr *)&address->all[which].at;
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    tune(fd);
    if (connect(fd, at, address->all[which].size) != 0 && errno != EINPROGRESS) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

int harp_tcp_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return errno == ECONNABORTED || errno == EINTR ? -EAGAIN : -errno;
    tune(fd);
    return fd;
}

int harp_tcp_result(int fd)
{
    int err = 0;
    socklen_t size = sizeof err;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) != 0)
        return -errno;
    return -err;
}

static ssize_t tcp_recv(void *ctx, void *data, size_t size)
{
    ssize_t n = recv(*(int *)ctx, data, size, 0);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static ssize_t tcp_send(void *ctx, const struct iovec *pieces, int count)
{
    const struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)pieces,
                                   .msg_iovlen = (size_t)count};
    ssize_t n = sendmsg(*(int *)ctx, &message, MSG_NOSIGNAL);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

struct harp_io harp_tcp_io(int *fd)
{
    return (struct harp_io){.ctx = fd, .drains = true, .recv = tcp_recv, .send = tcp_send};
}
