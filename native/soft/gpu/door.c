/* SPDX-License-Identifier: Apache-2.0
 *
 * libcuda's side of its doors: names that the played driver has not got yet, and faults.
 */
#include "soft/gpu/door.h"

#include <errno.h>

#include "generated/soft_symbols.h"
#include "soft/gpu/checkpoint.h"
#include "soft/gpu/context.h"
#include "soft/gpu/fault.h"

/* Once a name: bit set when it was logged. */
static soft_u64 said[(SOFT_SYMBOLS + 63) / 64];

static void say_hidden(const struct soft_door_info *info, uint32_t symbol, int driver)
{
    uint64_t bit = 1ull << (symbol % 64);

    if ((atomic_fetch_or_explicit(&said[symbol / 64], bit, memory_order_relaxed) & bit) == 0)
        soft_log("%s came with CUDA %d.%d: the driver of %d.%d that this machine plays (see "
                 "HARP_SOFT_DRIVER) answers NOT_SUPPORTED",
                 info->name, info->since / 1000, info->since % 1000 / 10, driver / 1000,
                 driver % 1000 / 10);
}

/* The device that a call is about: the one it names, else that of the thread's context. */
static int device_of(const struct soft_door_info *info, const uint64_t *args)
{
    const struct soft_thread *t;

    if (soft_ready() == CUDA_ERROR_NOT_INITIALIZED)
        return -1;
    if (info->device_arg >= 0)
        return soft_at(soft_visible_ordinal((CUdevice)args[info->device_arg]));
    t = soft_thread();
    return t != NULL && t->depth > 0 ? soft_at(t->stack[t->depth - 1]->ordinal) : -1;
}

uint64_t soft_door(uint32_t symbol, const uint64_t *args)
{
    const struct soft_door_info *info = &soft_doors_cuda[symbol];
    int saved = errno, result = -1;
    struct soft_state *state;

    soft_checkpoint_wait(info->flags);
    state = soft_fault_state();
    if (state != NULL && info->since > state->map->driver) {
        say_hidden(info, symbol, state->map->driver);
        result = CUDA_ERROR_NOT_SUPPORTED;
    } else if (state != NULL && soft_fault_armed(state)) {
        soft_fault_symbols(soft_doors_cuda, soft_doors_cuda_count);
        result = soft_fault_decide(state, symbol, device_of(info, args));
    }
    errno = saved;
    return result < 0 ? 0 : SOFT_DOOR_ANSWER(result);
}
