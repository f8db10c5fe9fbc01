/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/entry/api.h"

#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

static int memory(const uint8_t uuid[16], struct harp_shim_memory *out)
{
    int dev = harp_session_ready() ? harp_session_device(uuid) : -1;
    struct harp_msg msg = {.op = HARP_MEM_INFO, .dev = (uint32_t)dev};
    if (dev < 0 || harp_session_ask(&msg) != 0 || msg.op != HARP_MEM_STATE)
        return -1;
    out->limit_bytes = msg.limit_bytes;
    out->used_bytes = msg.leased_bytes;
    out->free_bytes = msg.free_bytes;
    return 0;
}

__attribute__((visibility("default"))) const struct harp_shim_api *harp_shim_v1(void)
{
    static const struct harp_shim_api api = {memory};
    return &api;
}
