/* SPDX-License-Identifier: Apache-2.0
 *
 * The session on its ring (src/wire/SESSION.md): one a process at a time, opened by the first call
 * that needs it, over when the peer is gone. Another takes its place when the program asks for a
 * device again, and has no context left of this one. There is no thread: who waits for an answer
 * reads for all who do.
 *
 * All functions are callable from any thread. Those that answer an int answer 0 or a negative
 * errno: -EPIPE, the session is over.
 */
#ifndef HARP_SHIM_REMOTE_SESSION_H
#define HARP_SHIM_REMOTE_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "src/shim/remote/state.h"

/* The first call opens it. CUDA_SUCCESS, or what every call answers: NO_DEVICE, there is nobody;
 * SYSTEM_DRIVER_MISMATCH, another version; DEVICE_UNAVAILABLE, it is over; NOT_INITIALIZED, a child
 * made by fork. */
CUresult harp_remote_open(void);
/* Whether cuInit has been called, and the session is there: what all other calls ask first. */
CUresult harp_remote_ready(void);
void harp_remote_initialised(void);

/* Whether there was a session, and it is over: calls of a forked child's parent do not count. */
bool harp_remote_ended(void);
/* The same, but it is found out now whether the peer is gone: then the session is over. One
 * syscall. */
bool harp_remote_gone(void);
/* Another session in the place of one that is over. None of this thread's calls is under way.
 * CUDA_SUCCESS: it is there, by whosever doing. DEVICE_UNAVAILABLE: contexts of the old one live,
 * or calls in it do not come back. Others as harp_remote_open. */
CUresult harp_remote_again(void);

/* One call of a lane, to be answered or not. The current context goes ahead if the worker has
 * another one. */
struct harp_remote_call {
    uint32_t op, flags;
    bool anywhere; /* does not need the current context, which may have been destroyed */
    const uint8_t *body;
    uint32_t bytes;
    const uint64_t *moves; /* transfers that its body names, and that the worker is to be told of */
    unsigned n_moves;
};
/* -ESTALE: the current context has been destroyed. */
int harp_remote_tell(struct harp_lane *lane, const struct harp_remote_call *call);
/* Waits; the answer's body is put to `answer`, which has HARP_REMOTE_SCRATCH bytes. */
int harp_remote_ask(struct harp_lane *lane, const struct harp_remote_call *call, uint8_t *answer,
                    uint32_t *bytes);
/* The worker's thread of this lane has got another context by the call itself. */
void harp_remote_moved(struct harp_lane *lane);

/* --- host bytes: bulk.c ----------------------------------------------------------------------- */

/* The largest piece that one region has room for. */
uint64_t harp_remote_piece(void);
/* Bytes of the program, read now, in a region of their own: `id` names them. */
int harp_remote_send(const void *data, uint64_t bytes, uint64_t *id);
/* Room for bytes that a call will fetch to `data`. They are put there as soon as they have come,
 * or, `held`, when harp_remote_collect asks for them. */
int harp_remote_fetch(void *data, uint64_t bytes, bool held, uint64_t *id);
/* The call that would have named it is not made. */
void harp_remote_cancel(uint64_t id);
/* Bytes of which there are more than a region holds. The worker has been told of all of them, and
 * the lane's next call names them. */
int harp_remote_send_all(struct harp_lane *lane, const void *data, uint64_t bytes, uint64_t *id);
/* Of a call that has been answered: what it fetched is put in its place if it has succeeded. `now`:
 * it has to be there by then, else -EPROTO, and the session is over. */
int harp_remote_collect(uint64_t id, bool succeeded, bool now);
/* Until a transfer is over. */
int harp_remote_await(uint64_t id);
/* Until all are that fetch to any of these bytes. */
int harp_remote_settle(const void *data, uint64_t bytes);
/* Nothing that is still to come is written there: the program has been told of a failure. */
void harp_remote_forget(const void *data, uint64_t bytes);
/* What a call has lent: its caller's to free. NULL: there is no such thing. */
uint8_t *harp_remote_lent(uint64_t id, uint64_t bytes);

#endif
