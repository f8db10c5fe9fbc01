/* SPDX-License-Identifier: Apache-2.0
 *
 * Running harp-ptxc, outside the client's process and without its environment.
 */
#ifndef HARP_SOFT_FUNCTION_SPAWN_H
#define HARP_SOFT_FUNCTION_SPAWN_H

#include <stdbool.h>
#include <stddef.h>

enum soft_ptxc_exit {
    SOFT_PTXC_UNSUPPORTED = 3,
    SOFT_PTXC_INVALID = 4,
    SOFT_PTXC_NO_COMPILER = 5,
};

struct soft_spawned {
    int exit_status;  /* -1: killed, or reaped by somebody else */
    char path[4096];  /* first line of its output; "" if none */
    char errors[512]; /* first line of its errors */
    int object;       /* looked at already, or in memory: the caller's to close; -1: see path */
};

/* By the service at /opt/harp/ptxc/sock where that is mounted, or at $HARP_PTXC_SOCKET: see
 * function_service.h. 0 if it ran (see exit_status), else -errno with `errors` saying what to do.
 */
int soft_spawn_ptxc(const char *ptx, size_t ptx_bytes, const char *kernel, int cc, bool quick,
                    struct soft_spawned *done);

#endif
