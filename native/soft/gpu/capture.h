/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream capture as seen by the entry points that submit, wait or allocate.
 *
 * Everything here costs one relaxed load while nothing captures. The rules are the driver's: a
 * capture has an origin stream and a mode; other streams join it by waiting for an event recorded
 * in it; a call that would tie a capturing stream to the outside is refused (900 unsupported, 902
 * merge, 905 isolation, 906 implicit, 907 captured event) and invalidates the capture: everything
 * in it fails with 901 until cuStreamEndCapture gets the streams out of it.
 */
#ifndef HARP_SOFT_CAPTURE_H
#define HARP_SOFT_CAPTURE_H

#include <stdbool.h>

#include "soft/gpu/soft.h"

/* cuEventRecord: true when `stream` captures, with the answer of the call in `result`. False: do
 * it for real (an older captured state of the event is forgotten). */
bool soft_capture_record(struct soft_stream *stream, CUevent event, CUresult *result);
/* cuStreamWaitEvent: true when `stream` captures or `event` was recorded in a capture. */
bool soft_capture_wait(struct soft_stream *stream, CUevent event, CUresult *result);
/* cuStreamQuery, cuStreamSynchronize and the like of one stream. */
CUresult soft_capture_check_stream(struct soft_stream *stream);
/* cuEventQuery, cuEventSynchronize, cuEventElapsedTime. */
CUresult soft_capture_check_event(CUevent event);
/* Calls the driver holds unsafe while a capture runs in a mode this thread must heed: context
 * synchronisation, waiting for events, synchronous copies, allocation and release of memory. */
CUresult soft_capture_check_unsafe(void);
/* Calls on a whole context: refused in every mode while a stream of it captures. */
CUresult soft_capture_check_context(const struct soft_ctx *ctx);
/* Use of the legacy stream while a blocking stream of `ctx` captures. */
CUresult soft_capture_check_legacy(const struct soft_ctx *ctx);
/* The stream or event goes away. */
void soft_capture_forget_stream(struct soft_stream *stream);
void soft_capture_forget_event(CUevent event);

#endif
