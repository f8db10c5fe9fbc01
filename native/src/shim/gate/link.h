/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams on one socket to the arbiter. No state: whose socket it is, session.c knows.
 */
#ifndef HARP_SHIM_LINK_H
#define HARP_SHIM_LINK_H

#include <stdbool.h>

#include "harp/lease.h"

#define HARP_HANDSHAKE_MS 1000

/* A socket connected to the arbiter of a grant folder; -1 and errno. */
int harp_link_connect(const char *grant);
/* Waits a second at most for a peer that does not read; false: it is gone. */
bool harp_link_send(int fd, const struct harp_msg *msg);
/* One datagram; false: none came in time, or not one of this protocol. */
bool harp_link_receive(int fd, struct harp_msg *msg, int timeout_ms);
/* Whether there is something to read, or `done` became true (NULL: nothing to look at), within a
 * moment that is too short to sleep for. */
bool harp_link_soon(int fd, const bool *done);
/* Says who we are, and which versions we speak; `welcome` is the answer, in the one agreed on.
 * *page: the descriptor that came along, the caller's; -1: none, as after false. */
bool harp_link_hello(int fd, int pid, bool again, struct harp_msg *welcome, int *page);

#endif
