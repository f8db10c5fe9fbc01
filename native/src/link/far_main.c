/* SPDX-License-Identifier: Apache-2.0
 *
 * Beside the worker: one session. Its first call starts the worker, on one end of a socket pair;
 * its end, whatever that is, ends worker and process. Where the program's side can resume, that is
 * not the end of its connection, but of the time without one.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/link/bridge.h"
#include "src/link/ends.h"
#include "src/link/join.h"
#include "src/link/relay.h"
#include "src/link/traffic.h"

/* Opening a driver takes its time. */
#define OPEN_MS 20000
/* How soon it is seen that a session was taken back. */
#define LOOK_MS 500
/* Strangers that may be connected meanwhile. */
#define CONNECTIONS 64
/* Room for every body there may be; for chunks that wait and bytes that are to come. */
static const struct harp_ring_sizes sizes = {4u << 20, 4u << 20, 64u << 20};

static const struct ends_options *given;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char table[HARP_TABLE_TEXT];
static struct harp_loop loop;
static struct bridge bridge;
static struct far_session session = {.fd = -1};
static struct harp_timer look;
static bool began;
static struct far_place alone, *place = &alone;
/* What the program's side calls the session, its connection so far, and how long it may be without.
 */
static struct harp_resume resume;
static unsigned window_ms;
static struct harp_timer window;
static struct harp_watch inbox;
static uint64_t taken[(64u << 20) / HARP_RING_PAGE / 64];

/* The worker's ring is open, or `text` says why not. */
static int start_worker(char *text, size_t size)
{
    snprintf(text, size, "no worker can be started");
    int err = far_worker_start(given, &session, &bridge.sock);
    if (err != 0)
        return err;
    err = harp_ring_dial(&bridge.ring, bridge.sock, &sizes, table, OPEN_MS, text, size);
    bridge.ring.yield.most_us = HARP_YIELD_US;
    bridge.bulk =
        (struct harp_bulk){.taken = taken, .pages = (uint32_t)(sizes.bulk / HARP_RING_PAGE)};
    return err != 0 ? err : bridge_start(&bridge);
}

/* What a call must bring: the one session's token, or that of the session which it names. */
static struct harp_grpc_rule rule_for(const struct harp_grpc_call *call)
{
    if (given->sessions == NULL)
        return (struct harp_grpc_rule){.token = given->token[0] ? given->token : NULL,
                                       .session = given->session,
                                       .own = &given->own};
    if (!began)
        far_session_open(&session, given->sessions, call->session);
    return (struct harp_grpc_rule){
        .token = session.token, .session = session.name, .own = &given->own};
}

/* Whoever granted the session has taken it back. */
static void look_again(struct harp_timer *timer)
{
    if (!far_session_taken_away(&session)) {
        harp_timer_set(&loop, timer, LOOK_MS);
        return;
    }
    bridge.ended = true;
    shutdown(bridge.sock, SHUT_RDWR);
    if (bridge.stream != NULL)
        harp_h2_finish(bridge.stream, HARP_GRPC_UNAVAILABLE,
                       "the session was taken back; remedy: attach again");
    if (bridge.conn != NULL)
        harp_conn_kick(bridge.conn);
    else
        loop.stop = true;
    bridge_ends(&bridge, BRIDGE_LAST_MS);
}

/* --- connections of a session --- */

static bool without_connection(void)
{
    return bridge.replay.keeps && bridge.stream == NULL && !bridge.ended;
}

static void too_long(struct harp_timer *timer)
{
    char why[HARP_WHY_BYTES];
    snprintf(why, sizeof why, "no connection for %u ms", window_ms);
    bridge_fail(&bridge, why);
}

static enum harp_grpc_status in_use(char *text)
{
    snprintf(text, HARP_GRPC_TEXT_BYTES, "the session is in use; remedy: attach again");
    return HARP_GRPC_RESOURCE_EXHAUSTED;
}

/* The session goes on, on the connection of `stream`; one that is there still is half dead. */
static enum harp_grpc_status take_place(struct harp_h2_stream *stream,
                                        const struct harp_resume *asked, char *text)
{
    struct harp_conn *conn = harp_conn_of(stream);
    if (!bridge.replay.keeps || strcmp(asked->key, resume.key) != 0 || conn == bridge.conn)
        return in_use(text);
    if (asked->attempt <= resume.attempt) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "a later connection has the place of this one");
        return HARP_GRPC_ABORTED;
    }
    if (bridge.ended || bridge.closed) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "the session has ended; remedy: attach again");
        return HARP_GRPC_UNAVAILABLE;
    }
    int err = harp_replay_can(&bridge.replay, asked->taken);
    if (err != 0) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "%s", bridge_no_resume(err));
        fprintf(stderr, "harp-link: %s\n", text);
        bridge.ended = true;
        bridge_ends(&bridge, BRIDGE_LAST_GONE_MS);
        return HARP_GRPC_UNAVAILABLE;
    }
    if (bridge.conn != NULL)
        harp_conn_abandon(bridge.conn, "another connection has its place");
    char answer[HARP_RESUME_TEXT];
    harp_resume_answer(answer, bridge.replay.taken, window_ms);
    harp_h2_say_resume(stream, answer);
    resume.attempt = asked->attempt;
    harp_timer_clear(&window);
    (void)bridge_resume(&bridge, conn, stream, asked->taken);
    return HARP_GRPC_OK;
}

