/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams whose work stays where it is until the test lets it go on.
 */
#ifndef SOFT_TEST_GATE_H
#define SOFT_TEST_GATE_H

#include "soft_test.h"

/* What must not be over yet waits behind gate `number`, however slow this process is. */
static _Atomic int gates_open;

static inline void wait_for_gate(void *number)
{
    while (atomic_load(&gates_open) < (int)(intptr_t)number)
        sleep_ns(MS / 10);
}

static inline void gate(CUstream s, int number)
{
    OK(cuLaunchHostFunc(s, wait_for_gate, (void *)(intptr_t)number));
}

static inline void open_gate(int number)
{
    atomic_store(&gates_open, number);
}

static inline CUstream stream(unsigned flags)
{
    CUstream s;

    OK(cuStreamCreate(&s, flags));
    return s;
}

#endif
