/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection: nghttp2's session, and what its callbacks mean for calls.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/h2_state.h"

/* A window is what a peer can make us keep for a call; 4 MiB fill 10 Gbit/s over 3 ms. */
const struct harp_h2_limits harp_h2_default = {
    .window = 4u << 20, .queue = 4u << 20, .streams = 72, .refused = 100};

/* Headers of one call that are looked at; ours have some 400 bytes. */
#define HEADER_BYTES (16u << 10)

static struct harp_h2_stream *stream_of(struct harp_h2 *h2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h2->session, id);
}

struct harp_h2_stream *h2_new_stream(struct harp_h2 *h2)
{
    struct harp_h2_stream *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->h2 = h2;
    s->reader.limit = HARP_GRPC_MESSAGE_BYTES;
    s->last = &s->first;
    s->next = h2->streams;
    s->link = &h2->streams;
    if (s->next != NULL)
        s->next->link = &s->next;
    h2->streams = s;
    h2->calls++;
    return s;
}

void h2_free_stream(struct harp_h2_stream *s)
{
    *s->link = s->next;
    if (s->next != NULL)
        s->next->link = s->link;
    s->h2->calls--;
    h2_drop_held(s);
    h2_drop_queue(s);
    free(s->reader.data);
    free(s);
}

void h2_end(struct harp_h2_stream *s, enum harp_grpc_status status, const char *text)
{
    if (s->began && !s->told && s->h2->handler.end != NULL) {
        s->told = true;
        s->h2->handler.end(s->h2->handler.ctx, s, status, text);
    }
    h2_free_stream(s);
}

/* A peer that makes nothing but calls that fail, or takes them back at once, is sent away. */
static void count_bad(struct harp_h2 *h2)
{
    if (h2->server && ++h2->bad == h2->limits.refused)
        nghttp2_session_terminate_session(h2->session, NGHTTP2_ENHANCE_YOUR_CALM);
}

void h2_fail(struct harp_h2_stream *s, enum harp_grpc_status status, const char *text)
{
    s->mute = true;
    h2_drop_held(s);
    if (s->h2->server) {
        count_bad(s->h2);
        harp_h2_finish(s, status, text);
        return;
    }
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    nghttp2_submit_rst_stream(s->h2->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_CANCEL);
}

/* --- nghttp2's callbacks --- */

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct harp_h2 *h2 = user;
    if (!h2->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct harp_h2_stream *s = h2_new_stream(h2);
    if (s == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->id = frame->hd.stream_id;
    return nghttp2_session_set_stream_user_data(session, s->id, s);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *user)
{
    struct harp_h2 *h2 = user;
    struct harp_h2_stream *s = stream_of(h2, frame->hd.stream_id);
    if (s == NULL)
        return 0;
    s->header_bytes += name_size + value_size + 32;
    if (s->header_bytes > HEADER_BYTES)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (h2->server && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        harp_grpc_header(&s->call, (const char *)name, name_size, (const char *)value, value_size);
    else if (!h2->server)
        harp_grpc_answer_header(&s->answer, (const char *)name, name_size, (const char *)value,
                                value_size);
    return 0;
}

/* All headers of a call are here: it begins, or is answered with nothing but its end. */
static void begin(struct harp_h2_stream *s)
{
    struct harp_h2 *h2 = s->h2;
    if (!s->call.grpc) {
        const nghttp2_nv nv[] = {h2_header(":status", "415")};
        s->mute = s->closing = true;
        count_bad(h2);
        nghttp2_submit_response(h2->session, s->id, nv, 1, NULL);
        return;
    }
    enum harp_grpc_status status = h2->handler.begin(h2->handler.ctx, s, &s->call, s->text);
    if (status == HARP_GRPC_OK || status == HARP_H2_LATER) {
        s->began = true;
        s->later = status != HARP_GRPC_OK;
        if (!s->later)
            h2_answer(s);
        return;
    }
    s->mute = s->closing = true;
    s->status = status;
    count_bad(h2);
    h2_refuse(s);
}

static void on_headers(struct harp_h2_stream *s, const nghttp2_frame *frame)
{
    if (s->h2->server && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        begin(s);
    else if (!s->h2->server && frame->headers.cat == NGHTTP2_HCAT_RESPONSE && s->answer.grpc &&
             !s->answer.told && s->h2->handler.answered != NULL)
        s->h2->handler.answered(s->h2->handler.ctx, s, &s->answer);
}

static void note(struct harp_h2 *h2, const nghttp2_frame *frame, const char *who)
{
    if (frame->goaway.error_code != NGHTTP2_NO_ERROR && h2->why[0] == '\0')
        snprintf(h2->why, sizeof h2->why, "%s (HTTP/2: %s)", who,
                 nghttp2_http2_strerror(frame->goaway.error_code));
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct harp_h2 *h2 = user;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        h2->draining = true;
        note(h2, frame, "the other side broke off");
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct harp_h2_stream *s = stream_of(h2, frame->hd.stream_id);
    if (s == NULL)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS)
        on_headers(s, frame);
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
        h2_peer_closed(s);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                   size_t size, void *user)
{
    struct harp_h2 *h2 = user;
    struct harp_h2_stream *s = stream_of(h2, id);
    /* The connection's window never stops: each call has its own. */
    nghttp2_session_consume_connection(session, size);
    if (s != NULL)
        h2_take(s, data, size);
    return 0;
}

/* A server that has said how a call ended needs no more of what the client may still send. */
static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct harp_h2 *h2 = user;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        note(h2, frame, "the other side does not speak HTTP/2 as it should");
    if (h2->server && frame->hd.type == NGHTTP2_HEADERS &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id) == 0)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                  NGHTTP2_NO_ERROR);
    return 0;
}

