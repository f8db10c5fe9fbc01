/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages with descriptors (SCM_RIGHTS). Who reads without asking for them, as older peers do,
 * gets the message alone: the kernel closes what was not taken.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
};

int rights_send(int to, const struct harp_msg *m, const int *fds, unsigned n)
{
    union control control = {.bytes = {0}};
    struct iovec iov = {.iov_base = (void *)m, .iov_len = sizeof *m};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n > 0) {
        h.msg_control = &control;
        h.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    return sendmsg(to, &h, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof *m ? 0 : -errno;
}

void rights_close(const int fds[RIGHTS_MAX])
{
    for (unsigned i = 0; i < RIGHTS_MAX; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* The room is for RIGHTS_MAX, and the kernel closes what does not fit. */
static void take(struct msghdr *h, int fds[RIGHTS_MAX])
{
    struct cmsghdr *c = CMSG_FIRSTHDR(h);
    if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return;
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), (n < RIGHTS_MAX ? n : RIGHTS_MAX) * sizeof(int));
}

int rights_receive(int from, struct harp_msg *m, int fds[RIGHTS_MAX])
{
    union control control;
    struct iovec iov = {.iov_base = m, .iov_len = sizeof *m};
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    for (unsigned i = 0; i < RIGHTS_MAX; i++)
        fds[i] = -1;
    ssize_t n = recvmsg(from, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    take(&h, fds);
    if (h.msg_flags & MSG_CTRUNC)
        log_event("descriptors_lost", "reason=not_all_fit length=%zd", n);
    if (n == (ssize_t)sizeof *m && !(h.msg_flags & MSG_TRUNC))
        return 0;
    return -EPROTO;
}
