/* SPDX-License-Identifier: Apache-2.0
 *
 * What each file forgets when a session has ended and another takes its place. Only open.c calls
 * these, while no call of the program's is under way.
 */
#ifndef HARP_SHIM_REMOTE_FORGET_H
#define HARP_SHIM_REMOTE_FORGET_H

#include <stdbool.h>

/* With `answers` held: transfers and lent bytes. */
void harp_remote_forget_bulk(void);
/* The same: what was asked ahead. */
void harp_remote_forget_ahead(void);
/* Errors that stay, captures. */
void harp_remote_forget_calls(void);
void harp_remote_forget_contexts(void);
void harp_remote_forget_devices(void);
void harp_remote_forget_graphs(void);
/* Host functions. Their thread has ended: harp_remote_host_idle. */
void harp_remote_forget_host(void);
void harp_remote_forget_images(void);
void harp_remote_forget_logs(void);
/* The device's memory, and all that follows: arenas, addresses kept here, what is leased, whose
 * pinned memory is. */
void harp_remote_forget_ranges(void);
void harp_remote_forget_arenas(void);
void harp_remote_forget_room(void);
void harp_remote_forget_leases(void);
void harp_remote_forget_pinned(void);

/* Whether the thread of host functions is gone, or was never there. */
bool harp_remote_host_idle(void);

#endif
