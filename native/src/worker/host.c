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

struct ticket {
    struct session *session;
    uint64_t number;
    bool once;
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
static atomic_uint tickets;

static void forget(struct ticket *t)
{
    if (t->once) {
        atomic_fetch_sub(&tickets, 1);
        free(t);
    }
}

/* The body of a call of ours; its size. */
static uint32_t say(uint64_t ticket, uint64_t stream, CUresult status, uint8_t body[64])
{
    struct harp_wire_call call = {.op = HARP_OP_harpHostCall, .args = {ticket, stream, status}};
    struct harp_wire_buffer out = {body, 64, 0};
    return harp_wire_put_request(&call, NULL, &out) == 0 ? (uint32_t)out.used : 0;
}

static void run(struct ticket *t, CUstream stream, CUresult status)
{
    struct session *s = t->session;
    uint8_t body[64];
    uint64_t id = (uintptr_t)stream;
    struct waiting w = {.next = NULL};
    if (id > 2 && handles_id(HARP_HANDLE_CUstream, id, &id) != 0)
        id = 0;
    struct harp_ring_record r = {.op = HARP_OP_harpHostCall,
                                 .flags = HARP_FRAME_REVERSE | HARP_FRAME_WANTED};
    r.bytes = say(t->number, id, status, body);
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
    forget(t);
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
    struct ticket *t = data;
    uint64_t args[HARP_WIRE_SLOTS] = {t->number};
    call_tell(t->session, HARP_OP_harpHostCall, 0, args);
    forget(t);
}

static int issue(struct session *s, uint64_t number, bool once, void **data)
{
    if (atomic_fetch_add(&tickets, 1) >= TICKETS_MAX) {
        atomic_fetch_sub(&tickets, 1);
        return -ENOMEM;
    }
    struct ticket *t = malloc(sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    *t = (struct ticket){s, number, once};
    *data = t;
    return 0;
}

int host_function(struct session *s, uint64_t ticket, bool once, CUhostFn *fn, void **data)
{
    *fn = function;
    return issue(s, ticket, once, data);
}

int host_callback(struct session *s, uint64_t ticket, CUstreamCallback *fn, void **data)
{
    *fn = callback;
    return issue(s, ticket, true, data);
}

int host_destructor(struct session *s, uint64_t ticket, CUhostFn *fn, void **data)
{
    *fn = destructor;
    return issue(s, ticket, true, data);
}

void host_answered(struct session *s, uint64_t seq)
{
    pthread_mutex_lock(&lock);
    for (struct waiting *w = all_waiting; w != NULL; w = w->next)
        w->answered |= w->seq == seq;
    pthread_cond_broadcast(&answers);
    pthread_mutex_unlock(&lock);
}
