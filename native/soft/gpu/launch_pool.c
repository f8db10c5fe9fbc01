/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads that run blocks: one small pool for the process, started at the first launch that can
 * use it. The caller always works too, so nothing waits for a busy pool.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "soft/gpu/launch.h"

#define WIDTH_MAX   64u
#define STACK_BYTES (1u << 20)

struct job { /* on its caller's stack; guarded by lock */
    void (*work)(void *arg);
    void *arg;
    unsigned wanted, running;
    struct job *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static struct job *jobs; /* that still want helpers; guarded by lock */
static unsigned threads; /* started; guarded by lock */
static pid_t owner;      /* a forked child has none of them; guarded by lock */

unsigned soft_pool_width(void)
{
    static _Atomic unsigned width; /* idempotent */
    unsigned known = width;
    if (known != 0)
        return known;
    const char *told = getenv("HARP_SOFT_WORKERS");
    long count = told != NULL ? strtol(told, NULL, 10) : sysconf(_SC_NPROCESSORS_ONLN);
    if (count < 1)
        count = 1;
    known = count > (long)WIDTH_MAX ? WIDTH_MAX : (unsigned)count;
    width = known;
    return known;
}

static void leave_list(struct job *job)
{
    for (struct job **link = &jobs; *link != NULL; link = &(*link)->next)
        if (*link == job) {
            *link = job->next;
            return;
        }
}

static void *helper(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        struct job *job = jobs;
        if (job == NULL) {
            pthread_cond_wait(&arrived, &lock);
            continue;
        }
        job->running++;
        if (--job->wanted == 0)
            leave_list(job);
        pthread_mutex_unlock(&lock);
        job->work(job->arg);
        pthread_mutex_lock(&lock);
        if (--job->running == 0)
            pthread_cond_broadcast(&ended);
    }
    return NULL;
}

/* Signals are the client's; its handlers must not run on our stacks. */
static int start_thread(pthread_t *thread, void *(*body)(void *), void *arg)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int err = pthread_create(thread, &attributes, body, arg);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

void soft_pool_run(unsigned helpers, void (*work)(void *arg), void *arg)
{
    struct job job = {work, arg, helpers, 0, NULL};
    pthread_mutex_lock(&lock);
    if (owner != getpid()) {
        owner = getpid();
        threads = 0;
        jobs = NULL;
    }
    while (threads + 1 < soft_pool_width() && threads < helpers) {
        pthread_t thread;
        if (start_thread(&thread, helper, NULL) != 0)
            break;
        pthread_detach(thread);
        threads++;
    }
    if (helpers > 0 && threads > 0) {
        job.next = jobs;
        jobs = &job;
        pthread_cond_broadcast(&arrived);
    }
    pthread_mutex_unlock(&lock);
    work(arg);
    pthread_mutex_lock(&lock);
    leave_list(&job);
    while (job.running > 0)
        pthread_cond_wait(&ended, &lock);
    pthread_mutex_unlock(&lock);
}

int soft_pool_thread(pthread_t *thread, void *(*body)(void *), void *arg)
{
    return start_thread(thread, body, arg);
}

struct crowd { /* threads that must all exist before one begins */
    void (*work)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t decided;
    int go; /* 1 begin, -1 go home; guarded by lock */
};

static void *member(void *arg)
{
    struct crowd *crowd = arg;
    pthread_mutex_lock(&crowd->lock);
    while (crowd->go == 0)
        pthread_cond_wait(&crowd->decided, &crowd->lock);
    int go = crowd->go;
    pthread_mutex_unlock(&crowd->lock);
    if (go > 0)
        crowd->work(crowd->arg);
    return NULL;
}

int soft_pool_run_all(unsigned count, void (*work)(void *arg), void *arg)
{
    struct crowd crowd = {work, arg, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    pthread_t *members = calloc(count, sizeof *members);
    if (members == NULL)
        return -ENOMEM;
    unsigned started = 0;
    int err = 0;
    while (err == 0 && started + 1 < count) {
        err = start_thread(&members[started], member, &crowd);
        if (err == 0)
            started++;
    }
    pthread_mutex_lock(&crowd.lock);
    crowd.go = err == 0 ? 1 : -1;
    pthread_cond_broadcast(&crowd.decided);
    pthread_mutex_unlock(&crowd.lock);
    if (err == 0)
        work(arg);
    for (unsigned i = 0; i < started; i++)
        pthread_join(members[i], NULL);
    free(members);
    pthread_mutex_destroy(&crowd.lock);
    pthread_cond_destroy(&crowd.decided);
    return -err;
}
