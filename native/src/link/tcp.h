/* SPDX-License-Identifier: Apache-2.0
 *
 * TCP as a link uses it: addresses, no Nagle, a dead host noticed within seconds.
 */
#ifndef HARP_LINK_TCP_H
#define HARP_LINK_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "src/link/h2.h"

/* Room for a sentence that says why something failed. */
#define HARP_WHY_BYTES 512u

struct harp_address {
    char text[280], host[256]; /* as given, and its host without brackets */
    unsigned count;
    struct {
        struct sockaddr_storage at;
        socklen_t size;
    } all[4];
    bool loopback; /* every one of them */
};

/* `host:port`, `[::1]:port`. Looks names up, which may take seconds. 0, or -EINVAL and why. */
int harp_address_parse(struct harp_address *address, const char *text, char *why);

/* Nothing secret may leave this machine unencrypted. 0, or -EACCES and why. */
int harp_address_plain(const struct harp_address *address, char *why);

/* A listening descriptor at *fd, non-blocking, and its port. 0, or an errno and why. */
int harp_tcp_listen(const struct harp_address *address, int *fd, unsigned *port, char *why);

/* Begin to connect to address->all[which]. A descriptor, or an errno. */
int harp_tcp_dial(const struct harp_address *address, unsigned which);

/* A connection that has come. -EAGAIN: none. */
int harp_tcp_accept(int listener);

/* What a connection that was dialled has become: 0 or an errno. */
int harp_tcp_result(int fd);

/* Bytes of a connection as they are. `fd` is the caller's. */
struct harp_io harp_tcp_io(int *fd);

#endif
