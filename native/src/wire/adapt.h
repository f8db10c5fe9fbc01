/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver takes in place of what was carried, wherever in a call it is: parameter buffers as
 * `extra`, images by their bytes, what the caller puts for host functions and for logs of the JIT.
 */
#ifndef HARP_WIRE_ADAPT_H
#define HARP_WIRE_ADAPT_H

#include <stdint.h>

#include "generated/cuda_abi.h"
#include "src/wire/codec.h"
#include "src/wire/table.h"

/* One parameter buffer: must last as long as the call. */
struct harp_adapt_packed {
    size_t bytes;
    void *extra[5];
};

/* All answer 0 or an error of the caller's kind, which ends it and is the answer. */
struct harp_adapt {
    /* Where one more parameter buffer goes. */
    int (*packed)(void *ctx, struct harp_adapt_packed **to);
    /* `*data` is NULL: the bytes of the image are to be found. */
    int (*image)(void *ctx, const struct harp_wire_image *wanted, const void **data);
    int (*host)(void *ctx, CUDA_HOST_NODE_PARAMS_v1 *host);
    /* `count` values that go by what the options at `options` say. */
    int (*words)(void *ctx, const uint32_t *options, void **values, uint64_t count);
    int bad; /* for a count that cannot be */
};

/* Before the first call: looks up what is looked for. */
void harp_adapt_begin(void);
/* All of the call at `args`. */
int harp_adapt_call(const struct harp_adapt *adapt, void *ctx, unsigned op, uint64_t *args);

/* cuLaunchCooperativeKernel has no `extra`, where a parameter buffer would go: with an attribute it
 * is cuLaunchKernelEx, by `config`. */
void harp_adapt_cooperative(CUlaunchConfig *config, unsigned *op, uint64_t *args);

#endif
