/* SPDX-License-Identifier: Apache-2.0
 *
 * The program's end of streams of Bulk: one beside Session, on its connection, and one on each of
 * the other connections that were agreed. Each of those has a process of its own, which has the
 * cipher's work: a relay (relay.h), that dials. One that ends does not come back.
 */
#ifndef HARP_LINK_NEAR_BULK_H
#define HARP_LINK_NEAR_BULK_H

#include "src/link/bridge.h"
#include "src/link/ends.h"

/* What a call of the session's says, whichever it is; `own_table` (harp_table_put). */
struct harp_h2_request near_request(const struct ends_options *options,
                                    enum harp_grpc_method method, const char *own_table);

/* Session is answered for the first time: start processes, and call. By a process without threads.
 */
void near_bulk_first(struct bridge *b, const struct ends_options *options,
                     const struct harp_grpc_answer *answer);
/* It is answered, on this connection, and the bridge takes: call beside it. */
void near_bulk_go_on(struct bridge *b, const struct ends_options *options);

/* Of Session's connection: whether a stream is that call, and what has become of it. */
bool near_bulk_is(const struct harp_h2_stream *stream);
bool near_bulk_answered(struct harp_h2_stream *stream);
bool near_bulk_ended(struct bridge *b, const struct harp_h2_stream *stream);

#endif