static struct harp_conn_user user;

static void given_over(struct harp_watch *watch, uint32_t events)
{
    struct harp_conn *conn;
    int fd = harp_join_next();
    if (fd >= 0)
        (void)harp_conn_take(&conn, &loop, fd, NULL, &user);
    else if ((events & ~(uint32_t)EPOLLIN) != 0)
        harp_loop_forget(&loop, watch); /* nobody is left who could give any */
}

/* Of a folder's sessions, other processes accept what comes later. 0 or an errno. */
static int hear_others(void)
{
    if (inbox.ready != NULL)
        return 0;
    inbox = (struct harp_watch){.fd = harp_join_here(session.name), .ready = given_over};
    return inbox.fd >= 0 ? harp_loop_watch(&loop, &inbox, EPOLLIN) : 0;
}

/* Both sides can, and want to. */
static void resumes(struct harp_h2_stream *stream, const struct harp_resume *asked)
{
    char answer[HARP_RESUME_TEXT];
    window_ms = given->sessions != NULL ? far_session_resume_ms(&session, given->resume_ms)
                                        : given->resume_ms;
    if (window_ms == 0)
        return;
    int err = hear_others();
    if (err != 0) {
        fprintf(stderr,
                "harp-link: no other connection can be waited for: %s: the session ends "
                "with its first\n",
                strerror(-err));
        return;
    }
    harp_resume_answer(answer, 0, window_ms);
    harp_h2_say_resume(stream, answer);
    resume = *asked;
    bridge.replay.keeps = true;
}

/* So do they as to streams of Bulk. */
static void spreads(struct harp_h2_stream *stream, unsigned asked)
{
    const unsigned others = asked < given->others ? asked : given->others;
    if (others == 0 || hear_others() != 0)
        return;
    bridge.others = others;
    harp_h2_say_bulk(stream, others);
}

/* A stream of Bulk, which is the session's, here or in another process. */
static enum harp_grpc_status bulk_begin(struct harp_h2_stream *stream,
                                        const struct harp_grpc_call *call, char *text)
{
    if (relay_on() || (!began && given->sessions != NULL && given->others != 0))
        return relay_begin(&loop, stream, call, &relay_to_session,
                           place != NULL ? &place->begun : NULL, text);
    if (bridge.others == 0) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "host bytes go on the session's own stream here");
        return HARP_GRPC_UNIMPLEMENTED;
    }
    unsigned number;
    const bool own = harp_conn_of(stream) == bridge.conn;
    if (harp_bulk_wish(&number, call->bulk) != 0 || own != (number == 0) ||
        !bridge_way_add(&bridge, harp_conn_of(stream), stream, number)) {
        snprintf(text, HARP_GRPC_TEXT_BYTES,
                 "harp-bulk is not 1 to %u, each once, of connections beside the session's, nor "
                 "missing on the session's own",
                 bridge.others);
        return HARP_GRPC_INVALID_ARGUMENT;
    }
    return HARP_GRPC_OK;
}

static enum harp_grpc_status begin(void *ctx, struct harp_h2_stream *stream,
                                   const struct harp_grpc_call *call, char *text)
{
    const struct harp_grpc_rule rule = rule_for(call);
    enum harp_grpc_status status = harp_grpc_check(call, &rule, text);
    if (status != HARP_GRPC_OK)
        return status;
    if (call->method == HARP_GRPC_BULK)
        return bulk_begin(stream, call, text);
    unsigned others;
    if (harp_bulk_wish(&others, call->bulk) != 0) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "harp-bulk is not 1 to %u", HARP_BULK_MOST);
        return HARP_GRPC_INVALID_ARGUMENT;
    }
    struct harp_resume asked = {.attempt = 0};
    const bool can = call->resume[0] != '\0';
    if (can && harp_resume_get(&asked, call->resume) != 0) {
        snprintf(text, HARP_GRPC_TEXT_BYTES, "harp-resume is not `key attempt taken`");
        return HARP_GRPC_INVALID_ARGUMENT;
    }
    if (relay_on())
        return in_use(text);
    if (began)
        return can ? take_place(stream, &asked, text) : in_use(text);
    if (asked.attempt != 0 && given->sessions == NULL)
        return relay_no_more(text);
    if (asked.attempt != 0)
        return relay_begin(&loop, stream, call, &relay_to_session,
                           place != NULL ? &place->begun : NULL, text);
    if (given->sessions != NULL && !far_session_lock(&session))
        return in_use(text);
    began = true;
    if (given->sessions != NULL) {
        snprintf(place->session, sizeof place->session, "%s", session.name);
        place->begun = true;
        far_say(given, "began", session.name, getpid());
        harp_timer_set(&loop, &look, LOOK_MS);
        if (given->traffic)
            traffic_begin(&loop, session.name, &bridge.conn);
    }
    bridge.conn = harp_conn_of(stream);
    if (start_worker(text, HARP_GRPC_TEXT_BYTES) != 0) {
        /* The refusal is written, and the other side hangs up. */
        bridge_ends(&bridge, BRIDGE_LAST_MS);
        return HARP_GRPC_UNAVAILABLE;
    }
    bridge.stream = stream;
    if (can)
        resumes(stream, &asked);
    spreads(stream, others);
    return HARP_GRPC_OK;
}

