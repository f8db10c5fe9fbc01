/* SPDX-License-Identifier: Apache-2.0
 *
 * From slots to a call of the driver: the last step of a worker, or of a replay.
 */
#ifndef HARP_WIRE_INVOKE_H
#define HARP_WIRE_INVOKE_H

#include <stdint.h>

/* Call `fn`, the driver's function of that op (its symbol, or the per-thread twin of it), with
 * decoded slots; answers its CUresult. Slots that are prepared (packed, image, ticket) must have
 * been replaced by what the driver takes. NOT_SUPPORTED: no op of the driver's. */
uint32_t harp_wire_invoke(unsigned op, void (*fn)(void), const uint64_t *args);

#endif
