/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver takes in place of what was carried: parameter buffers as `extra`, images by their
 * bytes, tickets as functions of ours, buffers for logs of the JIT. Found by the tables, wherever
 * in a call they are.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/wire/table.h"
#include "src/wire/walk.h"
#include "src/worker/worker.h"

#define LOG_MAX (64u << 10)

/* What is looked for: programs of the tables, found by name before the first call. */
static const struct harp_wire_program *packed_program, *image_program, *host_programs[2];

void prepare_begin(void)
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
static CUresult pack(struct lane *lane, uint8_t *at)
{
    const struct harp_wire_packed *packed;
    memcpy(&packed, at, sizeof packed);
    void *none = NULL;
    void **extra = NULL;
    if (packed == NULL)
        return CUDA_SUCCESS; /* a kernel without parameters */
    if (lane->packed_count == PACKED_MAX)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct packed *p = &lane->packed[lane->packed_count++];
    p->bytes = packed->bytes;
    p->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
    p->extra[1] = (void *)(uintptr_t)packed->data;
    p->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
    p->extra[3] = &p->bytes;
    p->extra[4] = CU_LAUNCH_PARAM_END;
    extra = packed->bytes == 0 ? NULL : p->extra;
    memcpy(at, &none, sizeof none);
    memcpy(at + sizeof none, &extra, sizeof extra);
    return CUDA_SUCCESS;
}

static CUresult image(struct lane *lane, uint8_t *at)
{
    const struct harp_wire_image *wanted;
    memcpy(&wanted, at, sizeof wanted);
    if (wanted == NULL)
        return CUDA_SUCCESS; /* the driver says what it thinks of it */
    lane->image = image_take(wanted);
    if (lane->image == NULL)
        return CUDA_ERROR_FILE_NOT_FOUND;
    const void *data = image_data(lane->image);
    if (!image_is_whole(data, image_bytes(lane->image)))
        return CUDA_ERROR_INVALID_IMAGE;
    memcpy(at, &data, sizeof data);
    return CUDA_SUCCESS;
}

/* Buffers for logs, and how large they are: a size that is said twice is whichever the driver
 * takes. Without a size there is no buffer; an address from outside is never one. */
