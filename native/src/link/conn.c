/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection's life: connecting, shaking hands, open, gone.
 */
#include "src/link/conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A stranger has this long to make his first call; later, one without calls as long to make one. */
#define FIRST_MS 10000
#define IDLE_MS  60000
/* A server has this long to answer a client that dials it. */
#define DIAL_MS 10000
/* What is still to be written when a connection is closed. */
#define LAST_MS 2000

enum state { CONNECTING, SHAKING, OPEN };

struct harp_conn {
    struct harp_loop *loop;
    struct harp_watch watch;
    struct harp_timer now, late;
    enum state state;
    bool server, closing;
    bool joined; /* a client that has no need to dial */
    const struct harp_conn_user *user;
    const struct harp_address *address;
    unsigned which; /* of its addresses */
    const char *name;
    struct harp_tls *tls;
    struct harp_tls_stream *secure;
    struct harp_h2 *h2;
    char why[HARP_WHY_BYTES];
};

struct harp_h2 *harp_conn_h2(struct harp_conn *c)
{
    return c->h2;
}

struct harp_conn *harp_conn_of(const struct harp_h2_stream *stream)
{
    return harp_h2_owner(stream);
}

unsigned harp_conn_rtt_us(const struct harp_conn *c)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    return getsockopt(c->watch.fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_rtt : 0;
}

void harp_conn_kick(struct harp_conn *c)
{
    if (c->now.link == NULL)
        harp_timer_set(c->loop, &c->now, 0);
}

void harp_conn_close(struct harp_conn *c, const char *why)
{
    if (!c->closing)
        snprintf(c->why, sizeof c->why, "%s", why);
    else
        return;
    c->closing = true;
    harp_timer_set(c->loop, &c->late, LAST_MS);
    harp_conn_kick(c);
}

static void drop(struct harp_conn *c)
{
    harp_loop_forget(c->loop, &c->watch);
    if (c->why[0] == '\0' && c->h2 != NULL)
        snprintf(c->why, sizeof c->why, "%s", harp_h2_why(c->h2));
    c->closing = true; /* what ends now may want to close it */
    harp_h2_free(c->h2, c->why[0] != '\0' ? c->why : "the connection was closed");
    harp_timer_clear(&c->now);
    harp_timer_clear(&c->late);
    harp_tls_end(c->secure);
    if (c->watch.fd >= 0)
        close(c->watch.fd);
    if (c->user->gone != NULL)
        c->user->gone(c->user->ctx, c, c->why);
    free(c);
}

void harp_conn_abandon(struct harp_conn *c, const char *why)
{
    if (c->why[0] == '\0')
        snprintf(c->why, sizeof c->why, "%s", why);
    drop(c);
}

/* Nothing more can be said on it. */
static void lost(struct harp_conn *c, int err)
{
    const char *tls = c->secure != NULL ? harp_tls_why(c->secure) : NULL;
    if (c->why[0] == '\0' && tls != NULL)
        snprintf(c->why, sizeof c->why, "%s", tls);
    else if (c->why[0] == '\0' && err == -EPROTO && harp_h2_why(c->h2)[0] == '\0')
        snprintf(c->why, sizeof c->why, "the other side speaks no HTTP/2 as gRPC has it");
    else if (c->why[0] == '\0' && err != -EPROTO && (err != -EPIPE || harp_h2_calls(c->h2) != 0))
        snprintf(c->why, sizeof c->why, "the connection broke: %s",
                 err == -EPIPE ? "the other side closed it" : strerror(-err));
    drop(c);
}

/* Write what there is; wait for what is missing. The connection may be gone afterwards. */
static void settle(struct harp_conn *c)
{
    int blocked = harp_h2_flush(c->h2);
    if (blocked < 0)
        lost(c, blocked);
    else if (harp_h2_over(c->h2) || (c->closing && !blocked))
        drop(c);
    else if (harp_loop_watch(c->loop, &c->watch, EPOLLIN | (blocked ? EPOLLOUT : 0)) != 0)
        lost(c, -ENOMEM);
}

