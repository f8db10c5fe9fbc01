/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy IPC: a handle of 64 bytes names a descriptor of the process that made it, which another
 * process of the same user, in the same pid namespace, opens through /proc.
 */
#ifndef HARP_SOFT_IPC_H
#define HARP_SOFT_IPC_H

#include "soft/gpu/phys.h"
#include "soft/gpu/soft.h"

struct soft_ipc_name { /* begins each handle */
    uint32_t magic;
    int32_t fd;
    uint64_t machine; /* whose state the owner is of */
    uint64_t owner;   /* the process: incarnation << 16 | slot + 1 */
    uint64_t ino;     /* of the file: descriptors are used again */
};

/* Names a file of this process. */
void soft_ipc_name(struct soft_ipc_name *name, uint32_t magic, const struct soft_file *file);
/* Is it a handle of that kind, of this machine, and not of this process? CUDA_SUCCESS, or why not.
 */
CUresult soft_ipc_check(const struct soft_ipc_name *name, uint32_t magic);
CUresult soft_ipc_open(const struct soft_ipc_name *name, int *fd);
/* Is the process that an owner word names still there? */
bool soft_ipc_lives(uint64_t owner);

/* ipc_event.c: the state of an interprocess event. */
struct soft_ipc_event;
struct soft_ipc_event *soft_ipc_event_make(void); /* NULL: no memory, or no file */
void soft_ipc_event_drop(struct soft_ipc_event *event);
/* A record is submitted: its number. It is reached, at that instant. */
uint32_t soft_ipc_event_begin(struct soft_ipc_event *event);
void soft_ipc_event_end(struct soft_ipc_event *event, uint32_t number, uint64_t end_ns);
uint32_t soft_ipc_event_latest(struct soft_ipc_event *event);
/* Is record `number` reached? A record of a process that is gone counts as reached: what stood
 * before it was torn down, and nothing will ever come. */
bool soft_ipc_event_ready(struct soft_ipc_event *event, uint32_t number);
/* Waits for it; returns when that was. Gives up when the process exits, or `ctx` is poisoned. */
uint64_t soft_ipc_event_wait(struct soft_ipc_event *event, uint32_t number, struct soft_ctx *ctx);
void soft_ipc_event_name(struct soft_ipc_event *event, CUipcEventHandle *handle);
CUresult soft_ipc_event_open(const CUipcEventHandle *handle, struct soft_ipc_event **out);

#endif
