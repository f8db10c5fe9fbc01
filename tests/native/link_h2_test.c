/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/2 as harp-link speaks it: what two sides of it tell each other, and a stranger.
 */
#include "link_h2_sides.h"

static void both_ways_and_an_end(void)
{
    static const uint32_t sizes[] = {0, 1, 2047, 2048, 100000, HARP_WIRE_BODY_BYTES, 3};
    open_both();
    struct harp_h2_stream *stream = call("t");
    for (unsigned i = 0; i < 7; i++) {
        CHECK(put(stream, i + 1, sizes[i]) == 0);
        pump();
        CHECK(server.messages == i + 1 && put(server.stream, i + 1, sizes[i]) == 0);
        pump();
        CHECK(client.messages == i + 1);
    }
    CHECK(strcmp(client.table, "its table") == 0);
    harp_h2_close(stream);
    CHECK(put(stream, 8, 1) == -EPIPE);
    pump();
    CHECK(server.closes == 1 && client.ends == 0);
    CHECK(put(server.stream, 8, 5) == 0);
    harp_h2_finish(server.stream, HARP_GRPC_RESOURCE_EXHAUSTED, "100 %41 of 8\xc2\xa0GiB, no more");
    CHECK(put(server.stream, 9, 5) == -EPIPE);
    pump();
    CHECK(client.ends == 1 && client.ended_after == 8 && server.ends == 1);
    CHECK(client.status == HARP_GRPC_RESOURCE_EXHAUSTED);
    CHECK(strcmp(client.text, "100 %41 of 8\xc2\xa0GiB, no more") == 0);
    CHECK(harp_h2_calls(client.h2) == 0 && harp_h2_calls(server.h2) == 0);
    close_both();
}

/* What a sender whose peer takes nothing can leave with it, and that nothing is lost by it. */
static void a_reader_that_waits(void)
{
    open_both();
    struct harp_h2_stream *stream = call("t");
    server.refuses = true;
    uint64_t seq = 0;
    for (unsigned i = 0; i < 300; i++) {
        int err = put(stream, seq + 1, 20000);
        CHECK(err == 0 || err == -EAGAIN);
        seq += err == 0;
        pump();
        CHECK(harp_h2_held(server.h2) <= WINDOW + HARP_GRPC_MESSAGE_BYTES);
    }
    CHECK(server.messages == 0 && harp_h2_held(server.h2) > WINDOW / 2);
    CHECK(seq < 30); /* what both windows hold, of 300 */
    unsigned before = (unsigned)seq;
    server.refuses = false;
    harp_h2_resume(server.stream);
    pump();
    CHECK(server.messages == before && client.rooms == 1 && harp_h2_held(server.h2) == 0);
    while (seq < 300) {
        CHECK(put(stream, ++seq, 20000) == 0);
        pump();
    }
    harp_h2_close(stream);
    pump();
    CHECK(server.messages == 300 && server.bytes == 6000000 && server.closes == 1);
    close_both();
}

/* Half-closed behind messages that wait: told after the last one. */
static void closed_behind_what_waits(void)
{
    open_both();
    struct harp_h2_stream *stream = call("t");
    server.refuses = true;
    for (unsigned i = 0; i < 5; i++)
        CHECK(put(stream, i + 1, 500) == 0);
    harp_h2_close(stream);
    pump();
    CHECK(server.messages == 0 && server.closes == 0);
    server.refuses = false;
    harp_h2_resume(server.stream);
    CHECK(server.messages == 5 && server.closes == 1);
    close_both();
}

/* The server ends while the client's user still has messages to take. */
static void ended_behind_what_waits(void)
{
    for (unsigned how = 0; how < 3; how++) {
        open_both();
        struct harp_h2_stream *stream = call("t");
        pump();
        client.refuses = true;
        for (unsigned i = 0; i < 5; i++)
            CHECK(put(server.stream, i + 1, 500) == 0);
        harp_h2_finish(server.stream, HARP_GRPC_UNAVAILABLE, "drained");
        pump();
        CHECK(server.ends == 1 && client.ends == 0 && put(stream, 1, 1) == -EPIPE);
        client.refuses = false;
        if (how == 0)
            harp_h2_resume(stream);
        else if (how == 1)
            harp_h2_cancel(stream);
        else
            harp_h2_free(client.h2, "broke");
        CHECK(client.ends == 1 && client.messages == (how == 0 ? 5 : 0));
        CHECK(client.status == HARP_GRPC_UNAVAILABLE && strcmp(client.text, "drained") == 0);
        if (how == 2)
            reopen_client();
        close_both();
    }
}

