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

/* A call. down: to whoever has called; up: to who judges it. */
struct way {
    struct harp_h2_stream *down, *up;
    struct harp_grpc_call asked;
    bool used, answered, closed;
};

static struct harp_loop *loop;
static struct way ways[RELAY_CALLS];
static struct harp_conn *down_conn, *up_conn;
static const struct relay_to *to;
static bool up_open, *accepted;

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
static int pass(struct harp_h2_stream *on, struct harp_conn *conn, const uint8_t *data,
                uint32_t bytes)
{
    struct passed *p = on != NULL ? malloc(sizeof *p + bytes) : NULL;
    if (p == NULL) {
        if (on != NULL)
            harp_conn_close(down_conn, "no memory for a message");
        return 0;
    }
    p->message = (struct harp_h2_message){
        .release = release, .body = p->body, .bytes = bytes, .head_bytes = HARP_GRPC_PREFIX_BYTES};
    harp_grpc_prefix(p->message.head, bytes);
    if (bytes != 0)
        memcpy(p->body, data, bytes);
    int err = harp_h2_put(on, &p->message);
    if (err != 0)
        free(p);
    else
        harp_conn_kick(conn);
    return err == -EAGAIN ? err : 0;
}

static struct way *way_down(const struct harp_h2_stream *stream)
{
    for (unsigned i = 0; i < RELAY_CALLS; i++)
        if (ways[i].down == stream)
            return &ways[i];
    return NULL;
}

/* --- up --- */

static struct way *way_up(struct harp_h2_stream *stream)
{
    return *harp_h2_data(stream);
}

static void call_up(struct way *w)
{
    const struct harp_h2_request request = {.method = w->asked.method,
                                            .tls = to->tls,
                                            .authority = to->authority,
                                            .token = w->asked.token[0] ? w->asked.token : NULL,
                                            .session = w->asked.session,
                                            .table = w->asked.table,
                                            .resume = w->asked.resume[0] ? w->asked.resume : NULL,
                                            .bulk = w->asked.bulk[0] ? w->asked.bulk : NULL,
                                            .data = w};
    if (harp_h2_call(harp_conn_h2(up_conn), &request, &w->up) != 0)
        harp_conn_close(up_conn, "the session takes no calls");
    else if (w->closed)
        harp_h2_close(w->up);
    harp_conn_kick(up_conn);
}

static void open_up(void *ctx, struct harp_conn *conn)
{
    up_open = true;
    for (unsigned i = 0; i < RELAY_CALLS; i++)
        if (ways[i].down != NULL)
            call_up(&ways[i]);
}

static void answered_up(void *ctx, struct harp_h2_stream *stream,
                        const struct harp_grpc_answer *answer)
{
    struct way *w = way_up(stream);
    if (w->down == NULL)
        return;
    w->answered = true;
    if (accepted != NULL)
        *accepted = true;
    if (answer->resume[0] != '\0')
        harp_h2_say_resume(w->down, answer->resume);
    harp_h2_accept(w->down);
    harp_h2_resume(w->down); /* what has come already */
    harp_conn_kick(down_conn);
}

static int message_up(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    return pass(way_up(stream)->down, down_conn, data, bytes);
}

static void room_up(void *ctx, struct harp_h2_stream *stream)
{
    struct way *w = way_up(stream);
    if (w->down != NULL) {
        harp_h2_resume(w->down);
        harp_conn_kick(down_conn);
    }
}

static void end_up(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                   const char *text)
{
    struct way *w = way_up(stream);
    w->up = NULL;
    if (w->down != NULL && (to->says || !harp_h2_broke(stream))) {
        if (w->answered)
            harp_h2_finish(w->down, status, text);
        else
            harp_h2_refuse(w->down, status, text);
        harp_conn_kick(down_conn);
    } else if (down_conn != NULL) {
        harp_conn_close(down_conn, "the session's process has let go of the connection");
    }
}

