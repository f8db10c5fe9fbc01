/* SPDX-License-Identifier: Apache-2.0
 *
 * How a new connection gets to its session's process: a place for each process, with a socket pair
 * made before it was forked, whose other end every later process has inherited; and the name of the
 * session there, in memory that all share. No path, no name that others could take.
 */
#ifndef HARP_LINK_JOIN_H
#define HARP_LINK_JOIN_H

#include <stdbool.h>

#include "src/link/grpc.h"

/* The shared memory is that of `fd`, or a new one; `giving`: what another of us had (upgrade.h), or
 * NULL. 0 or an errno. */
int harp_join_open(unsigned places, int *fd, const int *giving);
/* What this one has, -1 where there is none. */
const int *harp_join_giving(void);

/* By the parent: before it forks the process of a place, after that in either, and when the process
 * is gone. */
int harp_join_make(unsigned place);
void harp_join_child(unsigned place);
void harp_join_parent(unsigned place);
void harp_join_gone(unsigned place);

/* By a process: this session is here. Answers the descriptor from which harp_join_next takes; -1:
 * nothing was opened. */
int harp_join_here(const char *session);
/* A connection that another process gives; -1: none. */
int harp_join_next(void);

/* By another one: give `fd` to the process of the session; it stays the caller's, too. 0; -ENOENT:
 * there is none; or an errno. */
int harp_join_give(const char *session, int fd);

#endif
