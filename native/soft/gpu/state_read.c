/* SPDX-License-Identifier: Apache-2.0
 *
 * What anybody may read of the devices: number, profile, identity, utilisation.
 */
#include "soft/gpu/shared.h"

#include <string.h>

int soft_state_device_count(const struct soft_state *state)
{
    return state->map->device_count;
}

const struct soft_profile *soft_state_profile(const struct soft_state *state, int dev)
{
    return dev >= 0 && dev < state->map->device_count ? state->profile[dev] : NULL;
}

void soft_state_uuid(const struct soft_state *state, int dev, uint8_t uuid[16])
{
    memcpy(uuid, state->map->dev[dev].uuid, 16);
}

uint32_t soft_state_pci_bus(int dev)
{
    return (uint32_t)dev * 8 + 1;
}

/* Busy time [from, to) goes into the buckets it spans. */
void soft_bucket_add(struct soft_shared_engine *engine, uint64_t from_ns, uint64_t to_ns)
{
    uint64_t oldest =
        to_ns > SOFT_BUCKETS * SOFT_BUCKET_NS ? to_ns - SOFT_BUCKETS * SOFT_BUCKET_NS : 0;

    if (from_ns < oldest)
        from_ns = oldest;
    while (from_ns < to_ns) {
        uint64_t number = from_ns / SOFT_BUCKET_NS;
        uint64_t edge = (number + 1) * SOFT_BUCKET_NS;
        uint64_t part = (edge < to_ns ? edge : to_ns) - from_ns;
        soft_u64 *bucket = &engine->bucket[number % SOFT_BUCKETS];
        uint64_t old = atomic_load_explicit(bucket, memory_order_relaxed), fresh;

        do {
            uint64_t sum = (uint32_t)(old >> 32) == (uint32_t)number ? (old & 0xffffffffu) : 0;

            fresh = (number & 0xffffffffu) << 32 | (sum + part);
        } while (!atomic_compare_exchange_weak(bucket, &old, fresh));
        from_ns += part;
    }
}

double soft_state_utilization(struct soft_state *state, int dev, enum soft_engine engine,
                              uint64_t window_ns)
{
    const struct soft_shared_engine *e = &state->map->dev[dev].engine[engine];
    uint64_t now = soft_now_ns(), from, busy = 0;
    uint64_t most = (SOFT_BUCKETS - 2) * SOFT_BUCKET_NS;

    if (window_ns > most)
        window_ns = most;
    if (window_ns < SOFT_BUCKET_NS)
        window_ns = SOFT_BUCKET_NS;
    from = now > window_ns ? now - window_ns : 0;
    for (uint64_t number = from / SOFT_BUCKET_NS; number <= now / SOFT_BUCKET_NS; number++) {
        uint64_t word =
            atomic_load_explicit(&e->bucket[number % SOFT_BUCKETS], memory_order_relaxed);
        uint64_t begin = number * SOFT_BUCKET_NS, end = begin + SOFT_BUCKET_NS;
        uint64_t sum = word & 0xffffffffu;

        if ((uint32_t)(word >> 32) != (uint32_t)number)
            continue;
        if (begin < from) /* the first is cut: take its share */
            sum = (uint64_t)((double)sum * (double)(end - from) / (double)SOFT_BUCKET_NS);
        busy += sum;
    }
    return busy >= window_ns ? 1.0 : (double)busy / (double)window_ns;
}
