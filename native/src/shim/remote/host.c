/* SPDX-License-Identifier: Apache-2.0
 *
 * Host functions. Their thread waits as all others do, and so reads for them, too; while it is in a
 * function of the program's, those who wait read themselves.
 */
#include "src/shim/remote/host.h"

#include <errno.h>
#include <stdlib.h>

#include "src/shim/gate/thread.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/session_state.h"

struct ticket {
    struct ticket *next;
    uint64_t number;
    CUhostFn fn;
    CUstreamCallback callback; /* the older form; or NULL */
    void *data;
    bool kept;
};

struct call {
    struct call *next;
    uint64_t ticket, stream, seq;
    CUresult status;
};

static struct harp_remote_session *const s = &harp_remote_session;
#define SHELVES 1024u /* tickets are numbered in order: so many of a row are each on their own */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static struct ticket *shelf[SHELVES];
static uint64_t tickets;
static bool running;
static struct call *calls, **last = &calls; /* first come, first run; under `answers` */

static struct ticket **find(uint64_t number)
{
    struct ticket **at = &shelf[number % SHELVES];
    while (*at != NULL && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

void harp_remote_ticket_of(uint64_t number, CUhostFn *fn, void **data)
{
    pthread_mutex_lock(&lock);
    const struct ticket *t = *find(number);
    *fn = t != NULL ? t->fn : NULL;
    *data = t != NULL ? t->data : NULL;
    pthread_mutex_unlock(&lock);
}

/* --- running ---------------------------------------------------------------------------------- */

void harp_remote_ticket_end(uint64_t number)
{
    pthread_mutex_lock(&lock);
    struct ticket **at = find(number), *gone = *at;
    if (gone != NULL) {
        *at = gone->next;
        tickets--;
        free(gone);
    }
    pthread_mutex_unlock(&lock);
}

bool harp_remote_host_may_write(void)
{
    pthread_mutex_lock(&lock);
    bool may = tickets != 0;
    pthread_mutex_unlock(&lock);
    return may;
}

static void run_one(const struct call *c)
{
    struct ticket t = {.number = 0};
    pthread_mutex_lock(&lock);
    const struct ticket *found = *find(c->ticket);
    if (found != NULL)
        t = *found;
    pthread_mutex_unlock(&lock);
    if (t.callback != NULL)
        t.callback((CUstream)(uintptr_t)c->stream, c->status, t.data);
    else if (t.fn != NULL)
        t.fn(t.data);
    if (found != NULL && !t.kept)
        harp_remote_ticket_end(c->ticket);
}

static int answer(const struct call *c)
{
    const uint32_t success = CUDA_SUCCESS;
    struct harp_ring_record record = {.bytes = sizeof success,
                                      .op = HARP_OP_harpHostCall,
                                      .flags = HARP_FRAME_REVERSE | HARP_FRAME_REPLY,
                                      .ack = c->seq};
    pthread_mutex_lock(&s->put);
    int err = harp_remote_put(&record, &success);
    if (err == 0)
        harp_ring_wake(&s->ring);
    pthread_mutex_unlock(&s->put);
    return err;
}

static void *run(void *arg)
{
    struct harp_lane *lane = harp_lane();
    if (lane != NULL)
        lane->inside = true;
    int err = 0;
    while (err == 0) {
        pthread_mutex_lock(&s->answers);
        while (calls == NULL && err == 0)
            err = harp_remote_read();
        struct call *c = calls;
        if (c != NULL)
            calls = c->next;
        if (calls == NULL)
            last = &calls;
        pthread_mutex_unlock(&s->answers);
        if (c == NULL)
            break;
        run_one(c);
        err = c->seq != 0 ? answer(c) : 0;
        free(c);
    }
    pthread_mutex_lock(&lock);
    running = false;
    pthread_mutex_unlock(&lock);
    return arg;
}

bool harp_remote_host_idle(void)
{
    pthread_mutex_lock(&lock);
    bool idle = !running;
    pthread_mutex_unlock(&lock);
    return idle;
}

void harp_remote_forget_host(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < SHELVES; i++)
        while (shelf[i] != NULL) {
            struct ticket *t = shelf[i];
            shelf[i] = t->next;
            free(t);
        }
    tickets = 0;
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&s->answers);
    while (calls != NULL) {
        struct call *c = calls;
        calls = c->next;
        free(c);
    }
    last = &calls;
    pthread_mutex_unlock(&s->answers);
}

int harp_remote_host_call(uint64_t ticket, uint64_t stream, CUresult status, uint64_t seq)
{
    struct call *c = malloc(sizeof *c);
    if (c == NULL)
        return -ENOMEM;
    *c = (struct call){.ticket = ticket, .stream = stream, .status = status, .seq = seq};
    *last = c;
    last = &c->next;
    return 0;
}

/* --- asking for them -------------------------------------------------------------------------- */

static CUresult take(CUhostFn fn, CUstreamCallback callback, void *data, bool kept,
                     uint64_t *number)
{
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && fn == NULL && callback == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    struct ticket *t = r == CUDA_SUCCESS ? malloc(sizeof *t) : NULL;
    if (t == NULL)
        return r != CUDA_SUCCESS ? r : CUDA_ERROR_OUT_OF_MEMORY;
    *t = (struct ticket){
        .number = harp_thing_mint(), .fn = fn, .callback = callback, .data = data, .kept = kept};
    *number = t->number;
    int saved = errno;
    pthread_mutex_lock(&lock);
    if (!running)
        running = harp_thread_start_roomy(run);
    bool runs = running;
    if (runs) {
        t->next = shelf[t->number % SHELVES];
        shelf[t->number % SHELVES] = t;
        tickets++;
    } else {
        free(t);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return runs ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult harp_remote_ticket(CUhostFn fn, void *data, bool kept, uint64_t *ticket)
{
    return take(fn, NULL, data, kept, ticket);
}

static CUresult dropped(CUresult r, uint64_t ticket)
{
    if (r != CUDA_SUCCESS)
        harp_remote_ticket_end(ticket);
    return r;
}

/* A captured one is called whenever its graph runs. */
CUresult harp_remote_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    uint64_t ticket;
    CUresult r = take(fn, NULL, userData, harp_remote_capturing(0), &ticket);
    if (r != CUDA_SUCCESS)
        return r;
    return dropped(harp_sent_cuLaunchHostFunc(hStream, (CUhostFn)ticket, NULL), ticket);
}

CUresult harp_remote_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback,
                                         void *userData, unsigned int flags)
{
    uint64_t ticket;
    CUresult r = take(NULL, callback, userData, false, &ticket);
    if (r != CUDA_SUCCESS)
        return r;
    if (flags != 0)
        harp_remote_doubt();
    r = harp_sent_cuStreamAddCallback(hStream, (CUstreamCallback)ticket, NULL, flags);
    return dropped(r, ticket);
}

CUresult harp_remote_cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy,
                                        unsigned int initialRefcount, unsigned int flags)
{
    uint64_t ticket;
    CUresult r = take(destroy, NULL, ptr, false, &ticket);
    if (r != CUDA_SUCCESS)
        return r;
    harp_remote_doubt();
    r = harp_sent_cuUserObjectCreate(object_out, NULL, (CUhostFn)ticket, initialRefcount, flags);
    return dropped(r, ticket);
}
