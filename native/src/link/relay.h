/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection that has come for a session of another process: its messages go there and back, over
 * a socket pair. One a process.
 */
#ifndef HARP_LINK_RELAY_H
#define HARP_LINK_RELAY_H

#include "src/link/conn.h"

/* The call that came (down) goes to the session's process, which judges it, too. HARP_H2_LATER, or
 * a status and `text`. *accepted is set when it has been accepted there. */
enum harp_grpc_status relay_begin(struct harp_loop *loop, struct harp_h2_stream *down,
                                  const struct harp_grpc_call *call, bool *accepted, char *text);
/* The answer where there is no such session to go on with. */
enum harp_grpc_status relay_no_more(char *text);
/* Whether this process is a relay; then these are the handlers of what has come. */
bool relay_on(void);
int relay_message(struct harp_h2_stream *down, const uint8_t *data, uint32_t bytes);
void relay_room(void);
void relay_closed(void);
void relay_ended(struct harp_h2_stream *down);
void relay_gone(struct harp_conn *conn);

#endif
