/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses of this process that are kept free of its own memory, since the device's lies there.
 */
#ifndef HARP_SHIM_REMOTE_ROOM_H
#define HARP_SHIM_REMOTE_ROOM_H

#include <stdint.h>

#define HARP_REMOTE_CHUNK 0x200000ull /* kept at once: drivers cut allocations out of as much */

/* Maps that, without access. -EEXIST: there is something. -ENOMEM: no room for it (ulimit -v), and
 * nothing is known to lie there. */
int harp_remote_hold(uint64_t at, uint64_t bytes);
/* What was held, whole chunks, is kept from here on. */
void harp_remote_held(uint64_t base, uint64_t bytes);
/* Keeps what is not kept yet of the device's addresses. -EEXIST: they are not free here. */
int harp_remote_reserve(uint64_t base, uint64_t bytes);
/* The log says that there is no place for memory, and what can be done. */
void harp_remote_taken(uint64_t address, uint64_t bytes);

#endif
