/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of host bytes and images, if the trace is told to. Host memory is read as another
 * process would: what a program names wrongly is an error here, and the driver's affair.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "src/shim/trace/state.h"
#include "src/wire/table.h"

#define SEEN 512u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static uint64_t seen[SEEN];                              /* beginnings of hashes */
static unsigned seen_next;

static bool read_piece(struct harp_trace_thread *t, const void *from, uint64_t bytes)
{
    struct iovec here = {t->piece, bytes}, there = {(void *)(uintptr_t)from, bytes};
    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)bytes;
}

static uint64_t piece_of(uint64_t left)
{
    return left < HARP_TRACE_PIECE_BYTES ? left : HARP_TRACE_PIECE_BYTES;
}

/* Answers whether all of it is kept. */
static bool keep_one(struct harp_trace_thread *t, uint32_t which, uint64_t most)
{
    const struct harp_trace_moved *m = &t->moved[which];
    uint64_t bytes = m->bytes < most ? m->bytes : most;
    for (uint64_t at = 0; at < bytes;) {
        uint64_t n = piece_of(bytes - at);
        if (!read_piece(t, (const uint8_t *)m->data + at, n))
            return false;
        struct harp_trace_data data = {.sequence = t->sequence,
                                       .transfer = which,
                                       .way = m->way,
                                       .offset = at,
                                       .total = m->bytes,
                                       .bytes = (uint32_t)n};
        struct harp_trace_part parts[] = {{&data, sizeof data}, {t->piece, n}};
        harp_trace_write(HARP_TRACE_HOST_BYTES, 0, parts, 2);
        at += n;
    }
    return bytes == m->bytes;
}

void harp_trace_keep(struct harp_trace_thread *t, bool after)
{
    uint64_t left = harp_trace.data_bytes;
    bool async = harp_wire_op(t->call.op)->cls == HARP_WIRE_ASYNC;
    bool all = t->transfers <= HARP_TRACE_TRANSFERS;
    if (left == 0)
        return;
    for (uint32_t i = 0; i < t->transfers && i < HARP_TRACE_TRANSFERS; i++) {
        const struct harp_trace_moved *m = &t->moved[i];
        if ((m->way != HARP_WIRE_SEND) != after)
            continue;
        if (m->way == HARP_WIRE_FETCH && async) { /* not there yet */
            all = false;
            continue;
        }
        all &= keep_one(t, i, left);
        left -= m->bytes < left ? m->bytes : left;
    }
    if (!all)
        t->flags |= HARP_TRACE_CUT;
}

static bool first_time(const uint8_t sha256[32])
{
    uint64_t begin;
    bool found = false;
    memcpy(&begin, sha256, sizeof begin);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < SEEN && !found; i++)
        found = seen[i] == begin;
    if (!found) {
        seen[seen_next] = begin;
        seen_next = (seen_next + 1) % SEEN;
    }
    pthread_mutex_unlock(&lock);
    return !found;
}

void harp_trace_keep_image(struct harp_trace_thread *t, const void *data, uint64_t bytes)
{
    struct harp_trace_image image = {.total = bytes};
    if (!first_time(t->image.sha256))
        return;
    memcpy(image.sha256, t->image.sha256, sizeof image.sha256);
    do {
        uint64_t n = harp_trace.data_bytes != 0 ? piece_of(bytes - image.offset) : 0;
        image.bytes = (uint32_t)n;
        struct harp_trace_part parts[] = {{&image, sizeof image},
                                          {(const uint8_t *)data + image.offset, n}};
        harp_trace_write(HARP_TRACE_IMAGE, 0, parts, 2);
        image.offset += n;
    } while (image.bytes != 0 && image.offset < bytes);
}

void harp_trace_host_reset(void)
{
    pthread_mutex_init(&lock, NULL);
    memset(seen, 0, sizeof seen);
}
