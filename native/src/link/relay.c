/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages from one stream to another, held back as each of them is.
 */
#include "src/link/relay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "src/link/join.h"

/* down: to the program's side; up: to the session's process. */
static struct harp_loop *loop;
static struct harp_h2_stream *down, *up;
static struct harp_conn *down_conn, *up_conn;
static struct harp_grpc_call asked;
static bool answered, closed, *accepted;

/* A message with a copy of its bytes. */
struct passed {
    struct harp_h2_message message;
    uint8_t body[];
};

static void release(struct harp_h2_message *message)
{
    free(HARP_AROUND(message, struct passed, message));
}

/* 0 or -EAGAIN. To a stream that ends nothing is passed on: its end says the rest. */
static int pass(struct harp_h2_stream *to, struct harp_conn *conn, const uint8_t *data,
                uint32_t bytes)
{
    struct passed *p = to != NULL ? malloc(sizeof *p + bytes) : NULL;
    if (p == NULL) {
        if (to != NULL)
            harp_conn_close(down_conn, "no memory for a message");
        return 0;
    }
    p->message = (struct harp_h2_message){
        .release = release, .body = p->body, .bytes = bytes, .head_bytes = HARP_GRPC_PREFIX_BYTES};
    harp_grpc_prefix(p->message.head, bytes);
    if (bytes != 0)
        memcpy(p->body, data, bytes);
    int err = harp_h2_put(to, &p->message);
    if (err != 0)
        free(p);
    else
        harp_conn_kick(conn);
    return err == -EAGAIN ? err : 0;
}

/* --- up --- */

static void open_up(void *ctx, struct harp_conn *conn)
{
    const struct harp_h2_request request = {.method = asked.method,
                                            .authority = "localhost",
                                            .token = asked.token[0] ? asked.token : NULL,
                                            .session = asked.session,
                                            .table = asked.table,
                                            .resume = asked.resume};
    if (harp_h2_call(harp_conn_h2(conn), &request, &up) != 0)
        harp_conn_close(conn, "the session takes no calls");
    else if (closed)
        harp_h2_close(up);
}

static void answered_up(void *ctx, struct harp_h2_stream *stream,
                        const struct harp_grpc_answer *answer)
{
    if (down == NULL)
        return;
    answered = *accepted = true;
    harp_h2_say_resume(down, answer->resume);
    harp_h2_accept(down);
    harp_h2_resume(down); /* what has come already */
    harp_conn_kick(down_conn);
}

static int message_up(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    return pass(down, down_conn, data, bytes);
}

static void room_up(void *ctx, struct harp_h2_stream *stream)
{
    if (down != NULL) {
        harp_h2_resume(down);
        harp_conn_kick(down_conn);
    }
}

static void end_up(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                   const char *text)
{
    up = NULL;
    if (down != NULL && !harp_h2_broke(stream)) {
        if (answered)
            harp_h2_finish(down, status, text);
        else
            harp_h2_refuse(down, status, text);
        harp_conn_kick(down_conn);
    } else if (down_conn != NULL) {
        harp_conn_close(down_conn, "the session's process has let go of the connection");
    }
}

static void gone_up(void *ctx, struct harp_conn *conn, const char *why)
{
    up_conn = NULL;
    if (down_conn == NULL)
        loop->stop = true;
    else if (!answered && down != NULL)
        harp_conn_close(down_conn, why);
}

static struct harp_conn_user user = {
    .open = open_up,
    .gone = gone_up,
    .handler = {.answered = answered_up, .message = message_up, .room = room_up, .end = end_up},
};

/* --- down --- */

bool relay_on(void)
{
    return loop != NULL;
}

int relay_message(struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    if (stream != down)
        return 0;
    return answered ? pass(up, up_conn, data, bytes) : -EAGAIN;
}

void relay_room(void)
{
    if (up != NULL) {
        harp_h2_resume(up);
        harp_conn_kick(up_conn);
    }
}

void relay_closed(void)
{
    closed = true;
    if (up != NULL) {
        harp_h2_close(up);
        harp_conn_kick(up_conn);
    }
}

void relay_ended(struct harp_h2_stream *stream)
{
    if (stream != down)
        return;
    down = NULL;
    if (up != NULL && !harp_h2_broke(stream)) { /* it was taken back */
        harp_h2_cancel(up);
        harp_conn_kick(up_conn);
    }
    harp_conn_close(down_conn, "");
}

/* What is still to be said to the session's process is said; that the connection broke it sees by
 * the end of its own. */
void relay_gone(struct harp_conn *conn)
{
    if (conn != down_conn)
        return;
    down_conn = NULL;
    if (up_conn == NULL)
        loop->stop = true;
    else
        harp_conn_close(up_conn, ""); /* a call that is taken back may still have to be written */
}

enum harp_grpc_status relay_no_more(char *text)
{
    snprintf(text, HARP_GRPC_TEXT_BYTES,
             "the session is here no more: its worker has ended, or it was without a connection "
             "for too long; remedy: attach again");
    return HARP_GRPC_FAILED_PRECONDITION;
}

/* Nothing is wrong with the session: near sees a broken connection, and tries again. */
static enum harp_grpc_status not_now(int err)
{
    char why[HARP_WHY_BYTES];
    snprintf(why, sizeof why, "no way to the session's process now: %s", strerror(-err));
    harp_conn_close(down_conn, why);
    return HARP_H2_LATER;
}

static int open_way(const char *session)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return -errno;
    int err = harp_join_give(session, pair[1]);
    close(pair[1]);
    if (err != 0) {
        close(pair[0]);
        return err;
    }
    err = harp_conn_join(&up_conn, loop, pair[0], &user);
    if (err != 0)
        up_conn = NULL;
    return err;
}

enum harp_grpc_status relay_begin(struct harp_loop *in, struct harp_h2_stream *stream,
                                  const struct harp_grpc_call *call, bool *was_accepted, char *text)
{
    user.limits = harp_h2_default;
    asked = *call;
    loop = in;
    down = stream;
    down_conn = harp_conn_of(stream);
    accepted = was_accepted;
    int err = open_way(call->session);
    if (err == 0)
        return HARP_H2_LATER;
    if (err != -ENOENT && err != -EPIPE && err != -ECONNREFUSED && err != -ECONNRESET)
        return not_now(err);
    loop = NULL; /* no relay */
    return relay_no_more(text);
}
