/* SPDX-License-Identifier: Apache-2.0
 *
 * cuStreamWriteValue, cuStreamWaitValue, cuStreamBatchMemOp.
 *
 * A wait polls, since the host and kernels of other streams write without saying so: densely at
 * first, then every half millisecond. It holds no engine. It gives up when its context fails, and
 * when its context is being destroyed and nothing else in it works any more, so nothing could come.
 */
#include "soft/gpu/memop.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POLL_LEAST_NS 10000ull
#define POLL_MOST_NS  500000ull
#define GIVE_UP_NS    200000000ull /* of idleness in a context that is being destroyed */

static bool is_wait(int op)
{
    return op == CU_STREAM_MEM_OP_WAIT_VALUE_32 || op == CU_STREAM_MEM_OP_WAIT_VALUE_64;
}

static bool is_64(int op)
{
    return op == CU_STREAM_MEM_OP_WAIT_VALUE_64 || op == CU_STREAM_MEM_OP_WRITE_VALUE_64;
}

static bool holds(const CUstreamBatchMemOpParams *op, const void *host)
{
    uint64_t value, want;
    bool ahead;

    if (is_64((int)op->operation)) {
        value = __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE);
        want = op->waitValue.value64;
        ahead = (int64_t)(value - want) >= 0;
    } else {
        value = __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE);
        want = op->waitValue.value;
        ahead = (int32_t)((uint32_t)value - (uint32_t)want) >= 0;
    }
    switch (op->waitValue.flags) {
    case CU_STREAM_WAIT_VALUE_EQ:
        return value == want;
    case CU_STREAM_WAIT_VALUE_AND:
        return (value & want) != 0;
    case CU_STREAM_WAIT_VALUE_NOR:
        value = ~(value | want);
        return is_64((int)op->operation) ? value != 0 : (uint32_t)value != 0;
    default:
        return ahead; /* cyclic */
    }
}

static void write_value(const CUstreamBatchMemOpParams *op, void *host)
{
    if (op->writeValue.flags == CU_STREAM_WRITE_VALUE_DEFAULT)
        atomic_thread_fence(memory_order_seq_cst);
    if (is_64((int)op->operation))
        __atomic_store_n((uint64_t *)host, op->writeValue.value64, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)host, op->writeValue.value, __ATOMIC_RELEASE);
}

static void nap(uint64_t ns)
{
    struct timespec t = {0, (long)ns};

    nanosleep(&t, NULL);
}

/* False: given up. */
static bool wait_value(const CUstreamBatchMemOpParams *op, const void *host, struct soft_run *run)
{
    struct soft_ctx *ctx = run->ctx;
    uint64_t pause = POLL_LEAST_NS, idle_since = soft_now_ns();
    bool held = true;

    if (holds(op, host))
        return true;
    soft_stream_let_go(run->stream);
    atomic_fetch_sub(&ctx->working, 1);
    while (!(held = holds(op, host))) {
        uint64_t now = soft_now_ns();

        if (soft_ctx_look(ctx) != CUDA_SUCCESS) /* its device may have ended it */
            break;
        if (!atomic_load(&ctx->ending) || atomic_load(&ctx->working) > 0)
            idle_since = now;
        else if (now - idle_since > GIVE_UP_NS)
            break;
        nap(pause);
        pause = pause * 2 < POLL_MOST_NS ? pause * 2 : POLL_MOST_NS;
    }
    atomic_fetch_add(&ctx->working, 1);
    run->end_ns = soft_now_ns();
    return held;
}

static CUresult run_ops(struct soft_cmd *cmd, struct soft_run *run)
{
    const struct soft_memop *batch = (const struct soft_memop *)cmd;

    for (unsigned i = 0; i < batch->count; i++) {
        const CUstreamBatchMemOpParams *op = &batch->ops[i];
        int kind = (int)op->operation;

        if (kind == CU_STREAM_MEM_OP_BARRIER)
            atomic_thread_fence(memory_order_seq_cst);
        else if (!is_wait(kind))
            write_value(op, batch->at[i].host);
        else if (!wait_value(op, batch->at[i].host, run)) {
            /* what follows must not run as if the value had come */
            if (soft_ctx_sticky(run->ctx) == CUDA_SUCCESS)
                soft_ctx_poison(run->ctx, CUDA_ERROR_CONTEXT_IS_DESTROYED);
            return CUDA_SUCCESS;
        }
    }
    return CUDA_SUCCESS;
}

static struct soft_memop *make(unsigned count, const CUstreamBatchMemOpParams *ops);

static struct soft_cmd *memop_clone(const struct soft_cmd *cmd)
{
    const struct soft_memop *from = (const struct soft_memop *)cmd;
    struct soft_memop *to = make(from->count, from->ops);

    if (to == NULL)
        return NULL;
    memcpy(to->at, from->at, from->count * sizeof *to->at);
    return &to->cmd;
}

static void destroy(struct soft_cmd *cmd)
{
    free(((struct soft_memop *)cmd)->at);
    free(cmd);
}

static const struct soft_cmd_ops memop_ops = {.name = "memop",
                                              .engine = SOFT_NO_ENGINE,
                                              .run = run_ops,
                                              .clone = memop_clone,
                                              .destroy = destroy};

