/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames: what a session's stream, its bulk streams and its shared-memory rings carry.
 *
 * On a stream a frame is a protobuf message (harp/api/v1/session.proto), so that any gRPC speaks
 * it: its header is at most HARP_FRAME_HEADER_BYTES and the body comes last, so that a sender puts
 * the header in front of bytes that lie elsewhere. Fields are written in order, without those that
 * are 0, and read in any order; unknown ones are skipped.
 *
 * A body is one call (codec.h) or a pack of them. Ops below HARP_OP_FIRST are HARP's own.
 */
#ifndef HARP_WIRE_FRAME_H
#define HARP_WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>

/* seq, ack, at, of: 1 + 10; op, flags, lane: 1 + 5; body: 1 + 5 bytes of length */
#define HARP_FRAME_HEADER_BYTES 68u
/* Calls of one pack lie at multiples of 4: u16 op, u16 flags, u32 bytes, body. */
#define HARP_PACK_HEADER_BYTES 8u

enum harp_own_op {
    HARP_OP_PACK = 1,  /* body: calls one after another, none of them a pack */
    HARP_OP_TAKEN = 2, /* between links: `ack` messages of the other direction are taken in */
    HARP_OP_FIRST = 64,
};

enum harp_frame_flags {
    HARP_FRAME_REPLY = 1u << 0,      /* body: CUresult, outputs */
    HARP_FRAME_WANTED = 1u << 1,     /* a reply is waited for */
    HARP_FRAME_PER_THREAD = 1u << 2, /* stream 0 is the calling thread's own (_ptsz, _ptds) */
    HARP_FRAME_REVERSE = 1u << 3,    /* the worker's own; BULK: bytes that are to come back */
    HARP_FRAME_BULK = 1u << 4,       /* body: bytes of the transfer `ack` names */
    HARP_FRAME_END = 1u << 5,        /* the last bytes of a transfer */
};

struct harp_frame {
    uint64_t seq; /* of this direction, from 1; 0: outside the order (bulk) */
    uint64_t ack; /* of a reply: what it answers; BULK: its transfer; else the last seq taken in */
    uint32_t op, flags;
    uint32_t lane;   /* which thread of the program; 0: none */
    uint64_t at, of; /* of BULK that is spread: where in its transfer, and the bytes of that one */
    const uint8_t *body;
    uint32_t bytes; /* of body */
};

/* Write the header of a frame whose body follows; bytes written. Answers how many. */
size_t harp_frame_put(uint8_t header[HARP_FRAME_HEADER_BYTES], const struct harp_frame *frame);

/* Read one message. 0, or -EINVAL: no such message; -E2BIG: its body is beyond what a body may be.
 * body points into `data`. */
int harp_frame_get(struct harp_frame *frame, const uint8_t *data, size_t size);

/* Start a call in a pack at data + *used, its body to follow. 0 or -E2BIG. */
int harp_pack_put(uint8_t *data, size_t size, size_t *used, uint16_t op, uint16_t flags,
                  uint32_t bytes);

/* The next call of a pack, from *used on: fills op, flags, body, bytes. 1; 0: no more; -EINVAL. */
int harp_pack_get(struct harp_frame *call, const uint8_t *data, size_t size, size_t *used);

/* What both sides of a session must have the same of, said in its first words. */
struct harp_table_id {
    uint32_t format, cuda;
    uint8_t hash[32];
    char version[32]; /* of HARP, NUL-terminated */
};

/* This build's. */
void harp_table_own(struct harp_table_id *id, const char *version);

/* As the metadata `harp-table` has it: `format cuda hash version`, the hash in hex. `text` of
 * HARP_TABLE_TEXT bytes. */
#define HARP_TABLE_TEXT 128u
void harp_table_put(char text[HARP_TABLE_TEXT], const struct harp_table_id *id);

/* 0, or -EINVAL: that is none. */
int harp_table_get(struct harp_table_id *id, const char *text);

/* 0: they may talk. -EPROTO: not, and `text` says why, with both versions, and what to do. */
int harp_table_compare(const struct harp_table_id *own, const struct harp_table_id *other,
                       char *text, size_t size);

#endif