/* As gRPC's own clients read RST_STREAM. */
static enum harp_grpc_status by_code(uint32_t code)
{
    switch (code) {
    case NGHTTP2_REFUSED_STREAM:
        return HARP_GRPC_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return HARP_GRPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return HARP_GRPC_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return HARP_GRPC_PERMISSION_DENIED;
    default:
        return HARP_GRPC_INTERNAL;
    }
}

/* What the server said, or what broke the call off. */
static void outcome(struct harp_h2_stream *s, uint32_t code)
{
    if (s->status != HARP_GRPC_OK) /* found here */
        return;
    if (s->answer.told || code == NGHTTP2_NO_ERROR) {
        s->status = harp_grpc_outcome(&s->answer);
        snprintf(s->text, sizeof s->text, "%s", s->answer.text);
        return;
    }
    s->status = by_code(code);
    snprintf(s->text, sizeof s->text, "the server broke the call off (HTTP/2: %s)",
             nghttp2_http2_strerror(code));
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct harp_h2 *h2 = user;
    struct harp_h2_stream *s = stream_of(h2, id);
    if (s == NULL)
        return 0;
    nghttp2_session_set_stream_user_data(session, id, NULL);
    if (h2->server && !(s->closing && code == NGHTTP2_NO_ERROR)) {
        char text[HARP_GRPC_TEXT_BYTES];
        count_bad(h2);
        snprintf(text, sizeof text, "the client took the call back (HTTP/2: %s)",
                 nghttp2_http2_strerror(code));
        h2_end(s, HARP_GRPC_CANCELLED, text);
        return 0;
    }
    if (!h2->server)
        outcome(s, code);
    s->over = !h2->server && s->waiting && !s->mute;
    if (!s->over)
        h2_end(s, s->status, s->text);
    return 0;
}

/* Frames as large as windows and the peer allow. */
static ssize_t read_length(nghttp2_session *session, uint8_t type, int32_t id,
                           int32_t session_window, int32_t stream_window, uint32_t max_frame,
                           void *user)
{
    return H2_FRAME_BYTES;
}

/* --- the connection --- */

static int settle(struct harp_h2 *h2)
{
    /* Bytes on their way, of all calls: it opens as they come, so it keeps nobody waiting. */
    uint32_t connection = h2->limits.window < INT32_MAX / 16 ? 16 * h2->limits.window : INT32_MAX;
    const nghttp2_settings_entry entries[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, h2->limits.window},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, H2_FRAME_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES},
        {h2->server ? NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS : NGHTTP2_SETTINGS_ENABLE_PUSH,
         h2->server ? h2->limits.streams : 0},
    };
    int err = nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, entries,
                                      sizeof entries / sizeof *entries);
    return err != 0 ? err
                    : nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
                                                            (int32_t)connection);
}

