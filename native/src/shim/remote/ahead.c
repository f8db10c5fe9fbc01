/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program has read twice in a row right after it had waited for the device, it will read
 * after the next wait: so it is asked for behind that (harpMemPeek), and the answer kept. It is the
 * read's if nothing has been sent since, nothing has come by which the program could know of a
 * change that is not in it, and it is no older than FRESH_NS. No memory of a session is another
 * process's, too (no such call is on the wire), so no other process changes it, either. Where
 * something was captured nothing is guessed: a read beside a capture would not be harmless.
 *
 * One guess at a time, of small reads; `answers` guards all of it. After a guess that nobody wanted
 * the read must come twice as often before the next one.
 */
#include "src/shim/remote/ahead.h"

#include <string.h>
#include <time.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/session_state.h"
#include "src/wire/codec.h"

#define MOST_BYTES 4096u
#define FRESH_NS   5000000ull
#define FIRST      2u
#define LAST       64u

static struct harp_remote_session *const s = &harp_remote_session;

static struct {
    struct read {
        CUdeviceptr from;
        size_t bytes;
        uint64_t context;
        uint32_t lane;
        bool per_thread;
    } read;
    unsigned seen, needed;      /* times in a row; before it is guessed */
    struct harp_wire_call call; /* that would read it, and its body */
    uint8_t request[64];
    uint32_t request_bytes;

    uint32_t waited_lane; /* whose wait was the last one, and what had been put by then */
    uint64_t waited_puts, waited_ns;

    enum { NONE, ASKED, TAKING } state;
    bool spoilt; /* the wait has failed */
    uint64_t puts, events;
    struct harp_waiting answer;
    uint8_t body[MOST_BYTES + 64];
} a = {.needed = FIRST};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static struct read read_of(const struct harp_lane *lane, CUdeviceptr from, size_t bytes)
{
    return (struct read){.from = from,
                         .bytes = bytes,
                         .context = harp_lane_current(lane),
                         .lane = lane->number,
                         .per_thread = lane->per_thread};
}

static bool same(const struct read *one, const struct read *other)
{
    return one->from == other->from && one->bytes == other->bytes &&
           one->context == other->context && one->lane == other->lane &&
           one->per_thread == other->per_thread;
}

uint64_t harp_remote_ahead_now(void)
{
    return __atomic_load_n(&s->puts, __ATOMIC_RELAXED);
}

/* --- asking ----------------------------------------------------------------------------------- */

/* With `answers` held. */
static bool due(const struct harp_lane *lane)
{
    if (a.state == ASKED && a.answer.done) {
        a.state = NONE;
        a.seen = 0;
        a.needed = a.needed < LAST ? 2 * a.needed : LAST;
    }
    const struct read as = read_of(lane, a.read.from, a.read.bytes);
    return a.state == NONE && a.seen >= a.needed && same(&as, &a.read) && harp_remote_tells(lane) &&
           !harp_remote_captured();
}

void harp_remote_ahead_put(struct harp_lane *lane)
{
    const struct harp_remote_call call = {.op = HARP_OP_harpMemPeek,
                                          .flags = lane->per_thread ? HARP_FRAME_PER_THREAD : 0,
                                          .body = a.request,
                                          .bytes = a.request_bytes};
    pthread_mutex_lock(&s->answers);
    bool go = due(lane);
    if (go) {
        a.state = ASKED;
        a.spoilt = false;
        a.answer = (struct harp_waiting){.body = a.body, .room = sizeof a.body};
        s->ahead_lane = lane->number;
        a.events = s->events;
    }
    pthread_mutex_unlock(&s->answers);
    if (!go)
        return;
    int err = harp_remote_want(lane, &call, &a.answer);
    pthread_mutex_lock(&s->answers);
    a.puts = harp_remote_ahead_now();
    if (err != 0) {
        harp_remote_unwant(lane, &a.answer);
        a.state = NONE;
    }
    pthread_mutex_unlock(&s->answers);
}

static struct harp_lane *wait_begins(void)
{
    struct harp_lane *lane = harp_lane();
    if (lane != NULL)
        lane->ahead = true;
    return lane;
}

static CUresult waited(struct harp_lane *lane, CUresult r)
{
    if (lane == NULL)
        return r;
    lane->ahead = false;
    pthread_mutex_lock(&s->answers);
    a.waited_lane = r == CUDA_SUCCESS ? lane->number : 0;
    a.waited_puts = harp_remote_ahead_now();
    a.waited_ns = now_ns();
    a.spoilt |= r != CUDA_SUCCESS && a.read.lane == lane->number;
    pthread_mutex_unlock(&s->answers);
    return r;
}

CUresult harp_remote_cuCtxSynchronize(void)
{
    struct harp_lane *lane = wait_begins();
    return waited(lane, harp_sent_cuCtxSynchronize());
}

CUresult harp_remote_cuStreamSynchronize(CUstream hStream)
{
    struct harp_lane *lane = wait_begins();
    return waited(lane, harp_sent_cuStreamSynchronize(hStream));
}

/* --- reading ---------------------------------------------------------------------------------- */

bool harp_remote_ahead_take(void *to, CUdeviceptr from, size_t bytes)
{
    struct harp_lane *lane = harp_lane();
    if (lane == NULL || lane->inside || bytes == 0 || bytes > MOST_BYTES)
        return false;
    const struct read as = read_of(lane, from, bytes);
    pthread_mutex_lock(&s->answers);
    bool ok = a.state == ASKED && !a.spoilt && same(&as, &a.read) &&
              a.puts == harp_remote_ahead_now() && a.events == s->events &&
              now_ns() - a.waited_ns <= FRESH_NS;
    if (!ok) {
        pthread_mutex_unlock(&s->answers);
        return false;
    }
    a.state = TAKING;
    while (!a.answer.done && harp_remote_read() == 0)
        ;
    struct harp_wire_call call = a.call;
    const uint32_t got = a.answer.bytes;
    ok = a.answer.done;
    if (ok)
        memcpy(lane->scratch, a.body, got);
    a.state = ok ? NONE : ASKED;
    a.spoilt = !ok;
    a.needed = FIRST;
    pthread_mutex_unlock(&s->answers);
    call.args[0] = (uintptr_t)to;
    return ok && harp_remote_decode(lane, &call, got) == CUDA_SUCCESS;
}

void harp_remote_ahead_learn(CUdeviceptr from, size_t bytes, uint64_t before)
{
    const struct harp_lane *lane = harp_lane();
    if (lane == NULL || bytes == 0 || bytes > MOST_BYTES)
        return;
    const struct read as = read_of(lane, from, bytes);
    pthread_mutex_lock(&s->answers);
    bool behind = a.waited_lane == lane->number && a.waited_puts == before;
    if (behind && same(&as, &a.read)) {
        a.seen++;
    } else if (behind && a.state == NONE) {
        a.read = as;
        a.call = (struct harp_wire_call){.op = HARP_OP_harpMemPeek,
                                         .args = {1, from, bytes}}; /* to somewhere */
        a.seen = harp_remote_encode(&a.call, a.request, sizeof a.request, &a.request_bytes) == 0;
    } else {
        a.seen = 0;
    }
    pthread_mutex_unlock(&s->answers);
}

void harp_remote_forget_ahead(void)
{
    a.state = NONE;
    a.seen = 0;
    a.needed = FIRST;
    a.read = (struct read){.lane = 0};
    a.waited_lane = s->ahead_lane = 0;
}
