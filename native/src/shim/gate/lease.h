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

#endif
