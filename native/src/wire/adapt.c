/* SPDX-License-Identifier: Apache-2.0 */
#include "src/wire/adapt.h"

#include <string.h>

#include "src/wire/walk.h"

/* What is looked for: programs of the tables, found by name before the first call. */
static const struct harp_wire_program *packed_program, *image_program, *host_programs[2];

void harp_adapt_begin(void)
{
    static const struct {
        const char *name;
        const struct harp_wire_program **to;
    } wanted[] = {{"struct harp_wire_packed", &packed_program},
                  {"struct harp_wire_image", &image_program},
                  {"CUDA_HOST_NODE_PARAMS_v1", &host_programs[0]},
                  {"CUDA_HOST_NODE_PARAMS_v2", &host_programs[1]}};
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++)
        for (const struct harp_wire_program *p = harp_wire_programs;
             strcmp(p->name, wanted[i].name) != 0 || (*wanted[i].to = p) == NULL; p++)
            ;
}

/* kernelParams at `at`; `extra` comes right after it, in parameters as in structs. */
static int pack(const struct harp_adapt *a, void *ctx, uint8_t *at)
{
    const struct harp_wire_packed *packed;
    struct harp_adapt_packed *p;
    void *none = NULL;
    memcpy(&packed, at, sizeof packed);
    if (packed == NULL)
        return 0; /* a kernel without parameters */
    int err = a->packed(ctx, &p);
    if (err != 0)
        return err;
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

static int image(const struct harp_adapt *a, void *ctx, uint8_t *at)
{
    const struct harp_wire_image *wanted;
    const void *data = NULL;
    memcpy(&wanted, at, sizeof wanted);
    if (wanted == NULL)
        return 0; /* the driver says what it thinks of it */
    int err = a->image(ctx, wanted, &data);
    if (err == 0)
        memcpy(at, &data, sizeof data);
    return err;
}

static int words(const struct harp_adapt *a, void *ctx, const struct harp_wire_field *f,
                 const uint8_t *base, void **values, uint64_t count)
{
    const uint32_t *options = harp_walk_load_pointer(base, f->tag.at);
    return options == NULL ? 0 : a->words(ctx, options, values, count);
}

static int fix(const struct harp_adapt *a, void *ctx, const struct harp_wire_program *p,
               uint8_t *base)
{
    int err = 0;
    if (p == host_programs[0] || p == host_programs[1])
        return a->host(ctx, (CUDA_HOST_NODE_PARAMS_v1 *)base);
    for (unsigned i = 0; i < p->count && err == 0; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        if (f->hold != HARP_WIRE_VALUE && f->hold != HARP_WIRE_POINTER)
            continue;
        uint8_t *at = base + f->at;
        const struct harp_wire_program *inner =
            f->item == HARP_WIRE_STRUCT ? &harp_wire_programs[f->type] : NULL;
        if (inner != NULL && inner == packed_program) {
            err = pack(a, ctx, at);
            continue;
        }
        if (inner != NULL && inner == image_program) {
            err = image(a, ctx, at);
            continue;
        }
        if (f->item != HARP_WIRE_STRUCT && f->item != HARP_WIRE_CASE && f->item != HARP_WIRE_WORDS)
            continue;
        uint64_t count;
        if (harp_walk_count_of(f, base, &count) != 0)
            return a->bad;
        uint8_t *items = f->hold == HARP_WIRE_POINTER ? harp_walk_load_pointer(base, f->at) : at;
        if (items == NULL)
            continue;
        if (f->item == HARP_WIRE_WORDS) {
            err = words(a, ctx, f, base, (void **)items, count);
            continue;
        }
        if (inner == NULL && (inner = harp_walk_chosen(f, base)) == NULL)
            continue;
        for (uint64_t k = 0; k < count && err == 0; k++)
            err = fix(a, ctx, inner, items + k * harp_walk_size_of(f));
    }
    return err;
}

int harp_adapt_call(const struct harp_adapt *adapt, void *ctx, unsigned op, uint64_t *args)
{
    return fix(adapt, ctx, &harp_wire_programs[harp_wire_op(op)->program], (uint8_t *)args);
}

void harp_adapt_cooperative(CUlaunchConfig *config, unsigned *op, uint64_t *args)
{
    static const CUlaunchAttribute one = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                                          .value.cooperative = 1};
    *config = (CUlaunchConfig){
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
    *op = HARP_OP_cuLaunchKernelEx;
    args[1] = args[0];
    args[0] = (uintptr_t)config;
    args[2] = args[9];
    args[3] = args[10];
}
