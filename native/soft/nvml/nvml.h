/* SPDX-License-Identifier: Apache-2.0
 *
 * The software GPU's NVML: what its files know of each other.
 *
 * It reads the machine-wide state (soft/gpu/state.h) and nothing else: no device is opened, no slot
 * taken, so that looking costs nobody memory. All devices of the machine are shown, whatever
 * CUDA_VISIBLE_DEVICES says, as NVML does. What a software GPU does not have (temperature, power,
 * fans, ECC) is NOT_SUPPORTED, never invented.
 */
#ifndef HARP_SOFT_NVML_H
#define HARP_SOFT_NVML_H

#include "generated/nvml_abi.h"
#include "soft/gpu/state.h"

/* The state, between init and shutdown. NVML_ERROR_UNINITIALIZED otherwise. */
nvmlReturn_t soft_nvml_state(struct soft_state **state);
/* The same, and which device a handle is; NULL or strange: INVALID_ARGUMENT. */
nvmlReturn_t soft_nvml_device(nvmlDevice_t handle, struct soft_state **state, int *dev);
nvmlDevice_t soft_nvml_handle(int dev);
/* Copies `text` with its NUL; INSUFFICIENT_SIZE if it does not fit. */
nvmlReturn_t soft_nvml_text(const char *text, char *out, unsigned length);
void soft_nvml_unimplemented(const char *name);
/* "GPU-" and the UUID in the usual form. */
void soft_nvml_uuid(const struct soft_state *state, int dev, char text[48]);

/* All slots at once; malloc'ed, NULL without memory. */
struct soft_slot *soft_nvml_slots(struct soft_state *state, int *count);

#endif
