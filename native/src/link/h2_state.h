/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of an HTTP/2 connection share: h2.c (session and callbacks), call.c (headers),
 * stream.c (messages that come), out.c (what goes).
 */
#ifndef HARP_LINK_H2_STATE_H
#define HARP_LINK_H2_STATE_H

#include <nghttp2/nghttp2.h>

#include "src/link/h2.h"

/* What one write may gather: large bodies by reference, the rest copied to `copied`. A frame of
 * DATA takes at most half of it, and is put off while half is taken. */
#define H2_PIECES       64
#define H2_COPIED_BYTES (64u << 10)
/* And behind it one of nghttp2's own frames, or as much of it as nghttp2 gives at a time. */
#define H2_CHUNK_BYTES (20u << 10)
/* Below this a body is copied: cheaper than a piece of its own, and than a TLS record. */
#define H2_COPY_BELOW 2048u
/* Of DATA, both ways. The protocol's 16 KiB cost a header and a record each. */
#define H2_FRAME_BYTES (256u << 10)
#define H2_READ_BYTES  (256u << 10)

struct harp_h2_stream {
    struct harp_h2 *h2;
    struct harp_h2_stream *next, **link; /* of the connection's */
    int32_t id;
    void *data;
    size_t header_bytes;
    union { /* headers of the other side */
        struct harp_grpc_call call;
        struct harp_grpc_answer answer;
    };
    bool began;   /* the handler knows of it */
    bool later;   /* and has not answered it yet; server */
    bool told;    /* end has been called, or must not be */
    bool mute;    /* what comes is passed over */
    bool ended;   /* the peer has half-closed */
    bool closing; /* this side ends after its queue */
    bool asleep;  /* nghttp2 waits until there is something to send */
    bool full;    /* put has said -EAGAIN */
    bool waiting; /* the reader holds a message that the handler would not take */
    bool over;    /* nghttp2 has forgotten it, and the handler has not taken all yet; client */
    bool broken;  /* the connection was, before its end */
    bool busy;    /* in take: resume from within does nothing */
    enum harp_grpc_status status;
    char text[HARP_GRPC_TEXT_BYTES];
    char resume[HARP_RESUME_TEXT], bulk[HARP_BULK_TEXT]; /* of our answer */

    struct harp_grpc_reader reader;
    uint32_t waiting_bytes;
    uint8_t *held; /* came behind a message that waits */
    size_t held_from, held_to, held_room;

    struct harp_h2_message *first, **last; /* to be sent */
    size_t queued, sent;                   /* bytes of all; of the first one, sent so far */
};

struct harp_h2 {
    nghttp2_session *session;
    struct harp_h2_handler handler;
    struct harp_io io;
    struct harp_h2_limits limits;
    const char *table;
    void *owner;
    bool server, draining, failed, heard;
    struct harp_h2_stream *streams;
    unsigned calls, bad;
    char why[128];
    size_t held;

    struct iovec pieces[H2_PIECES + 1];
    int from, count; /* pieces[from..count) are to be written */
    size_t gathered, copied_bytes;
    struct harp_h2_message *done; /* to be released when all pieces are written */
    uint8_t copied[H2_COPIED_BYTES + H2_CHUNK_BYTES];
    uint8_t read[H2_READ_BYTES];
};

/* h2.c */
struct harp_h2_stream *h2_new_stream(struct harp_h2 *h2);
void h2_free_stream(struct harp_h2_stream *stream);
void h2_end(struct harp_h2_stream *stream, enum harp_grpc_status status, const char *text);

/* stream.c */
void h2_take(struct harp_h2_stream *stream, const uint8_t *data, size_t size);
void h2_peer_closed(struct harp_h2_stream *stream);
void h2_fail(struct harp_h2_stream *stream, enum harp_grpc_status status, const char *text);
void h2_drop_held(struct harp_h2_stream *stream);

/* call.c */
nghttp2_nv h2_header(const char *name, const char *value);
void h2_answer(struct harp_h2_stream *stream);
void h2_refuse(struct harp_h2_stream *stream);

/* out.c */
nghttp2_data_provider h2_provider(struct harp_h2_stream *stream);
int h2_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                 nghttp2_data_source *source, void *user);
void h2_drop_queue(struct harp_h2_stream *stream);
void h2_release(struct harp_h2_message *list);

#endif
