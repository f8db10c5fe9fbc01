/* SPDX-License-Identifier: Apache-2.0
 *
 * The event loop of a link: descriptors, timers, one thread. Watches and timers lie in what they
 * belong to; either may be taken away from within any callback.
 */
#ifndef HARP_LINK_LOOP_H
#define HARP_LINK_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct harp_watch {
    int fd;
    uint32_t events; /* set by harp_loop_watch; 0: not watched */
    void (*ready)(struct harp_watch *watch, uint32_t events);
};

struct harp_timer {
    struct harp_timer *next, **link; /* link NULL: not set */
    uint64_t at_ms;
    void (*fire)(struct harp_timer *timer);
};

#define HARP_LOOP_EVENTS 64

struct harp_loop {
    int epoll;
    bool stop; /* set it to leave run */
    /* NULL, or held by run but while it waits: other threads may then do everything but take
     * watches and connections away, and call harp_loop_wake if they set a timer or stop. */
    pthread_mutex_t *lock;
    /* NULL, or called before it waits and at its end, without the lock: what wakes others comes
     * last, who would else run, on a busy CPU, in the middle of it. */
    void (*unlocked)(void *ctx);
    void *unlocked_ctx;
    struct harp_watch wake;
    struct harp_timer *timers;
    struct epoll_event events[HARP_LOOP_EVENTS];
    int from, count; /* of events: to be handled */
};

/* 0 or an errno. Ignores SIGPIPE, which OpenSSL would raise: for programs of our own. */
int harp_loop_open(struct harp_loop *loop);
void harp_loop_close(struct harp_loop *loop);

/* Watch for `events`, or for others from now on. 0 or an errno. */
int harp_loop_watch(struct harp_loop *loop, struct harp_watch *watch, uint32_t events);
/* Before its descriptor is closed. */
void harp_loop_forget(struct harp_loop *loop, struct harp_watch *watch);

/* Once, in `ms`; 0: when the events at hand have been handled. */
void harp_timer_set(struct harp_loop *loop, struct harp_timer *timer, uint64_t ms);
void harp_timer_clear(struct harp_timer *timer);

void harp_loop_wake(struct harp_loop *loop);

/* Until stop. 0 or an errno. */
int harp_loop_run(struct harp_loop *loop);

uint64_t harp_now_ms(void);

/* The structure in which a watch or timer lies. */
#define HARP_AROUND(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

#endif
