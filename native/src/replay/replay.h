/* SPDX-License-Identifier: Apache-2.0
 *
 * One call of a trace, made to a driver.
 */
#ifndef HARP_REPLAY_H
#define HARP_REPLAY_H

#include <stdint.h>

#include "src/wire/adapt.h"

/* What the caller gives and gets. Callbacks are called in harp_replay_make, on its thread. */
struct harp_replay_call {
    /* in */
    uint32_t op;
    uint32_t spare;
    void (*fn)(void);        /* the driver's function of that op */
    void (*launch_ex)(void); /* its cuLaunchKernelEx, for cooperative launches */
    uint8_t *request;        /* read, and by asynchronous calls later on */
    uint64_t request_bytes;
    uint8_t *arena; /* outputs and structs; a driver may keep those of cuLinkCreate */
    uint64_t arena_bytes;
    /* Host bytes of a transfer, in memory that stays until the stream has passed; 0 or -errno. */
    int (*transfer)(int way, uint64_t bytes, void **data, uint64_t *id);
    /* Bytes of an image; NULL: not there. */
    const void *(*image)(const uint8_t *sha256, uint64_t bytes);
    /* out */
    uint8_t *reply;
    uint64_t reply_room;
    uint64_t reply_bytes;
    uint64_t made;    /* the handle that the call made; 0: none */
    uint64_t took_ns; /* the driver's part */
    uint32_t result;
    uint32_t spare2;
};

/* 0: made, see result; a negative errno: not made (-EINVAL: no such body; -ENOENT: an image or
 * bytes are not there), or, with result set, -ENOTSUP: made, and what it answered cannot be said.
 */
__attribute__((visibility("default"))) int harp_replay_make(struct harp_replay_call *call);

/* --- prepare.c --- */

struct harp_replay_prepared {
    struct harp_adapt_packed packed[16];
    unsigned count;
    CUlaunchConfig config; /* of a cooperative launch */
};

/* Replace what is carried by what a driver takes. 0 or a negative errno. */
int harp_replay_prepare(struct harp_replay_prepared *p, const struct harp_replay_call *call,
                        unsigned *op, uint64_t *args);

#endif
