/* SPDX-License-Identifier: Apache-2.0
 *
 * The edge of a capture. Whether a stream is being captured can be asked, but the answer may be old
 * at the call that goes by it, which would then spoil the capture that began between. So captures
 * begin while nobody is between question and call. Streams that join a capture do so unseen.
 */
#ifndef HARP_SHIM_EDGE_H
#define HARP_SHIM_EDGE_H

#include <stdbool.h>

/* Round a question and a call that goes by it and waits for nothing. False: a capture is about to
 * begin, and neither may be made. */
bool harp_edge_enter(void);
void harp_edge_leave(void);

/* For generated/shim_touch.c, round a call that begins a capture. Waits 0.1 s at most: a driver
 * whose queue is full keeps who is inside, perhaps until the caller has gone on. */
void harp_edge_begin(void);
void harp_edge_begun(void);

void harp_edge_forked(void);

#endif
