/* SPDX-License-Identifier: Apache-2.0
 *
 * The program's end of a session that outlives its connection: dialling again, for as long as the
 * other side keeps the session.
 */
#ifndef HARP_LINK_NEAR_AGAIN_H
#define HARP_LINK_NEAR_AGAIN_H

#include "src/link/bridge.h"

/* For a connection that goes on to be answered. */
#define NEAR_AGAIN_ANSWER_MS 5000u

/* Once a session. `dial` makes a connection, or says why not. 0 or an errno. */
int near_again_open(struct bridge *b, int (*dial)(char *why));
/* What the next call says: `harp-resume`. Each time it is another connection. */
void near_again_text(char text[HARP_RESUME_TEXT], const struct bridge *b);
/* The first call is answered. Whether the session outlives its connection. */
bool near_again_first(const struct harp_grpc_answer *answer);
/* A later one is. */
void near_again_answered(struct bridge *b, struct harp_conn *conn, struct harp_h2_stream *stream,
                         const struct harp_grpc_answer *answer);
/* The connection is gone, or one that should have been the next. */
void near_again_lost(struct bridge *b, const char *why);

#endif
