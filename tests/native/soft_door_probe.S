/* SPDX-License-Identifier: Apache-2.0
 * Doors before soft_door.c's probes. */
#include "soft/gpu/door.inc"
soft_door 0, probe_integers
soft_door 1, probe_floats
soft_door 60000, probe_mixed
