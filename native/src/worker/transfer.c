/* SPDX-License-Identifier: Apache-2.0
 *
 * Transfers by id, in a list: there are few at a time, and the oldest is asked for first.
 */
#include "src/worker/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/worker/handles.h"
#include "src/worker/worker.h"

#define OPEN_MAX     4096u
#define GATHERED_MAX (512ull << 20)

struct transfer {
    struct session *session;
    uint64_t id, after; /* announced after the record with that seq was taken */
    unsigned lane;
    bool ended, used;
    struct harp_ring_region region;
    uint8_t *gathered; /* NULL: one region, used where it lies */
    uint64_t bytes, room;
    struct transfer *next;
};

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct transfer *open_ones;
static atomic_uint open_count;
static uint64_t gathered_bytes, lent_ids;

static struct transfer **find(uint64_t id)
{
    struct transfer **at = &open_ones;
    while (*at != NULL && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static void tell(struct session *s, uint64_t id, unsigned flags,
                 const struct harp_ring_region *region)
{
    struct harp_ring_record r = {
        .flags = HARP_FRAME_BULK | flags, .ack = id, .bytes = region == NULL ? 0 : sizeof *region};
    session_put(s, &r, region);
}

/* Takes a part into memory of our own. */
static int gather(struct transfer *t, const uint8_t *from, uint64_t bytes)
{
    if (t->bytes + bytes > t->room) {
        uint64_t want = t->room == 0 ? 2 * bytes : t->room;
        while (want < t->bytes + bytes)
            want *= 2;
        if (gathered_bytes + (want - t->room) > GATHERED_MAX)
            return -ENOMEM;
        uint8_t *more = realloc(t->gathered, want);
        if (more == NULL)
            return -ENOMEM;
        gathered_bytes += want - t->room;
        t->gathered = more;
        t->room = want;
    }
    memcpy(t->gathered + t->bytes, from, bytes);
    t->bytes += bytes;
    return 0;
}

int transfer_announced(struct session *s, const struct harp_ring_record *record,
                       const uint8_t *body)
{
    struct harp_ring_region region;
    const bool end = (record->flags & HARP_FRAME_END) != 0;
    int err = 0;
    if (record->bytes != sizeof region || record->ack == 0 || record->ack >= HARP_WORKER_ID ||
        record->lane == 0 || record->lane > LANES)
        return -EPROTO;
    memcpy(&region, body, sizeof region);
    const uint8_t *from = harp_ring_region(&s->ring, region.offset, region.bytes);
    if (from == NULL || region.bytes == 0)
        return -EPROTO;
    pthread_mutex_lock(&lock);
    struct transfer **at = find(record->ack), *t = *at;
    if (t == NULL) {
        t = open_count < OPEN_MAX ? calloc(1, sizeof *t) : NULL;
        if (t == NULL) {
            err = -ENOMEM;
            goto out;
        }
        *t = (struct transfer){.session = s, .id = record->ack, .lane = record->lane};
        t->region = region;
        *at = t;
        open_count++;
        if (!end)
            err = gather(t, from, region.bytes);
    } else {
        err = t->ended || t->gathered == NULL ? -EPROTO : gather(t, from, region.bytes);
    }
    t->after = s->ring.take.seq;
    t->ended = end;
    bool parts = t->gathered != NULL;
out:
    pthread_mutex_unlock(&lock);
    if (err == 0 && parts) {
        tell(s, record->ack, 0, &region);
        harp_ring_wake(&s->ring);
    }
    return err;
}

/* Bytes that a call lends: they go at once, before its reply. */
static int lend(struct lane *lane, uint64_t bytes, const uint8_t *data, uint64_t *id)
{
    pthread_mutex_lock(&lock);
    *id = HARP_WORKER_ID | ++lent_ids;
    pthread_mutex_unlock(&lock);
    for (uint64_t at = 0; at < bytes;) {
        uint64_t left = bytes - at;
        uint32_t part = left < HARP_WIRE_INLINE_BYTES ? (uint32_t)left : HARP_WIRE_INLINE_BYTES;
        struct harp_ring_record r = {.flags = HARP_FRAME_BULK, .ack = *id, .lane = lane->id};
        r.flags |= part == left ? HARP_FRAME_END : 0;
        r.bytes = part < harp_ring_largest(&lane->session->ring)
                      ? part
                      : harp_ring_largest(&lane->session->ring);
        if (r.bytes < part)
            r.flags = HARP_FRAME_BULK;
        session_put(lane->session, &r, data + at);
        at += r.bytes;
    }
    return 0;
}

int transfer_hook(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    struct lane *lane = ctx;
    if (way == HARP_WIRE_LEND)
        return lend(lane, bytes, *data, id);
    int err = 0;
    pthread_mutex_lock(&lock);
    struct transfer *t = *find(*id);
    if (t == NULL || !t->ended || t->used || lane->used_count == USED_MAX) {
        err = -EINVAL;
    } else if (t->gathered != NULL) {
        err = way == HARP_WIRE_FETCH || t->bytes != bytes ? -EINVAL : 0;
        *data = t->gathered;
    } else {
        err = t->region.bytes != bytes ? -EINVAL : 0;
        *data = harp_ring_region(&lane->session->ring, t->region.offset, bytes);
    }
    if (err == 0) {
        t->used = true;
        lane->used[lane->used_count++] = t;
    }
    pthread_mutex_unlock(&lock);
    return err;
}

static void finish(struct transfer *t)
{
    struct session *s = t->session;
    pthread_mutex_lock(&lock);
    struct transfer **at = find(t->id);
    *at = t->next;
    open_count--;
    gathered_bytes -= t->room;
    pthread_mutex_unlock(&lock);
    tell(s, t->id, HARP_FRAME_END, NULL);
    free(t->gathered);
    free(t);
}

void transfer_done(struct lane *lane)
{
    for (unsigned i = 0; i < lane->used_count; i++)
        finish(lane->used[i]);
    if (lane->used_count != 0 && (lane->flags & HARP_FRAME_WANTED) == 0)
        harp_ring_wake(&lane->session->ring); /* else the reply does */
    lane->used_count = 0;
}

struct later {
    struct session *session;
    struct transfer *used[USED_MAX];
    unsigned count;
};

static void passed(CUstream stream, CUresult status, void *data)
{
    struct later *later = data;
    for (unsigned i = 0; i < later->count; i++)
        finish(later->used[i]);
    harp_ring_wake(&later->session->ring);
    free(later);
}

void transfer_done_after(struct lane *lane, uint64_t stream)
{
    if (lane->used_count == 0)
        return;
    const CUstream on = (CUstream)(uintptr_t)stream;
    bool own = (lane->flags & HARP_FRAME_PER_THREAD) != 0;
    struct later *later = malloc(sizeof *later);
    CUresult r = CUDA_ERROR_OUT_OF_MEMORY;
    if (later != NULL) {
        *later = (struct later){.session = lane->session, .count = lane->used_count};
        memcpy(later->used, lane->used, sizeof later->used);
        r = own ? DRIVER(cuStreamAddCallback_ptsz)(on, passed, later, 0)
                : DRIVER(cuStreamAddCallback)(on, passed, later, 0);
    }
    if (r != CUDA_SUCCESS) { /* then by waiting for it */
        free(later);
        if (own)
            DRIVER(cuStreamSynchronize_ptsz)(on);
        else
            DRIVER(cuStreamSynchronize)(on);
        transfer_done(lane);
    }
    lane->used_count = 0;
}

void transfer_unused(struct lane *lane, uint64_t seq)
{
    while (atomic_load_explicit(&open_count, memory_order_acquire) != 0) {
        pthread_mutex_lock(&lock);
        struct transfer *t = open_ones;
        while (t != NULL && (t->lane != lane->id || t->used || !t->ended || t->after >= seq))
            t = t->next;
        if (t != NULL)
            t->used = true;
        pthread_mutex_unlock(&lock);
        if (t == NULL)
            return;
        finish(t);
    }
}
