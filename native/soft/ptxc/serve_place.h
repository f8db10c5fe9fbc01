/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the service listens, and who asks.
 */
#ifndef HARP_PTXC_SERVE_PLACE_H
#define HARP_PTXC_SERVE_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "soft/ptxc/job.h"

struct serve_place {
    const char *path;
    int listener, lock;
};

/* Listens at `path`, for everybody, in place of one that has ended; fails the job if one lives.
 * `cache`: a folder that nobody else can read, for the lock. */
void serve_place_take(struct job *job, struct serve_place *place, const char *path,
                      const char *cache);
void serve_place_leave(struct serve_place *place);
/* So many descriptors, if this process may have them. */
void serve_raise_files(uint64_t count);
/* Whose connection it is: the container, known by its control group, or else the user. False: it
 * cannot be said any more, for whoever connected has ended. */
bool serve_peer_key(int socket, uint64_t *key);

#endif
