/* SPDX-License-Identifier: Apache-2.0
 *
 * How sessions open, and how their ends are seen: by processes, which TSan does not follow.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "ring_pair.h"

static void test_a_stray_byte_hides_no_end(void)
{
    struct harp_ring ring;
    int memfd, sock[2];
    CHECK(harp_ring_make(&ring, &small, &memfd) == 0);
    close(memfd);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0);
    ring.sock = sock[0];
    CHECK(!harp_ring_gone(&ring));
    CHECK(send(sock[1], "x", 1, MSG_NOSIGNAL) == 1);
    close(sock[1]);
    CHECK(harp_ring_gone(&ring));
    CHECK(harp_ring_wait(&ring, HARP_RING_FIRST, 20000) == -EPIPE);
    harp_ring_close(&ring);
    close(sock[0]);
}

static struct harp_table_id own;
static char own_text[HARP_TABLE_TEXT];

/* A worker for one dial; answers its exit status. */
static pid_t serve(int sock[2], const struct harp_table_id *table, int afterwards)
{
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0);
    pid_t pid = fork();
    if (pid != 0) {
        close(sock[1]);
        return pid;
    }
    struct harp_ring worker;
    char text[256];
    close(sock[0]);
    int err = harp_ring_accept(&worker, sock[1], table, 2000, text, sizeof text);
    if (err != 0) {
        harp_ring_refuse(sock[1], text);
        _exit(-err);
    }
    CHECK(harp_ring_answer(&worker) == 0);
    if (afterwards == SIGKILL) {
        struct harp_ring_record r = {.bytes = 3};
        CHECK(harp_ring_put(&worker, &r, "abc") == 0);
        kill(getpid(), SIGKILL);
    }
    _exit(harp_ring_wait(&worker, HARP_RING_FIRST, afterwards) == -EPIPE ? 0 : 9);
}

static int ended(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_a_session_opens_and_both_see_the_other_die(void)
{
    struct harp_ring ring;
    struct harp_ring_record r;
    char text[256];
    int sock[2];
    pid_t pid = serve(sock, &own, 20000);
    CHECK(harp_ring_dial(&ring, sock[0], NULL, own_text, 5000, text, sizeof text) == 0);
    CHECK(ring.sizes.bulk == HARP_RING_BULK_BYTES && !harp_ring_gone(&ring));
    close(sock[0]);
    CHECK(ended(pid) == 0);
    harp_ring_close(&ring);

    pid = serve(sock, &own, SIGKILL);
    CHECK(harp_ring_dial(&ring, sock[0], &small, own_text, 5000, text, sizeof text) == 0);
    CHECK(ended(pid) == -SIGKILL);
    CHECK(harp_ring_wait(&ring, HARP_RING_FIRST, 20000) == 0); /* its last words */
    CHECK(harp_ring_take(&ring, &r, got, sizeof got) == 1 && memcmp(got, "abc", 3) == 0);
    CHECK(harp_ring_wait(&ring, HARP_RING_FIRST, 20000) == -EPIPE);
    CHECK(harp_ring_wait_room(&ring, 8, 20000) == 0); /* there is some */
    for (int i = 0; i < 3; i++) {
        r = (struct harp_ring_record){.bytes = harp_ring_largest(&ring)};
        if (harp_ring_put(&ring, &r, body) == -EAGAIN)
            CHECK(harp_ring_wait_room(&ring, r.bytes, 20000) == -EPIPE);
    }
    CHECK(harp_ring_gone(&ring));
    close(sock[0]);
    harp_ring_close(&ring);
}

static void test_other_tables_are_refused_with_both_versions(void)
{
    struct harp_ring ring;
    struct harp_table_id other = own;
    char text[256];
    int sock[2];
    other.hash[5] ^= 1;
    snprintf(other.version, sizeof other.version, "9.8.7");
    pid_t pid = serve(sock, &other, 0);
    CHECK(harp_ring_dial(&ring, sock[0], NULL, own_text, 5000, text, sizeof text) == -ECONNREFUSED);
    CHECK(strstr(text, "9.8.7") != NULL && strstr(text, "1.2.3") != NULL);
    CHECK(ended(pid) == EPROTO);
    close(sock[0]);
}

/* A hello as a client that means harm would send it. */
static int hello(uint64_t magic, uint32_t version, const struct harp_ring_sizes *sizes, int fd,
                 size_t cut)
{
    struct {
        uint64_t magic;
        uint32_t version, reserved;
        struct harp_ring_sizes sizes;
        char table[HARP_TABLE_TEXT];
    } h = {magic, version, 0, *sizes, {0}};
    char control[CMSG_SPACE(sizeof fd)] = {0};
    int sock[2];
    memcpy(h.table, own_text, sizeof own_text);
    pid_t pid = serve(sock, &own, 0);
    struct iovec iov = {&h, sizeof h - cut};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    CHECK(sendmsg(sock[0], &msg, MSG_NOSIGNAL) == (ssize_t)iov.iov_len);
    if (cut != 0)
        shutdown(sock[0], SHUT_WR);
    int status = ended(pid);
    close(sock[0]);
    return status;
}

static void test_segments_that_could_be_pulled_away_are_refused(void)
{
    const uint64_t magic = HARP_RING_MAGIC;
    off_t bytes = 4096 + (off_t)(small.calls + small.answers + small.bulk);
    int sealed = memfd_create("t", MFD_ALLOW_SEALING), file = memfd_create("t", MFD_ALLOW_SEALING);
    CHECK(ftruncate(sealed, bytes) == 0 && ftruncate(file, bytes) == 0);
    CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) == 0); /* may shrink */
    CHECK(fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
    CHECK(hello(magic, 1, &small, sealed, 0) == 9); /* opens; the wait for 0 ms ends it */
    CHECK(hello(magic, 1, &small, file, 0) == EPERM);
    CHECK(hello(magic, 1, &small, STDERR_FILENO, 0) == EPERM);
    CHECK(hello(magic, 1, &small, -1, 0) == EBADF);
    CHECK(hello(magic + 1, 1, &small, sealed, 0) == EPROTO);
    CHECK(hello(magic, 2, &small, sealed, 0) == EPROTO);
    CHECK(hello(magic, 1, &small, sealed, 1) == EPIPE);
    struct harp_ring_sizes s = small;
    s.bulk += 64u << 10; /* more than there is */
    CHECK(hello(magic, 1, &s, sealed, 0) == EINVAL);
    s = small;
    s.calls = 96u << 10; /* no power of two */
    s.answers = 32u << 10;
    CHECK(hello(magic, 1, &s, sealed, 0) == EINVAL);
    s.calls = UINT64_MAX - 4095;
    CHECK(hello(magic, 1, &s, sealed, 0) == EINVAL);
    close(sealed);
    close(file);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    harp_table_own(&own, "1.2.3");
    harp_table_put(own_text, &own);
    test_a_stray_byte_hides_no_end();
    test_a_session_opens_and_both_see_the_other_die();
    test_other_tables_are_refused_with_both_versions();
    test_segments_that_could_be_pulled_away_are_refused();
    return 0;
}
