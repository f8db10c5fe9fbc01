/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors of calls that nobody waited for, kept for the next observation point of their context
 * (SESSION.md, "Errors of unwanted calls").
 */
#include <string.h>

#include "src/wire/table.h"
#include "src/worker/worker.h"

#define LATCHES_MAX 64u
#define DEVICES_MAX 64u

/* Guarded by latch_lock; session.latches counts them. */
static pthread_mutex_t latch_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    CUcontext context;
    CUresult result; /* CUDA_SUCCESS: free */
} latched[LATCHES_MAX];

/* After these the driver itself says so at every call. */
static bool sticky(CUresult r)
{
    switch (r) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}

static bool observes(unsigned op)
{
    switch (op) {
    case HARP_OP_cuCtxSynchronize:
    case HARP_OP_cuCtxSynchronize_v2:
    case HARP_OP_cuStreamSynchronize:
    case HARP_OP_cuStreamQuery:
    case HARP_OP_cuEventSynchronize:
    case HARP_OP_cuEventQuery:
    case HARP_OP_cuStreamEndCapture:
    case HARP_OP_cuGraphInstantiateWithFlags:
    case HARP_OP_cuGraphInstantiateWithParams:
        return true;
    default: /* copies and memsets of no stream */
        return (strncmp(harp_wire_op(op)->name, "cuMemcpy", 8) == 0 ||
                strncmp(harp_wire_op(op)->name, "cuMemset", 8) == 0) &&
               strstr(harp_wire_op(op)->name, "Async") == NULL;
    }
}

static CUcontext current(void)
{
    CUcontext context = NULL;
    return DRIVER(cuCtxGetCurrent)(&context) == CUDA_SUCCESS ? context : NULL;
}

void latch_keep(struct lane *lane, unsigned op, CUresult result)
{
    CUcontext context = current();
    bool first = true;
    unsigned place = LATCHES_MAX;
    if (sticky(result))
        return;
    pthread_mutex_lock(&latch_lock);
    for (unsigned i = 0; i < LATCHES_MAX; i++) {
        if (latched[i].result == CUDA_SUCCESS)
            place = place == LATCHES_MAX ? i : place;
        else if (latched[i].context == context)
            first = false;
    }
    if (first && place != LATCHES_MAX) {
        latched[place].context = context;
        latched[place].result = result;
        atomic_fetch_add(&lane->session->latches, 1);
    }
    pthread_mutex_unlock(&latch_lock);
    uint64_t args[HARP_WIRE_SLOTS] = {lane->seq, lane->place, op, result};
    if (first)
        call_tell(lane->session, HARP_OP_harpLatched, lane->id, args);
}

CUresult latch_surfaced(struct lane *lane, unsigned op, CUresult result)
{
    if (result != CUDA_SUCCESS || atomic_load(&lane->session->latches) == 0 || !observes(op))
        return result;
    CUcontext context = current();
    pthread_mutex_lock(&latch_lock);
    for (unsigned i = 0; i < LATCHES_MAX; i++)
        if (latched[i].result != CUDA_SUCCESS && latched[i].context == context) {
            result = latched[i].result;
            latched[i].result = CUDA_SUCCESS;
            atomic_fetch_sub(&lane->session->latches, 1);
            break;
        }
    pthread_mutex_unlock(&latch_lock);
    return result;
}

/* A context that is gone observes nothing any more, and the next one may be where it was. */
static void unlatch(struct session *s, CUcontext context)
{
    pthread_mutex_lock(&latch_lock);
    for (unsigned i = 0; i < LATCHES_MAX; i++)
        if (latched[i].result != CUDA_SUCCESS && latched[i].context == context) {
            latched[i].result = CUDA_SUCCESS;
            atomic_fetch_sub(&s->latches, 1);
        }
    pthread_mutex_unlock(&latch_lock);
}

/* A primary context is known by its device, as it was last retained. */
void latch_ended(struct session *s, unsigned op, const uint64_t *args)
{
    static _Atomic(CUcontext) primary[DEVICES_MAX];
    CUcontext context = (CUcontext)(uintptr_t)args[0];
    unsigned device = (unsigned)args[op == HARP_OP_cuDevicePrimaryCtxRetain ? 1 : 0], flags;
    int active = 0;
    switch (op) {
    case HARP_OP_cuCtxDestroy_v2:
    case HARP_OP_cuCtxDestroy:
        unlatch(s, context);
        break;
    case HARP_OP_cuCtxDetach: /* with its last use it is current no more */
        if (current() != context)
            unlatch(s, context);
        break;
    case HARP_OP_cuDevicePrimaryCtxRetain:
        if (device < DEVICES_MAX && args[0] != 0) {
            memcpy(&context, (const void *)(uintptr_t)args[0], sizeof context);
            atomic_store(&primary[device], context);
        }
        break;
    case HARP_OP_cuDevicePrimaryCtxRelease_v2:
    case HARP_OP_cuDevicePrimaryCtxRelease:
        if (DRIVER(cuDevicePrimaryCtxGetState)((CUdevice)device, &flags, &active) != CUDA_SUCCESS ||
            active)
            break;
        /* fall through */
    case HARP_OP_cuDevicePrimaryCtxReset_v2:
    case HARP_OP_cuDevicePrimaryCtxReset:
        if (device < DEVICES_MAX && (context = atomic_load(&primary[device])) != NULL)
            unlatch(s, context);
        break;
    default:
        break;
    }
}
