/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection to harp-arbiter (include/harp/lease.h): one per process, made at the first use
 * that needs an answer, made again when it is lost, dropped in a forked child.
 *
 * Lock order: session > gate > swap > all others, each taken alone > send. Incoming messages are
 * handled with the session lock held; handlers never call the driver and never wait.
 */
#ifndef HARP_SHIM_SESSION_H
#define HARP_SHIM_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "harp/lease.h"

struct harp_device { /* as HARP_DEVICE said last */
    bool known;      /* on this connection */
    bool ever;       /* on any: its number and what we hold there stay */
    uint32_t wire;   /* the arbiter's number */
    uint8_t uuid[16];
    uint64_t limit_bytes, capacity_bytes, slack_bytes, overhead_bytes;
    uint32_t share_ppm, limit_ppm;
};

uint64_t harp_now_ns(void);

/* Connects if need be, waiting at most HARP_MEM_WAIT_NS. False: nobody there. */
bool harp_session_ready(void);
bool harp_session_live(void);
/* Time lanes that the arbiter schedules: 1 or 2. */
unsigned harp_session_lanes(void);
/* Whether the arbiter knows leases of that class; an older one does not know all. */
bool harp_session_counts(uint32_t cls);
/* Whether the connection is this process's, not one of before a fork. */
bool harp_session_own(void);
/* Index of the device with this uuid, -1 if this tenant has no grant for it. Needs `ready`. */
int harp_session_device(const uint8_t uuid[16]);
/* Index of some device that is granted, -1: none. For what is on no device. */
int harp_session_any(void);
/* A copy of what is known of device `dev`. */
struct harp_device harp_session_about(int dev);
/* The most unused lease that may be kept there. Takes no lock. */
uint64_t harp_session_slack(int dev);
/* Share of wall time that device `dev` may be used for on one's own account, in ppm; 0: all of it.
 * Session lock held. */
uint32_t harp_session_rate(int dev);
/* Whether any device has a memory limit; true as well while nobody can be asked. */
bool harp_session_limited(void);

/* Sends `msg` (op, dev, cls, bytes) and waits for the answer, at most HARP_MEM_WAIT_NS and a bit,
 * reconnecting meanwhile. 0: `msg` is the answer. -1: none came. */
int harp_session_ask(struct harp_msg *msg);
/* Sends and does not wait; dropped when there is no connection. */
void harp_session_tell(struct harp_msg *msg);

/* Starts the service thread (all signals blocked, small stack). Idempotent. False: no thread. */
bool harp_session_serve(void);
/* The same at the next question, while its answer is on its way: it takes about as long. */
void harp_session_serve_soon(void);
/* Wakes the service thread: the time gate has something to do. */
void harp_session_wake(void);

/* --- implemented by memory.c, context.c, turn.c, track.c; called with the session lock held ----
 */
void harp_memory_granted(const struct harp_msg *msg, bool asked);
uint64_t harp_memory_recall(int dev, uint64_t bytes);
uint64_t harp_memory_leased(int dev, uint32_t cls);
void harp_memory_forked(void);
void harp_contexts_forked(void);
void harp_host_forked(void);
void harp_code_forked(void);
void harp_limit_forked(void);
void harp_local_forked(void);
void harp_time_open_gate(const struct harp_msg *msg);
void harp_time_close_gate(const struct harp_msg *msg);
void harp_time_connection(bool up, unsigned lanes);
void harp_time_forked(void);
/* round.c: one round of the service thread; how long it may sleep, -1: until woken. No lock held.*/
int64_t harp_time_round(void);

#endif
