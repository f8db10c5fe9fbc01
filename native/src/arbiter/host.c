/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned host memory: a tenant's own quota, on no device and in no device's sums. Counted for each
 * client; counted, never refused, where the quota is 0.
 *
 * What a dead client had pinned is free with its process: nothing drains.
 */
#include "state.h"

#define HOST_MOST (1ull << 50) /* no machine has it: sums stay far from wrapping */

static uint64_t left(const struct tenant *t)
{
    return below(t->host, t->host_quota != 0 ? t->host_quota : HOST_MOST);
}

static void add(struct harp_core *k, struct client *c, uint64_t bytes)
{
    c->host += bytes;
    k->tenant[c->tenant].host += bytes;
}

static void lease(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct tenant *t = &k->tenant[c->tenant];
    struct harp_msg answer = {.op = HARP_MEM_GRANT,
                              .dev = m->dev,
                              .seq = m->seq,
                              .cls = HARP_MEM_HOST,
                              .bytes = m->bytes};
    int granted = m->dev < k->n_devices && t->use[m->dev].granted;
    c->may_adopt = 0;
    if (granted && m->bytes <= left(t)) {
        add(k, c, m->bytes);
        core_send(k, c, &answer);
        return;
    }
    answer.op = HARP_MEM_DENY;
    answer.a = granted ? HARP_DENY_LIMIT : HARP_DENY_UNKNOWN;
    answer.limit_bytes = t->host_quota;
    answer.leased_bytes = t->host;
    if (granted)
        t->use[m->dev].denials++;
    core_send(k, c, &answer);
    answer.op = HARP_EVENT_DENY;
    answer.seq = 0;
    answer.client = c->id;
    answer.tenant = t->id;
    core_emit(k, HARP_ACT_EVENT, 0, &answer);
}

static void take(struct harp_core *k, struct client *c, uint64_t bytes)
{
    if (bytes > c->host) {
        core_log(k, c, HARP_ALL_DEVICES, bytes - c->host, "host_returned_more_than_leased");
        bytes = c->host;
    }
    c->host -= bytes;
    k->tenant[c->tenant].host -= bytes;
}

int host_message(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    if (m->cls != HARP_MEM_HOST)
        return 0;
    switch (m->op) {
    case HARP_LEASE_MEM:
        lease(k, c, m);
        return 1;
    case HARP_RETURN_MEM:
        take(k, c, m->bytes);
        return 1;
    case HARP_ADOPT_MEM: /* it is pinned: charged, whatever the quota says by now */
        if (c->may_adopt && m->bytes <= HOST_MOST - k->tenant[c->tenant].host)
            add(k, c, m->bytes);
        else
            core_log(k, c, m->dev, m->bytes, "adoption_refused");
        return 1;
    default:
        return 0;
    }
}

void host_dead(struct harp_core *k, struct client *c)
{
    take(k, c, c->host);
}

const char *host_check(const struct harp_core *k, const struct tenant *t)
{
    uint64_t sum = 0;
    for (int32_t i = t->first; i >= 0; i = k->client[i].next)
        sum += k->client[i].host;
    return sum == t->host ? NULL : "tenant's host memory is not the sum of its clients'";
}
