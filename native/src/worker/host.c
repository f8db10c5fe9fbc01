/* SPDX-License-Identifier: Apache-2.0
 *
 * Host functions: the driver calls one of these, the client runs its own, and the stream goes on
 * when it has answered. Nobody else is kept from reading meanwhile (session_attend).
 */
#include <errno.h>
#include <stdlib.h>

#include "src/worker/handles.h"
#include "src/worker/worker.h"

#define TICKETS_MAX 65536u
/* Launches that are under way are fewer. */
#define RETIRED_MIN 4096u

/* A driver is given index and generation, and no address: what it still calls when the ticket is
 * another's is seen. */
struct ticket {
    struct session *session;
    uint64_t number;
    uint32_t generation;
    bool used, once;
    uint64_t exec, node; /* of a node whose parameters were set; exec 0: the graph's own */
    struct ticket *next; /* of the free, the set or the retired ones */
};

struct waiting {
    uint64_t seq;
    bool answered;
    struct waiting *next;
};

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answers = PTHREAD_COND_INITIALIZER;
static struct waiting *all_waiting;
static struct ticket tickets[TICKETS_MAX], *free_ones, *set_ones;
static unsigned ever; /* used */
/* Set, and replaced: launches that are under way may still call them. They are taken again when
 * there are no others, the oldest first, and the latest not at all. */
static struct ticket *retired, **retired_end = &retired;
static unsigned retired_count;

static void *data_of(const struct ticket *t)
{
    return (void *)((uintptr_t)t->generation << 16 | (uintptr_t)(t - tickets));
}

/* With lock held. NULL: it is over. */
static struct ticket *ticket_of(const void *data)
{
    struct ticket *t = &tickets[(uintptr_t)data % TICKETS_MAX];
    return t->used && data_of(t) == data ? t : NULL;
}

static void forget(const void *data)
{
    pthread_mutex_lock(&lock);
    struct ticket *t = ticket_of(data);
    if (t != NULL) {
        t->used = false;
        t->next = free_ones;
        free_ones = t;
    }
    pthread_mutex_unlock(&lock);
}

/* A copy, for it may be over when it has been called. */
static struct ticket called(const void *data)
{
    struct ticket copy = {.used = false};
    pthread_mutex_lock(&lock);
    const struct ticket *t = ticket_of(data);
    if (t != NULL)
        copy = *t;
    pthread_mutex_unlock(&lock); /* the end waits for others, which may want it */
    if (!copy.used)              /* the stream cannot go on as if it had been run */
        session_end("a host function is called that was replaced or refused long ago");
    return copy;
}

/* The body of a call of ours; its size. */
static uint32_t say(uint64_t ticket, uint64_t stream, CUresult status, uint8_t body[64])
{
    struct harp_wire_call call = {.op = HARP_OP_harpHostCall, .args = {ticket, stream, status}};
    struct harp_wire_buffer out = {body, 64, 0};
    return harp_wire_put_request(&call, NULL, &out) == 0 ? (uint32_t)out.used : 0;
}

static void run(void *data, CUstream stream, CUresult status)
{
    const struct ticket t = called(data);
    struct session *s = t.session;
    uint8_t body[64];
    uint64_t id = (uintptr_t)stream;
    struct waiting w = {.next = NULL};
    if (id > 2 && handles_id(HARP_HANDLE_CUstream, id, &id) != 0)
        id = 0;
    struct harp_ring_record r = {.op = HARP_OP_harpHostCall,
                                 .flags = HARP_FRAME_REVERSE | HARP_FRAME_WANTED};
    r.bytes = say(t.number, id, status, body);
    atomic_fetch_add(&s->host_calls, 1);
    /* Listed before the client can answer: it cannot be listed in between. */
    pthread_mutex_lock(&lock);
    session_put(s, &r, body);
    w.seq = r.seq;
    w.next = all_waiting;
    all_waiting = &w;
    pthread_mutex_unlock(&lock);
    harp_ring_wake(&s->ring);
    session_attend(s);
    pthread_mutex_lock(&lock);
    while (!w.answered)
        pthread_cond_wait(&answers, &lock);
    struct waiting **at = &all_waiting;
    while (*at != &w)
        at = &(*at)->next;
    *at = w.next;
    pthread_mutex_unlock(&lock);
    atomic_fetch_sub(&s->host_calls, 1);
    if (t.once)
        forget(data);
}

static void function(void *data)
{
    run(data, NULL, CUDA_SUCCESS);
}

static void callback(CUstream stream, CUresult status, void *data)
{
    run(data, stream, status);
}

/* A driver may call this inside any call of ours: it is told, and not waited for. */
static void destructor(void *data)
{
    const struct ticket t = called(data);
    uint64_t args[HARP_WIRE_SLOTS] = {t.number};
    call_tell(t.session, HARP_OP_harpHostCall, 0, args);
    forget(data);
}

/* --- for a call that is prepared --- */

