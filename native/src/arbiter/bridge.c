/* SPDX-License-Identifier: Apache-2.0
 *
 * The core as a shared library: actions are collected instead of performed. `harp sim`
 * (harp/sim/core.py) and tests/unit drive it through ctypes.
 */
#include <stdlib.h>

#include "core.h"

#define EXPORT __attribute__((visibility("default")))

struct bridge {
    struct harp_core *core;
    struct harp_action *actions;
    uint32_t count, capacity, lost;
};

EXPORT struct bridge *harp_bridge_new(uint64_t quantum_ns, uint32_t max_clients,
                                      uint32_t max_tenant_clients, uint32_t max_tenants,
                                      uint64_t burst_ns, uint32_t policy)
{
    struct harp_core_config config = {.quantum_ns = quantum_ns,
                                      .burst_ns = burst_ns,
                                      .policy = policy,
                                      .max_clients = max_clients,
                                      .max_tenant_clients = max_tenant_clients,
                                      .max_tenants = max_tenants,
                                      .slack_bytes = HARP_GRANULE_BYTES,
                                      .slack_free_bytes = 32 * HARP_GRANULE_BYTES};
    size_t bytes = harp_core_bytes(&config);
    struct bridge *b = bytes != 0 ? calloc(1, sizeof *b) : NULL;
    void *memory = b != NULL ? calloc(1, bytes) : NULL;
    if (memory == NULL) {
        free(b);
        return NULL;
    }
    b->core = harp_core_init(memory, &config);
    b->capacity = 65536;
    b->actions = calloc(b->capacity, sizeof *b->actions);
    return b;
}

EXPORT void harp_bridge_free(struct bridge *b)
{
    free(b->core);
    free(b->actions);
    free(b);
}

static void collect(void *ctx, const struct harp_action *action)
{
    struct bridge *b = ctx;
    if (b->actions != NULL && b->count < b->capacity)
        b->actions[b->count++] = *action;
    else
        b->lost++;
}

/* Number of actions of this step, or -1 if there were too many to keep. */
EXPORT int32_t harp_bridge_step(struct bridge *b, const struct harp_event *event, uint64_t now_ns)
{
    const struct harp_sink sink = {.emit = collect, .ctx = b};
    b->count = b->lost = 0;
    harp_core_step(b->core, event, now_ns, &sink);
    return b->lost == 0 ? (int32_t)b->count : -1;
}

EXPORT const struct harp_action *harp_bridge_actions(const struct bridge *b)
{
    return b->actions;
}

EXPORT uint64_t harp_bridge_next(const struct bridge *b)
{
    return harp_core_next(b->core);
}

EXPORT const char *harp_bridge_check(const struct bridge *b)
{
    return harp_core_check(b->core);
}
