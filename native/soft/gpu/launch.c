/* SPDX-License-Identifier: Apache-2.0
 *
 * cuLaunchKernel and its kin: every check the driver makes before it returns, then a command with
 * a copy of the parameters.
 */
#include "soft/gpu/launch.h"
#include "soft/gpu/context.h"

#include <stdlib.h>
#include <string.h>

#define GRID_X_MAX   0x7fffffffu
#define GRID_YZ_MAX  65535u
#define THREADS_MAX  1024u
#define BLOCK_Z_MAX  64u
#define PARAMS_LIMIT 32764u

static CUresult check_shape(const struct soft_function *function,
                            const struct soft_profile *profile, const struct soft_shape *shape,
                            uint32_t *per_sm)
{
    const struct ptx_entry *entry = function->kernel->entry;
    const uint32_t *grid = shape->grid, *block = shape->block;
    for (int i = 0; i < 3; i++)
        if (grid[i] == 0 || block[i] == 0)
            return CUDA_ERROR_INVALID_VALUE;
    if (grid[0] > GRID_X_MAX || grid[1] > GRID_YZ_MAX || grid[2] > GRID_YZ_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    if (block[0] > THREADS_MAX || block[1] > THREADS_MAX || block[2] > BLOCK_Z_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    if (threads > THREADS_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < 3 && entry->reqntid[0] != 0; i++)
        if (block[i] != (entry->reqntid[i] != 0 ? entry->reqntid[i] : 1))
            return CUDA_ERROR_INVALID_VALUE;
    if (shape->dynamic_bytes > soft_function_dynamic_limit((struct soft_function *)function))
        return CUDA_ERROR_INVALID_VALUE;
    if (entry->static_shared_bytes + (uint64_t)shape->dynamic_bytes >
        (uint64_t)profile->shared_optin)
        return CUDA_ERROR_INVALID_VALUE;
    if (threads > soft_entry_max_threads(entry, profile))
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    int resident = soft_occupancy(entry, profile, (uint32_t)threads, shape->dynamic_bytes);
    if (resident <= 0)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    *per_sm = (uint32_t)resident;
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    if (shape->cooperative && blocks > (uint64_t)resident * (uint64_t)profile->sm_count)
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    return CUDA_SUCCESS;
}

bool soft_launch_fits(const struct soft_launch *launch)
{
    const struct soft_profile *profile = soft_ctx_profile(launch->function->module->ctx);
    const uint32_t *grid = launch->shape.grid;
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    return !launch->shape.cooperative ||
           blocks <= (uint64_t)launch->per_sm * (uint64_t)profile->sm_count;
}

static uint32_t share_ppm(uint64_t blocks, uint32_t per_sm, const struct soft_profile *profile)
{
    uint64_t room = (uint64_t)per_sm * (uint64_t)profile->sm_count;
    uint64_t share = blocks >= room ? 1000000 : blocks * 1000000 / room;
    return share == 0 ? 1 : (uint32_t)share;
}

/* Bytes of the parameter block, without padding behind the last. */
static size_t params_needed(const struct ptx_entry *entry)
{
    if (entry->param_count == 0)
        return 0;
    const struct ptx_param *last = &entry->params[entry->param_count - 1];
    return (size_t)last->offset + last->bytes;
}

CUresult soft_launch_packed(struct soft_ctx *ctx, struct soft_function *function,
                            const struct soft_shape *shape, const void *params, size_t bytes,
                            struct soft_launch **out)
{
    if (function->module->ctx != ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    const struct soft_profile *profile = soft_ctx_profile(ctx);
    const struct ptx_entry *entry = function->kernel->entry;
    uint32_t per_sm = 0;
    CUresult result = check_shape(function, profile, shape, &per_sm);
    if (result != CUDA_SUCCESS)
        return result;
    if (bytes < params_needed(entry) || bytes > PARAMS_LIMIT)
        return CUDA_ERROR_INVALID_VALUE;
    const struct ptx_kernel *code = NULL;
    result = soft_function_load(function, &code, NULL, 0);
    if (result != CUDA_SUCCESS)
        return result;
    if (code->flags & PTX_KERNEL_HEAP)
        result = soft_heap_ready(ctx);
    if (result != CUDA_SUCCESS)
        return result;
    size_t room = bytes > entry->params_bytes ? bytes : entry->params_bytes;
    struct soft_launch *launch = calloc(1, sizeof *launch + room + 16);
    if (launch == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_fifo_flush(ctx); /* what earlier kernels printed */
    if (soft_image_prints(function->kernel->image))
        ctx->fixed_limits[CU_LIMIT_PRINTF_FIFO_SIZE] = true;
    launch->cmd.ops = &soft_launch_ops;
    uint64_t blocks = (uint64_t)shape->grid[0] * shape->grid[1] * shape->grid[2];
    launch->cmd.sm_ppm = share_ppm(blocks, per_sm, profile);
    launch->function = function;
    launch->code = code;
    launch->shape = *shape;
    launch->per_sm = per_sm;
    launch->params_bytes = room;
    if (bytes > 0)
        memcpy(launch->params, params, bytes);
    soft_module_ref(function->module);
    *out = launch;
    return CUDA_SUCCESS;
}

/* {1 pointer, 2 size, 0 end}: the whole block in one buffer. */
static CUresult read_extra(void **extra, const void **buffer, size_t *bytes)
{
    const size_t *size = NULL;
    for (size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            *buffer = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            size = extra[i + 1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (size == NULL || (*buffer == NULL && *size > 0))
        return CUDA_ERROR_INVALID_VALUE;
    *bytes = *size;
    return CUDA_SUCCESS;
}

CUresult soft_launch_new(struct soft_ctx *ctx, CUfunction handle, const struct soft_shape *shape,
                         void **params, void **extra, struct soft_launch **out)
{
    struct soft_function *function = NULL;
    CUresult result = soft_function_of(handle, ctx, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (params != NULL && extra != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (extra != NULL) {
        const void *buffer = NULL;
        size_t bytes = 0;
        result = read_extra(extra, &buffer, &bytes);
        if (result != CUDA_SUCCESS)
            return result;
        return soft_launch_packed(ctx, function, shape, buffer, bytes, out);
    }
    const struct ptx_entry *entry = function->kernel->entry;
    if (entry->param_count > 0 && params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    size_t bytes = params_needed(entry);
    unsigned char *packed = calloc(1, bytes + 1);
    if (packed == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < entry->param_count; i++) {
        if (params[i] == NULL)
            result = CUDA_ERROR_INVALID_VALUE;
        else
            memcpy(packed + entry->params[i].offset, params[i], entry->params[i].bytes);
    }
    if (result == CUDA_SUCCESS)
        result = soft_launch_packed(ctx, function, shape, packed, bytes, out);
    free(packed);
    return result;
}

static struct soft_cmd *launch_clone(const struct soft_cmd *cmd)
{
    const struct soft_launch *from = (const struct soft_launch *)cmd;
    struct soft_launch *to = calloc(1, sizeof *to + from->params_bytes + 16);
    if (to == NULL)
        return NULL;
    to->cmd.ops = from->cmd.ops;
    to->cmd.sm_ppm = from->cmd.sm_ppm;
    to->function = from->function;
    to->code = from->code;
    to->shape = from->shape;
    to->attributes = from->attributes;
    to->per_sm = from->per_sm;
    to->params_bytes = from->params_bytes;
    memcpy(to->params, from->params, from->params_bytes);
    soft_module_ref(to->function->module);
    return &to->cmd;
}

static void launch_destroy(struct soft_cmd *cmd)
{
    struct soft_launch *launch = (struct soft_launch *)cmd;
    soft_module_unref(launch->function->module);
    free(launch);
}

const struct soft_cmd_ops soft_launch_ops = {
    .name = "kernel",
    .engine = SOFT_COMPUTE,
    .run = soft_launch_run,
    .clone = launch_clone,
    .destroy = launch_destroy,
};

CUresult soft_launch_local(struct soft_stream *stream, const struct soft_launch *launch)
{
    if (soft_stream_capture(stream) != NULL)
        return CUDA_SUCCESS; /* as the graph's node, when it runs */
    return soft_ctx_local(soft_stream_ctx(stream), launch->function->kernel->entry->local_bytes);
}

static CUresult launch(CUfunction f, const struct soft_shape *shape, CUstream handle, void **params,
                       void **extra)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (f == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = soft_stream_of(handle, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    struct soft_launch *cmd = NULL;
    result = soft_launch_new(soft_stream_ctx(stream), f, shape, params, extra, &cmd);
    if (result == CUDA_SUCCESS && (result = soft_launch_local(stream, cmd)) != CUDA_SUCCESS)
        cmd->cmd.ops->destroy(&cmd->cmd);
    return result == CUDA_SUCCESS ? soft_submit(stream, &cmd->cmd) : result;
}

CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                        unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                        unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                        void **kernelParams, void **extra)
{
    struct soft_shape shape = {
        {gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, sharedMemBytes, false};
    return launch(f, &shape, hStream, kernelParams, extra);
}

CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                   unsigned int gridDimZ, unsigned int blockDimX,
                                   unsigned int blockDimY, unsigned int blockDimZ,
                                   unsigned int sharedMemBytes, CUstream hStream,
                                   void **kernelParams)
{
    struct soft_shape shape = {
        {gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, sharedMemBytes, true};
    return launch(f, &shape, hStream, kernelParams, NULL);
}