static void gone_up(void *ctx, struct harp_conn *conn, const char *why)
{
    up_conn = NULL;
    loop->stop |= down_conn == NULL;
    for (unsigned i = 0; i < RELAY_CALLS && down_conn != NULL; i++)
        if (ways[i].down != NULL && to->says)
            harp_h2_refuse(ways[i].down, HARP_GRPC_UNAVAILABLE, why); /* if nothing was said yet */
        else if (ways[i].down != NULL && !ways[i].answered)
            harp_conn_close(down_conn, why);
    if (down_conn != NULL)
        harp_conn_kick(down_conn);
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

bool relay_of_bulk(void)
{
    return relay_on() && ways[0].asked.method == HARP_GRPC_BULK;
}

int relay_message(struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    const struct way *w = way_down(stream);
    if (w == NULL)
        return 0;
    return w->answered ? pass(w->up, up_conn, data, bytes) : -EAGAIN;
}

void relay_room(void)
{
    for (unsigned i = 0; i < RELAY_CALLS; i++)
        if (ways[i].up != NULL) {
            harp_h2_resume(ways[i].up);
            harp_conn_kick(up_conn);
        }
}

void relay_closed(struct harp_h2_stream *stream)
{
    struct way *w = way_down(stream);
    if (w == NULL)
        return;
    w->closed = true;
    if (w->up != NULL) {
        harp_h2_close(w->up);
        harp_conn_kick(up_conn);
    }
}

void relay_ended(struct harp_h2_stream *stream)
{
    struct way *w = way_down(stream);
    if (w == NULL)
        return;
    w->down = NULL;
    if (w->up != NULL && !harp_h2_broke(stream)) { /* it was taken back */
        harp_h2_cancel(w->up);
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
static enum harp_grpc_status not_now(int err, const char *said)
{
    char why[HARP_WHY_BYTES];
    snprintf(why, sizeof why, "no way to the session's process now: %s", strerror(-err));
    harp_conn_close(down_conn, said[0] != '\0' ? said : why);
    return HARP_H2_LATER;
}

static int open_session(struct harp_conn **up, struct harp_loop *in, const char *session,
                        const struct harp_conn_user *as, char *why)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return -errno;
    int err = harp_join_give(session, pair[1]);
    close(pair[1]);
    if (err == 0)
        return harp_conn_join(up, in, pair[0], as);
    close(pair[0]);
    return err;
}

const struct relay_to relay_to_session = {.open = open_session, .authority = "localhost"};

/* Beside the one for which this process is a relay, on the same connection. */
static enum harp_grpc_status one_more(struct harp_h2_stream *stream,
                                      const struct harp_grpc_call *call, char *text)
{
    unsigned i = 0;
    while (i < RELAY_CALLS && ways[i].used)
        i++;
    if (i == RELAY_CALLS || harp_conn_of(stream) != down_conn || up_conn == NULL) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "the session is in use; remedy: attach again");
        return HARP_GRPC_RESOURCE_EXHAUSTED;
    }
    ways[i] = (struct way){.down = stream, .asked = *call, .used = true};
    if (up_open)
        call_up(&ways[i]);
    return HARP_H2_LATER;
}

enum harp_grpc_status relay_begin(struct harp_loop *in, struct harp_h2_stream *stream,
                                  const struct harp_grpc_call *call, const struct relay_to *whereto,
                                  bool *was_accepted, char *text)
{
    char why[HARP_WHY_BYTES] = "";
    if (relay_on())
        return one_more(stream, call, text);
    user.limits = harp_h2_default;
    ways[0] = (struct way){.down = stream, .asked = *call, .used = true};
    loop = in;
    to = whereto;
    down_conn = harp_conn_of(stream);
    accepted = was_accepted;
    int err = to->open(&up_conn, loop, call->session, &user, why);
    if (err == 0)
        return HARP_H2_LATER;
    up_conn = NULL;
    if (to != &relay_to_session ||
        (err != -ENOENT && err != -EPIPE && err != -ECONNREFUSED && err != -ECONNRESET))
        return not_now(err, why);
    loop = NULL; /* no relay */
    ways[0] = (struct way){.used = false};
    return relay_no_more(text);
}