static CUresult buffers(struct lane *lane, const struct harp_wire_field *f, const uint8_t *base,
                        void **values, uint64_t count)
{
    const uint32_t *options = harp_walk_load_pointer(base, f->tag.at);
    if (options == NULL)
        return CUDA_SUCCESS;
    for (uint64_t i = 0; i < count; i++) {
        bool info = options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES;
        if (!info && options[i] != CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            continue;
        uint64_t wish = (uintptr_t)values[i] & UINT32_MAX;
        wish = wish < LOG_MAX ? wish : LOG_MAX;
        values[i] = (void *)(uintptr_t)wish;
        if (wish > lane->log_bytes[!info])
            lane->log_bytes[!info] = wish;
    }
    for (uint64_t i = 0; i < count; i++)
        for (unsigned which = 0; which < 2; which++) {
            if (options[i] != (which == 0 ? CU_JIT_INFO_LOG_BUFFER : CU_JIT_ERROR_LOG_BUFFER))
                continue;
            if (lane->logs[which] == NULL)
                lane->logs[which] = calloc(1, LOG_MAX + 1);
            if (lane->logs[which] == NULL)
                return CUDA_ERROR_OUT_OF_MEMORY;
            values[i] = lane->log_bytes[which] != 0 ? lane->logs[which] : NULL;
        }
    return CUDA_SUCCESS;
}

static CUresult fix(struct lane *lane, const struct harp_wire_program *p, uint8_t *base)
{
    CUresult r = CUDA_SUCCESS;
    if (p == host_programs[0] || p == host_programs[1]) {
        CUDA_HOST_NODE_PARAMS_v1 *host = (CUDA_HOST_NODE_PARAMS_v1 *)base;
        uint64_t number = (uintptr_t)host->fn;
        return host_function(lane, number, false, &host->fn, &host->userData) == 0
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (unsigned i = 0; i < p->count && r == CUDA_SUCCESS; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        if (f->hold != HARP_WIRE_VALUE && f->hold != HARP_WIRE_POINTER)
            continue;
        uint8_t *at = base + f->at;
        const struct harp_wire_program *inner =
            f->item == HARP_WIRE_STRUCT ? &harp_wire_programs[f->type] : NULL;
        if (inner != NULL && inner == packed_program) {
            r = pack(lane, at);
            continue;
        }
        if (inner != NULL && inner == image_program) {
            r = image(lane, at);
            continue;
        }
        if (f->item != HARP_WIRE_STRUCT && f->item != HARP_WIRE_CASE && f->item != HARP_WIRE_WORDS)
            continue;
        uint64_t count;
        if (harp_walk_count_of(f, base, &count) != 0)
            return CUDA_ERROR_INVALID_VALUE;
        uint8_t *items = f->hold == HARP_WIRE_POINTER ? harp_walk_load_pointer(base, f->at) : at;
        if (items == NULL)
            continue;
        if (f->item == HARP_WIRE_WORDS) {
            r = buffers(lane, f, base, (void **)items, count);
            continue;
        }
        if (inner == NULL && (inner = harp_walk_chosen(f, base)) == NULL)
            continue;
        for (uint64_t k = 0; k < count && r == CUDA_SUCCESS; k++)
            r = fix(lane, inner, items + k * harp_walk_size_of(f));
    }
    return r;
}

/* Functions of the client's, among the parameters themselves. */
static int tickets(struct lane *lane, unsigned op, uint64_t *args)
{
    void *data = NULL;
    CUhostFn fn = NULL;
    CUstreamCallback callback = NULL;
    int err = 0;
    if (op == HARP_OP_cuLaunchHostFunc) {
        /* Captured, it is called whenever the graph runs. */
        lane->captured = call_captures(lane, args[0]);
        err = host_function(lane, args[1], !lane->captured, &fn, &data);
        args[1] = (uintptr_t)fn;
        args[2] = (uintptr_t)data;
    } else if (op == HARP_OP_cuStreamAddCallback) {
        err = host_callback(lane, args[1], &callback, &data);
        args[1] = (uintptr_t)callback;
        args[2] = (uintptr_t)data;
    } else if (op == HARP_OP_cuUserObjectCreate) {
        err = host_destructor(lane, args[2], &fn, &data);
        args[1] = (uintptr_t)data;
        args[2] = (uintptr_t)fn;
    }
    return err;
}

/* The call has no `extra`, where the buffer would go; with an attribute it is another one. */
static void cooperative(struct lane *lane, unsigned *op, uint64_t *args)
{
    static const CUlaunchAttribute one = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                                          .value.cooperative = 1};
    CUlaunchConfig *config = &lane->config;
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

/* The client's image may be preserved; ours is forgotten when there are newer ones. Whether the
 * option is as good as off with a value of 0, nobody says: it is left out. */
static CUresult library(struct lane *lane, uint64_t *args)
{
    const uint8_t *options = (const uint8_t *)(uintptr_t)args[5];
    void *const *values = (void *const *)(uintptr_t)args[6];
    const unsigned count = (unsigned)args[7];
    unsigned kept = 0;
    if (options == NULL || values == NULL)
        return CUDA_SUCCESS; /* the driver says what it thinks of it */
    for (unsigned i = 0; i < count; i++) {
        CUlibraryOption option;
        memcpy(&option, options + 4ull * i, sizeof option);
        if (option == CU_LIBRARY_BINARY_IS_PRESERVED)
            continue;
        if (kept == LIBRARY_MAX)
            return CUDA_ERROR_NOT_SUPPORTED;
        lane->library.options[kept] = option;
        lane->library.values[kept++] = values[i];
    }
    args[5] = kept == 0 ? 0 : (uintptr_t)lane->library.options;
    args[6] = kept == 0 ? 0 : (uintptr_t)lane->library.values;
    args[7] = kept;
    return CUDA_SUCCESS;
}

CUresult prepare_call(struct lane *lane, unsigned *op, uint64_t *args)
{
    lane->packed_count = 0;
    lane->log_bytes[0] = lane->log_bytes[1] = 0;
    lane->image = NULL;
    if (*op == HARP_OP_cuLinkCreate || *op == HARP_OP_cuLinkCreate_v2)
        return link_prepare(lane, args);
    if (tickets(lane, *op, args) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = fix(lane, &harp_wire_programs[harp_wire_op(*op)->program], (uint8_t *)args);
    /* The size is the client's word, and the image's is known. */
    if ((*op == HARP_OP_cuLinkAddData || *op == HARP_OP_cuLinkAddData_v2) && r == CUDA_SUCCESS &&
        lane->image != NULL && args[3] > image_bytes(lane->image))
        return CUDA_ERROR_INVALID_VALUE;
    if (*op == HARP_OP_cuLibraryLoadData && r == CUDA_SUCCESS)
        r = library(lane, args);
    if (*op == HARP_OP_cuLaunchCooperativeKernel)
        cooperative(lane, op, args);
    return r;
}

void prepare_end(struct lane *lane)
{
    for (unsigned which = 0; which < 2; which++) {
        if (lane->log_bytes[which] == 0 || lane->logs[which] == NULL)
            continue;
        lane->logs[which][lane->log_bytes[which]] = '\0';
        uint64_t args[HARP_WIRE_SLOTS] = {which, (uintptr_t)lane->logs[which]};
        if (lane->logs[which][0] != '\0')
            call_tell(lane->session, HARP_OP_harpJitLog, lane->id, args);
        memset(lane->logs[which], 0, lane->log_bytes[which] + 1);
        lane->log_bytes[which] = 0;
    }
    if (lane->image != NULL)
        image_give(lane->image);
    lane->image = NULL;
}
