/* SPDX-License-Identifier: Apache-2.0
 *
 * The arbiter's hands: sockets, process handles, timers and locks round the pure core. One thread;
 * nothing here blocks. Each function belongs to the file named above it.
 */
#ifndef HARP_ARBITER_SERVER_H
#define HARP_ARBITER_SERVER_H

#include <stdint.h>
#include <sys/types.h>

#include "core.h"

#define ADMIN_MAX  16u
#define RIGHTS_MAX 2u

/* What an epoll event is about; its number is in the low half of the data. */
enum source {
    SOURCE_CLIENT = 1, /* client id */
    SOURCE_PIDFD,      /* client id */
    SOURCE_LISTENER,   /* index of listeners */
    SOURCE_ADMIN,      /* index of admins */
    SOURCE_ADMIN_LISTENER,
    SOURCE_TIMER,
    SOURCE_SIGNAL,
};

/* Connection of a client, at the slot its id names. fd -1: none. */
struct conn {
    uint32_t id;
    int fd, pidfd;
};

struct listener {
    uint32_t tenant; /* 0: free */
    int fd, page;    /* page -1: none */
};

/* Connection of harpd. Answers it does not read yet wait in `queue`, bounded. */
struct admin {
    int fd; /* -1: free */
    int subscribed;
    int odd;          /* asked something we do not know; that is logged once */
    int together;     /* takes several rows in a datagram */
    uint32_t version; /* of the protocol, that is spoken with it */
    struct harp_msg *queue;
    uint32_t head, count, capacity;
};

struct server {
    const char *run_dir, *lock_dir;
    struct harp_core *core;
    struct harp_core_config config;
    int epoll, timer, signals, admin_listener, spare;
    uint64_t timer_ns; /* what the timer is set to */
    int stopping;
    uint32_t full_batches;            /* of events, one after another, that left the admins out */
    uint64_t idle_exit_ns, lonely_ns; /* 0: never; since when nobody was there */
    uint64_t looked_ns;
    struct conn *conns;         /* config.max_clients */
    struct listener *listeners; /* config.max_tenants */
    struct admin admins[ADMIN_MAX];
    int replying_to;       /* admin whose message is being stepped, or -1 */
    struct harp_msg reply; /* the last OK or ERR of this step */
    uint32_t joined;       /* answer of the last HARP_EV_JOIN */
    uint32_t *doomed;      /* clients whose socket failed in this step */
    uint32_t n_doomed;
    int device_locks[HARP_MAX_DEVICES];
    char device_lock_names[HARP_MAX_DEVICES][64];
    uint32_t n_device_locks;
};

/* server.c */
int server_open(struct server *s); /* 0 or -errno, after saying why */
int server_run(struct server *s);
void server_close(struct server *s);
void server_step(struct server *s, const struct harp_event *event);
int server_watch(struct server *s, int fd, uint32_t events, enum source source, uint32_t number);
uint64_t server_now_ns(void);

/* peer.c: tenants' listening sockets and their clients */
int peer_listen(struct server *s, uint32_t tenant, int fd, int page); /* 0: both are its own now */
void peer_unlisten(struct server *s, uint32_t tenant);
int peer_listener(const struct server *s, uint32_t tenant); /* its descriptor, or -1 */
int peer_page(const struct server *s, uint32_t tenant);     /* the same */
void peer_accept(struct server *s, uint32_t index);
void peer_read(struct server *s, uint32_t id);
void peer_send(struct server *s, uint32_t id, const struct harp_msg *msg);
void peer_close(struct server *s, uint32_t id);

/* admin.c: harpd's connections */
int admin_open(struct server *s);
void admin_accept(struct server *s);
void admin_event(struct server *s, uint32_t index, uint32_t events);
void admin_reply(struct server *s, uint32_t index, const struct harp_msg *msg);
void admin_publish(struct server *s, const struct harp_msg *msg);
void admin_close_all(struct server *s);

/* rights.c: a message with descriptors; -1: none. 0 or -errno. */
int rights_send(int to, const struct harp_msg *m, const int *fds, unsigned n);
int rights_receive(int from, struct harp_msg *m, int fds[RIGHTS_MAX]); /* caller's, at any answer */
void rights_close(const int fds[RIGHTS_MAX]);

/* devlock.c: one arbiter per device of the machine. 0, or -EBUSY with who holds it filled into
 * `err`, or another -errno. A device locked already by this arbiter is fine. */
int devlock_take(struct server *s, const uint8_t uuid[16], struct harp_msg *err);
void devlock_release_all(struct server *s);
const char *devlock_default_dir(void);

/* log.c: one line per event, key=value. */
int log_open(const char *path);
void log_event(const char *event, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
