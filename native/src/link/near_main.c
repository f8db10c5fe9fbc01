/* SPDX-License-Identifier: Apache-2.0
 *
 * Beside programs: each that connects gets a process, a ring, a connection and a session of its
 * own; the one that is given, or one of those that a folder offers (offers.c). The program is
 * answered when the other side has accepted the session, or refused in its words. Once it has been,
 * a broken connection is followed by another (near_again.c).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/link/bridge.h"
#include "src/link/ends.h"
#include "src/link/near_again.h"
#include "src/link/near_bulk.h"
#include "src/link/traffic.h"
#include "src/link/upgrade.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define HELLO_MS 5000
/* For the call to be answered: the worker there may take 20 s to open its driver. */
#define ANSWER_MS 25000
/* How soon it is seen that a session was taken back. */
#define LOOK_MS 500

static const struct ends_options *given;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct harp_loop loop;
static struct bridge bridge;
static struct harp_conn *conn_now;
static struct harp_h2_stream *first; /* the call that begins the session, while there is one */
static struct harp_watch life, hangup;
static struct harp_timer unanswered, look;
static bool refused;
static pid_t listening;
static volatile sig_atomic_t in_session = -1; /* the program's socket */
static struct near_offer offer = {.fd = -1};
static struct ends_options offered; /* what is given, with what the offer says in its place */

/* Once, and only as long as the program has not been answered. */
static void refuse(const char *why)
{
    if (bridge.taking || refused)
        return;
    char text[HARP_WHY_BYTES + 300];
    snprintf(text, sizeof text, "%s: %s", given->address.text, why);
    harp_ring_refuse(bridge.sock, text);
    refused = true;
}

/* The session ends for good, or is not to begin: far is told by the call's end, for a connection
 * that only ends is a broken one there. */
static void break_off(const char *why)
{
    if (bridge.taking)
        bridge_fail(&bridge, why);
    else if (!refused)
        fprintf(stderr, "harp-link: %s: %s\n", given->address.text, why);
    refuse(why);
    if (conn_now != NULL)
        harp_conn_close(conn_now, why);
    if (!bridge.taking && first != NULL)
        harp_h2_cancel(first);
}

static void dialled(void *ctx, struct harp_conn *conn)
{
    char table[HARP_TABLE_TEXT], resume[HARP_RESUME_TEXT], others[HARP_BULK_TEXT];
    harp_table_put(table, &given->own);
    near_again_text(resume, &bridge);
    snprintf(others, sizeof others, "%u", given->others % 10);
    struct harp_h2_stream *call;
    struct harp_h2_request request = near_request(given, HARP_GRPC_SESSION, table);
    request.resume = resume;
    request.bulk = given->others != 0 ? others : NULL;
    harp_timer_set(&loop, &unanswered, bridge.taking ? NEAR_AGAIN_ANSWER_MS : ANSWER_MS);
    if (harp_h2_call(harp_conn_h2(conn), &request, &call) != 0)
        harp_conn_close(conn, "the other side takes no sessions any more");
    else if (!bridge.taking)
        first = call;
}

static void not_answered(struct harp_timer *timer)
{
    char why[HARP_WHY_BYTES];
    snprintf(why, sizeof why,
             "the session is not answered within %u s; remedy: see whether the "
             "worker's host is overloaded",
             (bridge.taking ? NEAR_AGAIN_ANSWER_MS : ANSWER_MS) / 1000);
    if (!bridge.taking)
        break_off(why);
    else if (conn_now != NULL) /* the session may still go on by another */
        harp_conn_close(conn_now, why);
}

static void answered(void *ctx, struct harp_h2_stream *stream,
                     const struct harp_grpc_answer *answer)
{
    if (near_bulk_answered(stream))
        return;
    harp_timer_clear(&unanswered);
    if (bridge.taking) {
        near_again_answered(&bridge, harp_conn_of(stream), stream, answer);
        near_bulk_go_on(&bridge, given);
        return;
    }
    bridge.conn = harp_conn_of(stream);
    bridge.stream = stream;
    const bool keeps = near_again_first(answer);
    bool there = harp_ring_answer(&bridge.ring) == 0;
    if (there)
        near_bulk_first(&bridge, given, answer); /* forks, and so comes before any thread */
    if (!there || bridge_start(&bridge) != 0)
        break_off("the program has gone");
    else
        bridge.replay.keeps = keeps;
    near_bulk_go_on(&bridge, given);
}