static int open_session(struct harp_h2 *h2)
{
    nghttp2_session_callbacks *c = NULL;
    nghttp2_option *option = NULL;
    int err = nghttp2_session_callbacks_new(&c);
    if (err == 0)
        err = nghttp2_option_new(&option);
    if (err == 0) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin);
        nghttp2_session_callbacks_set_on_header_callback(c, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
        nghttp2_session_callbacks_set_on_frame_send_callback(c, on_sent);
        nghttp2_session_callbacks_set_on_stream_close_callback(c, on_close);
        nghttp2_session_callbacks_set_send_data_callback(c, h2_send_data);
        nghttp2_session_callbacks_set_data_source_read_length_callback(c, read_length);
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_no_closed_streams(option, 1);
        /* Before its SETTINGS are here a client may not count on more either. */
        nghttp2_option_set_peer_max_concurrent_streams(option, h2->limits.streams);
        err = h2->server ? nghttp2_session_server_new2(&h2->session, c, h2, option)
                         : nghttp2_session_client_new2(&h2->session, c, h2, option);
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(c);
    return err != 0 ? err : settle(h2);
}

int harp_h2_open(struct harp_h2 **out, bool server, const struct harp_h2_limits *limits,
                 const struct harp_h2_handler *handler, const struct harp_io *io,
                 const char *own_table)
{
    struct harp_h2 *h2 = calloc(1, sizeof *h2);
    if (h2 == NULL)
        return -ENOMEM;
    h2->server = server;
    h2->limits = *limits;
    h2->handler = *handler;
    h2->io = *io;
    h2->table = own_table;
    if (open_session(h2) != 0) {
        harp_h2_free(h2, "");
        return -ENOMEM;
    }
    *out = h2;
    return 0;
}

void harp_h2_free(struct harp_h2 *h2, const char *why)
{
    if (h2 == NULL)
        return;
    for (struct harp_h2_stream *s; (s = h2->streams) != NULL;) {
        s->broken = !s->over;
        h2_end(s, s->over ? s->status : HARP_GRPC_UNAVAILABLE, s->over ? s->text : why);
    }
    h2_release(h2->done);
    nghttp2_session_del(h2->session);
    free(h2);
}

struct harp_traffic harp_traffic;

int harp_h2_readable(struct harp_h2 *h2)
{
    for (unsigned round = 0; round < 16; round++) {
        ssize_t n = h2->io.recv(h2->io.ctx, h2->read, sizeof h2->read);
        if (n <= 0)
            return n == -EAGAIN ? 0 : n == 0 ? -EPIPE : (int)n;
        h2->heard = true;
        harp_traffic.received += (uint64_t)n;
        if (h2->failed || nghttp2_session_mem_recv(h2->session, h2->read, (size_t)n) < 0) {
            h2->failed = true;
            return -EPROTO;
        }
        if (h2->io.drains && sizeof h2->read - (size_t)n >= HARP_IO_ROOM)
            return 0;
    }
    return 1;
}

bool harp_h2_over(const struct harp_h2 *h2)
{
    if (h2->from != h2->count || nghttp2_session_want_write(h2->session))
        return false;
    return (h2->draining && h2->calls == 0) || !nghttp2_session_want_read(h2->session);
}

const char *harp_h2_why(const struct harp_h2 *h2)
{
    return h2->why;
}

bool harp_h2_heard(const struct harp_h2 *h2)
{
    return h2->heard;
}

unsigned harp_h2_calls(const struct harp_h2 *h2)
{
    unsigned count = 0;
    for (const struct harp_h2_stream *s = h2->streams; s != NULL; s = s->next)
        count += s->began;
    return count;
}

size_t harp_h2_held(const struct harp_h2 *h2)
{
    return h2->held;
}

void harp_h2_drain(struct harp_h2 *h2)
{
    h2->draining = true;
    nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(h2->session), NGHTTP2_NO_ERROR,
                          NULL, 0);
}
