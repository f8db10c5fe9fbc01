/* SPDX-License-Identifier: Apache-2.0
 *
 * What an id and a handle have in common. For handles.c and uses.c alone.
 */
#ifndef HARP_WORKER_HANDLES_NODE_H
#define HARP_WORKER_HANDLES_NODE_H

#include <pthread.h>

#include "src/worker/handles.h"

extern pthread_mutex_t handles_lock; /* guards all nodes */

struct node {
    uint64_t id, value;
    enum harp_handle kind;
    struct owner owner;
    struct node *by_id, *by_value;
    unsigned uses; /* by calls that are being made */
    bool taken, dropped;
};

/* With the lock held; NULL: none. A kernel may be used as a function. */
struct node *handles_find(enum harp_handle kind, uint64_t id);
struct node *handles_find_value(enum harp_handle kind, uint64_t value);

#endif
