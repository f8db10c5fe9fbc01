/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes that relay, and calls to them.
 */
#include "src/link/near_bulk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/link/relay.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static struct bridge *bridge;
static const struct ends_options *given;
static struct harp_h2_stream *beside; /* on Session's connection */
static char table[HARP_TABLE_TEXT];

/* --- the process of a connection --- */

static struct harp_loop loop; /* its own */

static int dial(struct harp_conn **up, struct harp_loop *in, const char *session,
                const struct harp_conn_user *user, char *why)
{
    return harp_conn_dial(up, in, &given->address, given->tls, given->name, user, why);
}

static struct relay_to to_far = {.open = dial, .says = true};

static enum harp_grpc_status begin(void *ctx, struct harp_h2_stream *stream,
                                   const struct harp_grpc_call *call, char *text)
{
    return relay_begin(&loop, stream, call, &to_far, NULL, text);
}

static int relayed(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    return relay_message(stream, data, bytes);
}

static void relay_has_room(void *ctx, struct harp_h2_stream *stream)
{
    relay_room();
}

static void relay_is_closed(void *ctx, struct harp_h2_stream *stream)
{
    relay_closed(stream);
}

static void relay_has_ended(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                            const char *text)
{
    relay_ended(stream);
}

static void relay_is_gone(void *ctx, struct harp_conn *conn, const char *why)
{
    if (relay_on())
        relay_gone(conn);
    else
        loop.stop = true;
}

static struct harp_conn_user relay_user = {
    .gone = relay_is_gone,
    .handler = {.begin = begin,
                .message = relayed,
                .closed = relay_is_closed,
                .room = relay_has_room,
                .end = relay_has_ended},
};

/* It has nothing of its parent's but its end of the pair. */
static int run_relay(int fd, pid_t parent)
{
    struct harp_conn *conn;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGINT, SIG_IGN); /* of a terminal: the session ends first */
    (void)signal(SIGHUP, SIG_IGN);
    if (getppid() != parent || dup2(fd, STDERR_FILENO + 1) < 0 ||
        syscall(SYS_close_range, STDERR_FILENO + 2, ~0u, 0) != 0)
        return 1;
    fd = STDERR_FILENO + 1;
    harp_ring_close(&bridge->ring);
    relay_user.limits = harp_h2_default;
    to_far.authority = given->address.text;
    to_far.tls = given->tls != NULL;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || harp_loop_open(&loop) != 0 ||
        harp_conn_take(&conn, &loop, fd, NULL, &relay_user) != 0)
        return 1;
    return harp_loop_run(&loop) != 0;
}

/* --- the session's --- */

struct harp_h2_request near_request(const struct ends_options *options,
                                    enum harp_grpc_method method, const char *own_table)
{
    return (struct harp_h2_request){.method = method,
                                    .tls = options->tls != NULL,
                                    .authority = options->address.text,
                                    .token = options->token[0] ? options->token : NULL,
                                    .session = options->session,
                                    .table = own_table};
}

static int call(struct harp_conn *conn, unsigned number, struct harp_h2_stream **stream)
{
    char text[HARP_BULK_TEXT];
    snprintf(text, sizeof text, "%u", number % 10);
    struct harp_h2_request request = near_request(given, HARP_GRPC_BULK, table);
    request.bulk = number != 0 ? text : NULL;
    return harp_h2_call(harp_conn_h2(conn), &request, stream);
}

/* Of each a user of its own, whose place is its number. */
static struct harp_conn_user users[HARP_SPREAD_WAYS];

static unsigned number_of(void *ctx)
{
    return (unsigned)((struct harp_conn_user *)ctx - users);
}

static void opened(void *ctx, struct harp_conn *conn)
{
    struct harp_h2_stream *stream;
    if (call(conn, number_of(ctx), &stream) != 0)
        harp_conn_close(conn, "no call of Bulk can be made");
}

static void answered(void *ctx, struct harp_h2_stream *stream,
                     const struct harp_grpc_answer *answer)
{
    (void)bridge_way_add(bridge, harp_conn_of(stream), stream, number_of(ctx));
}

static int message(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    return bridge_way_message(bridge, stream, data, bytes);
}

static void room(void *ctx, struct harp_h2_stream *stream)
{
    (void)bridge_way_room(bridge, stream);
}

static void ended(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                  const char *text)
{
    const bool used = bridge->ways[number_of(ctx)].serial != 0;
    (void)bridge_way_ended(bridge, stream);
    if (!bridge->ended && !harp_ring_gone(&bridge->ring))
        fprintf(stderr, "harp-link: %s: a stream of Bulk %s: %s: host bytes go on %u now\n",
                given->address.text, used ? "has ended" : "is refused", text, bridge_ways(bridge));
    harp_conn_close(harp_conn_of(stream), "");
}

static void gone(void *ctx, struct harp_conn *conn, const char *why)
{
    bridge_way_failed(bridge, number_of(ctx));
}

static const struct harp_conn_user user = {
    .open = opened,
    .gone = gone,
    .handler = {.answered = answered, .message = message, .room = room, .end = ended},
};

static void start(unsigned number)
{
    struct harp_conn *conn;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return;
    const pid_t own = getpid(), pid = fork();
    if (pid == 0)
        _exit(run_relay(pair[1], own));
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        fprintf(stderr, "harp-link: no process for a stream of Bulk: %s\n", strerror(errno));
        return;
    }
    users[number] = user;
    users[number].limits = harp_h2_default;
    users[number].ctx = users[number].handler.ctx = &users[number];
    (void)harp_conn_join(&conn, bridge->loop, pair[0], &users[number]);
}

void near_bulk_first(struct bridge *b, const struct ends_options *options,
                     const struct harp_grpc_answer *answer)
{
    unsigned others;
    bridge = b;
    given = options;
    if (harp_bulk_wish(&others, answer->bulk) != 0 || others > options->others)
        return;
    b->others = others;
    harp_table_put(table, &options->own);
    (void)signal(SIGCHLD, SIG_IGN); /* the kernel takes them in */
    for (unsigned number = 1; number <= others; number++)
        start(number);
}

void near_bulk_go_on(struct bridge *b, const struct ends_options *options)
{
    if (b->others == 0 || b->ended || b->stream == NULL)
        return;
    if (call(b->conn, 0, &beside) != 0)
        harp_conn_close(b->conn, "no call of Bulk can be made beside the session");
    harp_conn_kick(b->conn);
}

bool near_bulk_is(const struct harp_h2_stream *stream)
{
    return stream != NULL && stream == beside;
}

bool near_bulk_answered(struct harp_h2_stream *stream)
{
    if (!near_bulk_is(stream))
        return false;
    (void)bridge_way_add(bridge, harp_conn_of(stream), stream, 0);
    return true;
}

bool near_bulk_ended(struct bridge *b, const struct harp_h2_stream *stream)
{
    if (!near_bulk_is(stream))
        return false;
    beside = NULL;
    (void)bridge_way_ended(b, stream);
    return true;
}
