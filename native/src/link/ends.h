/* SPDX-License-Identifier: Apache-2.0
 *
 * The two ways to run harp-link.
 */
#ifndef HARP_LINK_ENDS_H
#define HARP_LINK_ENDS_H

#include "src/link/conn.h"

struct ends_options {
    const char *socket; /* near: where programs connect */
    struct harp_address address;
    struct harp_tls *tls;
    const char *name, *session;
    char *const *worker; /* far: its command line */
    unsigned worker_args;
    char token[HARP_GRPC_TOKEN_BYTES]; /* "": none */
    struct harp_table_id own;
};

/* Beside programs: a process for each that connects. Beside the worker: one session. An exit code.
 */
int near_main(const struct ends_options *options);
int far_main(const struct ends_options *options);

#endif
