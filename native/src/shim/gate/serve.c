/* SPDX-License-Identifier: Apache-2.0
 *
 * The service thread: reads the socket, comes back to an arbiter that went, and gives the time gate
 * its rounds.
 */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/session_state.h"
#include "src/shim/gate/thread.h"
#include "src/shim/trace/trace.h"

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};
    nanosleep(&t, NULL);
}

static void *serve(void *arg)
{
    (void)arg;
    prctl(PR_SET_NAME, "harp");
    prctl(PR_SET_TIMERSLACK, 1ul); /* ns: a turn's end is polled for in tens of microseconds */
    harp_trace_due();
    for (;;) {
        harp_trace_check();
        int64_t sleep = harp_time_round();
        pthread_mutex_lock(&s->lock);
        if (s->fd < 0) { /* come back with growing patience */
            if (!harp_session_connect()) {
                s->backoff_ns = s->backoff_ns == 0 ? 10 * MS : s->backoff_ns * 2;
                if (s->backoff_ns > 1000 * MS)
                    s->backoff_ns = 1000 * MS;
                if (sleep < 0 || sleep > (int64_t)s->backoff_ns)
                    sleep = (int64_t)s->backoff_ns;
            } else {
                sleep = 0;
            }
        }
        struct pollfd p[2] = {{.fd = s->wake, .events = POLLIN}, {.fd = s->fd, .events = POLLIN}};
        pthread_mutex_unlock(&s->lock);
        struct timespec t = {(time_t)(sleep / 1000000000), (long)(sleep % 1000000000)};
        if (ppoll(p, 2, sleep < 0 ? NULL : &t, NULL) < 0 && errno != EINTR)
            sleep_ns(MS);
        if (p[0].revents != 0) {
            uint64_t count;
            if (read(p[0].fd, &count, sizeof count) < 0)
                count = 0; /* somebody else's wake-up */
        }
        if (p[1].revents != 0) {
            pthread_mutex_lock(&s->lock);
            harp_session_drain();
            pthread_mutex_unlock(&s->lock);
        }
    }
    return NULL;
}

bool harp_session_start(void)
{
    s->serve_soon = false;
    if (s->wake < 0)
        s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!s->thread && s->wake >= 0)
        s->thread = harp_thread_start(serve);
    return s->thread;
}

void harp_session_serve_soon(void)
{
    pthread_mutex_lock(&s->lock);
    s->serve_soon = !s->thread;
    pthread_mutex_unlock(&s->lock);
}

bool harp_session_serve(void)
{
    int saved = errno;
    harp_session_check_fork();
    pthread_mutex_lock(&s->lock);
    bool there = harp_session_start();
    pthread_mutex_unlock(&s->lock);
    if (!there)
        harp_log("no_service_thread errno=%d effect=\"time is not shared\"", errno);
    errno = saved;
    return there;
}

void harp_session_wake(void)
{
    uint64_t one = 1;
    int saved = errno;
    if (s->wake >= 0 && write(s->wake, &one, sizeof one) < 0)
        errno = saved; /* full: it is awake */
    errno = saved;
}
