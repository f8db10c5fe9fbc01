/* SPDX-License-Identifier: Apache-2.0
 *
 * Host bytes of calls that are more than a body has: regions of the bulk area that the client has
 * announced, used where they lie, or gathered where there are several. All functions: thread-safe.
 */
#ifndef HARP_WORKER_TRANSFER_H
#define HARP_WORKER_TRANSFER_H

#include <stdbool.h>
#include <stdint.h>

#include "src/wire/codec.h"
#include "src/wire/ring.h"

struct session;
struct lane;
struct transfer;

/* A BULK record. 0, or -EPROTO, -ENOMEM: the session cannot go on. */
int transfer_announced(struct session *s, const struct harp_ring_record *record,
                       const uint8_t *body);
/* The codec's hook: `ctx` is a lane, which keeps what it has used. */
int transfer_hook(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id);
/* Tell the client that these are done with, now or when `stream` has passed. */
void transfer_done(struct lane *lane);
void transfer_done_after(struct lane *lane, uint64_t stream);
/* And what the lane has announced before record `seq`, and no call has named. */
void transfer_unused(struct lane *lane, uint64_t seq);

#endif
