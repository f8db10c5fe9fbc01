/* SPDX-License-Identifier: Apache-2.0
 *
 * epoll and a list of timers.
 */
#include "src/link/loop.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

uint64_t harp_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void woken(struct harp_watch *watch, uint32_t events)
{
    uint64_t count;
    ssize_t n = read(watch->fd, &count, sizeof count);
    (void)n;
}

void harp_loop_wake(struct harp_loop *loop)
{
    const uint64_t one = 1;
    ssize_t n = write(loop->wake.fd, &one, sizeof one);
    (void)n;
}

int harp_loop_open(struct harp_loop *loop)
{
    *loop = (struct harp_loop){.epoll = epoll_create1(EPOLL_CLOEXEC)};
    loop->wake = (struct harp_watch){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = woken};
    if (loop->epoll < 0 || loop->wake.fd < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_IGN);
    return harp_loop_watch(loop, &loop->wake, EPOLLIN);
}

void harp_loop_close(struct harp_loop *loop)
{
    while (loop->timers != NULL)
        harp_timer_clear(loop->timers);
    if (loop->epoll >= 0)
        close(loop->epoll);
    if (loop->wake.fd >= 0)
        close(loop->wake.fd);
    loop->epoll = loop->wake.fd = -1;
}

int harp_loop_watch(struct harp_loop *loop, struct harp_watch *watch, uint32_t events)
{
    if (watch->events == events)
        return 0;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    int op = watch->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(loop->epoll, op, watch->fd, &event) != 0)
        return -errno;
    watch->events = events;
    return 0;
}

void harp_loop_forget(struct harp_loop *loop, struct harp_watch *watch)
{
    if (watch->events != 0)
        (void)epoll_ctl(loop->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->events = 0;
    /* An event of it may be in hand already. */
    for (int i = loop->from; i < loop->count; i++)
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
}

void harp_timer_clear(struct harp_timer *timer)
{
    if (timer->link == NULL)
        return;
    *timer->link = timer->next;
    if (timer->next != NULL)
        timer->next->link = timer->link;
    timer->link = NULL;
}

void harp_timer_set(struct harp_loop *loop, struct harp_timer *timer, uint64_t ms)
{
    harp_timer_clear(timer);
    timer->at_ms = harp_now_ms() + ms;
    struct harp_timer **at = &loop->timers;
    while (*at != NULL && (*at)->at_ms <= timer->at_ms)
        at = &(*at)->next;
    timer->next = *at;
    timer->link = at;
    if (timer->next != NULL)
        timer->next->link = &timer->next;
    *at = timer;
}

static int wait_ms(const struct harp_loop *loop)
{
    if (loop->timers == NULL)
        return -1;
    uint64_t now = harp_now_ms(), at = loop->timers->at_ms;
    return at <= now ? 0 : at - now > INT_MAX ? INT_MAX : (int)(at - now);
}

/* Those due by now; what they set for now is due in the next round, so that none starves events. */
static void fire(struct harp_loop *loop)
{
    struct harp_timer mark = {.link = NULL};
    if (loop->timers == NULL)
        return;
    harp_timer_set(loop, &mark, 0);
    while (loop->timers != &mark) {
        struct harp_timer *timer = loop->timers;
        harp_timer_clear(timer);
        timer->fire(timer);
    }
    harp_timer_clear(&mark);
}

/* The only time in which others may have the lock. */
static int wait_events(struct harp_loop *loop)
{
    int timeout_ms = wait_ms(loop);
    if (loop->lock != NULL)
        pthread_mutex_unlock(loop->lock);
    if (loop->unlocked != NULL)
        loop->unlocked(loop->unlocked_ctx);
    int n = epoll_wait(loop->epoll, loop->events, HARP_LOOP_EVENTS, timeout_ms);
    int err = errno;
    if (loop->lock != NULL)
        pthread_mutex_lock(loop->lock);
    return n >= 0 ? n : err == EINTR ? 0 : -err;
}

static int run(struct harp_loop *loop)
{
    while (!loop->stop) {
        int n = wait_events(loop);
        if (n < 0)
            return n;
        loop->count = n;
        for (loop->from = 0; loop->from < loop->count;) {
            struct epoll_event event = loop->events[loop->from++];
            struct harp_watch *watch = event.data.ptr;
            if (watch != NULL)
                watch->ready(watch, event.events);
        }
        fire(loop);
    }
    return 0;
}

int harp_loop_run(struct harp_loop *loop)
{
    if (loop->lock != NULL)
        pthread_mutex_lock(loop->lock);
    int err = run(loop);
    if (loop->lock != NULL)
        pthread_mutex_unlock(loop->lock);
    if (loop->unlocked != NULL)
        loop->unlocked(loop->unlocked_ctx);
    return err;
}
