/* SPDX-License-Identifier: Apache-2.0
 *
 * `harp-ptxc serve`: the compiler for programs whose own root folder has none (service.h is the
 * protocol). One thread; each kernel is compiled in a process of its own, in a process group of its
 * own, with limits.
 */
#ifndef HARP_PTXC_SERVE_H
#define HARP_PTXC_SERVE_H

#include <stdbool.h>
#include <stdint.h>

struct serve_settings {
    const char *socket, *cache;
    uint32_t jobs;       /* compiles at once */
    uint32_t timeout_s;  /* of one */
    uint32_t cache_mib;  /* more is taken away, what was used least lately first */
    uint32_t memory_mib; /* of one process of a compile */
};

/* False: wrong usage. */
bool serve_read_settings(struct serve_settings *settings, int argc, char **argv);
/* Until SIGTERM or SIGINT; the program's exit status. */
int serve(const struct serve_settings *settings);

#endif