static int message(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    if (near_bulk_is(stream))
        return bridge_way_message(&bridge, stream, data, bytes);
    return stream == bridge.stream ? bridge_message(&bridge, data, bytes) : -EAGAIN;
}

static void room(void *ctx, struct harp_h2_stream *stream)
{
    if (!bridge_way_room(&bridge, stream))
        bridge_room(&bridge);
}

/* The program sees the end of its socket, when this process has ended. */
static void ended(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                  const char *text)
{
    if (near_bulk_ended(&bridge, stream)) {
        if (!harp_h2_broke(stream) && !bridge.ended) /* and what was spread had no way left */
            break_off(text[0] != '\0' ? text : "the other side ends a stream of Bulk");
        return;
    }
    if (stream == first)
        first = NULL;
    const bool gone_already = bridge.ended || harp_ring_gone(&bridge.ring);
    if (status != HARP_GRPC_OK && !gone_already && !refused) /* else it is said, or no news */
        fprintf(stderr, "harp-link: %s: %s: %s\n", given->address.text, harp_grpc_name(status),
                text);
    if (bridge.replay.keeps && harp_h2_broke(stream) && !bridge.ended) {
        bridge_lost(&bridge);
        return;
    }
    refuse(text[0] != '\0' ? text : harp_grpc_name(status));
    bridge_stream_over(&bridge);
    harp_conn_close(conn_now, "");
}

static void gone(void *ctx, struct harp_conn *conn, const char *why)
{
    conn_now = bridge.conn = NULL;
    harp_timer_clear(&unanswered);
    if (bridge.replay.keeps && !bridge.ended && !loop.stop) {
        near_again_lost(&bridge, why);
        return;
    }
    refuse(why);
    loop.stop = true;
}

/* What the program has said already is still taken and sent, if there is room for it. */
static void program_gone(struct harp_watch *watch, uint32_t events)
{
    harp_loop_forget(&loop, watch);
    shutdown(bridge.sock, SHUT_RDWR); /* by which the taker sees it */
    if (bridge.taking)
        bridge_ends(&bridge, BRIDGE_LAST_GONE_MS);
    else
        break_off("the program has gone");
}

static void watch_program(void)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    hangup = (struct harp_watch){.fd = bridge.sock, .ready = program_gone};
    (void)harp_loop_watch(&loop, &hangup, EPOLLRDHUP);
    /* A forked child may keep the socket open after the program's death. */
    if (getsockopt(bridge.sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0)
        return;
    life = (struct harp_watch){.fd = (int)syscall(SYS_pidfd_open, peer.pid, 0)};
    life.ready = program_gone;
    if (life.fd >= 0)
        (void)harp_loop_watch(&loop, &life, EPOLLIN);
    else if (errno == ESRCH)
        program_gone(&life, 0);
}

/* Whoever offered the session has taken it back. */
static void look_again(struct harp_timer *timer)
{
    struct stat st;
    if (fstat(offer.fd, &st) == 0 && st.st_nlink != 0) {
        harp_timer_set(&loop, timer, LOOK_MS);
        return;
    }
    if (harp_ring_gone(&bridge.ring)) /* the session ends by that */
        return;
    break_off("the session was taken back");
}

/* A session of the folder's, in place of the one that is given. */
static int take_offer(int sock, char *why)
{
    int err = near_offer_take(&offer, given, sock, why);
    if (err == 0 && given->tls == NULL)
        err = harp_address_plain(&offer.address, why);
    if (err != 0)
        return err;
    offered = *given;
    offered.address = offer.address;
    offered.name = offer.peer;
    offered.session = offer.name;
    snprintf(offered.token, sizeof offered.token, "%s", offer.token);
    given = &offered;
    look.fire = look_again;
    harp_timer_set(&loop, &look, LOOK_MS);
    return 0;
}

static struct harp_conn_user user = {
    .open = dialled,
    .gone = gone,
    .handler = {.answered = answered, .message = message, .room = room, .end = ended},
};

