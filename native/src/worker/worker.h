/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-worker: one session's calls, made to a driver. src/wire/SESSION.md is what it keeps to.
 *
 *   session.c  who reads the ring, and on which thread a call is made
 *   call.c     one call: decode, prepare, make, answer or latch
 *   latch.c    errors of calls that nobody waited for
 *   prepare.c  what a driver takes in place of what was carried; put back by nobody
 *   transfer.c host bytes beyond a body's      host.c  functions of the client's
 *   image.c    module images by content        link.c  options of links, for as long as they live
 *   own.c      ops of HARP's own          wipe.c  what is left for nobody to read
 *   owner.c    what ends with what
 */
#ifndef HARP_WORKER_H
#define HARP_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "generated/cuda_abi.h"
#include "src/wire/adapt.h"
#include "src/wire/codec.h"
#include "src/wire/ring.h"
#include "src/worker/handles.h"
#include "src/worker/transfer.h"
#include "src/worker/wipe.h"
#include "src/worker/within.h"

#define LANES       64u
#define USED_MAX    8u  /* transfers of one call */
#define PACKED_MAX  16u /* parameter buffers of one call */
#define LIBRARY_MAX 16u /* options of a library */
#define IMAGE_MAX   (256ull << 20)

struct session;

/* What a call is made with, and by whom. Its thread's own, but for what session.c guards. */
struct lane {
    struct session *session;
    unsigned id;
    pthread_t thread;
    uint8_t *body, *arena, *reply; /* HARP_WIRE_BODY_BYTES, _ARENA_BYTES, _BODY_BYTES */
    /* The call that is being made. */
    uint64_t seq;
    unsigned place, flags;
    enum harp_handle missed; /* the kind of an id that nothing stands behind */
    bool at_end;             /* it names what is just behind memory of the session */
    const struct harp_wire_call *call;
    struct uses uses; /* handles that it names */
    struct within within;
    struct transfer *used[USED_MAX];
    unsigned used_count;
    struct harp_adapt_packed packed[PACKED_MAX];
    unsigned packed_count;
    struct {
        CUlibraryOption options[LIBRARY_MAX];
        void *values[LIBRARY_MAX];
    } library;
    CUlaunchConfig config;
    char *logs[2];
    size_t log_bytes[2];
    struct image *image;
    void *ticket;      /* that the call was given; see host.c */
    bool captured;     /* cuLaunchHostFunc */
    struct link *link; /* that the call makes, or ends */
    struct held freed; /* by the call; see wipe.c */
    uint64_t freed_serial;
    /* Generations of contexts: the call's own, and one that it has ended. */
    uint64_t context, generation, ended;
    struct wipe_kept *kept;
    unsigned kept_count, kept_room;
    /* session.c's. */
    pthread_cond_t go;
    struct order *first, **end;
    atomic_bool active, holding;
};

struct session {
    struct harp_ring ring;
    pthread_mutex_t put; /* ring.put */
    pthread_mutex_t lock;
    /* session.c's. lanes, first, end, queued_bytes: guarded by lock. */
    struct lane *lanes[LANES + 1];
    uint64_t queued_bytes;
    _Atomic uint32_t lead;
    struct order *held, **held_end;
    uint64_t held_bytes;
    atomic_uint host_calls; /* that the client has not answered */
    atomic_uint latches;
};

/* Says why on stderr, and ends the process: what it had goes with it, wiped. */
_Noreturn void session_end(const char *why);
/* The same without a word. Once: who comes later waits for the end. */
_Noreturn void session_over(int status);
/* Reads the ring until the session ends, by the calling thread and those of lanes. */
_Noreturn void session_run(struct session *s);
/* Around a call that the thread of `lane` makes while it may be the one who reads: somebody else
 * does if records come, all of them (wanted) or those of the session itself (not). Back before the
 * reply is put: after it the client may go on. */
void session_away(struct session *s, struct lane *lane, bool wanted);
void session_back(struct session *s, struct lane *lane, bool wanted);
/* After a record whose last call nobody waits for: other calls may begin. (After a reply somebody
 * may have given the lane the next one to do.) */
void session_ended(struct lane *lane);
/* Somebody has to read, for the client's answer to a function of its own. */
void session_attend(struct session *s);
/* Put a record, waiting for room. Sets record->seq. Wakes nobody. */
void session_put(struct session *s, struct harp_ring_record *record, const void *body);

