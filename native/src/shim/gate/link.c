/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/shim/gate/session.h"

/* An answer takes 20 to 60 us, and going to sleep and waking up as long. In a crowd, where it takes
 * longer, more than this would be taken from others; who yields instead is served last. */
#define SOON_NS 30000u

#define COMM_BYTES 16u /* that the kernel writes, the ending 0 among them */

bool harp_link_send(int fd, const struct harp_msg *msg)
{
    for (int i = 0; i < 20; i++) {
        ssize_t n = send(fd, msg, sizeof *msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n == (ssize_t)sizeof *msg)
            return true;
        if (n < 0 && errno == EINTR)
            continue;
        if (n >= 0 || errno != EAGAIN)
            return false;
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        poll(&p, 1, 50);
    }
    return false;
}

int harp_link_connect(const char *grant)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int folder = -1;
    int n = snprintf(address.sun_path, sizeof address.sun_path, "%s/arbiter.sock", grant);
    if (n < 0 || (size_t)n >= sizeof address.sun_path) { /* too long a path: through its folder */
        folder = open(grant, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0)
            return -1;
        snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/arbiter.sock",
                 folder);
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        fd = -1;
    }
    if (folder >= 0)
        close(folder);
    return fd;
}

bool harp_link_soon(int fd, const bool *done)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t begin_ns = harp_now_ns();
    do {
        if (poll(&p, 1, 0) > 0 || (done != NULL && __atomic_load_n(done, __ATOMIC_RELAXED)))
            return true;
    } while (harp_now_ns() - begin_ns < SOON_NS);
    return false;
}

/* One datagram, and one descriptor if it brings any. */
static ssize_t take(int fd, struct harp_msg *msg, int *page)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = msg, .iov_len = sizeof *msg};
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = CMSG_LEN(sizeof(int))}; /* the kernel closes others */
    ssize_t got = recvmsg(fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = got >= 0 ? CMSG_FIRSTHDR(&h) : NULL;
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(page, CMSG_DATA(c), sizeof *page);
    return got;
}

/* Where no page is asked for, the kernel closes what comes along. */
static bool receive(int fd, struct harp_msg *msg, int timeout_ms, int *page)
{
    for (;;) {
        ssize_t got = page != NULL ? take(fd, msg, page) : recv(fd, msg, sizeof *msg, MSG_DONTWAIT);
        if (got >= 0)
            return got == (ssize_t)sizeof *msg && msg->version >= HARP_LEASE_OLDEST &&
                   msg->version <= HARP_LEASE_VERSION;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return false;
        if (harp_link_soon(fd, NULL))
            continue;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, timeout_ms);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
    }
}

bool harp_link_receive(int fd, struct harp_msg *msg, int timeout_ms)
{
    return receive(fd, msg, timeout_ms, NULL);
}

/* That of the first thread. Our own name is had without /proc, whose first file takes a process
 * 15 to 30 us. */
static void program_name(char *out, size_t bytes)
{
    if (syscall(SYS_gettid) == getpid() && bytes >= COMM_BYTES && prctl(PR_GET_NAME, out) == 0)
        return;
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, bytes - 1) : 0;
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    if (fd >= 0)
        close(fd);
}

bool harp_link_hello(int fd, int pid, bool again, struct harp_msg *welcome, int *page)
{
    struct harp_msg *msg = welcome;
    *msg = (struct harp_msg){.version = HARP_LEASE_OLDEST, .op = HARP_HELLO, .pid = pid};
    msg->a = HARP_KIND_CUDA;
    msg->b = again ? HARP_HELLO_READOPT | HARP_HELLO_ENDS : 0;
    msg->c = HARP_LEASE_VERSION > HARP_LEASE_OLDEST ? HARP_LEASE_VERSION : 0;
    program_name(msg->text, sizeof msg->text);
    *page = -1;
    if (harp_link_send(fd, msg) && receive(fd, msg, HARP_HANDSHAKE_MS, page) &&
        msg->op == HARP_WELCOME)
        return true;
    if (*page >= 0)
        close(*page);
    *page = -1;
    return false;
}
