/* SPDX-License-Identifier: Apache-2.0
 *
 * An event, for the files that know what is in it.
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

/* event.c. A living event of `ctx` with a handle; takes `ipc`, also when it fails. */
CUresult soft_event_add(struct soft_ctx *ctx, unsigned flags, struct soft_ipc_event *ipc,
                        CUevent *out);
void soft_event_unref(struct soft_event *event);
/* event_ipc.c: the command that waits for what another process may record. */
CUresult soft_event_wait_ipc_new(struct soft_event *event, struct soft_cmd **out);

#endif
