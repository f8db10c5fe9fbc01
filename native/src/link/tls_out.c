/* SPDX-License-Identifier: Apache-2.0
 *
 * A sink of OpenSSL's that gathers what it writes.
 */
#include "src/link/tls_out.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int tls_out_flush(struct tls_out *out)
{
    while (out->from < out->to) {
        ssize_t n = send(out->fd, out->bytes + out->from, out->to - out->from, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        out->from += (size_t)n;
    }
    out->from = out->to = 0;
    return 0;
}

/* BIO's way to say so. */
static int said(BIO *bio, int err)
{
    if (err == -EAGAIN)
        BIO_set_retry_write(bio);
    errno = -err;
    return -1;
}

/* All of it or nothing: OpenSSL comes again with the same bytes. */
static int take(BIO *bio, const char *data, int size)
{
    struct tls_out *out = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    size_t bytes = (size_t)size < sizeof out->bytes ? (size_t)size : sizeof out->bytes;
    if (bytes > sizeof out->bytes - out->to) {
        int err = tls_out_flush(out);
        if (err != 0)
            return said(bio, err);
    }
    memcpy(out->bytes + out->to, data, bytes);
    out->to += bytes;
    return (int)bytes;
}

static long control(BIO *bio, int what, long number, void *ptr)
{
    struct tls_out *out = BIO_get_data(bio);
    switch (what) {
    case BIO_CTRL_FLUSH: {
        BIO_clear_retry_flags(bio);
        int err = tls_out_flush(out);
        return err == 0 ? 1 : said(bio, err);
    }
    case BIO_CTRL_WPENDING:
        return (long)(out->to - out->from);
    default:
        return 0;
    }
}

BIO *tls_out_bio(struct tls_out *out)
{
    static BIO_METHOD *method; /* for good */
    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "records");
        if (method == NULL || BIO_meth_set_write(method, take) != 1 ||
            BIO_meth_set_ctrl(method, control) != 1) {
            BIO_meth_free(method);
            method = NULL;
            return NULL;
        }
    }
    BIO *bio = BIO_new(method);
    if (bio == NULL)
        return NULL;
    BIO_set_data(bio, out);
    BIO_set_init(bio, 1);
    return bio;
}
