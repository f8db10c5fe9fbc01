/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of libharp's own, and waiting for a while.
 */
#ifndef HARP_SHIM_THREAD_H
#define HARP_SHIM_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Detached, with all signals blocked and a small stack. errno tells why not. */
bool harp_thread_start(void *(*run)(void *));
/* The same, with a stack for functions of the program's. */
bool harp_thread_start_roomy(void *(*run)(void *));
/* Until the condition is signalled, at most so long; its lock is held. */
void harp_wait_ns(pthread_cond_t *on, pthread_mutex_t *lock, uint64_t ns);

#endif
