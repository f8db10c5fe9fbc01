/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver takes in place of what was carried (wire/adapt.h): nobody waits for host functions
 * here, and nobody reads logs.
 */
#include <errno.h>

#include "src/replay/replay.h"

static void nothing(void *data)
{
}

static void nothing_of_stream(CUstream stream, CUresult status, void *data)
{
}

/* The call that is prepared, and what it is given. */
struct preparing {
    struct harp_replay_prepared *to;
    const struct harp_replay_call *call;
};

static int packed(void *ctx, struct harp_adapt_packed **to)
{
    struct harp_replay_prepared *p = ((struct preparing *)ctx)->to;
    if (p->count == sizeof p->packed / sizeof *p->packed)
        return -E2BIG;
    *to = &p->packed[p->count++];
    return 0;
}

static int image(void *ctx, const struct harp_wire_image *wanted, const void **data)
{
    *data = ((struct preparing *)ctx)->call->image(wanted->sha256, wanted->bytes);
    return *data == NULL ? -ENOENT : 0;
}

static int host_node(void *ctx, CUDA_HOST_NODE_PARAMS_v1 *host)
{
    (void)ctx;
    host->fn = nothing;
    return 0;
}

/* Logs: none, of no size. */
static int no_logs(void *ctx, const uint32_t *options, void **values, uint64_t count)
{
    (void)ctx;
    for (uint64_t i = 0; i < count; i++)
        switch (options[i]) {
        case CU_JIT_INFO_LOG_BUFFER:
        case CU_JIT_ERROR_LOG_BUFFER:
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            values[i] = NULL;
            break;
        default:
            break;
        }
    return 0;
}

static const struct harp_adapt adapt = {
    .packed = packed, .image = image, .host = host_node, .words = no_logs, .bad = -EINVAL};

/* This library is harp's alone. */
__attribute__((constructor)) static void begin(void)
{
    harp_adapt_begin();
}

int harp_replay_prepare(struct harp_replay_prepared *prepared, const struct harp_replay_call *call,
                        unsigned *op, uint64_t *args)
{
    switch (*op) {
    case HARP_OP_cuLaunchHostFunc:
        args[1] = (uintptr_t)nothing;
        args[2] = 0;
        break;
    case HARP_OP_cuStreamAddCallback:
        args[1] = (uintptr_t)nothing_of_stream;
        args[2] = 0;
        break;
    case HARP_OP_cuUserObjectCreate:
        args[1] = 0;
        args[2] = (uintptr_t)nothing;
        break;
    default:
        break;
    }
    struct preparing preparing = {prepared, call};
    int err = harp_adapt_call(&adapt, &preparing, *op, args);
    if (err == 0 && *op == HARP_OP_cuLaunchCooperativeKernel)
        harp_adapt_cooperative(&prepared->config, op, args);
    return err;
}
