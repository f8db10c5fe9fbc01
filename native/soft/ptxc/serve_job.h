/* SPDX-License-Identifier: Apache-2.0
 *
 * What the service does for one request, in a process of its own.
 */
#ifndef HARP_PTXC_SERVE_JOB_H
#define HARP_PTXC_SERVE_JOB_H

#include "soft/ptxc/serve.h"

struct serve_request {
    int socket, text; /* descriptors */
    uint64_t text_bytes;
    uint32_t sm;
    bool quick;
    const char *kernel;
    volatile bool *begun; /* set before the first byte of the answer */
};

/* Answers with a status that is not 0, at once or not at all: the socket must be one that never
 * blocks. -errno. */
int serve_refuse(int socket, uint32_t status, const char *why);
/* Reads the text, compiles, answers. Its exit status: what was answered. */
_Noreturn void serve_job(const struct serve_settings *settings, const struct serve_request *asked);

#endif
