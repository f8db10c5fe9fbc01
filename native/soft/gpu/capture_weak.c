/* SPDX-License-Identifier: Apache-2.0
 *
 * The core without graphs: nothing is ever captured. capture.c's definitions take the place of
 * these wherever both are linked.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/context.h"
#include "soft/gpu/pool.h"

#define WEAK __attribute__((weak))

WEAK CUresult soft_capture_add(struct soft_graph *capture, struct soft_stream *stream,
                               struct soft_cmd *cmd)
{
    soft_cmd_drop(cmd);
    return CUDA_ERROR_NOT_SUPPORTED;
}

WEAK CUresult soft_capture_alloc(struct soft_stream *stream, const CUmemPoolProps *props,
                                 const uint8_t access[SOFT_MAX_DEVICES], uint64_t bytes,
                                 CUdeviceptr *out)
{
    return CUDA_ERROR_NOT_SUPPORTED;
}

WEAK CUresult soft_capture_free(struct soft_stream *stream, CUdeviceptr ptr)
{
    return CUDA_ERROR_NOT_SUPPORTED;
}

WEAK bool soft_capture_record(struct soft_stream *stream, CUevent event, CUresult *result)
{
    return false;
}

WEAK bool soft_capture_wait(struct soft_stream *stream, CUevent event, CUresult *result)
{
    return false;
}

WEAK CUresult soft_capture_check_stream(struct soft_stream *stream)
{
    return CUDA_SUCCESS;
}

WEAK CUresult soft_capture_check_event(CUevent event)
{
    return CUDA_SUCCESS;
}

WEAK CUresult soft_capture_check_unsafe(void)
{
    return CUDA_SUCCESS;
}

WEAK CUresult soft_capture_check_context(const struct soft_ctx *ctx)
{
    return CUDA_SUCCESS;
}

WEAK CUresult soft_capture_check_legacy(const struct soft_ctx *ctx)
{
    return CUDA_SUCCESS;
}

WEAK void soft_capture_forget_stream(struct soft_stream *stream)
{
}

WEAK void soft_capture_forget_event(CUevent event)
{
}
