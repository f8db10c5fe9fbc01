/* SPDX-License-Identifier: Apache-2.0
 *
 * Socket pairs, and a table of names.
 */
#include "src/link/join.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "src/link/upgrade.h"

#define PLACES_MAX UPGRADE_PLACES

/* Of a place; written by its process alone, but for `there`, which the parent takes back. */
struct name {
    atomic_bool there;
    char session[HARP_GRPC_SESSION_BYTES];
};

static struct name *names;
static unsigned count, mine;
static int giving[PLACES_MAX], taking = -1;

int harp_join_open(unsigned places, int *fd, const int *before)
{
    if (places > PLACES_MAX)
        return -EINVAL;
    names = upgrade_share(places * sizeof *names, fd);
    count = places;
    for (unsigned i = 0; i < PLACES_MAX; i++)
        giving[i] = before != NULL ? before[i] : -1;
    return names != NULL ? 0 : -ENOMEM;
}

const int *harp_join_giving(void)
{
    return giving;
}

int harp_join_make(unsigned place)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return -errno;
    giving[place] = pair[0];
    taking = pair[1];
    atomic_store(&names[place].there, false);
    return 0;
}

void harp_join_parent(unsigned place)
{
    close(taking);
    taking = -1;
}

void harp_join_child(unsigned place)
{
    close(giving[place]);
    giving[place] = -1;
    mine = place;
}

void harp_join_gone(unsigned place)
{
    atomic_store(&names[place].there, false);
    if (giving[place] >= 0)
        close(giving[place]);
    giving[place] = -1;
}

int harp_join_here(const char *session)
{
    if (names == NULL || taking < 0)
        return -1;
    for (unsigned i = 0; i < PLACES_MAX; i++) { /* it will give nothing to others */
        if (giving[i] >= 0)
            close(giving[i]);
        giving[i] = -1;
    }
    snprintf(names[mine].session, sizeof names[mine].session, "%s", session);
    atomic_store(&names[mine].there, true);
    return taking;
}

union control {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
};

int harp_join_next(void)
{
    char byte;
    union control control;
    struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    int fd = -1;
    if (recvmsg(taking, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
            c->cmsg_len == CMSG_LEN(sizeof fd))
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

static int give(int to, int fd)
{
    char byte = 0;
    union control control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    const struct msghdr message = {.msg_iov = &piece,
                                   .msg_iovlen = 1,
                                   .msg_control = control.room,
                                   .msg_controllen = sizeof control.room};
    control.head.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    return sendmsg(to, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int harp_join_give(const char *session, int fd)
{
    char name[HARP_GRPC_SESSION_BYTES];
    int err = -ENOENT;
    for (unsigned i = 0; i < count; i++) {
        if (giving[i] < 0 || !atomic_load(&names[i].there))
            continue;
        memcpy(name, names[i].session, sizeof name);
        name[sizeof name - 1] = '\0';
        if (strcmp(name, session) == 0 && (err = give(giving[i], fd)) == 0)
            return 0; /* else it has just ended */
    }
    return err;
}
