/* SPDX-License-Identifier: Apache-2.0
 *
 * tls_out.c: records into a socket that does not wait, and a reader that comes when it likes.
 */
#include "src/link/tls_out.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

#define RECORD (16u << 10)

static struct tls_out out;
static BIO *bio;
static int peer;
static uint8_t data[RECORD + 256], got[1 << 20];
static uint64_t written, seen;

static void open_pair(void)
{
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    memset(&out, 0, sizeof out);
    out.fd = pair[0];
    peer = pair[1];
    bio = tls_out_bio(&out);
    CHECK(bio != NULL);
    written = seen = 0;
}

static void close_pair(void)
{
    CHECK(BIO_free(bio) == 1);
    close(out.fd);
    if (peer >= 0)
        close(peer);
}

/* Bytes that tell where they lie. */
static uint8_t byte_at(uint64_t at)
{
    return (uint8_t)(at * 31 + (at >> 13));
}

static int put(size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        data[i] = byte_at(written + i);
    int n = BIO_write(bio, data, (int)bytes);
    CHECK(n == (int)bytes || (n <= 0 && BIO_should_retry(bio) && BIO_should_write(bio)));
    memset(data, 0, bytes); /* whoever reads it later sends nonsense */
    written += n > 0 ? bytes : 0;
    return n;
}

static size_t take(size_t most)
{
    ssize_t n = recv(peer, got, most, 0);
    CHECK(n > 0 || (n < 0 && errno == EAGAIN));
    for (ssize_t i = 0; i < n; i++)
        CHECK(got[i] == byte_at(seen + (uint64_t)i));
    seen += n > 0 ? (uint64_t)n : 0;
    return n > 0 ? (size_t)n : 0;
}

static void several_go_together(void)
{
    open_pair();
    for (int i = 0; i < 5; i++)
        CHECK(put(RECORD + 22) > 0);
    CHECK(take(sizeof got) == 0 && BIO_wpending(bio) == 5 * (RECORD + 22));
    CHECK(tls_out_flush(&out) == 0 && BIO_wpending(bio) == 0);
    CHECK(take(sizeof got) == 5 * (RECORD + 22));
    CHECK(put(300) > 0 && BIO_flush(bio) == 1 && take(sizeof got) == 300);
    close_pair();
}

static void a_full_one_writes_by_itself(void)
{
    open_pair();
    while (written < TLS_OUT_BYTES)
        CHECK(put(RECORD) > 0);
    CHECK(take(sizeof got) == 0);
    (void)put(RECORD); /* taken, or the socket has no room for all that was before it */
    CHECK(take(sizeof got) > 0);
    close_pair();
}

/* All of a record or nothing, and nothing lost, whoever is slow. */
static void a_peer_that_is_slow(void)
{
    unsigned refused = 0, unflushed = 0;
    open_pair();
    for (unsigned round = 0; round < 20000; round++) {
        const unsigned what = round * 2654435761u >> 16;
        if (what % 3 != 0)
            refused += put(1 + what % sizeof data) <= 0;
        else if (what % 5 == 0)
            unflushed += tls_out_flush(&out) == -EAGAIN;
        else
            (void)take(1 + what % (4 * RECORD));
    }
    CHECK(refused > 100 && unflushed > 100);
    while (seen < written) {
        int err = tls_out_flush(&out);
        CHECK(err == 0 || err == -EAGAIN);
        (void)take(sizeof got);
    }
    CHECK(take(sizeof got) == 0);
    close_pair();
}

static void a_peer_that_has_gone(void)
{
    open_pair();
    CHECK(put(100) > 0);
    close(peer);
    peer = -1;
    CHECK(tls_out_flush(&out) == -EPIPE);
    errno = 0;
    CHECK(BIO_flush(bio) <= 0 && errno == EPIPE && !BIO_should_retry(bio));
    close_pair();
}

int main(void)
{
    several_go_together();
    a_full_one_writes_by_itself();
    a_peer_that_is_slow();
    a_peer_that_has_gone();
    return 0;
}