static void calls_are_taken_back(void)
{
    open_both();
    struct harp_h2_stream *stream = call("t");
    CHECK(put(stream, 1, 100000) == 0);
    pump();
    CHECK(put(stream, 2, 1000000) == 0);
    harp_h2_cancel(stream);
    pump();
    CHECK(server.ends == 1 && server.status == HARP_GRPC_CANCELLED);
    CHECK(client.ends == 1 && client.status == HARP_GRPC_CANCELLED);
    call("t");
    pump();
    harp_h2_cancel(server.stream);
    pump();
    CHECK(client.ends == 2 && client.status == HARP_GRPC_CANCELLED && server.ends == 2);
    close_both();
}

/* A body is let go when it has been written, and not before, also when its call is gone. */
static void bodies_are_kept_until_written(void)
{
    for (unsigned cancelled = 0; cancelled < 2; cancelled++) {
        open_both();
        struct harp_h2_stream *stream = call("t");
        pump();
        client.budget = 1000;
        CHECK(put(stream, 1, 200000) == 0);
        CHECK(harp_h2_flush(client.h2) == 1);
        if (cancelled != 0) {
            harp_h2_cancel(stream);
            CHECK(alive == 1);
        }
        for (unsigned i = 0; i < 300 && alive != 0; i++) {
            client.budget = 1000;
            CHECK(harp_h2_flush(client.h2) >= 0);
        }
        CHECK(alive == 0);
        client.budget = SIZE_MAX;
        pump();
        CHECK(server.messages == 1 && server.ends == cancelled);
        close_both();
    }
}

/* A frame of DATA is planned, has no room in this write, and its call is taken back meanwhile. */
static void cancelled_when_planned(void)
{
    open_both();
    struct harp_h2_stream *calls[3] = {call("t"), call("t"), call("t")};
    pump();
    server.refuses = true;
    client.budget = 0;
    for (unsigned i = 0; i < 120; i++)
        CHECK(put(calls[i / 40], i % 40 + 1, 2000) == 0);
    CHECK(harp_h2_flush(client.h2) == 1);
    harp_h2_cancel(calls[2]);
    client.budget = SIZE_MAX;
    pump();
    CHECK(client.ends == 1 && server.ends == 1 && harp_h2_held(server.h2) > 2 * 40 * 2000);
    close_both();
}

static void refusals(void)
{
    open_both();
    call("wrong");
    pump();
    CHECK(client.ends == 1 && client.status == HARP_GRPC_UNAUTHENTICATED);
    CHECK(strstr(client.text, "attach again") != NULL);
    CHECK(server.began == 0 && server.ends == 0 && harp_h2_calls(server.h2) == 0);
    /* Beyond the limit of an own side: told, not broken. */
    struct harp_h2_stream *stream = call("t");
    struct harp_h2_message *m = calloc(1, sizeof *m);
    static uint8_t body[16];
    CHECK(m != NULL);
    alive++;
    m->release = release;
    harp_grpc_prefix(m->head, HARP_GRPC_MESSAGE_BYTES + 1);
    m->head_bytes = HARP_GRPC_PREFIX_BYTES;
    m->body = body;
    m->bytes = 0;
    CHECK(harp_h2_put(stream, m) == 0);
    pump();
    CHECK(client.status == HARP_GRPC_RESOURCE_EXHAUSTED && server.ends == 1);
    CHECK(strstr(client.text, "1048645 bytes is above 1048644") != NULL);
    close_both();
}