static int dial(char *why)
{
    return harp_conn_dial(&conn_now, &loop, &given->address, given->tls, given->name, &user, why);
}

static int serve_program(int sock)
{
    char text[HARP_WHY_BYTES];
    int err = harp_loop_open(&loop);
    user.limits = harp_h2_default;
    loop.lock = &lock;
    if (err == 0)
        err = bridge_open(&bridge, &loop, &bridge_near);
    if (err != 0) {
        snprintf(text, sizeof text, "no session can be begun: %s", strerror(-err));
        fprintf(stderr, "harp-link: %s\n", text);
        harp_ring_refuse(sock, text);
        return 1;
    }
    bridge.sock = sock;
    err = harp_ring_accept(&bridge.ring, sock, &given->own, HELLO_MS, text, sizeof text);
    if (err != 0) {
        harp_ring_refuse(sock, text);
        return 1;
    }
    bridge.ring.yield.most_us = HARP_YIELD_US;
    if (given->sessions != NULL && (err = take_offer(sock, text)) != 0) {
        if (err != -EPIPE)
            fprintf(stderr, "harp-link: %s\n", text);
        harp_ring_refuse(sock, text);
        return 1;
    }
    err = near_again_open(&bridge, dial);
    if (err != 0)
        snprintf(text, sizeof text, "no random numbers for the session's key: %s", strerror(-err));
    else
        err = dial(text);
    if (err != 0) {
        refuse(text);
        return 1;
    }
    unanswered.fire = not_answered;
    watch_program();
    in_session = sock;
    if (given->traffic)
        traffic_begin(&loop, offer.name, &bridge.conn);
    err = harp_loop_run(&loop);
    traffic_end();
    return err != 0;
}

/* A session's process ends as if its program had gone: the other side is told, and does not wait
 * for another connection. */
static void stop(int number)
{
    const int saved = errno;
    const bool session = getpid() != listening;
    if (!session)
        (void)unlink(given->socket);
    if (!session || in_session < 0)
        _exit(0);
    (void)shutdown(in_session, SHUT_RDWR);
    errno = saved;
}

/* A terminal's Ctrl-C or its end, too, unless whoever started us wants it ignored (nohup, a shell's
 * `&`). A program at the same terminal has heard it as well. */
static void hear_stop(void)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction now;
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            (void)signal(numbers[i], stop);
    }
}

static void no_process(int sock)
{
    char text[HARP_WHY_BYTES];
    snprintf(text, sizeof text,
             "no process for the session: %s; remedy: more of them (ulimit -u, pids.max)",
             strerror(errno));
    fprintf(stderr, "harp-link: %s\n", text);
    harp_ring_refuse(sock, text);
}

int near_main(const struct ends_options *options)
{
    char why[HARP_WHY_BYTES];
    given = options;
    if (options->tls == NULL && options->address.count != 0 &&
        harp_address_plain(&options->address, why) != 0) {
        fprintf(stderr, "harp-link: %s\n", why);
        return 1;
    }
    struct upgrade_state state;
    sigset_t usual;
    const bool come = upgrade_come(&state);
    int listener = come ? state.listener : near_listen(options->socket);
    if (listener < 0)
        return 1;
    if (!come)
        upgrade_begin(&state, listener);
    listening = getpid();
    hear_stop();
    if (options->sessions != NULL) {
        near_offers(options, &state, come, serve_program, no_process);
        (void)unlink(options->socket);
        return 1;
    }
    (void)signal(SIGCHLD, SIG_IGN); /* the kernel takes them in */
    if (!come) {
        printf("ready\n");
        fflush(stdout);
    }
    sigprocmask(SIG_SETMASK, NULL, &usual);
    upgrade_hear(&usual);
    for (;;) {
        upgrade_wait(&state, &usual);
        int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (sock < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
            usleep(100000);
        if (sock < 0)
            continue;
        pid_t session = fork();
        if (session == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* no session outlives us */
            if (getppid() != listening)
                _exit(1);
            close(listener);
            sigprocmask(SIG_SETMASK, &usual, NULL);
            _exit(serve_program(sock));
        }
        if (session < 0)
            no_process(sock);
        close(sock);
    }
}
