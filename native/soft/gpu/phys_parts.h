/* SPDX-License-Identifier: Apache-2.0
 *
 * What phys.c and phys_share.c say to each other.
 */
#ifndef HARP_SOFT_PHYS_PARTS_H
#define HARP_SOFT_PHYS_PARTS_H

#include <pthread.h>

#include "soft/gpu/phys.h"

extern pthread_mutex_t soft_phys_lock; /* guards the common file, and what is shared */
extern _Atomic int soft_phys_ipc;      /* phys.c */

/* phys.c */
void soft_phys_discharge(struct soft_phys *phys); /* without the lock */
/* With the lock; the caller discharges and frees it without. */
void soft_phys_end(struct soft_phys *phys);

/* phys_share.c, with the lock. A new SHAREABLE one's file; 0 or -errno. */
int soft_phys_place(struct soft_phys *phys);
void soft_phys_forget(const struct soft_phys *phys); /* no import finds it any more */

#endif
