/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream memory operations: a command that writes values and waits for values in memory.
 */
#ifndef HARP_SOFT_MEMOP_H
#define HARP_SOFT_MEMOP_H

#include "soft/gpu/context.h"

#define SOFT_MEMOPS_MOST 255u

struct soft_memop {
    struct soft_cmd cmd;
    unsigned count;
    struct soft_memop_at { /* where each works, by host address */
        void *host;
    } *at;
    CUstreamBatchMemOpParams ops[]; /* as given */
};

/* Checks all of them; they run in `ctx`. */
CUresult soft_memop_new(struct soft_ctx *ctx, unsigned count, const CUstreamBatchMemOpParams *ops,
                        struct soft_cmd **out);

#endif
