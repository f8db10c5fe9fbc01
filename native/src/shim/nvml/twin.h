/* SPDX-License-Identifier: Apache-2.0
 *
 * libnvidia-ml.so.1 as a tenant sees it: its own limit as the device's memory (twin.c), its own
 * processes (processes.c). Everything else is a jump to the real library.
 */
#ifndef HARP_SHIM_TWIN_H
#define HARP_SHIM_TWIN_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/nvml_abi.h"
#include "generated/shim_nvml_symbols.h"
#include "src/shim/backend/table.h"
#include "src/shim/entry/api.h"

#define REAL(name) ((__typeof__(&(name)))harp_real[HARP_SYM_##name])

/* Turns the sizes that NVML says into what the tenant shall see. False: not this tenant's device,
 * or nobody to ask: the real numbers are shown. */
bool harp_twin_memory(nvmlDevice_t device, uint64_t *free, uint64_t *total,
                      struct harp_shim_memory *memory);

#endif
