/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef F_ADD_SEALS
#define F_ADD_SEALS   1033
#define F_GET_SEALS   1034
#define F_SEAL_SEAL   1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW   4
#define F_SEAL_WRITE  8
#endif
#define MEMFD_CLOEXEC 1u
#define MEMFD_SEALING 2u

bool ptxc_request_read(const void *message, size_t bytes, struct ptxc_request *out,
                       char kernel[PTXC_KERNEL_MAX + 1], char *why, size_t why_bytes)
{
    if (bytes < sizeof(*out)) {
        snprintf(why, why_bytes, "a request of %zu bytes", bytes);
        return false;
    }
    memcpy(out, message, sizeof(*out));
    if (out->magic != PTXC_MAGIC || out->version != PTXC_VERSION) {
        snprintf(why, why_bytes,
                 "this compiler speaks version %d, the program version %u; remedy: the same "
                 "version of HARP for both",
                 PTXC_VERSION, out->magic == PTXC_MAGIC ? out->version : 0);
        return false;
    }
    if (!out->kernel_bytes || out->kernel_bytes > PTXC_KERNEL_MAX ||
        out->kernel_bytes != bytes - sizeof(*out) || out->fast > 1) {
        snprintf(why, why_bytes, "a kernel's name of %u bytes in a request of %zu; up to %d",
                 out->kernel_bytes, bytes, PTXC_KERNEL_MAX);
        return false;
    }
    const char *name = (const char *)message + sizeof(*out);
    for (uint32_t i = 0; i < out->kernel_bytes; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f) {
            snprintf(why, why_bytes, "the kernel's name has a byte %u", (unsigned char)name[i]);
            return false;
        }
    if (!out->text_bytes || out->text_bytes > PTXC_TEXT_MAX) {
        snprintf(why, why_bytes, "%llu bytes of PTX; up to %d", (unsigned long long)out->text_bytes,
                 PTXC_TEXT_MAX);
        return false;
    }
    memcpy(kernel, name, out->kernel_bytes);
    kernel[out->kernel_bytes] = 0;
    return true;
}

bool ptxc_reply_read(const void *message, size_t bytes, struct ptxc_reply *out,
                     char said[PTXC_WHY_MAX + 1])
{
    if (bytes < sizeof(*out))
        return false;
    memcpy(out, message, sizeof(*out));
    if (out->magic != PTXC_MAGIC || out->version != PTXC_VERSION || out->why_bytes > PTXC_WHY_MAX ||
        out->why_bytes != bytes - sizeof(*out) || out->object_bytes > PTXC_OBJECT_MAX ||
        (out->status == 0) != (out->object_bytes != 0))
        return false;
    memcpy(said, (const char *)message + sizeof(*out), out->why_bytes);
    said[out->why_bytes] = 0;
    for (char *at = said; at < said + out->why_bytes; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = ' ';
    return true;
}

int ptxc_sealed_file(const void *bytes, size_t count)
{
    int fd = (int)syscall(SYS_memfd_create, "harp-ptx", MEMFD_CLOEXEC | MEMFD_SEALING);
    if (fd < 0)
        return -errno;
    for (size_t done = 0; done < count;) {
        ssize_t n = write(fd, (const char *)bytes + done, count - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int err = n < 0 ? -errno : -EIO;
            close(fd);
            return err;
        }
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* Only files in memory have seals, so reading this one never waits for anybody. */
bool ptxc_is_sealed(int fd, uint64_t bytes)
{
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & all) == all && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           st.st_size >= 0 && (uint64_t)st.st_size == bytes;
}

int ptxc_send(int socket, const void *head, size_t head_bytes, const void *tail, size_t tail_bytes,
              int fd)
{
    struct iovec parts[2] = {{(void *)(uintptr_t)head, head_bytes},
                             {(void *)(uintptr_t)tail, tail_bytes}};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = tail_bytes ? 2 : 1};
    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    for (;;) {
        ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
        if (n >= 0)
            return (size_t)n == head_bytes + tail_bytes ? 0 : -EIO;
        if (errno != EINTR)
            return -errno;
    }
}

ssize_t ptxc_receive(int socket, void *bytes_out, size_t bytes, int *fd)
{
    struct iovec part = {bytes_out, bytes};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    int count = 0, got = -1;
    ssize_t n;
    *fd = -1;
    while ((n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR)
            return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int one;
            memcpy(&one, (char *)c + at, sizeof(one));
            if (count++ == 0)
                got = one;
            else
                close(one);
        }
    }
    bool longer = (message.msg_flags & MSG_TRUNC) != 0;
    if (longer || count > 1 || (message.msg_flags & MSG_CTRUNC) != 0) {
        if (got >= 0)
            close(got);
        return longer ? -EMSGSIZE : -EPROTO;
    }
    *fd = got;
    return n;
}
