/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is in which context. A driver frees what a context has under calls of other threads that it
 * is current for, though they name no handle of it (CUDA: nobody may call in it while it is
 * destroyed). So a call that ends one waits for those that are in it, and they for its end.
 *
 * In a context is a call whose thread has it current, one that uses a handle made there, and one
 * that wipes there. All functions: by the lane's thread.
 */
#ifndef HARP_WORKER_WITHIN_H
#define HARP_WORKER_WITHIN_H

#include <stdbool.h>
#include <stdint.h>

struct held;
struct lane;

/* A lane's. Guarded by within.c's lock. */
struct within {
    uint64_t current; /* of its thread */
    uint64_t inside;  /* where it wipes */
    uint64_t ends;
    bool calls, alone, listed;
    struct lane *next;
};

/* Around a call. The first waits while another lane ends the current context. */
void within_begin(struct lane *lane);
void within_end(struct lane *lane);
/* After a call, which may have changed which context is current. */
void within_called(struct lane *lane, unsigned op);
/* Before a call that ends a context, whose handles' ids stand for nothing any more: nobody else is
 * in it then, until within_end. */
void within_alone(struct lane *lane, const struct held *context);
/* Around what is wiped in a context. Waits while another lane ends it: it may be gone then. */
void within_enter(struct lane *lane, uint64_t context);
void within_leave(struct lane *lane);

#endif
