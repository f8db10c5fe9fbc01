/* SPDX-License-Identifier: Apache-2.0
 *
 * The listener.
 */
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "src/link/conn.h"

/* Out of descriptors: those there go on, and the next ones wait in the kernel meanwhile. */
#define PAUSE_MS 100

static void gone(void *ctx, struct harp_conn *conn, const char *why)
{
    struct harp_server *server = ctx;
    server->count--;
    if (server->user.gone != NULL)
        server->user.gone(server->user.ctx, conn, why);
}

static void opened(void *ctx, struct harp_conn *conn)
{
    struct harp_server *server = ctx;
    if (server->user.open != NULL)
        server->user.open(server->user.ctx, conn);
}

static void come(struct harp_watch *watch, uint32_t events)
{
    struct harp_server *server = HARP_AROUND(watch, struct harp_server, watch);
    struct harp_conn *conn;
    int fd = harp_tcp_accept(watch->fd);
    if (fd == -EAGAIN)
        return;
    if (fd < 0) {
        harp_loop_forget(server->loop, watch);
        harp_timer_set(server->loop, &server->pause, PAUSE_MS);
    } else if (server->count >= server->most) {
        close(fd);
    } else if (harp_conn_take(&conn, server->loop, fd, server->tls, &server->outer) == 0) {
        server->count++;
    }
}

static void resume(struct harp_timer *timer)
{
    struct harp_server *server = HARP_AROUND(timer, struct harp_server, pause);
    if (harp_loop_watch(server->loop, &server->watch, EPOLLIN) != 0)
        harp_timer_set(server->loop, timer, PAUSE_MS);
}

int harp_server_open(struct harp_server *server, struct harp_loop *loop,
                     const struct harp_address *address, struct harp_tls *tls, unsigned most,
                     const struct harp_conn_user *user, char *why)
{
    *server =
        (struct harp_server){.loop = loop, .tls = tls, .most = most, .user = *user, .outer = *user};
    server->watch = (struct harp_watch){.fd = -1, .ready = come};
    server->pause.fire = resume;
    server->outer.ctx = server;
    server->outer.open = opened;
    server->outer.gone = gone;
    int err = tls == NULL ? harp_address_plain(address, why) : 0;
    if (err == 0)
        err = harp_tcp_listen(address, &server->watch.fd, &server->port, why);
    return err != 0 ? err : harp_loop_watch(loop, &server->watch, EPOLLIN);
}

void harp_server_close(struct harp_server *server)
{
    harp_timer_clear(&server->pause);
    harp_loop_forget(server->loop, &server->watch);
    if (server->watch.fd >= 0)
        close(server->watch.fd);
    server->watch.fd = -1;
}
