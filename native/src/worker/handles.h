/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids of a session and the driver's handles that they stand for. One process serves one session, so
 * another's cannot even be named. All functions: thread-safe.
 */
#ifndef HARP_WORKER_HANDLES_H
#define HARP_WORKER_HANDLES_H

#include <stdbool.h>
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

/* The same for a call. It holds the handle, and those that this one ends with, until it lets go:
 * another lane's call that ends one waits for that (handles_wait). A driver need not bear that a
 * handle ends while a call uses it. */
struct node;
struct uses {
    struct node **nodes;
    unsigned count, room;
};
int handles_use(struct uses *uses, enum harp_handle kind, uint64_t id, uint64_t *value);
void handles_let_go(struct uses *uses);
/* Whether one of them was made in a context of that generation. By another thread. */
bool handles_uses_context(const struct uses *uses, uint64_t generation);

/* The id of a handle that the driver has answered: its last one, or a new one of the worker's. */
int handles_id(enum harp_handle kind, uint64_t value, uint64_t *id);

/* Some handles end with another one: a module's functions, a graph's nodes, what is made in a
 * context. The same for these; -ENOENT: by now nothing stands for the other one. */
struct owner {
    enum harp_handle kind; /* 0: none */
    uint64_t value;
    uint64_t context; /* with that one as well, whichever is first; 0: with none */
};
int handles_bind_in(struct owner owner, enum harp_handle kind, uint64_t id, uint64_t value);
int handles_id_in(struct owner owner, enum harp_handle kind, uint64_t value, uint64_t *id);
/* The last id of a handle. false: it has none. */
bool handles_known(enum harp_handle kind, uint64_t value, uint64_t *id);
/* What the handle ends with. */
struct owner handles_owner(enum harp_handle kind, uint64_t value);

/* Before a call that ends the handle: after it another lane may have been given the same one. Its
 * ids stand for nothing from then on, until they are put back, as the call has failed, or dropped;
 * and so do those of what ends with it, and with that. */
struct node *handles_take(enum harp_handle kind, uint64_t value);
/* Of what ends with it alone. */
struct node *handles_take_of(struct owner owner);
/* By a call that holds it. `is_lost`: another's call has taken it, and ends it. */
struct node *handles_take_held(const struct uses *uses, enum harp_handle kind, uint64_t value,
                               bool *is_lost);
/* Until no call but the one with `own` holds any of these. */
void handles_wait(const struct node *taken, const struct uses *own);
/* Which ones: NULL is before the first, and after the last. */
const struct node *handles_next(const struct node *taken, const struct node *last,
                                struct owner *handle);
void handles_put_back(struct node *taken);
void handles_drop(struct node *taken);

#endif
