/* SPDX-License-Identifier: Apache-2.0
 *
 * A client and a server of harp_h2, with nothing but two buffers between them. Of one test's
 * program: it holds what it defines.
 */
#ifndef HARP_TESTS_LINK_H2_SIDES_H
#define HARP_TESTS_LINK_H2_SIDES_H

#include "src/link/h2.h"

#include <errno.h>
#include <string.h>

#include "check.h"

#define WINDOW (256u << 10)

/* One side, its user, and the bytes on their way to it. */
struct side {
    struct harp_h2 *h2;
    struct side *other;
    struct harp_h2_handler handler;
    uint8_t *coming;
    size_t from, to, room, budget; /* budget: of what it may still send */
    struct harp_h2_stream *stream; /* the last that began */
    bool refuses;
    int keeps; /* 0, or the error of a flush */
    unsigned flushes, began, messages, closes, rooms, ends, ended_after;
    size_t bytes;
    uint64_t next_seq;
    enum harp_grpc_status status;
    char text[HARP_GRPC_TEXT_BYTES], table[HARP_TABLE_TEXT];
};

static struct side client, server;
static unsigned alive; /* messages not released */

static ssize_t side_recv(void *ctx, void *data, size_t size)
{
    struct side *s = ctx;
    size_t n = s->to - s->from < size ? s->to - s->from : size;
    if (n != 0)
        memcpy(data, s->coming + s->from, n);
    s->from += n;
    return n != 0 ? (ssize_t)n : -EAGAIN;
}

static ssize_t side_send(void *ctx, const struct iovec *pieces, int count)
{
    struct side *me = ctx, *s = me->other;
    size_t sum = 0;
    for (int i = 0; i < count && me->budget != 0; i++) {
        size_t n = pieces[i].iov_len < me->budget ? pieces[i].iov_len : me->budget;
        if (s->to + n > s->room) {
            s->room = 2 * (s->to + n);
            s->coming = realloc(s->coming, s->room);
            CHECK(s->coming != NULL);
        }
        memcpy(s->coming + s->to, pieces[i].iov_base, n);
        s->to += n;
        me->budget -= n;
        sum += n;
    }
    return sum != 0 ? (ssize_t)sum : -EAGAIN;
}

static int side_flush(void *ctx)
{
    struct side *s = ctx;
    s->flushes++;
    return s->keeps;
}

static enum harp_grpc_status begin(void *ctx, struct harp_h2_stream *stream,
                                   const struct harp_grpc_call *call, char *text)
{
    struct side *s = ctx;
    struct harp_table_id own;
    harp_table_own(&own, "1");
    const struct harp_grpc_rule rule = {.token = "t", .session = "s", .own = &own};
    enum harp_grpc_status status = harp_grpc_check(call, &rule, text);
    s->stream = stream;
    s->began += status == HARP_GRPC_OK;
    return status;
}

static void answered(void *ctx, struct harp_h2_stream *stream,
                     const struct harp_grpc_answer *answer)
{
    memcpy(((struct side *)ctx)->table, answer->table, sizeof answer->table);
}

static int message(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    struct side *s = ctx;
    struct harp_frame frame;
    if (s->refuses)
        return -EAGAIN;
    CHECK(harp_frame_get(&frame, data, bytes) == 0);
    CHECK(frame.seq == ++s->next_seq);
    for (uint32_t i = 0; i < frame.bytes; i += 97)
        CHECK(frame.body[i] == (uint8_t)(frame.seq + i));
    s->messages++;
    s->bytes += frame.bytes;
    return 0;
}

static void closed(void *ctx, struct harp_h2_stream *stream)
{
    ((struct side *)ctx)->closes++;
}

static void room(void *ctx, struct harp_h2_stream *stream)
{
    ((struct side *)ctx)->rooms++;
}

static void end(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                const char *text)
{
    struct side *s = ctx;
    s->ends++;
    s->ended_after = s->messages;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
}

static void open_side(struct side *s, struct side *other, bool is_server)
{
    static const struct harp_h2_limits limits = {
        .window = WINDOW, .queue = WINDOW, .streams = 8, .refused = 20};
    *s = (struct side){.other = other, .budget = SIZE_MAX};
    s->handler = (struct harp_h2_handler){.ctx = s,
                                          .begin = begin,
                                          .answered = answered,
                                          .message = message,
                                          .closed = closed,
                                          .room = room,
                                          .end = end};
    const struct harp_io io = {.ctx = s, .recv = side_recv, .send = side_send, .flush = side_flush};
    CHECK(harp_h2_open(&s->h2, is_server, &limits, &s->handler, &io, "its table") == 0);
}

static void open_both(void)
{
    open_side(&client, &server, false);
    open_side(&server, &client, true);
}

/* Where a test has freed it by itself. */
static void reopen_client(void)
{
    free(client.coming);
    open_side(&client, &server, false);
}

static void close_both(void)
{
    harp_h2_free(client.h2, "test over");
    harp_h2_free(server.h2, "test over");
    CHECK(alive == 0);
    free(client.coming);
    free(server.coming);
}

/* Until nobody has anything to say. */
static void pump(void)
{
    for (unsigned round = 0; round < 10000; round++) {
        size_t before = client.to + server.to;
        CHECK(harp_h2_readable(client.h2) >= 0 && harp_h2_flush(client.h2) >= 0);
        CHECK(harp_h2_readable(server.h2) >= 0 && harp_h2_flush(server.h2) >= 0);
        if (client.to + server.to == before && client.from == client.to && server.from == server.to)
            return;
    }
    CHECK(!"an end of it");
}

static struct harp_h2_stream *call(const char *token)
{
    static char table[HARP_TABLE_TEXT];
    struct harp_table_id own;
    struct harp_h2_stream *stream = NULL;
    harp_table_own(&own, "1");
    harp_table_put(table, &own);
    const struct harp_h2_request request = {.method = HARP_GRPC_SESSION,
                                            .authority = "test",
                                            .token = token,
                                            .session = "s",
                                            .table = table};
    CHECK(harp_h2_call(client.h2, &request, &stream) == 0);
    return stream;
}

static void release(struct harp_h2_message *m)
{
    memset(m, 0x5a, sizeof *m + m->bytes); /* whoever still reads it sends nonsense */
    free(m);
    alive--;
}

static int put(struct harp_h2_stream *stream, uint64_t seq, uint32_t bytes)
{
    struct harp_h2_message *m = malloc(sizeof *m + bytes);
    CHECK(m != NULL);
    uint8_t *body = (uint8_t *)(m + 1);
    for (uint32_t i = 0; i < bytes; i++)
        body[i] = (uint8_t)(seq + i);
    const struct harp_frame frame = {.seq = seq, .op = 70, .body = body, .bytes = bytes};
    harp_h2_frame(m, &frame);
    m->release = release;
    alive++;
    int err = harp_h2_put(stream, m);
    if (err != 0)
        release(m);
    return err;
}

#endif
