/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/thread.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

/* `stack` 0: as large as the program's own threads have. */
static bool start(void *(*run)(void *), size_t stack)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (stack != 0)
        pthread_attr_setstacksize(&attr, stack);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attr, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error != 0)
        errno = error;
    return error == 0;
}

bool harp_thread_start(void *(*run)(void *))
{
    return start(run, 256 << 10); /* drivers want some stack in a query */
}

bool harp_thread_start_roomy(void *(*run)(void *))
{
    return start(run, 0);
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
