/* SPDX-License-Identifier: Apache-2.0
 *
 * The body codec: what a call of the driver API looks like on a wire, and in a trace.
 *
 * A call is its op and one 64-bit slot a parameter, as C passes it: a number, or a pointer. The
 * tables of generated/wire_ops.c, made from native/api, say what each slot is; the code here walks
 * them. Four functions, two on either side:
 *
 *   client  put_request ──► body ──► get_request  worker, which makes the call
 *   client  get_reply   ◄── body ◄── put_reply    worker
 *
 * Nothing is trusted that comes off the wire: every length is checked against the body and against
 * the parameter that the driver will go by, decoded memory comes from an arena of the caller's
 * (never malloc), handles and device addresses pass the caller's hooks, and neither host pointers
 * nor paths exist in any body. A body has one encoding: what is accepted, encodes to the same
 * bytes.
 *
 * All functions: thread-safe on different calls, no allocation, no I/O, errno untouched. They
 * answer 0, a hook's error, or:
 *
 *   -EINVAL   no such op, or a body that says something else than its op
 *   -E2BIG    more than HARP_WIRE_BODY_BYTES, or than the arena has room for
 *   -ENOTSUP  an attribute, option or union member that the rows do not describe; host memory in a
 *             call that may name none; a pointer that must be NULL and is not
 *
 * A slot of the class "prepared" (native/api/wire.py: packed, image, ticket) is not what the
 * program passed: the client has put the address of a harp_wire_packed (a kernel's parameters as
 * the kernel reads them) or harp_wire_image (an image's hash), or a ticket, there.
 */
#ifndef HARP_WIRE_CODEC_H
#define HARP_WIRE_CODEC_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/wire_ops.h"

/* Largest body. A frame stays below the 4 MiB that a stock gRPC receives at most. */
#define HARP_WIRE_BODY_BYTES (1u << 20)
/* Host bytes up to this size lie in the body, more go as a transfer. */
#define HARP_WIRE_INLINE_BYTES (64u << 10)
/* An arena of this size is enough for every body that put_request makes: of one op, the arrays that
 * the body does not hold itself are at most three. */
#define HARP_WIRE_ARENA_BYTES (4 * HARP_WIRE_BODY_BYTES)
#define HARP_WIRE_SLOTS       16u

enum harp_wire_way {
    HARP_WIRE_SEND,  /* host bytes to the worker */
    HARP_WIRE_FETCH, /* host bytes to the client, for memory that it named */
    HARP_WIRE_LEND,  /* host bytes to the client, for memory that it makes */
};

/* What a side knows and the codec does not. NULL: handles and addresses pass as they are, and what
 * would be a transfer is -E2BIG. A hook answers 0 or a negative errno, which ends the call. */
struct harp_wire_side {
    void *ctx;
    /* Client: a handle of the program's <-> its id. Worker: the driver's <-> its id; id_of mints an
     * id for a handle that has none. 0 <-> 0, and for streams 1, 2 (legacy, per thread) are never
     * asked. A function's id may be a kernel's: drivers take one for the other. */
    int (*id_of)(void *ctx, enum harp_handle kind, uint64_t value, uint64_t *id);
    int (*value_of)(void *ctx, enum harp_handle kind, uint64_t id, uint64_t *value);
    /* Client: the id of a handle that this call makes. */
    int (*mint)(void *ctx, enum harp_handle kind, uint64_t *id);
    /* A device address that came off the wire, not 0. Worker: -EFAULT unless it is the session's:
     * with unified addresses a driver would follow it into the worker's own memory. */
    int (*device)(void *ctx, uint64_t address);
    /* More than HARP_WIRE_INLINE_BYTES, or an asynchronous fetch. SEND, FETCH: the client has *data
     * and answers *id, the worker has *id and answers *data; LEND: the other way round. */
    int (*transfer)(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id);
    /* All host bytes are transfers, however few: bodies of traces. */
    bool apart;
};

struct harp_wire_call {
    uint16_t op;
    uint64_t args[HARP_WIRE_SLOTS];
    uint32_t result; /* CUresult, in replies */
    /* The handle that the call makes: its kind (0: none), id, and slot. The worker binds the id to
     * what the driver put behind the slot; the client puts its own handle there. */
    enum harp_handle made_kind;
    uint64_t made_id;
    unsigned made_slot;
    /* The codec's: elements of each output, as the request said. */
    uint64_t room[HARP_WIRE_SLOTS];
};

struct harp_wire_op; /* table.h */

struct harp_wire_buffer {
    uint8_t *data;
    uint64_t size, used;
};

/* The op's table row; NULL: no such op. */
const struct harp_wire_op *harp_wire_op(unsigned op);

/* Append the request of call->op, args to `body`. */
int harp_wire_put_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *body);

/* Read all of `body` as a request of call->op: args point into `arena` and, for host bytes, into
 * the body. Both must outlive the call; outputs are zeroed. */
int harp_wire_get_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *body, struct harp_wire_buffer *arena);

/* Append result and outputs of a call that get_request read. -E2BIG: there are more than a body has
 * room for, and the worker answers an error instead. */
int harp_wire_put_reply(struct harp_wire_call *call, const struct harp_wire_side *side,
                        struct harp_wire_buffer *body);

/* Read all of `body` as the reply to a call that put_request sent: writes through its args. What
 * the driver only lends is put into `arena`, for the caller to keep. Outputs are left as they were
 * if the result is an error, unless the op says that they count all the same. */
int harp_wire_get_reply(struct harp_wire_call *call, const struct harp_wire_side *side,
                        struct harp_wire_buffer *body, struct harp_wire_buffer *arena);

/* Host sides of strided copies: rows lie closely packed, from their first byte on. Else the driver
 * would read or write beyond the bytes that a transfer has. */
int harp_wire_check_CUDA_MEMCPY2D_v2(const void *item);
int harp_wire_check_CUDA_MEMCPY3D_v2(const void *item);
int harp_wire_check_CUDA_MEMCPY3D_PEER_v1(const void *item);

#endif
