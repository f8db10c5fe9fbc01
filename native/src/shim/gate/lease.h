/* SPDX-License-Identifier: Apache-2.0
 *
 * The process's one ledger, for the files of the memory gate.
 */
#ifndef HARP_SHIM_LEASE_H
#define HARP_SHIM_LEASE_H

#include "src/shim/gate/ledger.h"

/* Locks and returns the ledger. No driver call, no session call until harp_ledger_unlock(). */
struct harp_ledger *harp_ledger_lock(void);
void harp_ledger_unlock(void);

/* Linear memory that the driver made, of which `leased` is paid: recorded, and what is paid too
 * much goes back. *charged: what it costs; if that is more, the rest is the caller's affair. -1: no
 * host memory; nothing is recorded, all is given back. */
int harp_linear_charge(uint64_t ptr, uint64_t bytes, uint64_t owner, int dev, bool apart,
                       uint64_t leased, uint64_t *charged);
/* A block that was taken out is freed: what it cost goes back. Host memory too. */
void harp_linear_release(const struct harp_block *block);

/* host.c: pinned host memory, a block with `charged` and class HOST. False: no host memory for the
 * note; not known. */
bool harp_host_note(const struct harp_block *block);
bool harp_host_take(uint64_t at, struct harp_block *out);

#endif
