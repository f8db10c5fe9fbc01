/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes: messages of all calls into as few writes as may be.
 *
 * nghttp2 says what is next. Small things are copied one behind another, large bodies are written
 * from where they lie; a body is let go when the write that has its last byte is through.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/h2_state.h"

#define FRAME_HEAD_BYTES 9u
/* A write of this many bytes is long enough. */
#define GATHER_BYTES (1u << 20)

void h2_release(struct harp_h2_message *list)
{
    while (list != NULL) {
        struct harp_h2_message *message = list;
        list = message->next;
        message->release(message);
    }
}

/* --- gathering --- */

static bool half_full(const struct harp_h2 *h2)
{
    return h2->count > H2_PIECES / 2 || h2->copied_bytes > H2_COPIED_BYTES / 2;
}

static void refer(struct harp_h2 *h2, const uint8_t *data, size_t size)
{
    h2->gathered += size;
    if (h2->count != 0) {
        struct iovec *before = &h2->pieces[h2->count - 1];
        if ((uint8_t *)before->iov_base + before->iov_len == data) {
            before->iov_len += size;
            return;
        }
    }
    h2->pieces[h2->count++] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
}

static void copy(struct harp_h2 *h2, const uint8_t *data, size_t size)
{
    uint8_t *to = h2->copied + h2->copied_bytes;
    memcpy(to, data, size);
    h2->copied_bytes += size;
    refer(h2, to, size);
}

/* How much of the queue, up to `length`, half of an empty gather has room for. */
static size_t next_bytes(const struct harp_h2_stream *s, size_t length)
{
    size_t n = 0, copied = FRAME_HEAD_BYTES, sent = s->sent;
    unsigned pieces = 1;
    for (const struct harp_h2_message *m = s->first; m != NULL && n < length; m = m->next) {
        bool small = m->bytes < H2_COPY_BELOW;
        copied += m->head_bytes + (small ? m->bytes : 0);
        pieces += small ? 0 : 2;
        if (copied > H2_COPIED_BYTES / 2 || pieces > H2_PIECES / 2 - 1)
            break;
        n += m->head_bytes + m->bytes - sent;
        sent = 0;
    }
    return n < length ? n : length;
}

/* Up to `length` bytes of the first message; how many. */
static size_t gather_first(struct harp_h2_stream *s, size_t length)
{
    struct harp_h2 *h2 = s->h2;
    struct harp_h2_message *m = s->first;
    size_t done = 0;
    if (s->sent < m->head_bytes) {
        done = m->head_bytes - s->sent < length ? m->head_bytes - s->sent : length;
        copy(h2, m->head + s->sent, done);
        s->sent += done;
    }
    size_t left = m->head_bytes + m->bytes - s->sent;
    size_t n = left < length - done ? left : length - done;
    if (n != 0) {
        const uint8_t *body = m->body + (s->sent - m->head_bytes);
        if (m->bytes < H2_COPY_BELOW)
            copy(h2, body, n);
        else
            refer(h2, body, n);
        s->sent += n;
    }
    if (n == left && s->sent == m->head_bytes + m->bytes) {
        s->first = m->next;
        if (s->first == NULL)
            s->last = &s->first;
        m->next = h2->done;
        h2->done = m;
        s->sent = 0;
    }
    return done + n;
}

int h2_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                 nghttp2_data_source *source, void *user)
{
    struct harp_h2 *h2 = user;
    struct harp_h2_stream *s = source->ptr;
    if (half_full(h2))
        return NGHTTP2_ERR_WOULDBLOCK;
    if (s->queued < length) /* cancelled since the frame was planned */
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    copy(h2, head, FRAME_HEAD_BYTES);
    s->queued -= length;
    while (length > 0)
        length -= gather_first(s, length);
    return 0;
}

static ssize_t read_queue(nghttp2_session *session, int32_t id, uint8_t *data, size_t length,
                          uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct harp_h2_stream *s = source->ptr;
    if (s->first != NULL) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        return (ssize_t)next_bytes(s, length);
    }
    if (!s->closing) {
        s->asleep = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (s->h2->server) {
        char status[8], text[3 * HARP_GRPC_TEXT_BYTES + 1];
        snprintf(status, sizeof status, "%d", s->status);
        harp_grpc_percent(text, s->text);
        const nghttp2_nv nv[] = {h2_header("grpc-status", status), h2_header("grpc-message", text)};
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(session, id, nv, text[0] != '\0' ? 2 : 1) != 0)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    return 0;
}

