/* SPDX-License-Identifier: Apache-2.0
 *
 * What a session's process tells whoever attends of its connections: bytes, and the round trip.
 */
#ifndef HARP_LINK_TRAFFIC_H
#define HARP_LINK_TRAFFIC_H

#include "src/link/conn.h"

/* From now on, each 2 s in which there was any, and at traffic_end:
 *
 *   traffic SESSION RECEIVED SENT RTT_US
 *
 * bytes so far, of all connections that this process has had for it: HTTP/2's, without TLS's; and
 * TCP's smoothed round trip of `*conn` (NULL: none now), 0: not known. Nothing waits for who reads:
 * where there is no room for a line it is left out, and the next one says as much. */
void traffic_begin(struct harp_loop *loop, const char *session, struct harp_conn *const *conn);
void traffic_end(void);

#endif
