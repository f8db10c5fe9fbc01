/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on interprocess events. Whoever has one records and waits as with any event; where
 * its latest record stands is in the state that all of them share (ipc_event.c).
 */
#include "soft/gpu/event.h"

CUresult cuIpcGetEventHandle(CUipcEventHandle *pHandle, CUevent event)
{
    struct soft_ctx *ctx;
    struct soft_event *e;
    CUresult r = soft_current(&ctx);

    if (r == CUDA_SUCCESS)
        r = pHandle == NULL ? CUDA_ERROR_INVALID_VALUE : soft_event_of(event, &e);
    if (r != CUDA_SUCCESS)
        return r;
    /* an opened one is its maker's to hand on */
    if ((e->flags & CU_EVENT_INTERPROCESS) == 0 || e->ipc == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    soft_ipc_event_name(e->ipc, pHandle);
    return CUDA_SUCCESS;
}

CUresult cuIpcOpenEventHandle(CUevent *phEvent, CUipcEventHandle handle)
{
    struct soft_ctx *ctx;
    struct soft_ipc_event *ipc;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (phEvent == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = soft_ipc_event_open(&handle, &ipc);
    return r != CUDA_SUCCESS ? r : soft_event_add(ctx, CU_EVENT_DISABLE_TIMING, ipc, phEvent);
}

/* ------------------------------------------------------------------------------------ waiting --
 */
struct wait {
    struct soft_event_cmd on;
    uint32_t number;
};

static void submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct wait *w = (struct wait *)cmd;

    w->number = soft_ipc_event_latest(w->on.event->ipc);
}

static CUresult run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct wait *w = (struct wait *)cmd;

    run->end_ns = soft_ipc_event_wait(w->on.event->ipc, w->number, run->ctx);
    if (run->end_ns == 0)
        run->end_ns = run->start_ns;
    return CUDA_SUCCESS;
}

static struct soft_cmd *wait_clone(const struct soft_cmd *cmd)
{
    return soft_event_cmd_new(soft_event_of_cmd(cmd), cmd->ops, sizeof(struct wait));
}

static const struct soft_cmd_ops wait_ops = {.name = "event_wait",
                                             .engine = SOFT_NO_ENGINE,
                                             .run = run,
                                             .clone = wait_clone,
                                             .destroy = soft_event_cmd_destroy,
                                             .submitted = submitted,
                                             .blocks = true};

CUresult soft_event_wait_ipc_new(struct soft_event *event, struct soft_cmd **out)
{
    *out = soft_event_cmd_new(event, &wait_ops, sizeof(struct wait));
    return *out == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
