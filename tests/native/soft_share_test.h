/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of shared memory have in common: a crowd of processes, and the rows they leave.
 */
#ifndef SOFT_SHARE_TEST_H
#define SOFT_SHARE_TEST_H

#include "soft_vmm_test.h"

#include "soft/gpu/shared.h"

#define CROWD 6

/* It had gone on until then: no check of its own had failed. */
static inline void reap_killed(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static inline int rows_in_use(struct soft_state *state)
{
    int rows = 0;

    for (int i = 0; i < SOFT_MAX_OBJECTS; i++) {
        const struct soft_shared_object *o = &state->map->object[i];

        rows += SOFT_SLOT_IS(atomic_load(&o->word)) != SOFT_SLOT_FREE;
        for (int c = 0; c < SOFT_OBJECT_HOLDERS; c++)
            rows += atomic_load(&o->holder[c]) != 0;
    }
    return rows;
}

#endif
