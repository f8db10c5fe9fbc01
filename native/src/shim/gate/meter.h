/* SPDX-License-Identifier: Apache-2.0
 *
 * Events, as the service thread uses them: with the gate's lock held on entry and exit, let go in
 * calls of the driver, inside the driver (harp_enter).
 */
#ifndef HARP_SHIM_METER_H
#define HARP_SHIM_METER_H

#include "src/shim/gate/gate.h"

/* Whether the service thread may end a bracket: on a per-thread stream only its thread could, and
 * on the legacy stream an event would be a barrier between streams that have none. Draining, it
 * must be ended all the same: nothing is launched meanwhile. */
bool harp_meter_may_end(const struct harp_meter_stream *s, bool draining);
/* Ends what is open on one stream that needs it. False: none needs. */
bool harp_meter_end_one(struct harp_timegate *g, uint64_t now);
/* Work of per-thread streams launched while the gate was free has no event: waits for all. */
void harp_meter_sync_per_thread(struct harp_timegate *g, unsigned lane);
/* Asks which brackets are done, and learns from them. */
void harp_meter_collect(struct harp_timegate *g);

#endif
