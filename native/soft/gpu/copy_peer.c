/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies between devices. One occupies an engine of each: what reads the one, what writes the
 * other. With peer access between them it crosses PCIe once; without, it goes through the host.
 */
#include "soft/gpu/capture.h"
#include "soft/gpu/copy.h"
#include "soft/gpu/fault.h"

struct leg { /* one device's part */
    struct soft_ctx *ctx;
    struct soft_turn *turn; /* NULL: no context there to lend its engine */
    struct soft_use use;
    struct soft_waiter waiter;
    bool guest;
};

static void leg_find(struct leg *leg, struct soft_ctx *ours, int ordinal, enum soft_engine engine)
{
    *leg = (struct leg){.guest = ours->ordinal != ordinal};
    leg->ctx = leg->guest ? soft_ctx_guest(ordinal) : ours;
    if (leg->ctx != NULL)
        leg->turn = &leg->ctx->turn[engine];
}

static int poll_legs(void *arg)
{
    struct leg *legs = arg;
    int gone = 0;

    for (int i = 0; i < 2; i++)
        if (legs[i].turn != NULL)
            gone |= soft_turn_poll(&legs[i].use);
    return gone;
}

static uint64_t modelled(const struct soft_copy *c)
{
    const struct soft_profile *from = soft_the_state->profile[c->from.ordinal];
    const struct soft_profile *to = soft_the_state->profile[c->to.ordinal];
    double rate = from->pcie_bytes_per_ns < to->pcie_bytes_per_ns ? from->pcie_bytes_per_ns
                                                                  : to->pcie_bytes_per_ns;
    double bytes = (double)c->width * (double)c->height * (double)c->depth;

    if (!soft_devices_linked(c->from.ordinal, c->to.ordinal))
        rate /= 2; /* down, then up */
    return from->copy_ns + (uint64_t)(bytes / rate);
}

CUresult soft_copy_peer_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct soft_copy *c = (struct soft_copy *)cmd;
    uint64_t ready = run->start_ns;
    uint64_t took = soft_fault_stretch(soft_the_state, soft_at(run->ctx->ordinal), modelled(c));
    bool out_first = c->from.ordinal < c->to.ordinal;
    struct leg legs[2];

    if (soft_ctx_sticky(run->ctx) != CUDA_SUCCESS)
        return CUDA_SUCCESS;
    if (!soft_copy_arrive(c, run))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    /* in one order for all: two copies that cross do not wait for each other */
    leg_find(&legs[out_first ? 0 : 1], run->ctx, c->from.ordinal, SOFT_COPY_OUT);
    leg_find(&legs[out_first ? 1 : 0], run->ctx, c->to.ordinal, SOFT_COPY_IN);
    for (int i = 0; i < 2; i++)
        if (legs[i].turn != NULL)
            ready = soft_turn_begin(legs[i].turn, &legs[i].use, ready, 0, cmd->priority,
                                    &legs[i].waiter, false);
    soft_copy_bytes(c, poll_legs, legs);
    run->end_ns = ready + took;
    for (int i = 0; i < 2; i++) {
        uint64_t end;

        if (legs[i].turn == NULL)
            continue;
        /* the first was held while the second was waited for */
        end =
            soft_turn_finish(legs[i].turn, &legs[i].use, took + ready - legs[i].use.start_ns, NULL);
        if (run->end_ns < end)
            run->end_ns = end;
        if (legs[i].guest)
            soft_ctx_guest_leave(legs[i].ctx);
    }
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------------ entry points -- */
/* Documented: in order with all work of both contexts. */
static CUresult settle(struct soft_ctx *to, struct soft_ctx *from)
{
    CUresult r = soft_ctx_wait(to);

    return r != CUDA_SUCCESS || from == to ? r : soft_ctx_wait(from);
}

static CUresult contexts(CUcontext to, CUcontext from, struct soft_ctx **dst, struct soft_ctx **src)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    *dst = soft_ctx_of(to);
    *src = soft_ctx_of(from);
    return *dst == NULL || *src == NULL ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                      CUcontext srcContext, size_t ByteCount)
{
    struct soft_ctx *to, *from;
    CUresult r = contexts(dstContext, srcContext, &to, &from);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r == CUDA_SUCCESS)
        r = settle(to, from);
    if (r == CUDA_SUCCESS)
        r = cuMemcpyDtoD_v2(dstDevice, srcDevice, ByteCount);
    return r != CUDA_SUCCESS ? r : cuStreamSynchronize(NULL);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                           CUcontext srcContext, size_t ByteCount, CUstream hStream)
{
    struct soft_ctx *to, *from;
    CUresult r = contexts(dstContext, srcContext, &to, &from);

    return r != CUDA_SUCCESS ? r : cuMemcpyDtoDAsync_v2(dstDevice, srcDevice, ByteCount, hStream);
}

/* The contexts matter where memory is named by kind; a unified address says by itself whose. */
static CUresult box(const CUDA_MEMCPY3D_PEER *p, CUDA_MEMCPY3D *m)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (p == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (((p->srcMemoryType == CU_MEMORYTYPE_DEVICE || p->srcMemoryType == CU_MEMORYTYPE_ARRAY) &&
         soft_ctx_of(p->srcContext) == NULL) ||
        ((p->dstMemoryType == CU_MEMORYTYPE_DEVICE || p->dstMemoryType == CU_MEMORYTYPE_ARRAY) &&
         soft_ctx_of(p->dstContext) == NULL))
        return CUDA_ERROR_INVALID_CONTEXT;
    *m = (CUDA_MEMCPY3D){.srcXInBytes = p->srcXInBytes,
                         .srcY = p->srcY,
                         .srcZ = p->srcZ,
                         .srcLOD = p->srcLOD,
                         .srcMemoryType = p->srcMemoryType,
                         .srcHost = p->srcHost,
                         .srcDevice = p->srcDevice,
                         .srcArray = p->srcArray,
                         .srcPitch = p->srcPitch,
                         .srcHeight = p->srcHeight,
                         .dstXInBytes = p->dstXInBytes,
                         .dstY = p->dstY,
                         .dstZ = p->dstZ,
                         .dstLOD = p->dstLOD,
                         .dstMemoryType = p->dstMemoryType,
                         .dstHost = p->dstHost,
                         .dstDevice = p->dstDevice,
                         .dstArray = p->dstArray,
                         .dstPitch = p->dstPitch,
                         .dstHeight = p->dstHeight,
                         .WidthInBytes = p->WidthInBytes,
                         .Height = p->Height,
                         .Depth = p->Depth};
    return CUDA_SUCCESS;
}

CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *pCopy)
{
    struct soft_ctx *to, *from;
    CUDA_MEMCPY3D m;
    CUresult r = box(pCopy, &m);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    to = soft_ctx_of(pCopy->dstContext);
    from = soft_ctx_of(pCopy->srcContext);
    if (to != NULL)
        r = soft_ctx_wait(to);
    if (r == CUDA_SUCCESS && from != NULL && from != to)
        r = soft_ctx_wait(from);
    if (r == CUDA_SUCCESS)
        r = cuMemcpy3D_v2(&m);
    return r != CUDA_SUCCESS ? r : cuStreamSynchronize(NULL);
}

CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)
{
    CUDA_MEMCPY3D m;
    CUresult r = box(pCopy, &m);

    return r != CUDA_SUCCESS ? r : cuMemcpy3DAsync_v2(&m, hStream);
}
