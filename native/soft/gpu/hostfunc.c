/* SPDX-License-Identifier: Apache-2.0
 *
 * Host functions and callbacks in stream order, on the stream's thread. They may not call the API
 * (800), since the thread that would carry their work out is the one that runs them.
 */
#include "soft/gpu/context.h"

#include <stdlib.h>

#include "soft/gpu/capture.h"

struct call {
    struct soft_cmd cmd;
    CUhostFn fn;
    CUstreamCallback callback; /* one of the two */
    CUstream handle;
    void *data;
};

static CUresult run(struct soft_cmd *cmd, struct soft_run *r)
{
    struct call *c = (struct call *)cmd;
    struct soft_thread *t = soft_thread();
    CUresult sticky = soft_ctx_sticky(r->ctx);

    if (c->callback != NULL)
        soft_fifo_flush(r->ctx);
    if (t != NULL)
        t->in_callback = true;
    if (c->callback != NULL)
        c->callback(c->handle, sticky, c->data);
    else if (sticky == CUDA_SUCCESS)
        c->fn(c->data);
    if (t != NULL)
        t->in_callback = false;
    return CUDA_SUCCESS;
}

static struct soft_cmd *call_clone(const struct soft_cmd *cmd)
{
    const struct call *from = (const struct call *)cmd;
    struct call *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->cmd.ops = from->cmd.ops;
    c->fn = from->fn;
    c->callback = from->callback;
    c->handle = from->handle;
    c->data = from->data;
    return &c->cmd;
}

static const struct soft_cmd_ops ops = {.name = "host",
                                        .engine = SOFT_NO_ENGINE,
                                        .run = run,
                                        .clone = call_clone,
                                        .blocks = true,
                                        .always = true};

bool soft_hostfn_params(const struct soft_cmd *cmd, CUDA_HOST_NODE_PARAMS_v1 *params)
{
    const struct call *c = (const struct call *)cmd;

    *params = (CUDA_HOST_NODE_PARAMS_v1){.fn = c->fn, .userData = c->data};
    return c->fn != NULL;
}

CUresult soft_hostfn_new(CUhostFn fn, void *data, struct soft_cmd **out)
{
    struct call *c = calloc(1, sizeof *c);

    if (c == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    c->cmd.ops = &ops;
    c->fn = fn;
    c->data = data;
    *out = &c->cmd;
    return CUDA_SUCCESS;
}

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (fn == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_hostfn_new(fn, userData, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(stream, cmd);
}

CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData,
                             unsigned int flags)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    struct soft_cmd *cmd;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_stream_of(hStream, &stream);
    if (r != CUDA_SUCCESS)
        return r;
    if (callback == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_capture_check_stream(stream);
    if (r != CUDA_SUCCESS)
        return r;
    r = soft_hostfn_new(NULL, userData, &cmd);
    if (r != CUDA_SUCCESS)
        return r;
    ((struct call *)cmd)->callback = callback;
    ((struct call *)cmd)->handle = hStream;
    return soft_submit(stream, cmd);
}
