/* SPDX-License-Identifier: Apache-2.0
 *
 * Settings of the compute engine's time slices: whoever makes the state decides, all processes of
 * the machine read them there.
 */
#ifndef HARP_SOFT_STATE_KNOBS_H
#define HARP_SOFT_STATE_KNOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct soft_profile;
struct soft_shared;

#define SOFT_KNOB_UNSET UINT64_MAX /* as the device's profile has it */

/* Reads HARP_SOFT_SLICE_US and HARP_SOFT_SWITCH_US (microseconds, out in ns). False: no number or
 * out of range; `why` says which, its limits and what to do. */
bool soft_knobs_read(uint64_t *slice_ns, uint64_t *switch_ns, char *why, size_t why_bytes);
uint64_t soft_knobs_slice_ns(const struct soft_shared *map, const struct soft_profile *profile);
uint64_t soft_knobs_switch_ns(const struct soft_shared *map, const struct soft_profile *profile);

#endif