void harp_conn_write(struct harp_conn *c)
{
    int blocked = c->closing ? -EPIPE : harp_h2_flush(c->h2);
    if (blocked >= 0 && !harp_h2_over(c->h2) &&
        harp_loop_watch(c->loop, &c->watch, EPOLLIN | (blocked ? EPOLLOUT : 0)) == 0)
        return;
    harp_conn_kick(c); /* the loop's thread sees what is wrong, and it alone may end it */
    harp_loop_wake(c->loop);
}

static void read_on(struct harp_conn *c)
{
    int more = harp_h2_readable(c->h2);
    if (!c->server && !c->closing && harp_h2_heard(c->h2))
        harp_timer_clear(&c->late);
    if (more < 0) {
        /* A GOAWAY says why, as far as it can still be written. */
        (void)harp_h2_flush(c->h2);
        lost(c, more);
        return;
    }
    if (more > 0)
        harp_conn_kick(c);
    settle(c);
}

/* --- before it is open --- */

static void opened(struct harp_conn *c)
{
    struct harp_io io = c->secure != NULL ? harp_tls_io(c->secure) : harp_tcp_io(&c->watch.fd);
    int err = harp_h2_open(&c->h2, c->server, &c->user->limits, &c->user->handler, &io,
                           c->user->own_table);
    if (err != 0) {
        harp_conn_close(c, "no memory for a connection");
        return;
    }
    c->state = OPEN;
    harp_h2_own(c->h2, c);
    harp_timer_set(c->loop, &c->late, c->server ? FIRST_MS : DIAL_MS);
    if (c->user->open != NULL)
        c->user->open(c->user->ctx, c);
    read_on(c);
}

static void shake(struct harp_conn *c)
{
    bool writing = false;
    int err = harp_tls_shake(c->secure, &writing);
    if (err == -EAGAIN && harp_loop_watch(c->loop, &c->watch, writing ? EPOLLOUT : EPOLLIN) == 0)
        return;
    if (err == 0)
        opened(c);
    else
        harp_conn_close(c, harp_tls_why(c->secure) != NULL ? harp_tls_why(c->secure)
                                                           : "the connection broke");
}

static void secure(struct harp_conn *c)
{
    c->state = SHAKING;
    if (c->tls == NULL) {
        opened(c);
        return;
    }
    const char *name = c->name != NULL ? c->name : c->address != NULL ? c->address->host : NULL;
    if (harp_tls_start(&c->secure, c->tls, c->watch.fd, name) != 0)
        harp_conn_close(c, "no memory for TLS, or no name that a certificate could be for");
    else
        shake(c);
}

static bool dial_next(struct harp_conn *c)
{
    int err = -ENOENT;
    for (; c->which < c->address->count; c->which++) {
        c->watch.fd = err = harp_tcp_dial(c->address, c->which);
        if (c->watch.fd < 0)
            continue;
        err = harp_loop_watch(c->loop, &c->watch, EPOLLOUT);
        if (err == 0)
            return true;
        close(c->watch.fd);
    }
    c->watch.fd = -1;
    if (c->why[0] == '\0')
        snprintf(c->why, sizeof c->why, "no connection to %s: %s", c->address->text,
                 strerror(-err));
    return false;
}

/* Connected, or the turn of the next address. */
static void connected(struct harp_conn *c)
{
    int err = harp_tcp_result(c->watch.fd);
    if (err == 0) {
        secure(c);
        return;
    }
    snprintf(c->why, sizeof c->why, "no connection to %s: %s; remedy: is a worker running there?",
             c->address->text, strerror(-err));
    harp_loop_forget(c->loop, &c->watch);
    close(c->watch.fd);
    c->watch.fd = -1;
    c->which++;
    if (!dial_next(c))
        drop(c);
}

/* --- what the loop says --- */

