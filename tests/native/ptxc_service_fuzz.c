/* SPDX-License-Identifier: Apache-2.0
 *
 * The messages of `harp-ptxc serve`, damaged, through both readers and over a socket, under the
 * sanitizers. What is taken must be in order; nothing is written behind what there is room for, no
 * descriptor stays open. HARP_TEST_SEED, HARP_FUZZ_S set the seed and the seconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "soft/ptxc/ptx_rt.h"
#include "soft/ptxc/service.h"

static uint64_t state;
static int requests, replies, refused;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static void fail(const char *what)
{
    printf("%s\n", what);
    exit(1);
}

static void try_request(const unsigned char *bytes, size_t n)
{
    struct ptxc_request asked;
    char why[64] = "", *kernel = malloc(PTXC_KERNEL_MAX + 1);
    unsigned char *copy = malloc(n ? n : 1); /* so that one too far is seen */
    memcpy(copy, bytes, n);
    if (ptxc_request_read(copy, n, &asked, kernel, why, sizeof why)) {
        requests++;
        if (strlen(kernel) != asked.kernel_bytes || !asked.text_bytes ||
            asked.text_bytes > PTXC_TEXT_MAX || strpbrk(kernel, " \n\t"))
            fail("a request that is none was taken");
    } else {
        refused++;
        if (!why[0])
            fail("refused without a word");
    }
    free(copy);
    free(kernel);
}

static void try_reply(const unsigned char *bytes, size_t n)
{
    struct ptxc_reply reply;
    char *said = malloc(PTXC_WHY_MAX + 1);
    unsigned char *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    if (ptxc_reply_read(copy, n, &reply, said)) {
        replies++;
        if (strlen(said) > reply.why_bytes || strchr(said, '\n') ||
            reply.object_bytes > PTXC_OBJECT_MAX || (reply.status == 0) != (reply.object_bytes > 0))
            fail("an answer that is none was taken");
    }
    free(copy);
    free(said);
}

static int open_files(void)
{
    int n = 0;
    for (int fd = 0; fd < 64; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* As many descriptors as the kernel takes, in one message. */
static void send_many(int socket, const void *bytes, size_t n, int count)
{
    struct iovec part = {(void *)(uintptr_t)bytes, n};
    char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memset(CMSG_DATA(c), 0, (size_t)count * sizeof(int)); /* standard input, again and again */
    if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
        fail("sendmsg");
}

static void try_descriptors(void)
{
    int pair[2], fd, before;
    char room[32];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) != 0)
        fail("socketpair");
    before = open_files();
    for (int count = 1; count < 16; count++) {
        send_many(pair[0], "abc", 3, count);
        ssize_t n = ptxc_receive(pair[1], room, sizeof room, &fd);
        if (n != (count == 1 ? 3 : -EPROTO) || (fd >= 0) != (count == 1))
            fail("descriptors");
        if (fd >= 0)
            close(fd);
        if (open_files() != before)
            fail("a descriptor stayed open");
    }
    send_many(pair[0], "0123456789012345678901234567890123456789", 40, 1);
    if (ptxc_receive(pair[1], room, sizeof room, &fd) != -EMSGSIZE || fd >= 0 ||
        open_files() != before)
        fail("a message that is too long");
    if (ptxc_receive(pair[1], room, sizeof room, &fd) != -EAGAIN)
        fail("nothing to read");
    close(pair[0]);
    if (ptxc_receive(pair[1], room, sizeof room, &fd) != 0)
        fail("the end");
    if (ptxc_send(pair[1], "a", 1, NULL, 0, -1) != -EPIPE)
        fail("sending to nobody");
    close(pair[1]);
}

static void try_seals(void)
{
    int fd = ptxc_sealed_file("text", 4), plain = open("/dev/zero", O_RDWR);
    if (fd < 0 || !ptxc_is_sealed(fd, 4) || ptxc_is_sealed(fd, 5) || write(fd, "x", 1) >= 0 ||
        ftruncate(fd, 1) == 0 || plain < 0 || ptxc_is_sealed(plain, 4) || ptxc_is_sealed(-1, 0))
        fail("seals");
    close(fd);
    close(plain);
}

int main(void)
{
    const char *seed = getenv("HARP_TEST_SEED"), *seconds = getenv("HARP_FUZZ_S");
    time_t until = time(NULL) + (seconds ? atoi(seconds) : 2);
    struct ptxc_request asked = {.magic = PTXC_MAGIC,
                                 .version = PTXC_VERSION,
                                 .abi = PTX_RT_ABI,
                                 .sm = 90,
                                 .text_bytes = 5,
                                 .kernel_bytes = 6};
    struct ptxc_reply reply = {
        .magic = PTXC_MAGIC, .version = PTXC_VERSION, .status = 3, .why_bytes = 6};
    unsigned char bytes[96];
    state = seed ? strtoull(seed, NULL, 10) : 20261127;
    printf("HARP_TEST_SEED=%" PRIu64 "\n", state);
    try_descriptors();
    try_seals();
    while (time(NULL) < until) {
        for (int i = 0; i < 1000; i++) {
            bool asks = draw(2) == 0;
            size_t head = asks ? sizeof asked : sizeof reply, n = head + 6;
            memcpy(bytes, asks ? (void *)&asked : (void *)&reply, head);
            memcpy(bytes + head, "kernel", 6);
            for (uint32_t k = draw(4); k; k--)
                bytes[draw((uint32_t)n)] = (unsigned char)draw(draw(2) ? 256 : 8);
            if (draw(3) == 0)
                n = draw((uint32_t)sizeof bytes);
            (asks ? try_request : try_reply)(bytes, n);
        }
    }
    printf("%d requests and %d answers taken, %d refused\n", requests, replies, refused);
    return requests && replies && refused ? 0 : 1;
}
