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
void soft_phys_punch(uint64_t offset, uint64_t bytes); /* of the common file */

/* phys_keep.c, with the lock. Keeps the pages of one that ends; false: they are not kept. */
bool soft_keep_put(struct soft_phys *phys);
/* Gives a new one pages that were kept, all zero; false: there are none of its size. */
bool soft_keep_take(struct soft_phys *phys);
void soft_keep_drop(struct soft_phys *phys); /* its parked mapping goes */
void soft_keep_forget(void);                 /* all that is kept goes: it lies in another file */

/* phys_share.c, with the lock. A new SHAREABLE one's file; 0 or -errno. */
int soft_phys_place(struct soft_phys *phys);
void soft_phys_forget(const struct soft_phys *phys); /* no import finds it any more */

#endif
