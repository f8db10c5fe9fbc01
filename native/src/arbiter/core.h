/* SPDX-License-Identifier: Apache-2.0
 *
 * The arbiter's core: memory ledger and GPU-time scheduler as a pure state machine.
 *
 *   harp_core_step(core, event, now_ns, sink): event in, actions out through the sink.
 *
 * No I/O, no clock, no allocation: the caller provides the memory (harp_core_bytes), the time and
 * the hands. The same events at the same times give the same actions, so a log of events is a
 * replay. One thread; the sink must not call back into the core. Also driven from Python
 * (tests/unit/test_arbiter_core.py).
 *
 * Invariants, property-tested:
 *  (1) leased + draining of a tenant <= its limit whenever something was just granted; where its
 *      grant says what of its contexts is beside the limit, all of it together <= both
 *  (2) leased + overhead + draining of a device <= its capacity whenever something was just granted
 *  (3) a request is denied only if it does not fit when every peer that answers has given back its
 *      unused lease and the dead have drained (or five seconds have passed)
 *  (4) somebody's gate is open or drains whenever somebody who may run wants
 *  (5) on a lane of a device one turn is open and at most one other drains
 *  (6) charges of a lane never exceed the time that passed
 */
#ifndef HARP_ARBITER_CORE_H
#define HARP_ARBITER_CORE_H

#include <stddef.h>
#include <stdint.h>

#include "harp/lease.h"

#define HARP_NEVER UINT64_MAX

struct harp_core;

enum harp_policy { HARP_POLICY_DRR = 0, HARP_POLICY_PRIORITY = 1, HARP_POLICY_FIFO = 2 };

struct harp_core_config {
    uint64_t quantum_ns;         /* exclusive quantum, 1 to 50 ms */
    uint64_t burst_ns;           /* most an idle tenant is owed when it comes back, at most 1 s */
    uint32_t policy;             /* enum harp_policy */
    uint64_t first_epoch;        /* turns count from here: later than any turn of an arbiter before,
                                  * so that a late word about one of those fits none of ours */
    uint32_t max_clients;        /* all tenants together, at most 16384 */
    uint32_t max_tenant_clients; /* one tenant's, the dead that drain included */
    uint32_t max_tenants;        /* at most 4096 */
    uint64_t slack_bytes;        /* unused lease a client of a limited tenant may keep */
    uint64_t slack_free_bytes;   /* the same where the tenant has no limit */
};

enum harp_event_kind {
    HARP_EV_JOIN = 1, /* connection accepted: msg.tenant, pid, uid. Answered by HARP_ACT_JOINED */
    HARP_EV_MESSAGE,  /* msg from client `client` */
    HARP_EV_DEAD,     /* client `client`: end of file or its process is gone */
    HARP_EV_ADMIN,    /* msg from harpd; answered by HARP_ACT_REPLY, the last one OK or ERR */
    HARP_EV_WATCHED,  /* msg.a = number of subscribed admin connections */
    HARP_EV_TICK,     /* time has come (harp_core_next) */
};

struct harp_event {
    uint32_t kind; /* enum harp_event_kind */
    uint32_t client;
    struct harp_msg msg;
};

enum harp_action_kind {
    HARP_ACT_SEND = 1, /* msg to client `client` */
    HARP_ACT_REPLY,    /* msg to the admin connection that asked */
    HARP_ACT_EVENT,    /* msg to all subscribed admin connections */
    HARP_ACT_JOINED,   /* `client` is the new client's id; 0: refused, close it */
    HARP_ACT_CLOSE,    /* close the connection of `client`: the core knows it as dead already */
    HARP_ACT_LOG,      /* msg.text says what, client/tenant/dev/bytes say whose and how much */
};

struct harp_action {
    uint32_t kind; /* enum harp_action_kind */
    uint32_t client;
    struct harp_msg msg;
};

/* Where actions go. `emit` may not call the core. */
struct harp_sink {
    void (*emit)(void *ctx, const struct harp_action *action);
    void *ctx;
};

/* Bytes of memory a core of that size needs; 0 if the configuration is out of range. */
size_t harp_core_bytes(const struct harp_core_config *config);

/* Makes a core in `memory` (zeroed, harp_core_bytes long, 16-byte aligned). */
struct harp_core *harp_core_init(void *memory, const struct harp_core_config *config);

void harp_core_step(struct harp_core *core, const struct harp_event *event, uint64_t now_ns,
                    const struct harp_sink *sink);

/* When the next HARP_EV_TICK is due; HARP_NEVER if nothing is. */
uint64_t harp_core_next(const struct harp_core *core);

/* wire.c: versions of the lease protocol. */
int wire_understood(const struct harp_msg *msg); /* its version */
int wire_consistent(const struct harp_msg *msg); /* what it says is of its version */
uint32_t wire_agreed(const struct harp_msg *first);
/* Makes `msg` one of that version; 0: that version has no such message. */
int wire_narrow(uint32_t version, struct harp_msg *msg);

/* Clients that live or drain. */
uint32_t harp_core_clients(const struct harp_core *core);

/* Checks what must hold between two steps. Returns NULL, or what is broken. */
const char *harp_core_check(const struct harp_core *core);

#endif
