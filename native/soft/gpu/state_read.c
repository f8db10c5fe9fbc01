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

uint64_t soft_state_memory_word(const struct soft_state *state, int dev)
{
    return atomic_load(&state->map->dev[dev].total);
}

int soft_state_board(const struct soft_state *state, int dev)
{
    return state->map->dev[dev].board;
}

int soft_state_board_count(const struct soft_state *state)
{
    int count = state->map->device_count;

    return count == 0 ? 0 : state->map->dev[count - 1].board + 1;
}

int soft_state_board_dev(const struct soft_state *state, int board)
{
    for (int dev = 0; dev < state->map->device_count; dev++)
        if (state->map->dev[dev].board == board)
            return dev;
    return -1;
}

int soft_state_board_size(const struct soft_state *state, int board)
{
    int size = 0;

    for (int dev = 0; dev < state->map->device_count; dev++)
        if (state->map->dev[dev].board == board)
            size++;
    return size;
}

const struct soft_profile *soft_state_board_profile(const struct soft_state *state, int board)
{
    const struct soft_profile *own = state->profile[soft_state_board_dev(state, board)];

    return own->board_key == NULL ? own : soft_profile_find(own->board_key, strlen(own->board_key));
}

void soft_state_board_uuid(const struct soft_state *state, int board, uint8_t uuid[16])
{
    memcpy(uuid, state->map->dev[soft_state_board_dev(state, board)].board_uuid, 16);
}

uint32_t soft_state_instance(const struct soft_state *state, int dev)
{
    return state->map->dev[dev].instance;
}

bool soft_state_peers(const struct soft_state *state, int dev, int other)
{
    return dev != other && soft_state_instance(state, dev) == SOFT_NO_INSTANCE &&
           soft_state_instance(state, other) == SOFT_NO_INSTANCE &&
           state->profile[dev]->cc_major == state->profile[other]->cc_major;
}

uint32_t soft_state_pci_bus(const struct soft_state *state, int dev)
{
    return (uint32_t)soft_state_board(state, dev) * 8 + 1;
}

/* Busy time goes into the buckets it spans. */
void soft_busy_add(struct soft_state *state, int dev, enum soft_engine engine, uint64_t from_ns,
                   uint64_t to_ns)
{
    struct soft_shared_engine *e = &state->map->dev[dev].engine[engine];
    uint64_t oldest =
        to_ns > SOFT_BUCKETS * SOFT_BUCKET_NS ? to_ns - SOFT_BUCKETS * SOFT_BUCKET_NS : 0;

    if (from_ns < to_ns)
        soft_board_energy_add(state, dev, engine, to_ns - from_ns);
    if (from_ns < oldest)
        from_ns = oldest;
    while (from_ns < to_ns) {
        uint64_t number = from_ns / SOFT_BUCKET_NS;
        uint64_t edge = (number + 1) * SOFT_BUCKET_NS;
        uint64_t part = (edge < to_ns ? edge : to_ns) - from_ns;
        soft_u64 *bucket = &e->bucket[number % SOFT_BUCKETS];
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

double soft_state_bucket(const struct soft_state *state, int dev, enum soft_engine engine,
                         uint64_t number)
{
    const struct soft_shared_engine *e = &state->map->dev[dev].engine[engine];
    uint64_t word = atomic_load_explicit(&e->bucket[number % SOFT_BUCKETS], memory_order_relaxed);
    uint64_t sum = word & 0xffffffffu;

    if ((uint32_t)(word >> 32) != (uint32_t)number)
        return 0;
    return sum >= SOFT_BUCKET_NS ? 1.0 : (double)sum / (double)SOFT_BUCKET_NS;
}
