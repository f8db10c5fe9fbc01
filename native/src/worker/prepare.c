/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver takes in place of what was carried (wire/adapt.h): images of the session's, tickets
 * as functions of ours, buffers for logs of the JIT.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/wire/adapt.h"
#include "src/worker/worker.h"

#define LOG_MAX (64u << 10)

static int packed(void *ctx, struct harp_adapt_packed **to)
{
    struct lane *lane = ctx;
    if (lane->packed_count == PACKED_MAX)
        return CUDA_ERROR_NOT_SUPPORTED;
    *to = &lane->packed[lane->packed_count++];
    return CUDA_SUCCESS;
}

static int image(void *ctx, const struct harp_wire_image *wanted, const void **data)
{
    struct lane *lane = ctx;
    lane->image = image_take(wanted);
    if (lane->image == NULL)
        return CUDA_ERROR_FILE_NOT_FOUND;
    *data = image_data(lane->image);
    return image_is_whole(*data, image_bytes(lane->image)) ? CUDA_SUCCESS
                                                           : CUDA_ERROR_INVALID_IMAGE;
}

static int host_node(void *ctx, CUDA_HOST_NODE_PARAMS_v1 *host)
{
    uint64_t number = (uintptr_t)host->fn;
    return host_function(ctx, number, false, &host->fn, &host->userData) == 0
               ? CUDA_SUCCESS
               : CUDA_ERROR_OUT_OF_MEMORY;
}

/* Buffers for logs, and how large they are: a size that is said twice is whichever the driver
 * takes. Without a size there is no buffer; an address from outside is never one. */
static int buffers(void *ctx, const uint32_t *options, void **values, uint64_t count)
{
    struct lane *lane = ctx;
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

static const struct harp_adapt adapt = {.packed = packed,
                                        .image = image,
                                        .host = host_node,
                                        .words = buffers,
                                        .bad = CUDA_ERROR_INVALID_VALUE};

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
    CUresult r = (CUresult)harp_adapt_call(&adapt, lane, *op, args);
    /* The size is the client's word, and the image's is known. */
    if ((*op == HARP_OP_cuLinkAddData || *op == HARP_OP_cuLinkAddData_v2) && r == CUDA_SUCCESS &&
        lane->image != NULL && args[3] > image_bytes(lane->image))
        return CUDA_ERROR_INVALID_VALUE;
    if (*op == HARP_OP_cuLibraryLoadData && r == CUDA_SUCCESS)
        r = library(lane, args);
    if (*op == HARP_OP_cuLaunchCooperativeKernel)
        harp_adapt_cooperative(&lane->config, op, args);
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