static int issue(struct lane *lane, uint64_t number, bool once, void **data)
{
    if (lane->ticket != NULL)
        return -ENOMEM;
    pthread_mutex_lock(&lock);
    struct ticket *t = free_ones;
    if (t != NULL) {
        free_ones = t->next;
    } else if (ever < TICKETS_MAX) {
        t = &tickets[ever++];
    } else if (retired_count > RETIRED_MIN) {
        retired_count--;
        t = retired;
        retired = t->next;
    }
    if (t != NULL) {
        *t = (struct ticket){.session = lane->session,
                             .number = number,
                             .generation = t->generation + 1,
                             .used = true,
                             .once = once};
        *data = lane->ticket = data_of(t);
    }
    pthread_mutex_unlock(&lock);
    return t == NULL ? -ENOMEM : 0;
}

int host_function(struct lane *lane, uint64_t ticket, bool once, CUhostFn *fn, void **data)
{
    *fn = function;
    return issue(lane, ticket, once, data);
}

int host_callback(struct lane *lane, uint64_t ticket, CUstreamCallback *fn, void **data)
{
    *fn = callback;
    return issue(lane, ticket, true, data);
}

int host_destructor(struct lane *lane, uint64_t ticket, CUhostFn *fn, void **data)
{
    *fn = destructor;
    return issue(lane, ticket, true, data);
}

/* --- when it has been made --- */

/* A driver calls this when the graph, what it was made into and their launches are gone. */
static void released(void *data)
{
    forget(data);
}

/* The ticket lives as long as the graph. Where that cannot be said, for good. */
static void give(CUgraph graph, void *data)
{
    CUuserObject object;
    if (driver_named("cuUserObjectCreate") == NULL || graph == NULL ||
        DRIVER(cuUserObjectCreate)(&object, data, released, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) !=
            CUDA_SUCCESS)
        return;
    /* If that fails the object is left: it would take the ticket with it. */
    DRIVER(cuGraphRetainUserObject)(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE);
}

static CUgraph captured_in(const struct lane *lane, uint64_t stream)
{
    CUstreamCaptureStatus status;
    CUgraph graph = NULL;
    const bool own = (lane->flags & HARP_FRAME_PER_THREAD) != 0;
    const CUstream on = (CUstream)(uintptr_t)stream;
    if (driver_named("cuStreamGetCaptureInfo_v2") == NULL)
        return NULL;
    CUresult r = own ? DRIVER(cuStreamGetCaptureInfo_v2_ptsz)(on, &status, NULL, &graph, NULL, NULL)
                     : DRIVER(cuStreamGetCaptureInfo_v2)(on, &status, NULL, &graph, NULL, NULL);
    return r == CUDA_SUCCESS ? graph : NULL;
}

/* With lock held: what was set for a node, or (node 0) for any of an executable graph. */
static void retire(uint64_t exec, uint64_t node)
{
    for (struct ticket **at = &set_ones; *at != NULL;) {
        struct ticket *t = *at;
        if (t->exec != exec || (node != 0 && t->node != node)) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        t->next = NULL;
        *retired_end = t;
        retired_end = &t->next;
        retired_count++;
    }
}

static void set(uint64_t exec, uint64_t node, const void *data)
{
    pthread_mutex_lock(&lock);
    struct ticket *t = ticket_of(data);
    retire(exec, node);
    if (t != NULL) {
        t->exec = exec;
        t->node = node;
        t->next = set_ones;
        set_ones = t;
    }
    pthread_mutex_unlock(&lock);
}

void host_after(struct lane *lane, unsigned op, CUresult result, const uint64_t *args)
{
    void *data = lane->ticket;
    lane->ticket = NULL;
    if (op == HARP_OP_cuGraphExecDestroy && result == CUDA_SUCCESS) {
        pthread_mutex_lock(&lock);
        retire(args[0], 0);
        pthread_mutex_unlock(&lock);
    }
    if (data == NULL)
        return;
    if (result != CUDA_SUCCESS) {
        forget(data);
        return;
    }
    switch (op) {
    case HARP_OP_cuGraphAddHostNode:
    case HARP_OP_cuGraphAddNode:
    case HARP_OP_cuGraphAddNode_v2:
        give((CUgraph)(uintptr_t)args[1], data);
        break;
    case HARP_OP_cuGraphHostNodeSetParams:
    case HARP_OP_cuGraphNodeSetParams:
        set(0, args[0], data);
        break;
    case HARP_OP_cuGraphExecHostNodeSetParams:
    case HARP_OP_cuGraphExecNodeSetParams:
        set(args[0], args[1], data);
        break;
    case HARP_OP_cuLaunchHostFunc:
        if (lane->captured)
            give(captured_in(lane, args[0]), data);
        break;
    default:
        break;
    }
}

void host_answered(struct session *s, uint64_t seq)
{
    pthread_mutex_lock(&lock);
    for (struct waiting *w = all_waiting; w != NULL; w = w->next)
        w->answered |= w->seq == seq;
    pthread_cond_broadcast(&answers);
    pthread_mutex_unlock(&lock);
}
