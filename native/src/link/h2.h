/* SPDX-License-Identifier: Apache-2.0
 *
 * One HTTP/2 connection with gRPC calls on it, either side, over any byte stream: nghttp2 does the
 * frames, this file's parts do what gRPC and a stranger at the other end ask for.
 *
 *   io.recv ─► h2.c ─► stream.c ─► handler.message     (held back: at most window + one message)
 *   io.send ◄─ out.c ◄─ harp_h2_put                    (held back: at most limits.queue + one)
 *
 * One thread. Handlers may call anything here but readable, flush and free.
 */
#ifndef HARP_LINK_H2_H
#define HARP_LINK_H2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "src/link/grpc.h"

#define HARP_IO_ROOM (16u << 10)

/* A byte stream that does not wait. recv: bytes; 0: its end. send: bytes taken of all pieces. Both
 * -EAGAIN, or another negative errno: it is broken. Called again after -EAGAIN, send gets the same
 * bytes again. */
struct harp_io {
    void *ctx;
    /* A recv that leaves HARP_IO_ROOM or more of its room empty has taken all there was, and what
     * comes later, the end too, is told by who waits: asking again would be a syscall in vain. */
    bool drains;
    ssize_t (*recv)(void *ctx, void *data, size_t size);
    ssize_t (*send)(void *ctx, const struct iovec *pieces, int count);
    /* Write what send has kept; NULL: it keeps nothing. 0, or as send. */
    int (*flush)(void *ctx);
};

struct harp_h2_limits {
    uint32_t window;  /* bytes a peer may send on a stream before they are taken */
    uint32_t queue;   /* bytes of a stream that wait to be sent, beyond which put says -EAGAIN */
    uint32_t streams; /* calls at a time; server */
    uint32_t refused; /* calls that ended badly, after which the connection is closed; server */
};
extern const struct harp_h2_limits harp_h2_default;

/* A message on its way out. The sender fills body, bytes and release; the body stays where it is
 * until then. `head` is the rest: gRPC's prefix, and what the sender puts behind it. */
struct harp_h2_message {
    struct harp_h2_message *next;
    void (*release)(struct harp_h2_message *message);
    const uint8_t *body;
    uint32_t bytes; /* of body */
    uint32_t head_bytes;
    uint8_t head[HARP_GRPC_PREFIX_BYTES + HARP_FRAME_HEADER_BYTES];
};

/* A message that is this frame; body as the frame's. Sets all but next and release. */
void harp_h2_frame(struct harp_h2_message *message, const struct harp_frame *frame);

struct harp_h2;
struct harp_h2_stream;

/* Bytes that all connections of this process have read and written so far, as HTTP/2 has them. Who
 * reads or writes holds the loop's lock. */
struct harp_traffic {
    uint64_t received, sent;
};
extern struct harp_traffic harp_traffic;

#define HARP_H2_LATER ((enum harp_grpc_status)1000)

struct harp_h2_handler {
    void *ctx;
    /* Server: a call has come, with right gRPC headers; whether they suffice is judged here. OK
     * begins it, and `table`, where not NULL, is answered as harp-table; HARP_H2_LATER begins it,
     * and harp_h2_accept or harp_h2_refuse answers; any other refuses it, with `text`
     * (HARP_GRPC_TEXT_BYTES), and nothing of it is kept. */
    enum harp_grpc_status (*begin)(void *ctx, struct harp_h2_stream *stream,
                                   const struct harp_grpc_call *call, char *text);
    /* Client: the server's first metadata is there. */
    void (*answered)(void *ctx, struct harp_h2_stream *stream,
                     const struct harp_grpc_answer *answer);
    /* A message, valid during the call. 0; -EAGAIN: not now, harp_h2_resume brings it again, and
     * the peer is held back meanwhile. */
    int (*message)(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes);
    /* The client will send no more. Server. */
    void (*closed)(void *ctx, struct harp_h2_stream *stream);
    /* After put has said -EAGAIN: it may be tried again. */
    void (*room)(void *ctx, struct harp_h2_stream *stream);
    /* It is over, and `stream` is gone with this call. Client: as the server said. Server: as it
     * said itself, or CANCELLED (the client has), UNAVAILABLE (the connection broke). Not called
     * for what begin refused. */
    void (*end)(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                const char *text);
};