/* What the byte stream keeps is flushed behind all that there is, and when it may go on. */
static void what_is_kept_is_flushed(void)
{
    open_both();
    struct harp_h2_stream *stream = call("t");
    pump();
    client.flushes = 0;
    CHECK(put(stream, 1, 100) == 0 && harp_h2_flush(client.h2) == 0 && client.flushes == 1);
    client.keeps = -EAGAIN;
    CHECK(harp_h2_flush(client.h2) == 1 && client.flushes == 2);
    client.keeps = -EPIPE;
    CHECK(harp_h2_flush(client.h2) == -EPIPE);
    client.keeps = 0;
    client.budget = 0; /* first what is before it */
    CHECK(put(stream, 2, 100) == 0 && harp_h2_flush(client.h2) == 1 && client.flushes == 3);
    client.budget = SIZE_MAX;
    CHECK(harp_h2_flush(client.h2) == 0 && client.flushes == 4);
    pump();
    CHECK(server.messages == 2);
    close_both();
}

/* Who makes nothing but calls that are refused is sent away. */
static void a_nuisance(void)
{
    open_both();
    for (unsigned i = 0; i < 20; i++) {
        CHECK(!harp_h2_over(server.h2));
        call("wrong");
        pump();
    }
    CHECK(harp_h2_over(server.h2) && client.ends >= 19);
    close_both();
    CHECK(client.ends == 20 && client.status == HARP_GRPC_UNAVAILABLE);
}

static void drained(void)
{
    open_both();
    struct harp_h2_stream *stream = call("t"), *none = NULL;
    pump();
    harp_h2_drain(server.h2);
    pump();
    const struct harp_h2_request request = {
        .authority = "test", .token = "t", .session = "s", .table = ""};
    CHECK(harp_h2_call(client.h2, &request, &none) == -EPIPE);
    CHECK(!harp_h2_over(server.h2) && put(stream, 1, 10) == 0);
    pump();
    CHECK(server.messages == 1);
    harp_h2_finish(server.stream, HARP_GRPC_OK, "");
    pump();
    CHECK(client.ends == 1 && client.status == HARP_GRPC_OK);
    CHECK(harp_h2_over(server.h2) && harp_h2_over(client.h2));
    close_both();
}

static void a_connection_breaks(void)
{
    open_both();
    call("t");
    pump();
    harp_h2_free(client.h2, "cable pulled");
    harp_h2_free(server.h2, "cable pulled");
    CHECK(client.ends == 1 && client.status == HARP_GRPC_UNAVAILABLE);
    CHECK(server.ends == 1 && strcmp(server.text, "cable pulled") == 0);
    free(client.coming);
    free(server.coming);
}

/* By hand: PING is answered, what is no HTTP/2 is not, what is no gRPC gets HTTP's 415. */
static void strangers(void)
{
    static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                "\0\0\0\4\0\0\0\0\0"                          /* SETTINGS */
                                "\0\0\x08\6\0\0\0\0\0piepsen!"                /* PING */
                                "\0\0\x09\1\5\0\0\0\1\x83\x86\x84\x41\4test"; /* POST / */
    static const char pong[] = "\0\0\x08\6\1\0\0\0\0piepsen!";
    static const char status[] = "\1\5\0\0\0\1"; /* HEADERS, END_STREAM | END_HEADERS */
    open_both();
    harp_h2_free(client.h2, "");
    server.coming = malloc(sizeof hello);
    CHECK(server.coming != NULL);
    memcpy(server.coming, hello, sizeof hello - 1);
    server.room = server.to = sizeof hello - 1;
    CHECK(harp_h2_readable(server.h2) == 0 && harp_h2_flush(server.h2) == 0);
    CHECK(memmem(client.coming, client.to, pong, sizeof pong - 1) != NULL);
    CHECK(memmem(client.coming, client.to, status, sizeof status - 1) != NULL);
    CHECK(memmem(client.coming, client.to, "415", 3) != NULL && server.began == 0);
    reopen_client();
    close_both();
    open_both();
    server.coming = malloc(64);
    CHECK(server.coming != NULL);
    memcpy(server.coming, "GET / HTTP/1.1\r\nHost: harp\r\n\r\n", 30);
    server.room = 64;
    server.to = 30;
    CHECK(harp_h2_readable(server.h2) == -EPROTO);
    close_both();
}

int main(void)
{
    both_ways_and_an_end();
    a_reader_that_waits();
    closed_behind_what_waits();
    ended_behind_what_waits();
    calls_are_taken_back();
    bodies_are_kept_until_written();
    cancelled_when_planned();
    refusals();
    what_is_kept_is_flushed();
    a_nuisance();
    drained();
    a_connection_breaks();
    strangers();
    return 0;
}
