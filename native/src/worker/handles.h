/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids of a session and the driver's handles that they stand for. One process serves one session, so
 * another's cannot even be named. All functions: thread-safe.
 */
#ifndef HARP_WORKER_HANDLES_H
#define HARP_WORKER_HANDLES_H

#include <stdint.h>

#include "generated/wire_ops.h"

/* Ids of the client's are below this bit, the worker's have it. 1 and 2 are streams by themselves.
 */
#define HARP_WORKER_ID (1ull << 63)

/* A client may name `id` for what it makes. 0, or -EEXIST: it is taken, or not one of its own. */
int handles_free(uint64_t id);

/* 0, -EEXIST or -ENOMEM: more than a million. */
int handles_bind(enum harp_handle kind, uint64_t id, uint64_t value);

/* What an id stands for; -ENOENT. A kernel may be used as a function. */
int handles_value(enum harp_handle kind, uint64_t id, uint64_t *value);

/* The id of a handle that the driver has answered: its last one, or a new one of the worker's. */
int handles_id(enum harp_handle kind, uint64_t value, uint64_t *id);

/* Before a call that ends the handle: after it another lane may have been given the same one. Its
 * ids stand for nothing from then on, until they are put back, as the call has failed, or dropped.
 */
struct node;
struct node *handles_take(enum harp_handle kind, uint64_t value);
void handles_put_back(struct node *taken);
void handles_drop(struct node *taken);

#endif
