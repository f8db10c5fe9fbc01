/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding another process's file by its name: see ipc.h.
 */
#include "soft/gpu/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/context.h"

static uint64_t our_owner(void)
{
    struct soft_state *state = soft_the_state;
    uint64_t owner;

    pthread_mutex_lock(&state->mutex);
    owner = state->slot >= 0 ? soft_slot_owner(state) : 0;
    pthread_mutex_unlock(&state->mutex);
    return owner;
}

void soft_ipc_name(struct soft_ipc_name *name, uint32_t magic, const struct soft_file *file)
{
    *name = (struct soft_ipc_name){.magic = magic,
                                   .fd = file->fd,
                                   .machine = soft_the_state->map->birth,
                                   .owner = our_owner(),
                                   .ino = (uint64_t)file->ino};
}

CUresult soft_ipc_check(const struct soft_ipc_name *name, uint32_t magic)
{
    uint64_t slot = name->owner & 0xffff;

    if (name->magic != magic || slot == 0 || slot > SOFT_MAX_SLOTS)
        return CUDA_ERROR_INVALID_VALUE;
    if (name->machine != soft_the_state->map->birth) {
        soft_log("an IPC handle is of another software GPU; remedy: the same HARP_SOFT_DIR for "
                 "both processes");
        return CUDA_ERROR_INVALID_VALUE;
    }
    /* as the driver: the process that made it cannot open it */
    return name->owner == our_owner() ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

bool soft_ipc_lives(uint64_t owner)
{
    struct soft_state *state = soft_the_state;
    int slot = (int)(owner & 0xffff) - 1;
    uint64_t word;

    if (slot < 0 || slot >= SOFT_MAX_SLOTS)
        return false;
    word = atomic_load(&state->map->slot[slot].state);
    return word == SOFT_SLOT_WORD(owner >> 16, SOFT_SLOT_LIVE) &&
           atomic_load(&state->map->slot[slot].left) == 0 && !soft_slot_is_dead(state, slot);
}

CUresult soft_ipc_open(const struct soft_ipc_name *name, int *fd)
{
    int32_t pid = 0;
    char path[64];
    struct stat st;

    if (soft_ipc_lives(name->owner))
        pid = soft_slot_pid(soft_the_state, (int)(name->owner & 0xffff) - 1);
    else
        return CUDA_ERROR_INVALID_HANDLE; /* its process is gone */
    if (pid <= 0) {
        soft_log("an IPC handle is of a process that cannot be seen from here; remedy: run both in "
                 "one pid namespace");
        return CUDA_ERROR_MAP_FAILED;
    }
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, (int)name->fd);
    *fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && errno == ENOENT)
        return CUDA_ERROR_INVALID_HANDLE;
    if (*fd < 0) {
        soft_log("an IPC handle of process %d cannot be opened: %s; remedy: run both as one user, "
                 "with /proc mounted, and raise 'ulimit -n' if descriptors are short",
                 (int)pid, strerror(errno));
        return CUDA_ERROR_MAP_FAILED;
    }
    if (fstat(*fd, &st) != 0 || (uint64_t)st.st_ino != name->ino || !S_ISREG(st.st_mode)) {
        close(*fd);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    return CUDA_SUCCESS;
}
