/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS 1.3 and nothing older, by the system's OpenSSL: no renegotiation, no early data (it could be
 * replayed), no resumption (a session lives longer than its certificate may), ALPN `h2`.
 */
#ifndef HARP_LINK_TLS_H
#define HARP_LINK_TLS_H

#include "src/link/h2.h"
#include "src/link/tcp.h"

struct harp_tls_files {
    const char *certificate, *key; /* PEM, the chain first; a client's only for mTLS */
    const char *ca; /* who signs the peers. Server: NULL, and clients need none (then a token
                       says who they are). Client: NULL for those the system trusts */
};

struct harp_tls;
struct harp_tls_stream;

/* 0, or -EINVAL and why (HARP_WHY_BYTES), with the file's name. Files are read now, only. */
int harp_tls_open(struct harp_tls **out, bool server, const struct harp_tls_files *files,
                  char *why);
void harp_tls_close(struct harp_tls *tls);

/* Over the connected descriptor, which stays the caller's. Client: `name`, a host's or an address,
 * is what the certificate must be for. 0 or -ENOMEM. */
int harp_tls_start(struct harp_tls_stream **out, struct harp_tls *tls, int fd, const char *name);
void harp_tls_end(struct harp_tls_stream *stream);

/* Go on. 0: done; -EAGAIN: when the descriptor is readable (writable, if *writing); -EPROTO: never,
 * and harp_tls_why says why. */
int harp_tls_shake(struct harp_tls_stream *stream, bool *writing);

struct harp_io harp_tls_io(struct harp_tls_stream *stream);

/* After an error of the handshake or of the io: a sentence, else NULL. A client learns here that
 * its own certificate was refused: in TLS 1.3 that comes after its handshake. */
const char *harp_tls_why(const struct harp_tls_stream *stream);

#endif
