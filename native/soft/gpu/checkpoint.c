/* SPDX-License-Identifier: Apache-2.0
 *
 * cuCheckpointProcess*: the side that asks. Codes as driver 580 gave them on an H200: no such
 * process, or one that the kernel does not let this user look into, is 304; a living process
 * without CUDA is 3, another state than the call wants is 401.
 */
#include "soft/gpu/checkpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/fault.h"

#define MS_NS           1000000ull
#define PERSISTENCE_OFF 1u

struct target {
    struct soft_state *state;
    int slot;
    uint64_t inc;
};

static bool all_zero(const void *bytes, size_t count)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < count; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* A driver finds the other process through /proc, where another user's is closed. */
static bool may(int pid)
{
    char path[32];
    struct stat st;

    snprintf(path, sizeof path, "/proc/%d", pid);
    return stat(path, &st) != 0 || geteuid() == 0 || st.st_uid == geteuid();
}

static CUresult find(int pid, struct target *t)
{
    t->state = soft_fault_state();
    if (pid <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (kill(pid, 0) != 0 && errno == ESRCH)
        return CUDA_ERROR_OPERATING_SYSTEM;
    t->slot = t->state != NULL ? soft_mail_slot(t->state, pid, &t->inc) : -1;
    if (t->slot < 0)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (!may(pid)) {
        soft_log("process %d is another user's: no checkpoint of it", pid);
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    return CUDA_SUCCESS;
}

static CUresult ask(const struct target *t, int pid, enum soft_mail_op op,
                    const struct soft_mail_args *args)
{
    int r = soft_mail_ask(t->state, t->slot, t->inc, op, args);

    if (r == -ETIME)
        return CUDA_ERROR_NOT_READY;
    if (r < 0) {
        soft_log("process %d ended while it was asked", pid);
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    return (CUresult)r;
}

CUresult cuCheckpointProcessGetRestoreThreadId(int pid, int *tid)
{
    struct target t;
    CUresult r;

    if (tid == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = find(pid, &t);
    if (r == CUDA_SUCCESS)
        while ((*tid = (int)atomic_load(&t.state->map->slot[t.slot].mail.thread)) == 0 &&
               soft_mail_slot(t.state, pid, &t.inc) == t.slot)
            usleep(1000); /* it has just begun */
    return r;
}

CUresult cuCheckpointProcessGetState(int pid, CUprocessState *state)
{
    struct target t;
    CUresult r;

    if (state == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    r = find(pid, &t);
    if (r == CUDA_SUCCESS)
        *state = (CUprocessState)atomic_load(&t.state->map->slot[t.slot].mail.state);
    return r;
}

CUresult cuCheckpointProcessLock(int pid, CUcheckpointLockArgs *args)
{
    struct soft_mail_args mail = {0};
    struct target t;
    CUresult r;

    if (args != NULL &&
        (args->reserved0 != 0 || !all_zero(args->reserved1, sizeof args->reserved1)))
        return CUDA_ERROR_INVALID_VALUE;
    if (args != NULL && args->timeoutMs != 0)
        mail.until_ns = soft_now_ns() + args->timeoutMs * MS_NS;
    r = find(pid, &t);
    return r == CUDA_SUCCESS ? ask(&t, pid, SOFT_MAIL_LOCK, &mail) : r;
}

CUresult cuCheckpointProcessCheckpoint(int pid, CUcheckpointCheckpointArgs *args)
{
    struct soft_mail_args mail = {0};
    struct target t;
    CUresult r;

    if (args != NULL && !all_zero(args->reserved, sizeof args->reserved))
        return CUDA_ERROR_INVALID_VALUE;
    r = find(pid, &t);
    return r == CUDA_SUCCESS ? ask(&t, pid, SOFT_MAIL_CHECKPOINT, &mail) : r;
}

CUresult cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs *args)
{
    struct soft_mail_args mail = {0};
    struct target t;
    CUresult r;

    if (args != NULL) {
        if (!all_zero(args->reserved, sizeof args->reserved) || args->reserved1 != 0 ||
            args->gpuPairsCount > SOFT_MAX_DEVICES ||
            (args->gpuPairsCount > 0) != (args->gpuPairs != NULL))
            return CUDA_ERROR_INVALID_VALUE;
        mail.pairs = args->gpuPairsCount;
        for (unsigned i = 0; i < mail.pairs; i++) {
            memcpy(mail.from[i], &args->gpuPairs[i].oldUuid, 16);
            memcpy(mail.to[i], &args->gpuPairs[i].newUuid, 16);
        }
    }
    r = find(pid, &t);
    if (r != CUDA_SUCCESS)
        return r;
    /* documented: persistence mode, or a caller that has the devices awake */
    for (int d = 0; soft_the_state == NULL && d < soft_state_device_count(t.state); d++)
        if (soft_state_setting(t.state, d, SOFT_SET_PERSISTENCE) == PERSISTENCE_OFF)
            return CUDA_ERROR_NOT_INITIALIZED;
    return ask(&t, pid, SOFT_MAIL_RESTORE, &mail);
}

CUresult cuCheckpointProcessUnlock(int pid, CUcheckpointUnlockArgs *args)
{
    struct soft_mail_args mail = {0};
    struct target t;
    CUresult r;

    if (args != NULL && !all_zero(args->reserved, sizeof args->reserved))
        return CUDA_ERROR_INVALID_VALUE;
    r = find(pid, &t);
    return r == CUDA_SUCCESS ? ask(&t, pid, SOFT_MAIL_UNLOCK, &mail) : r;
}
