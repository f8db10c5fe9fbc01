/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a session: the memfd, and the few words about it over the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "src/wire/ring.h"

/* glibc 2.17 has no names for these. */
#ifndef F_ADD_SEALS
#define F_ADD_SEALS   1033
#define F_GET_SEALS   1034
#define F_SEAL_SEAL   1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW   4
#endif
#define MEMFD_CLOEXEC 1u
#define MEMFD_SEALS   2u
#define SEALS         (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define TMPFS         0x01021994l

#define RING_LEAST (64ull << 10)
#define RING_MOST  (64ull << 20)
#define BULK_STEP  (64ull << 10)
#define BULK_MOST  (1ull << 30)

struct hello {
    uint64_t magic;
    uint32_t version, reserved;
    struct harp_ring_sizes sizes;
    char table[HARP_TABLE_TEXT];
};

struct answer {
    uint64_t magic;
    uint32_t error; /* 0: the session is open */
    char text[244];
};

static bool is_ring(uint64_t bytes)
{
    return bytes >= RING_LEAST && bytes <= RING_MOST && (bytes & (bytes - 1)) == 0;
}

static bool fit(const struct harp_ring_sizes *s)
{
    return is_ring(s->calls) && is_ring(s->answers) && s->bulk % BULK_STEP == 0 &&
           s->bulk >= BULK_STEP && s->bulk <= BULK_MOST;
}

static uint64_t total(const struct harp_ring_sizes *s)
{
    return 4096 + s->calls + s->answers + s->bulk;
}

int harp_ring_join(struct harp_ring *ring, enum harp_ring_end end,
                   const struct harp_ring_sizes *sizes, int memfd)
{
    struct stat st;
    struct statfs fs;
    if (!fit(sizes))
        return -EINVAL;
    int seals = fcntl(memfd, F_GET_SEALS);
    /* tmpfs: a file of huge pages has seals as well, and faults where the machine has none left. */
    if (seals < 0 || (seals & SEALS) != SEALS || fstatfs(memfd, &fs) != 0 || fs.f_type != TMPFS)
        return -EPERM;
    if (fstat(memfd, &st) != 0 || st.st_size < 0 || (uint64_t)st.st_size != total(sizes))
        return -EINVAL;
    size_t bytes = (size_t)total(sizes);
    uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (map == MAP_FAILED)
        return -errno;
    struct harp_ring_header *h = (struct harp_ring_header *)map;
    uint8_t *calls = map + 4096, *answers = calls + sizes->calls;
    *ring = (struct harp_ring){.map = map, .mapped = bytes, .sizes = *sizes, .sock = -1};
    ring->bulk = answers + sizes->answers;
    bool client = end == HARP_RING_CLIENT;
    ring->put.way = client ? &h->calls : &h->answers;
    ring->put.data = client ? calls : answers;
    ring->put.size = client ? sizes->calls : sizes->answers;
    ring->take.way = client ? &h->answers : &h->calls;
    ring->take.data = client ? answers : calls;
    ring->take.size = client ? sizes->answers : sizes->calls;
    return 0;
}

int harp_ring_make(struct harp_ring *ring, const struct harp_ring_sizes *sizes, int *memfd)
{
    static const struct harp_ring_sizes usual = {HARP_RING_BYTES, HARP_RING_BYTES,
                                                 HARP_RING_BULK_BYTES};
    sizes = sizes == NULL ? &usual : sizes;
    if (!fit(sizes))
        return -EINVAL;
    int fd = (int)syscall(SYS_memfd_create, "harp-ring", MEMFD_CLOEXEC | MEMFD_SEALS);
    if (fd < 0)
        return -errno;
    int err = 0;
    if (ftruncate(fd, (off_t)total(sizes)) != 0 || fcntl(fd, F_ADD_SEALS, SEALS) != 0)
        err = -errno;
    if (err == 0)
        err = harp_ring_join(ring, HARP_RING_CLIENT, sizes, fd);
    if (err != 0)
        close(fd);
    else
        *memfd = fd;
    return err;
}

void harp_ring_close(struct harp_ring *ring)
{
    if (ring->map != NULL)
        munmap(ring->map, ring->mapped);
    *ring = (struct harp_ring){.sock = -1};
}

/* --- over the socket --- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Takes exactly `size` bytes, and one file descriptor with the first of them if `fd` is there. */
static int take_all(int sock, void *data, size_t size, int *fd, int64_t until_ms)
{
    for (size_t got = 0; got < size;) {
        int64_t left = until_ms - now_ms();
        struct pollfd p = {.fd = sock, .events = POLLIN};
        int ready = left < 0 ? 0 : poll(&p, 1, (int)left);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return ready == 0 ? -ETIMEDOUT : -errno;
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control;
        struct iovec iov = {(uint8_t *)data + got, size - got};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return n == 0 ? -EPIPE : -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                continue;
            for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                int one;
                memcpy(&one, CMSG_DATA(c) + i * sizeof one, sizeof one);
                if (fd != NULL && *fd < 0)
                    *fd = one;
                else
                    close(one);
            }
        }
        got += (size_t)n;
    }
    return 0;
}

