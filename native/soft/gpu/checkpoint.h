/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: one process asks (checkpoint.c), a thread of the other carries it out
 * (checkpoint_self.c). The thread is the one that cuCheckpointProcessGetRestoreThreadId names.
 */
#ifndef HARP_SOFT_CHECKPOINT_H
#define HARP_SOFT_CHECKPOINT_H

#include "soft/gpu/context.h"

/* Our slot, and the thread that answers; soft_slot_take for what uses a device. < 0: no room. */
int soft_present(struct soft_state *state);
/* At the door: a call of the client's, which `flags` (SOFT_DOOR_*) describe, waits here while the
 * process is locked. */
void soft_checkpoint_wait(unsigned flags);

/* engine.c: the context has left its device, its streams idle; it goes on on `dev` as `client`. */
void soft_turn_leave_device(struct soft_turn *turn);
void soft_turn_enter_device(struct soft_turn *turn, int dev, int client);
/* phys_share.c: is there device memory of ours that others can reach, or the other way round? */
bool soft_phys_shared(void);

#endif
