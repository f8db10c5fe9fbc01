/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/entry/api.h"

#include "src/shim/gate/view.h"

static int memory(const uint8_t uuid[16], uint64_t *free, uint64_t *total,
                  struct harp_shim_memory *out)
{
    struct harp_msg state;
    if (harp_view(uuid, &state) != 0 || state.capacity_bytes == 0)
        return -1;
    out->limit_bytes = state.limit_bytes;
    out->overhead_bytes = state.overhead_bytes;
    harp_view_fit(&state, free, total);
    return 0;
}

__attribute__((visibility("default"))) const struct harp_shim_api *harp_shim_v1(void)
{
    static const struct harp_shim_api api = {memory, harp_remote_trips};
    return &api;
}