nghttp2_data_provider h2_provider(struct harp_h2_stream *s)
{
    return (nghttp2_data_provider){.source.ptr = s, .read_callback = read_queue};
}

/* --- what users put --- */

void harp_h2_frame(struct harp_h2_message *message, const struct harp_frame *frame)
{
    size_t n = harp_frame_put(message->head + HARP_GRPC_PREFIX_BYTES, frame);
    harp_grpc_prefix(message->head, (uint32_t)n + frame->bytes);
    message->head_bytes = HARP_GRPC_PREFIX_BYTES + (uint32_t)n;
    message->body = frame->body;
    message->bytes = frame->bytes;
}

static void wake(struct harp_h2_stream *s)
{
    if (s->asleep) {
        s->asleep = false;
        nghttp2_session_resume_data(s->h2->session, s->id);
    }
}

int harp_h2_put(struct harp_h2_stream *s, struct harp_h2_message *message)
{
    if (s->closing || s->over || (s->mute && !s->h2->server))
        return -EPIPE;
    if (s->queued >= s->h2->limits.queue) {
        s->full = true;
        return -EAGAIN;
    }
    message->next = NULL;
    *s->last = message;
    s->last = &message->next;
    s->queued += message->head_bytes + message->bytes;
    wake(s);
    return 0;
}

void harp_h2_close(struct harp_h2_stream *s)
{
    if (s->closing || s->over)
        return;
    s->closing = true;
    wake(s);
}

void harp_h2_finish(struct harp_h2_stream *s, enum harp_grpc_status status, const char *text)
{
    if (s->closing)
        return;
    s->mute = s->closing = true;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    wake(s);
}

void harp_h2_cancel(struct harp_h2_stream *s)
{
    s->mute = true;
    h2_drop_queue(s);
    if (s->over && !s->busy) /* busy: resume, in which this is, ends it */
        h2_end(s, s->status, s->text);
    else if (!s->over)
        nghttp2_submit_rst_stream(s->h2->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_CANCEL);
}

/* A write under way may point into them: they go with it. */
void h2_drop_queue(struct harp_h2_stream *s)
{
    *s->last = s->h2->done;
    s->h2->done = s->first;
    s->first = NULL;
    s->last = &s->first;
    s->queued = s->sent = 0;
}

/* --- writing --- */

/* All that was gathered is written. Queues that are half empty take again. */
static void written(struct harp_h2 *h2)
{
    h2->from = h2->count = 0;
    h2->gathered = h2->copied_bytes = 0;
    h2_release(h2->done);
    h2->done = NULL;
    for (struct harp_h2_stream *s = h2->streams, *next; s != NULL; s = next) {
        next = s->next;
        if (s->full && s->queued <= h2->limits.queue / 2) {
            s->full = false;
            if (h2->handler.room != NULL)
                h2->handler.room(h2->handler.ctx, s);
        }
    }
}

static int gather(struct harp_h2 *h2)
{
    while (!half_full(h2) && h2->gathered < GATHER_BYTES) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(h2->session, &data);
        if (n < 0 || (size_t)n > sizeof h2->copied - h2->copied_bytes)
            return -EPROTO;
        if (n == 0)
            break;
        copy(h2, data, (size_t)n);
    }
    return 0;
}

static void advance(struct harp_h2 *h2, size_t bytes)
{
    while (bytes != 0) {
        struct iovec *piece = &h2->pieces[h2->from];
        size_t n = bytes < piece->iov_len ? bytes : piece->iov_len;
        piece->iov_base = (uint8_t *)piece->iov_base + n;
        piece->iov_len -= n;
        bytes -= n;
        h2->from += piece->iov_len == 0;
    }
}

static int flush_kept(struct harp_h2 *h2)
{
    int err = h2->io.flush != NULL ? h2->io.flush(h2->io.ctx) : 0;
    return err == -EAGAIN ? 1 : err;
}

int harp_h2_flush(struct harp_h2 *h2)
{
    for (;;) {
        if (h2->from == h2->count) {
            written(h2);
            int err = gather(h2);
            if (err != 0)
                return err;
            if (h2->count == 0)
                return flush_kept(h2);
        }
        ssize_t n = h2->io.send(h2->io.ctx, h2->pieces + h2->from, h2->count - h2->from);
        if (n < 0)
            return n == -EAGAIN ? 1 : (int)n;
        harp_traffic.sent += (uint64_t)n;
        advance(h2, (size_t)n);
    }
}
