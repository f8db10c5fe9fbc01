/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the session share: session.c (connection, messages), ask.c (questions, what is
 * known of devices), serve.c (the thread). Nothing else includes this.
 */
#ifndef HARP_SHIM_SESSION_STATE_H
#define HARP_SHIM_SESSION_STATE_H

#include <pthread.h>

#include "src/shim/gate/session.h"

#define MS 1000000ull

struct question {
    uint32_t seq; /* 0: free */
    bool done;
    struct harp_msg answer;
};

struct harp_session_state {
    pthread_mutex_t lock;      /* all below but `fd` */
    pthread_cond_t changed;    /* an answer came, or the connection changed */
    pthread_mutex_t send_lock; /* fd: taken last */
    int fd;
    uint64_t connection; /* its number: that of a descriptor comes again */
    int pid;             /* whose connection it is: a forked child starts again */
    bool ever, thread;
    bool serve_soon; /* the thread is wanted with the next question */
    bool odd;        /* the arbiter said something we do not know; that is logged once */
    unsigned lanes, classes;
    uint16_t version; /* of the protocol, on this connection */
    int wake;
    uint32_t seq;
    uint64_t failed_ns; /* when connecting last failed */
    uint64_t backoff_ns;
    struct question asked[HARP_MAX_WAITING];
    struct harp_device devices[HARP_MAX_DEVICES]; /* by our own number, for good: see `wire` */
};

extern struct harp_session_state harp_session_state;

static struct harp_session_state *const s = &harp_session_state;

/* In a forked child all starts again. No lock held. */
void harp_session_check_fork(void);
/* fork.c: have that done in every child from now on. */
void harp_fork_watch(void);

/* --- session lock held ------------------------------------------------------------------------ */

/* True: connected, now or already. */
bool harp_session_connect(void);
void harp_session_disconnect(void);
/* serve.c: the service thread, now or already. False: none. */
bool harp_session_start(void);
/* `msg` speaks of our own number of a device. */
bool harp_session_send(const struct harp_msg *msg);
/* Reads and handles all that is there. True: a gate has been opened, whose turn the service thread
 * has to end. */
bool harp_session_drain(void);

#endif
