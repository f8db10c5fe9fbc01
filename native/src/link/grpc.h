/* SPDX-License-Identifier: Apache-2.0
 *
 * What gRPC adds to HTTP/2, as far as GpuSession needs it: messages behind a prefix of 5 bytes,
 * metadata, statuses. Pure: no I/O, no allocation. Everything here may come from a stranger.
 */
#ifndef HARP_LINK_GRPC_H
#define HARP_LINK_GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/wire/codec.h"
#include "src/wire/frame.h"

/* Numbers of the gRPC standard. */
enum harp_grpc_status {
    HARP_GRPC_OK = 0,
    HARP_GRPC_CANCELLED = 1,
    HARP_GRPC_UNKNOWN = 2,
    HARP_GRPC_INVALID_ARGUMENT = 3,
    HARP_GRPC_PERMISSION_DENIED = 7,
    HARP_GRPC_RESOURCE_EXHAUSTED = 8,
    HARP_GRPC_FAILED_PRECONDITION = 9,
    HARP_GRPC_ABORTED = 10,
    HARP_GRPC_UNIMPLEMENTED = 12,
    HARP_GRPC_INTERNAL = 13,
    HARP_GRPC_UNAVAILABLE = 14,
    HARP_GRPC_UNAUTHENTICATED = 16,
};
#define HARP_GRPC_STATUSES 17u

/* `UNAVAILABLE`; of numbers that are none: `UNKNOWN`. */
const char *harp_grpc_name(enum harp_grpc_status status);

/* A sentence for the user: longer ones are cut. */
#define HARP_GRPC_TEXT_BYTES 512u

/* --- messages --- */

#define HARP_GRPC_PREFIX_BYTES 5u
/* Largest message: a frame whose body is the largest. Stock clients take up to 4 MiB. */
#define HARP_GRPC_MESSAGE_BYTES (HARP_WIRE_BODY_BYTES + HARP_FRAME_HEADER_BYTES)

/* Write the prefix of a message of `bytes` that is not compressed. */
void harp_grpc_prefix(uint8_t prefix[HARP_GRPC_PREFIX_BYTES], uint32_t bytes);

/* Messages out of bytes as they come. */
struct harp_grpc_reader {
    uint8_t *data; /* the caller's, `limit` bytes, for a message that comes in parts; or NULL */
    uint32_t limit;
    uint32_t bytes, have; /* of the message under way */
    uint8_t prefix[HARP_GRPC_PREFIX_BYTES];
    uint8_t prefixed; /* bytes of the prefix that are there */
};

/* Take bytes from *data, up to *size, and move both on. 1: a message, valid until the next call,
 * in the input where it lay there in one piece; 0: all is taken; -EBADMSG: it is compressed, which
 * nobody has agreed to; -EMSGSIZE: it is larger than the limit; after these no further call.
 * -ENOBUFS: it comes in parts, and data is NULL: set it and call again. */
int harp_grpc_read(struct harp_grpc_reader *reader, const uint8_t **data, size_t *size,
                   const uint8_t **message, uint32_t *bytes);

/* Whether the bytes so far end within a message. */
bool harp_grpc_within(const struct harp_grpc_reader *reader);

/* --- metadata of a call --- */

#define HARP_GRPC_TOKEN_BYTES   512u
#define HARP_GRPC_SESSION_BYTES 128u

enum harp_grpc_method { HARP_GRPC_OTHER, HARP_GRPC_SESSION, HARP_GRPC_BULK };
#define HARP_GRPC_SESSION_PATH "/harp.api.v1.GpuSession/Session"
#define HARP_GRPC_BULK_PATH    "/harp.api.v1.GpuSession/Bulk"

/* `harp-resume`, either way. */
#define HARP_RESUME_TEXT 96u
/* `harp-bulk`, either way: connections for streams of Bulk, beside Session's own. */
#define HARP_BULK_TEXT 4u

/* What a client's headers said. Zeroed at first. */
struct harp_grpc_call {
    enum harp_grpc_method method;
    bool post, grpc, trailers;
    bool damaged; /* a header of ours was there twice, or too long */
    char token[HARP_GRPC_TOKEN_BYTES], session[HARP_GRPC_SESSION_BYTES];
    char table[HARP_TABLE_TEXT], resume[HARP_RESUME_TEXT], bulk[HARP_BULK_TEXT];
};

/* Take in one header, pseudo headers too; those that mean nothing to us are passed over. */
void harp_grpc_header(struct harp_grpc_call *call, const char *name, size_t name_size,
                      const char *value, size_t value_size);

/* What calls must bring. */
struct harp_grpc_rule {
    const char *token;   /* NULL: none is asked for, the certificate has said who it is */
    const char *session; /* NULL: any */
    const struct harp_table_id *own;
};

/* HARP_GRPC_OK, or the status to refuse it with, and `text` (HARP_GRPC_TEXT_BYTES). A call that is
 * no gRPC at all has call->grpc false: it is answered with HTTP's 415. */
enum harp_grpc_status harp_grpc_check(const struct harp_grpc_call *call,
                                      const struct harp_grpc_rule *rule, char *text);

/* --- going on after a broken connection (replay.h) --- */

#define HARP_RESUME_KEY_BYTES 33u

/* What a client says of its session: its own name for it, so that no other's is taken for it; the
 * number of this connection, 0: the first, which begins the session; messages taken so far. */
struct harp_resume {
    char key[HARP_RESUME_KEY_BYTES]; /* 32 hex digits */
    uint64_t attempt, taken;
};
void harp_resume_put(char text[HARP_RESUME_TEXT], const struct harp_resume *resume);
/* 0, or -EINVAL: that is none. */
int harp_resume_get(struct harp_resume *resume, const char *text);

/* What a server answers: messages taken so far, and how long it keeps the session (ms). */
void harp_resume_answer(char text[HARP_RESUME_TEXT], uint64_t taken, unsigned window_ms);
int harp_resume_answered(uint64_t *taken, unsigned *window_ms, const char *text);

/* What `harp-bulk` says; "": 0. -EINVAL: not 1 to HARP_BULK_MOST. */
#define HARP_BULK_MOST 8u
int harp_bulk_wish(unsigned *others, const char *text);

/* --- what a server answers --- */

struct harp_grpc_answer {
    unsigned http; /* :status */
    bool grpc, told;
    enum harp_grpc_status status; /* where told */
    char text[HARP_GRPC_TEXT_BYTES], table[HARP_TABLE_TEXT], resume[HARP_RESUME_TEXT];
    char bulk[HARP_BULK_TEXT];
};

/* Take in one header or trailer. */
void harp_grpc_answer_header(struct harp_grpc_answer *answer, const char *name, size_t name_size,
                             const char *value, size_t value_size);

/* How the call ended; where no grpc-status came, by HTTP's status, and text says so. */
enum harp_grpc_status harp_grpc_outcome(struct harp_grpc_answer *answer);

/* grpc-message: printable ASCII but `%`, the rest as %XX. `out` of 3 * strlen(text) + 1 bytes. */
void harp_grpc_percent(char *out, const char *text);
/* Back; what is no %XX stays. `size` > 0 bytes of `out`, NUL-terminated. */
void harp_grpc_unpercent(char *out, size_t size, const char *text, size_t text_size);

#endif
