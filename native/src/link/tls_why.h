/* SPDX-License-Identifier: Apache-2.0
 *
 * Why a TLS connection failed, for people: what is wrong, and what to do.
 */
#ifndef HARP_LINK_TLS_WHY_H
#define HARP_LINK_TLS_WHY_H

#include <stdbool.h>

#include "src/link/tcp.h"

struct harp_tls_failure {
    unsigned long error; /* OpenSSL's last */
    long verify;         /* X509_V_*, of the peer's certificate */
    bool server;         /* our side */
    const char *name, *ca;
};

void harp_tls_explain(const struct harp_tls_failure *failure, char why[HARP_WHY_BYTES]);

#endif