static struct soft_memop *make(unsigned count, const CUstreamBatchMemOpParams *ops)
{
    struct soft_memop *batch = calloc(1, sizeof *batch + count * sizeof *ops);

    if (batch == NULL)
        return NULL;
    batch->at = calloc(count, sizeof *batch->at);
    if (batch->at == NULL) {
        free(batch);
        return NULL;
    }
    batch->cmd.ops = &memop_ops;
    batch->count = count;
    memcpy(batch->ops, ops, count * sizeof *ops);
    return batch;
}

/* No device here can flush remote writes: CAN_FLUSH_REMOTE_WRITES is 0. */
static CUresult check(struct soft_ctx *ctx, const CUstreamBatchMemOpParams *op, void **host)
{
    int kind = (int)op->operation;
    unsigned flags = op->waitValue.flags;
    uint64_t bytes = is_64(kind) ? 8 : 4;

    switch (kind) {
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return op->flushRemoteWrites.flags != 0 ? CUDA_ERROR_INVALID_VALUE
                                                : CUDA_ERROR_NOT_SUPPORTED;
    case CU_STREAM_MEM_OP_BARRIER:
        return op->memoryBarrier.flags > CU_STREAM_MEMORY_BARRIER_TYPE_GPU
                   ? CUDA_ERROR_INVALID_VALUE
                   : CUDA_SUCCESS;
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        if ((flags & ~(unsigned)CU_STREAM_WAIT_VALUE_FLUSH) > CU_STREAM_WAIT_VALUE_NOR)
            return CUDA_ERROR_INVALID_VALUE;
        if ((flags & CU_STREAM_WAIT_VALUE_FLUSH) != 0)
            return CUDA_ERROR_NOT_SUPPORTED;
        break;
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        if (flags > CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (op->waitValue.address % bytes != 0)
        return CUDA_ERROR_INVALID_VALUE;
    *host = soft_mem_host(ctx, op->waitValue.address, bytes);
    return *host == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult soft_memop_new(struct soft_ctx *ctx, unsigned count, const CUstreamBatchMemOpParams *ops,
                        struct soft_cmd **out)
{
    struct soft_memop *batch;
    CUresult r = CUDA_SUCCESS;

    if (count == 0 || count > SOFT_MEMOPS_MOST || ops == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    batch = make(count, ops);
    if (batch == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; r == CUDA_SUCCESS && i < count; i++)
        r = check(ctx, &ops[i], &batch->at[i].host);
    if (r == CUDA_SUCCESS)
        *out = &batch->cmd;
    else
        destroy(&batch->cmd);
    return r;
}

CUresult cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                               CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    struct soft_stream *s;
    struct soft_cmd *cmd;
    CUresult r = soft_stream_enter(stream, &s);

    if (r == CUDA_SUCCESS && flags != 0)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        r = soft_memop_new(s->ctx, count, paramArray, &cmd);
    return r != CUDA_SUCCESS ? r : soft_submit(s, cmd);
}

static CUresult one(CUstream stream, CUstreamBatchMemOpType kind, CUdeviceptr addr,
                    cuuint64_t value, unsigned flags)
{
    CUstreamBatchMemOpParams op = {0};

    op.operation = kind;
    op.waitValue.operation = kind; /* writeValue's members are the same */
    op.waitValue.address = addr;
    if (is_64((int)kind))
        op.waitValue.value64 = value;
    else
        op.waitValue.value = (cuuint32_t)value;
    op.waitValue.flags = flags;
    return cuStreamBatchMemOp_v2(stream, 1, &op, 0);
}

CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                unsigned int flags)
{
    return one(stream, CU_STREAM_MEM_OP_WAIT_VALUE_32, addr, value, flags);
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                unsigned int flags)
{
    return one(stream, CU_STREAM_MEM_OP_WAIT_VALUE_64, addr, value, flags);
}

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                 unsigned int flags)
{
    return one(stream, CU_STREAM_MEM_OP_WRITE_VALUE_32, addr, value, flags);
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                 unsigned int flags)
{
    return one(stream, CU_STREAM_MEM_OP_WRITE_VALUE_64, addr, value, flags);
}

/* The first version: the same operations but for the barrier. */
CUresult cuStreamBatchMemOp(CUstream stream, unsigned int count,
                            CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    for (unsigned i = 0; paramArray != NULL && i < count && i <= SOFT_MEMOPS_MOST; i++)
        if (paramArray[i].operation == CU_STREAM_MEM_OP_BARRIER)
            return CUDA_ERROR_INVALID_VALUE;
    return cuStreamBatchMemOp_v2(stream, count, paramArray, flags);
}

CUresult cuStreamWaitValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                             unsigned int flags)
{
    return cuStreamWaitValue32_v2(stream, addr, value, flags);
}

CUresult cuStreamWaitValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                             unsigned int flags)
{
    return cuStreamWaitValue64_v2(stream, addr, value, flags);
}

CUresult cuStreamWriteValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                              unsigned int flags)
{
    return cuStreamWriteValue32_v2(stream, addr, value, flags);
}

CUresult cuStreamWriteValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                              unsigned int flags)
{
    return cuStreamWriteValue64_v2(stream, addr, value, flags);
}
