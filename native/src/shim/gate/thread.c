/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/thread.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

bool harp_thread_start(void *(*run)(void *))
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 << 10); /* drivers want some stack in a query */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attr, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error != 0)
        errno = error;
    return error == 0;
}

void harp_wait_ns(pthread_cond_t *on, pthread_mutex_t *lock, uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t); /* the default clock of a condition, in glibc and musl */
    uint64_t at = (uint64_t)t.tv_nsec + ns;
    t.tv_sec += (time_t)(at / 1000000000ull);
    t.tv_nsec = (long)(at % 1000000000ull);
    pthread_cond_timedwait(on, lock, &t);
}
