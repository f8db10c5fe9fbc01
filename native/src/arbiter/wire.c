/* SPDX-License-Identifier: Apache-2.0
 *
 * What a peer of an older version of the lease protocol knows, and nothing else is told it. Pure.
 *
 * Adding a version: a line in since(), the fields that are new in older messages in wire_narrow().
 */
#include "core.h"

/* The version that brought an operation; HARP_LEASE_VERSION + 1: none that we know. */
static uint32_t since(uint32_t op)
{
    if ((op >= HARP_HELLO && op <= HARP_RECALLED) ||
        (op >= HARP_WELCOME && op <= HARP_CLOSE_GATE) ||
        (op >= HARP_ADD_DEVICE && op <= HARP_SHUTDOWN) || (op >= HARP_OK && op <= HARP_EVENT_DENY))
        return 1;
    return op == HARP_SNAP_TIME ? 3 : 2;
}

/* The newest version that both sides speak, from the first message of one of them. */
uint32_t wire_agreed(const struct harp_msg *first)
{
    uint32_t newest = first->c > first->version ? first->c : first->version;
    return newest < HARP_LEASE_VERSION ? newest : HARP_LEASE_VERSION;
}

int wire_understood(const struct harp_msg *m)
{
    return m->version >= HARP_LEASE_OLDEST && m->version <= HARP_LEASE_VERSION;
}

/* May a message of its version say this? */
int wire_consistent(const struct harp_msg *m)
{
    int memory = m->op == HARP_LEASE_MEM || m->op == HARP_RETURN_MEM || m->op == HARP_ADOPT_MEM;
    if (m->version >= 2)
        return 1;
    return since(m->op) <= m->version && (!memory || m->cls <= HARP_MEM_OVERHEAD);
}

int wire_narrow(uint32_t version, struct harp_msg *m)
{
    m->version = (uint16_t)version;
    if (version == 2 && m->op == HARP_SNAP_TENANT) /* its page */
        m->b &= 1u;
    if (version >= 2)
        return since(m->op) <= version;
    switch (m->op) {
    case HARP_WELCOME: /* memory classes */
        m->c = 0;
        break;
    case HARP_DEVICE: /* flags, host quota, moves */
        m->a = 0;
        m->free_bytes = m->epoch = 0;
        break;
    case HARP_MEM_STATE: /* flags, expected context */
        m->a = 0;
        m->overhead_bytes = 0;
        break;
    case HARP_SNAP_LEASE: /* of its overhead, what is leased and what counts; changes */
        m->bytes = m->limit_bytes = m->epoch = 0;
        break;
    case HARP_SNAP_TENANT: /* its socket */
        m->b = 0;
        break;
    case HARP_SNAP_USE: /* host quota and use; contexts beside the limit */
        m->capacity_bytes = m->free_bytes = m->slack_bytes = 0;
        break;
    default:
        break;
    }
    return since(m->op) <= version;
}
