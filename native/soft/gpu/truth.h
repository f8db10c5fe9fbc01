/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of harp-soft-truth.
 */
#ifndef HARP_SOFT_TRUTH_H
#define HARP_SOFT_TRUTH_H

#include "soft/gpu/state.h"

/* Looks `hz` times a second until standard input ends, then says what it saw, one JSON object a
 * line: `samples`, of which `exact`, the longest gap between two, and for each device and process
 * group the most memory (without contexts) that was held at once, the dead included. Returns the
 * exit status. */
int truth_sample(struct soft_state *state, double hz);

#endif
