/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections in the loop: dialled or come in, with TLS or plain, from the first byte to the last.
 */
#ifndef HARP_LINK_CONN_H
#define HARP_LINK_CONN_H

#include "src/link/h2.h"
#include "src/link/loop.h"
#include "src/link/tcp.h"
#include "src/link/tls.h"

struct harp_conn;

struct harp_conn_user {
    void *ctx;
    /* It can be used: harp_conn_h2. Client: calls may be made now. */
    void (*open)(void *ctx, struct harp_conn *conn);
    /* It is over, and `conn` is gone with this call; before it all its calls have ended. `why`: a
     * sentence; "" where it was closed in order. Called for connections that never opened, too. */
    void (*gone)(void *ctx, struct harp_conn *conn, const char *why);
    struct harp_h2_handler handler;
    struct harp_h2_limits limits;
    const char *own_table; /* server: answered with each call; may be NULL */
};

/* Dial. `tls` NULL: plain, only to this machine. `name`: what the certificate must be for; NULL:
 * the address' host. Both stay the caller's until gone, as `user` and `address` do. 0, or an errno
 * and why (HARP_WHY_BYTES). */
int harp_conn_dial(struct harp_conn **out, struct harp_loop *loop,
                   const struct harp_address *address, struct harp_tls *tls, const char *name,
                   const struct harp_conn_user *user, char *why);

/* One that has come, as a server's; the descriptor is ours from now on, whatever is answered. */
int harp_conn_take(struct harp_conn **out, struct harp_loop *loop, int fd, struct harp_tls *tls,
                   const struct harp_conn_user *user);

/* One end of a socket pair, as a client's. As harp_conn_take. */
int harp_conn_join(struct harp_conn **out, struct harp_loop *loop, int fd,
                   const struct harp_conn_user *user);

struct harp_h2 *harp_conn_h2(struct harp_conn *conn);
/* Which one a call is on. */
struct harp_conn *harp_conn_of(const struct harp_h2_stream *stream);

/* TCP's smoothed round trip; 0: not known, or no TCP. */
unsigned harp_conn_rtt_us(const struct harp_conn *conn);

/* After putting something from outside a handler: it is written in this round of the loop. */
void harp_conn_kick(struct harp_conn *conn);

/* The same from another thread that holds the loop's lock: what can be written is, by itself. */
void harp_conn_write(struct harp_conn *conn);

/* At once and without a word: gone is called, with `why`. By the loop's thread; not from within
 * what this connection calls. */
void harp_conn_abandon(struct harp_conn *conn, const char *why);

/* Close it in this round of the loop; `why` as gone has it. */
void harp_conn_close(struct harp_conn *conn, const char *why);

/* --- a listener and the connections that came by it --- */

struct harp_server {
    struct harp_loop *loop;
    struct harp_watch watch;
    struct harp_timer pause;
    struct harp_tls *tls;
    struct harp_conn_user user, outer;
    unsigned port, most, count; /* connections: at most, now */
};

/* Listen. `tls` NULL: only on this machine's own addresses. `most` connections at a time; more are
 * closed at once. */
int harp_server_open(struct harp_server *server, struct harp_loop *loop,
                     const struct harp_address *address, struct harp_tls *tls, unsigned most,
                     const struct harp_conn_user *user, char *why);
/* No new ones. Those there go on, and `server` stays until they are gone (count). */
void harp_server_close(struct harp_server *server);

#endif
