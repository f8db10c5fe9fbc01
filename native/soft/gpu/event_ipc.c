/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry points on interprocess events. Whoever has one records and waits as with any event; where
 * its latest record stands is in the state that all of them share (ipc_event.c).
 */
#include "soft/gpu/event.h"

#include <stdlib.h>

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
    struct soft_cmd cmd;
    struct soft_event *event;
    uint32_t number;
};

static void submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct wait *w = (struct wait *)cmd;

    w->number = soft_ipc_event_latest(w->event->ipc);
}

static CUresult run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct wait *w = (struct wait *)cmd;

    run->end_ns = soft_ipc_event_wait(w->event->ipc, w->number, run->ctx);
    if (run->end_ns == 0)
        run->end_ns = run->start_ns;
    return CUDA_SUCCESS;
}

static void destroy(struct soft_cmd *cmd)
{
    soft_event_unref(((struct wait *)cmd)->event);
    free(cmd);
}

static struct soft_cmd *wait_clone(const struct soft_cmd *cmd)
{
    struct soft_cmd *copy;

    return soft_event_wait_ipc_new(((const struct wait *)cmd)->event, &copy) == CUDA_SUCCESS ? copy
                                                                                             : NULL;
}

static const struct soft_cmd_ops wait_ops = {.name = "event_wait",
                                             .engine = SOFT_NO_ENGINE,
                                             .run = run,
                                             .clone = wait_clone,
                                             .destroy = destroy,
                                             .submitted = submitted,
                                             .blocks = true};

CUresult soft_event_wait_ipc_new(struct soft_event *event, struct soft_cmd **out)
{
    struct wait *w = calloc(1, sizeof *w);

    if (w == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    w->cmd.ops = &wait_ops;
    w->event = event;
    atomic_fetch_add(&event->refs, 1);
    *out = &w->cmd;
    return CUDA_SUCCESS;
}
