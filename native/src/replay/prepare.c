/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver takes in place of what was carried. The worker's prepare.c does the same for a
 * session; here nobody waits for host functions and nobody reads logs.
 */
#include <errno.h>
#include <string.h>

#include "generated/cuda_abi.h"
#include "src/replay/replay.h"
#include "src/wire/table.h"
#include "src/wire/walk.h"

static void nothing(void *data)
{
}

static void nothing_of_stream(CUstream stream, CUresult status, void *data)
{
}

static bool is(const struct harp_wire_program *p, const char *name)
{
    return p != NULL && strcmp(p->name, name) == 0;
}

/* kernelParams at `at`; `extra` comes right after it, in parameters as in structs. */
static int pack(struct harp_replay_prepared *prepared, uint8_t *at)
{
    const struct harp_wire_packed *packed;
    void *none = NULL;
    memcpy(&packed, at, sizeof packed);
    if (packed == NULL)
        return 0; /* a kernel without parameters */
    if (prepared->count == sizeof prepared->packed / sizeof *prepared->packed)
        return -E2BIG;
    struct harp_replay_packed *p = &prepared->packed[prepared->count++];
    p->bytes = packed->bytes;
    p->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
    p->extra[1] = (void *)(uintptr_t)packed->data;
    p->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
    p->extra[3] = &p->bytes;
    p->extra[4] = CU_LAUNCH_PARAM_END;
    void **extra = packed->bytes == 0 ? NULL : p->extra;
    memcpy(at, &none, sizeof none);
    memcpy(at + sizeof none, &extra, sizeof extra);
    return 0;
}

static int image(const struct harp_replay_call *call, uint8_t *at)
{
    const struct harp_wire_image *wanted;
    memcpy(&wanted, at, sizeof wanted);
    if (wanted == NULL)
        return 0;
    const void *data = call->image(wanted->sha256, wanted->bytes);
    if (data == NULL)
        return -ENOENT;
    memcpy(at, &data, sizeof data);
    return 0;
}

/* Logs: none, of no size. */
static void no_logs(const struct harp_wire_field *f, const uint8_t *base, void **values,
                    uint64_t count)
{
    const uint32_t *options = harp_walk_load_pointer(base, f->tag.at);
    if (options == NULL)
        return;
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
}

static int fix(struct harp_replay_prepared *prepared, const struct harp_replay_call *call,
               const struct harp_wire_program *p, uint8_t *base)
{
    int err = 0;
    if (is(p, "CUDA_HOST_NODE_PARAMS_v1") || is(p, "CUDA_HOST_NODE_PARAMS_v2")) {
        ((CUDA_HOST_NODE_PARAMS_v1 *)base)->fn = nothing;
        return 0;
    }
    for (unsigned i = 0; i < p->count && err == 0; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        uint64_t count;
        if (f->hold != HARP_WIRE_VALUE && f->hold != HARP_WIRE_POINTER)
            continue;
        uint8_t *at = base + f->at;
        const struct harp_wire_program *inner =
            f->item == HARP_WIRE_STRUCT ? &harp_wire_programs[f->type] : NULL;
        if (is(inner, "struct harp_wire_packed")) {
            err = pack(prepared, at);
            continue;
        }
        if (is(inner, "struct harp_wire_image")) {
            err = image(call, at);
            continue;
        }
        if (f->item != HARP_WIRE_STRUCT && f->item != HARP_WIRE_CASE && f->item != HARP_WIRE_WORDS)
            continue;
        if (harp_walk_count_of(f, base, &count) != 0)
            return -EINVAL;
        uint8_t *items = f->hold == HARP_WIRE_POINTER ? harp_walk_load_pointer(base, f->at) : at;
        if (items == NULL)
            continue;
        if (f->item == HARP_WIRE_WORDS) {
            no_logs(f, base, (void **)items, count);
            continue;
        }
        if (inner == NULL && (inner = harp_walk_chosen(f, base)) == NULL)
            continue;
        for (uint64_t k = 0; k < count && err == 0; k++)
            err = fix(prepared, call, inner, items + k * harp_walk_size_of(f));
    }
    return err;
}

/* It has no `extra`, where the buffer would go; with an attribute it is another call. */
static void cooperative(struct harp_replay_prepared *prepared, unsigned *op, uint64_t *args)
{
    static const CUlaunchAttribute one = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                                          .value.cooperative = 1};
    _Static_assert(sizeof(CUlaunchConfig) <= sizeof prepared->config, "room for it");
    const CUlaunchConfig config = {
        .gridDimX = (unsigned)args[1],
        .gridDimY = (unsigned)args[2],
        .gridDimZ = (unsigned)args[3],
        .blockDimX = (unsigned)args[4],
        .blockDimY = (unsigned)args[5],
        .blockDimZ = (unsigned)args[6],
        .sharedMemBytes = (unsigned)args[7],
        .hStream = (CUstream)(uintptr_t)args[8],
        .attrs = (CUlaunchAttribute *)(uintptr_t)&one,
        .numAttrs = 1,
    };
    memcpy(prepared->config, &config, sizeof config);
    *op = HARP_OP_cuLaunchKernelEx;
    args[1] = args[0];
    args[0] = (uintptr_t)prepared->config;
    args[2] = args[9];
    args[3] = args[10];
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
    int err = fix(prepared, call, &harp_wire_programs[harp_wire_op(*op)->program], (uint8_t *)args);
    if (err == 0 && *op == HARP_OP_cuLaunchCooperativeKernel)
        cooperative(prepared, op, args);
    return err;
}
