/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of events. A record is a place in a stream; an event knows its latest one. Its time stamp
 * is the device clock at which that place was reached: the logical end of what stands before it.
 */
#ifndef HARP_SOFT_EVENT_H
#define HARP_SOFT_EVENT_H

#include "soft/gpu/context.h"
#include "soft/gpu/ipc.h"

struct soft_event {
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    _Atomic int refs;
    unsigned flags;
    struct soft_ipc_event *ipc; /* state that processes share; NULL: not interprocess */
    struct soft_event *next;    /* of the list of all; guarded by list_lock */

    pthread_mutex_t lock;       /* guards all below */
    uint64_t record;            /* number of the latest record; 0: never */
    uint64_t done;              /* number of the latest record reached */
    uint64_t stamp_ns;          /* of `done` */
    struct soft_stream *stream; /* place of the latest record; counted */
    uint64_t seq;
};

struct soft_event_cmd { /* begins every command on an event, which it keeps */
    struct soft_cmd cmd;
    struct soft_event *event;
};

struct soft_record { /* records it */
    struct soft_event_cmd on;
    uint64_t number;
};

struct soft_event_wait { /* waits for it */
    struct soft_event_cmd on;
    bool settled; /* what it waits for is known already */
};

/* A new one, zeroed behind its begin, of `bytes` in all; NULL: no memory. */
struct soft_cmd *soft_event_cmd_new(struct soft_event *event, const struct soft_cmd_ops *ops,
                                    size_t bytes);
void soft_event_cmd_destroy(struct soft_cmd *cmd); /* for the ops */

/* A living event of `ctx` with a handle; takes `ipc`, also when it fails. */
CUresult soft_event_add(struct soft_ctx *ctx, unsigned flags, struct soft_ipc_event *ipc,
                        CUevent *out);
void soft_event_unref(struct soft_event *event);
/* event_ipc.c: the command that waits for what another process may record. */
CUresult soft_event_wait_ipc_new(struct soft_event *event, struct soft_cmd **out);
/* Every call on an event: initialised, current context, living event. */
CUresult soft_event_enter(CUevent handle, struct soft_event **out);
/* Notes a new record at a place; returns its number. */
uint64_t soft_event_note(struct soft_event *event, struct soft_stream *stream, uint64_t seq);
void soft_event_reached(struct soft_event *event, uint64_t number, uint64_t at_ns);
/* The place of the latest record, `stream` by reference. False: reached already. */
bool soft_event_place(struct soft_event *event, struct soft_stream **stream, uint64_t *seq);

/* A graph runs later than it is launched, but an event that a node of it records is pending from
 * the launch on, and a node that waits for an event waits for what was recorded before it. */
bool soft_event_is_record(const struct soft_cmd *cmd);
bool soft_event_is_wait(const struct soft_cmd *cmd);
struct soft_event *soft_event_of_cmd(const struct soft_cmd *cmd); /* of any kind */
void soft_event_wait_settle(struct soft_cmd *cmd, struct soft_stream *stream);

#endif