static int send_all(int sock, const void *data, size_t size, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {(void *)(uintptr_t)data, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    memset(&control, 0, sizeof control);
    if (fd >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    ssize_t n;
    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    /* A few hundred bytes fit a socket that nothing has gone through. */
    return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EPIPE;
}

int harp_ring_dial(struct harp_ring *ring, int sock, const struct harp_ring_sizes *sizes,
                   const char *table, int timeout_ms, char *text, size_t text_size)
{
    struct hello hello = {.magic = HARP_RING_MAGIC, .version = HARP_RING_VERSION};
    struct answer answer;
    int saved = errno, memfd = -1;
    snprintf(text, text_size, "shared memory for the session cannot be made");
    int err = harp_ring_make(ring, sizes, &memfd);
    if (err != 0)
        goto out;
    hello.sizes = ring->sizes;
    snprintf(hello.table, sizeof hello.table, "%s", table);
    err = send_all(sock, &hello, sizeof hello, memfd);
    close(memfd);
    if (err == 0 || err == -EPIPE) /* who has hung up may have said why */
        err = take_all(sock, &answer, sizeof answer, NULL, now_ms() + timeout_ms);
    if (err != 0) {
        snprintf(text, text_size, "the worker does not answer: %s", strerror(-err));
    } else if (answer.magic != HARP_RING_MAGIC) {
        err = -EPROTO;
        snprintf(text, text_size, "what answers there is no worker of HARP's");
    } else if (answer.error != 0) {
        err = -ECONNREFUSED;
        snprintf(text, text_size, "%.*s", (int)sizeof answer.text, answer.text);
    }
    if (err != 0)
        harp_ring_close(ring);
    else
        ring->sock = sock;
out:
    errno = saved;
    return err;
}

int harp_ring_accept(struct harp_ring *ring, int sock, const struct harp_table_id *own,
                     int timeout_ms, char *text, size_t text_size)
{
    struct hello hello;
    struct harp_table_id other;
    int saved = errno, memfd = -1;
    int err = take_all(sock, &hello, sizeof hello, &memfd, now_ms() + timeout_ms);
    if (err != 0) {
        snprintf(text, text_size, "no hello within %d ms: %s", timeout_ms, strerror(-err));
        goto out;
    }
    hello.table[sizeof hello.table - 1] = '\0';
    err = -EPROTO;
    if (hello.magic != HARP_RING_MAGIC)
        snprintf(text, text_size, "this is a worker of HARP's, and that was no hello for it");
    else if (hello.version != HARP_RING_VERSION)
        snprintf(text, text_size, "the ring has version %u here and %u there; use the same HARP",
                 HARP_RING_VERSION, hello.version);
    else if (harp_table_get(&other, hello.table) != 0)
        snprintf(text, text_size, "the hello names no table of calls");
    else if (harp_table_compare(own, &other, text, text_size) == 0)
        err = 0;
    if (err != 0)
        goto out;
    err = memfd < 0 ? -EBADF : harp_ring_join(ring, HARP_RING_WORKER, &hello.sizes, memfd);
    if (err == -EINVAL)
        snprintf(text, text_size,
                 "a segment of %llu, %llu and %llu bytes is none: rings are a power of two from "
                 "64 KiB to 64 MiB, bulk a multiple of 64 KiB up to 1 GiB",
                 (unsigned long long)hello.sizes.calls, (unsigned long long)hello.sizes.answers,
                 (unsigned long long)hello.sizes.bulk);
    else if (err != 0)
        snprintf(text, text_size, "the segment is no memfd sealed against shrinking and growing");
    if (err == 0)
        ring->sock = sock;
out:
    if (memfd >= 0)
        close(memfd);
    errno = saved;
    return err;
}

int harp_ring_answer(const struct harp_ring *ring)
{
    struct answer answer = {.magic = HARP_RING_MAGIC};
    int saved = errno, err = send_all(ring->sock, &answer, sizeof answer, -1);
    errno = saved;
    return err;
}

void harp_ring_refuse(int sock, const char *text)
{
    struct answer answer = {.magic = HARP_RING_MAGIC, .error = 1};
    int saved = errno;
    snprintf(answer.text, sizeof answer.text, "%s", text);
    send_all(sock, &answer, sizeof answer, -1);
    errno = saved;
}