/* 0 or -ENOMEM. `own_table` (may be NULL) is what a server says of itself; kept by the caller, as
 * handler and io are copied. */
int harp_h2_open(struct harp_h2 **out, bool server, const struct harp_h2_limits *limits,
                 const struct harp_h2_handler *handler, const struct harp_io *io,
                 const char *own_table);
/* Ends what still runs with UNAVAILABLE and `why`. */
void harp_h2_free(struct harp_h2 *h2, const char *why);

/* Read what is there. 0: nothing more now; 1: there may be more, come again; -EPIPE: the peer has
 * closed; -EPROTO: it spoke no HTTP/2, and has been told in a GOAWAY (flush, then free); or the
 * byte stream's errno. */
int harp_h2_readable(struct harp_h2 *h2);

/* Write what is to be written. 0: all; 1: the byte stream takes no more now; or an errno. */
int harp_h2_flush(struct harp_h2 *h2);

/* Which error of HTTP/2 one of the two sides has told the other, as a sentence; "": none. */
const char *harp_h2_why(const struct harp_h2 *h2);
/* Whether anything has ever come. */
bool harp_h2_heard(const struct harp_h2 *h2);
/* No call any more and none to come: close it. */
bool harp_h2_over(const struct harp_h2 *h2);
/* Calls under way. One whose headers are not all here, or that was refused, is none. */
unsigned harp_h2_calls(const struct harp_h2 *h2);
/* Say that no new calls are taken (GOAWAY); those there go on. */
void harp_h2_drain(struct harp_h2 *h2);

/* Client: begin a call. Strings are copied. 0, -ENOMEM, or -EPIPE: the server
 * takes no more. */
struct harp_h2_request {
    enum harp_grpc_method method;
    bool tls;
    const char *authority, *token, *session, *table;
    const char *resume, *bulk; /* as token: may be NULL */
    void *data;                /* harp_h2_data */
};
int harp_h2_call(struct harp_h2 *h2, const struct harp_h2_request *request,
                 struct harp_h2_stream **out);

/* Server, from begin on until it is answered: `harp-resume` and `harp-bulk` of the answer. */
void harp_h2_say_resume(struct harp_h2_stream *stream, const char *text);
void harp_h2_say_bulk(struct harp_h2_stream *stream, unsigned others);
/* Server: what begin has put off. */
void harp_h2_accept(struct harp_h2_stream *stream);
void harp_h2_refuse(struct harp_h2_stream *stream, enum harp_grpc_status status, const char *text);
/* In end: neither side has said so, the connection broke. */
bool harp_h2_broke(const struct harp_h2_stream *stream);

/* Hand over a message. 0: it will be released, sent or not; -EAGAIN: too many wait (room); -EPIPE:
 * this side has ended. Then it is still the caller's. */
int harp_h2_put(struct harp_h2_stream *stream, struct harp_h2_message *message);

/* Client: no more messages; what was put is sent. */
void harp_h2_close(struct harp_h2_stream *stream);
/* Server: end it with a status after what was put. Further messages are passed over. */
void harp_h2_finish(struct harp_h2_stream *stream, enum harp_grpc_status status, const char *text);
/* At once, without what was put. end follows, at the latest with the next flush. */
void harp_h2_cancel(struct harp_h2_stream *stream);

/* After message has said -EAGAIN: bring it again, and what came behind it. Of a call that has ended
 * meanwhile, end comes from within this one. */
void harp_h2_resume(struct harp_h2_stream *stream);

/* The user's pointer of a stream. */
void **harp_h2_data(struct harp_h2_stream *stream);
/* And that of the connection that the stream is on. */
void harp_h2_own(struct harp_h2 *h2, void *owner);
void *harp_h2_owner(const struct harp_h2_stream *stream);

/* For tests: bytes received and not taken yet, of all calls. */
size_t harp_h2_held(const struct harp_h2 *h2);

#endif