/* --- what connections say --- */

static int message(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    if (relay_on())
        return relay_message(stream, data, bytes);
    return stream == bridge.stream ? bridge_message(&bridge, data, bytes)
                                   : bridge_way_message(&bridge, stream, data, bytes);
}

static void room(void *ctx, struct harp_h2_stream *stream)
{
    if (relay_on())
        relay_room();
    else if (!bridge_way_room(&bridge, stream))
        bridge_room(&bridge);
}

/* The program wants no more: the worker ends, and then the taker says so. */
static void closed(void *ctx, struct harp_h2_stream *stream)
{
    if (relay_on()) {
        relay_closed(stream);
        return;
    }
    if (stream != bridge.stream)
        return;
    bridge.closed = true;
    shutdown(bridge.sock, SHUT_RDWR);
}

static void ended(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                  const char *text)
{
    if (!relay_on() && stream != bridge.stream) { /* the program's side says what became of it */
        (void)bridge_way_ended(&bridge, stream);
        return;
    }
    if (status != HARP_GRPC_OK && !relay_of_bulk())
        fprintf(stderr, "harp-link: %s: %s\n", harp_grpc_name(status), text);
    if (relay_on()) {
        relay_ended(stream);
        return;
    }
    if (bridge.replay.keeps && harp_h2_broke(stream) && !bridge.ended && !bridge.closed) {
        bridge_lost(&bridge);
        harp_timer_set(&loop, &window, window_ms);
        return;
    }
    shutdown(bridge.sock, SHUT_RDWR);
    bridge_stream_over(&bridge);
    harp_conn_close(bridge.conn, "");
}

static void gone(void *ctx, struct harp_conn *conn, const char *why)
{
    if (why[0] != '\0' && !relay_of_bulk() && !bridge_way_had(&bridge, conn))
        fprintf(stderr, "harp-link: connection: %s\n", why);
    if (relay_on()) {
        relay_gone(conn);
    } else if (conn != bridge.conn) {
        loop.stop |= given->sessions != NULL && !began; /* a stranger's process */
    } else {
        bridge.conn = NULL;
        loop.stop |= !without_connection();
    }
}

static struct harp_conn_user user = {
    .gone = gone,
    .handler = {.begin = begin, .message = message, .closed = closed, .room = room, .end = ended},
    .own_table = table,
};

static int open_all(const struct ends_options *options)
{
    given = options;
    user.limits = harp_h2_default;
    look.fire = look_again;
    window.fire = too_long;
    harp_table_put(table, &options->own);
    int err = harp_loop_open(&loop);
    loop.lock = &lock;
    return err != 0 ? err : bridge_open(&bridge, &loop, &bridge_far);
}

/* Until the session's end. */
static int run(void)
{
    int err = harp_loop_run(&loop);
    traffic_end();
    far_worker_end(bridge.sock);
    _exit(err != 0); /* the taker may still be in the ring: nothing is taken down under it */
}

int far_main(const struct ends_options *options)
{
    struct harp_server server;
    char why[HARP_WHY_BYTES] = "no memory";
    int err = open_all(options);
    if (err == 0)
        err = harp_server_open(&server, &loop, &options->address, options->tls, CONNECTIONS, &user,
                               why);
    if (err != 0) {
        fprintf(stderr, "harp-link: %s\n", why);
        return 1;
    }
    printf("ready %u\n", server.port);
    fflush(stdout);
    return run();
}

int far_one(const struct ends_options *options, int fd, struct far_place *own)
{
    struct harp_conn *conn;
    place = own;
    int err = open_all(options);
    if (err == 0)
        err = harp_conn_take(&conn, &loop, fd, options->tls, &user);
    return err != 0 ? 1 : run();
}
