/* SPDX-License-Identifier: Apache-2.0
 *
 * Functions of the program that a stream calls: they run here, by a thread that the first of them
 * starts.
 */
#ifndef HARP_SHIM_REMOTE_HOST_H
#define HARP_SHIM_REMOTE_HOST_H

#include "src/shim/remote/session.h"

/* A number that stands for a function; `kept`: it may be called again and again. */
CUresult harp_remote_ticket(CUhostFn fn, void *data, bool kept, uint64_t *ticket);
/* Nobody will call it. */
void harp_remote_ticket_end(uint64_t ticket);
void harp_remote_ticket_of(uint64_t ticket, CUhostFn *fn, void **data);
/* Whether some function may still run, and write to the program's memory. */
bool harp_remote_host_may_write(void);
/* With `answers` held: the stream is there, and goes on when `seq` has been answered; 0: nobody
 * waits for it. -ENOMEM. */
int harp_remote_host_call(uint64_t ticket, uint64_t stream, CUresult status, uint64_t seq);

#endif