/* Make the calls of a record, which lies in lane->body or in `body`. */
void call_record(struct lane *lane, const struct harp_ring_record *record, uint8_t *body);
/* Whether a stream captures, by the call's own idea of stream 0. */
bool call_captures(const struct lane *lane, uint64_t stream);
/* A call of the worker's to the client, which nobody waits for. */
void call_tell(struct session *s, unsigned op, unsigned lane, const uint64_t *args);

/* Before all others. */
/* Replace prepared slots of a decoded call, in `args`. 0 or a CUresult. */
CUresult prepare_call(struct lane *lane, unsigned *op, uint64_t *args);
/* After the call: logs to the client, memory of one call. `args` as the driver had them. */
void prepare_end(struct lane *lane);

/* cuLinkCreate's slots: arrays that live as long as the link. */
CUresult link_prepare(struct lane *lane, uint64_t *args);
/* Before one that ends a link: after it another may have the same handle. */
void link_before(struct lane *lane, unsigned op, const uint64_t *args);
/* After a call of the JIT linker: what it has changed is told. `carried`: the call's own slots. */
void link_after(struct lane *lane, unsigned op, CUresult result, const uint64_t *carried);

/* A call that nobody waits for has failed. */
void latch_keep(struct lane *lane, unsigned op, CUresult result);
/* What a call that is waited for answers: `result`, or what is kept. */
CUresult latch_surfaced(struct lane *lane, unsigned op, CUresult result);
/* A call that has succeeded may have ended a context, and what is kept for it. */
void latch_ended(struct session *s, unsigned op, const uint64_t *args);

/* What a handle ends with that a call has answered. */
struct owner owner_of(struct lane *lane, enum harp_handle kind);
/* The context that is current: lane->context, and which one that is. */
void owner_look(struct lane *lane);
/* What ends with a context: of its generation. */
struct node *owner_take_context(uint64_t generation);
/* They are no more, nor is memory of modules and graphs. `then`: of ranges, before the call. */
void owner_drop(struct node *ended, uint64_t then);
void owner_context_ended(uint64_t generation);

/* An op of HARP's own. */
CUresult own_call(struct lane *lane, struct harp_wire_call *call);

/* Memory that the client hands out by itself: asks for some, has given one to its program, has one
 * of its program's back. */
CUresult lease_ask(struct lane *lane, const uint64_t *args);
CUresult lease_take(const uint64_t *args);
CUresult lease_keep(struct lane *lane, const uint64_t *args);
void lease_context_ended(uint64_t generation);
/* After a call that has succeeded: what is spare is wanted back if little is left. */
void lease_look(struct lane *lane, const struct harp_wire_call *call);

/* The driver's function of an op, or its per-thread twin; NULL: it has none. */
void (*driver_fn(unsigned op, bool per_thread))(void);
/* A function by name; NULL: it has none. */
void (*driver_named(const char *name))(void);
/* 0, or `text` says why. */
int driver_open(const char *path, char *text, size_t size);
/* The same for the worker's own calls: what it has not, answers CUDA_ERROR_NOT_FOUND. */
void (*driver_own(const char *name))(void);
#define DRIVER(name) ((__typeof__(&name))(void *)driver_own(#name))

/* A host function's two slots: what the driver calls, and with what. One a call. -ENOMEM. */
int host_function(struct lane *lane, uint64_t ticket, bool once, CUhostFn *fn, void **data);
int host_callback(struct lane *lane, uint64_t ticket, CUstreamCallback *fn, void **data);
int host_destructor(struct lane *lane, uint64_t ticket, CUhostFn *fn, void **data);
/* After the call: how long its ticket lives. `args`: the call's own slots. */
void host_after(struct lane *lane, unsigned op, CUresult result, const uint64_t *args);
/* The client's answer to a call with that seq. */
void host_answered(struct session *s, uint64_t seq);

struct harp_wire_image;
/* The image, kept until image_give; NULL: not there. */
struct image *image_take(const struct harp_wire_image *wanted);
const void *image_data(const struct image *image);
uint64_t image_bytes(const struct image *image);
void image_give(struct image *image);
/* Whether it ends where it is said to; see whole.c. */
bool image_is_whole(const void *image, uint64_t bytes);
/* Keep a copy of it. 0, -EBADMSG: it is another one; -ENOMEM. */
int image_put(const struct harp_wire_image *image, const void *data, uint64_t bytes);

#endif
