/* SPDX-License-Identifier: Apache-2.0
 *
 * How much memory a client may have without its program having asked for it: both ends know.
 */
#ifndef HARP_WIRE_LEASE_H
#define HARP_WIRE_LEASE_H

#define HARP_LEASE_LARGEST (1ull << 20) /* one: what drivers cut out of blocks of 2 MiB */
#define HARP_LEASE_FIRST   (2ull << 20) /* all of them, at first */
#define HARP_LEASE_MOST    (2ull << 20) /* and at most: as much may a stopped process strand */
#define HARP_LEASE_ITEMS   256u         /* of them, at most */
#define HARP_LEASE_COUNT   32u          /* of one ask */
#define HARP_LEASE_LEAVES                                                                          \
    (64ull << 20) /* that the device has free beside them; else there are none */

#endif