static void ready(struct harp_watch *watch, uint32_t events)
{
    struct harp_conn *c = HARP_AROUND(watch, struct harp_conn, watch);
    if (c->state == CONNECTING && (c->server || c->joined))
        secure(c);
    else if (c->state == CONNECTING)
        connected(c);
    else if (c->state == SHAKING)
        shake(c);
    else if ((events & ~(uint32_t)EPOLLOUT) != 0)
        read_on(c);
    else
        settle(c);
}

static void now(struct harp_timer *timer)
{
    struct harp_conn *c = HARP_AROUND(timer, struct harp_conn, now);
    if (c->state == OPEN && !c->closing)
        read_on(c);
    else if (c->state == OPEN)
        settle(c);
    else if (c->closing)
        drop(c);
}

static void late(struct harp_timer *timer)
{
    struct harp_conn *c = HARP_AROUND(timer, struct harp_conn, late);
    if (c->closing) {
        drop(c);
    } else if (c->state != OPEN || !harp_h2_heard(c->h2)) {
        char why[HARP_WHY_BYTES];
        snprintf(why, sizeof why, "no answer from %.300s within %u s",
                 c->address != NULL ? c->address->text : "the client", DIAL_MS / 1000);
        harp_conn_close(c, why);
    } else if (harp_h2_calls(c->h2) == 0) {
        harp_h2_drain(c->h2);
        harp_conn_close(c, "");
    } else {
        harp_timer_set(c->loop, &c->late, IDLE_MS);
    }
}

static struct harp_conn *new_conn(struct harp_loop *loop, struct harp_tls *tls,
                                  const struct harp_conn_user *user, int fd)
{
    struct harp_conn *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->loop = loop;
    c->tls = tls;
    c->user = user;
    c->watch = (struct harp_watch){.fd = fd, .ready = ready};
    c->now.fire = now;
    c->late.fire = late;
    return c;
}

int harp_conn_dial(struct harp_conn **out, struct harp_loop *loop,
                   const struct harp_address *address, struct harp_tls *tls, const char *name,
                   const struct harp_conn_user *user, char *why)
{
    int err = tls == NULL ? harp_address_plain(address, why) : 0;
    if (err != 0)
        return err;
    struct harp_conn *c = new_conn(loop, tls, user, -1);
    if (c == NULL) {
        snprintf(why, HARP_WHY_BYTES, "no memory for a connection");
        return -ENOMEM;
    }
    c->address = address;
    c->name = name;
    if (!dial_next(c)) {
        snprintf(why, HARP_WHY_BYTES, "%s", c->why);
        free(c);
        return -ECONNREFUSED;
    }
    harp_timer_set(loop, &c->late, DIAL_MS);
    *out = c;
    return 0;
}

static int begin(struct harp_conn *c, uint32_t events)
{
    int err = harp_loop_watch(c->loop, &c->watch, events);
    if (err != 0) {
        harp_timer_clear(&c->late);
        close(c->watch.fd);
        free(c);
    }
    return err;
}

int harp_conn_take(struct harp_conn **out, struct harp_loop *loop, int fd, struct harp_tls *tls,
                   const struct harp_conn_user *user)
{
    struct harp_conn *c = new_conn(loop, tls, user, fd);
    if (c == NULL) {
        close(fd);
        return -ENOMEM;
    }
    c->server = true;
    *out = c;
    harp_timer_set(loop, &c->late, FIRST_MS);
    /* Its first bytes, or its turn, begin it. */
    return begin(c, EPOLLIN);
}

int harp_conn_join(struct harp_conn **out, struct harp_loop *loop, int fd,
                   const struct harp_conn_user *user)
{
    struct harp_conn *c = new_conn(loop, NULL, user, fd);
    if (c == NULL) {
        close(fd);
        return -ENOMEM;
    }
    c->joined = true;
    *out = c;
    harp_timer_set(loop, &c->late, DIAL_MS);
    return begin(c, EPOLLOUT);
}
