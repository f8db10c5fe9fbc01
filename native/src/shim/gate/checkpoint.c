/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints of processes. What one frees of a device the ledger would not hear of, and its
 * restore might come when the memory is another's, which no process survives: `harp suspend` asks
 * the arbiter first, and calls the driver itself. So a tenant with a memory limit is refused them.
 */
#include "src/shim/entry/entry.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

static bool is_refused(const char *name)
{
    if (harp_inside() || (!harp_env()->strict && !harp_session_limited()))
        return false;
    harp_log("refused call=%s why=\"checkpoints of a tenant with a limit are harpd's to make\" "
             "remedy=\"harp suspend TENANT\"",
             name);
    return true;
}

#define BY_DAEMON(name, call) return is_refused(name) ? CUDA_ERROR_NOT_SUPPORTED : (call)

CUresult harp_hook_cuCheckpointProcessLock(int pid, CUcheckpointLockArgs *args)
{
    BY_DAEMON("cuCheckpointProcessLock", HARP_REAL(cuCheckpointProcessLock)(pid, args));
}

CUresult harp_hook_cuCheckpointProcessCheckpoint(int pid, CUcheckpointCheckpointArgs *args)
{
    BY_DAEMON("cuCheckpointProcessCheckpoint", HARP_REAL(cuCheckpointProcessCheckpoint)(pid, args));
}

CUresult harp_hook_cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs *args)
{
    BY_DAEMON("cuCheckpointProcessRestore", HARP_REAL(cuCheckpointProcessRestore)(pid, args));
}

CUresult harp_hook_cuCheckpointProcessUnlock(int pid, CUcheckpointUnlockArgs *args)
{
    BY_DAEMON("cuCheckpointProcessUnlock", HARP_REAL(cuCheckpointProcessUnlock)(pid, args));
}
