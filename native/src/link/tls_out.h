/* SPDX-License-Identifier: Apache-2.0
 *
 * Where OpenSSL's records go: several of them into one write. It writes each by itself, and a
 * write of 16 KiB costs TCP more than the cipher does.
 */
#ifndef HARP_LINK_TLS_OUT_H
#define HARP_LINK_TLS_OUT_H

#include <openssl/bio.h>
#include <stddef.h>
#include <stdint.h>

/* Fifteen full records and their heads, as they come. */
#define TLS_OUT_BYTES (256u << 10)

struct tls_out {
    int fd; /* a connected socket, the caller's; it does not wait */
    size_t from, to;
    uint8_t bytes[TLS_OUT_BYTES];
};

/* For SSL_set0_wbio; `out` must outlive it. NULL: no memory. It takes records until it is full and
 * writes when it is, or when it is flushed, as OpenSSL does behind a handshake and an alert. */
BIO *tls_out_bio(struct tls_out *out);

/* Write what waits. 0: all; -EAGAIN: the socket takes no more now; or its errno. */
int tls_out_flush(struct tls_out *out);

#endif
