/* SPDX-License-Identifier: Apache-2.0
 *
 * Captures in progress: shared by capture.c (what the core asks) and capture_api.c (cuStream*).
 * soft_graph_lock guards all of it.
 */
#ifndef HARP_SOFT_CAPTURE_STATE_H
#define HARP_SOFT_CAPTURE_STATE_H

#include "soft/gpu/capture.h"
#include "soft/gpu/graph.h"

struct soft_capture_stream {    /* a stream that takes part */
    struct soft_stream *stream; /* counted reference */
    CUgraphNode *deps;          /* what its next node depends on */
    CUgraphEdgeData *edges;     /* of each: all plain; made when asked for */
    size_t count, room;
    struct soft_capture_stream *next;
};

struct soft_capture {
    struct soft_capture *next; /* of all */
    uint64_t id;
    CUstreamCaptureMode mode;
    pthread_t thread; /* that began it */
    struct soft_graph *graph;
    bool own_graph; /* made for it: not so with cuStreamBeginCaptureToGraph */
    bool invalid;
    struct soft_stream *origin;
    struct soft_capture_stream *streams;
};

extern struct soft_capture *soft_captures; /* all in progress */
/* Captures in progress, and events that remember one: 0 lets everybody pass. */
extern _Atomic unsigned soft_capture_active;

/* The capture a stream takes part in; NULL: none. */
struct soft_capture *soft_capture_of(const struct soft_stream *stream);
/* Invalidates it; returns `why`. */
CUresult soft_capture_spoil(struct soft_capture *capture, CUresult why);

struct soft_capture_stream *soft_capture_find(struct soft_capture *capture,
                                              const struct soft_stream *stream);
CUresult soft_capture_join(struct soft_capture *capture, struct soft_stream *stream,
                           struct soft_capture_stream **out);
/* Unites: a dependency there already is not added again. */
CUresult soft_capture_depend(struct soft_capture_stream *stream, const CUgraphNode *nodes,
                             size_t count);
/* Takes all its streams out and frees it; the graph stays. */
void soft_capture_end(struct soft_capture *capture);
void soft_capture_begun(struct soft_capture *capture); /* puts it among all */
/* How this thread heeds captures (cuThreadExchangeStreamCaptureMode). */
CUstreamCaptureMode soft_capture_thread_mode(void);
void soft_capture_thread_mode_set(CUstreamCaptureMode mode);
/* While on, soft_capture_check_legacy() refuses but spoils nothing (state queries). */
void soft_capture_peek(bool on);

#endif
