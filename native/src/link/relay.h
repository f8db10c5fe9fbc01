/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection whose calls are another process's: their messages go there and back, over another
 * connection. One a process.
 */
#ifndef HARP_LINK_RELAY_H
#define HARP_LINK_RELAY_H

#include "src/link/conn.h"

/* Where to: a connection for calls of `session`, made once. */
struct relay_to {
    int (*open)(struct harp_conn **up, struct harp_loop *loop, const char *session,
                const struct harp_conn_user *user, char *why);
    const char *authority;
    bool tls;
    bool says; /* that the connection there broke is told as a status, not by another that does */
};

/* The call that came (down) goes there, where it is judged, too; up to RELAY_CALLS of a connection.
 * HARP_H2_LATER, or a status and `text`. *accepted is set when one has been accepted there. */
#define RELAY_CALLS 2u
enum harp_grpc_status relay_begin(struct harp_loop *loop, struct harp_h2_stream *down,
                                  const struct harp_grpc_call *call, const struct relay_to *to,
                                  bool *accepted, char *text);
/* Whether this process is a relay; then these are the handlers of what has come. */
bool relay_on(void);
/* Of streams of Bulk alone: the program's side says what becomes of them. */
bool relay_of_bulk(void);
int relay_message(struct harp_h2_stream *down, const uint8_t *data, uint32_t bytes);
void relay_room(void);
void relay_closed(struct harp_h2_stream *down);
void relay_ended(struct harp_h2_stream *down);
void relay_gone(struct harp_conn *conn);

/* To the session's process (join.h), and the answer where there is no such session to go on with.
 */
extern const struct relay_to relay_to_session;
enum harp_grpc_status relay_no_more(char *text);

#endif
