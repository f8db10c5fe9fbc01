/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels that do much work, compiled a second time: the first form is there soon, this one is
 * fast. One thread at a time compiles them in order and ends when there is none left.
 *
 * (1) What runs is never waited for and never stopped: both forms stay loaded until the kernel
 *     goes, and count and compute the same, so blocks of one launch may run either.
 * (2) A kernel may go while its second form is made: then that is thrown away.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/module.h"

struct soft_hot {
    struct soft_hot *next;
    struct soft_kernel *kernel; /* NULL: it has gone; guarded by lock */
    struct soft_text *text;     /* held: one for all kernels of an image */
    char *name;                 /* a copy */
    int cc;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct soft_hot *first; /* waiting; guarded by lock, as the next */
static pid_t worker;           /* the process that has a thread for them; a forked child has none */

static void drop(struct soft_hot *hot)
{
    soft_text_unref(hot->text);
    free(hot->name);
    free(hot);
}

static void make(struct soft_hot *hot)
{
    void *object = NULL;
    const struct ptx_kernel *code = NULL;
    char why[512] = "";
    uint64_t start_ns = soft_now_ns();
    CUresult result = soft_code_build(hot->text->ptx, hot->text->bytes, hot->name, hot->cc, false,
                                      &object, &code, why, sizeof why);
    if (result != CUDA_SUCCESS)
        soft_log("kernel_stays_quick kernel=%s code=%d why=\"%s\"", hot->name, (int)result, why);
    else
        soft_log("kernel_compiled_again kernel=%s ms=%llu", hot->name,
                 (unsigned long long)(soft_now_ns() - start_ns) / 1000000);
    pthread_mutex_lock(&lock);
    if (hot->kernel != NULL) {
        hot->kernel->asked = NULL;
        if (code != NULL) {
            hot->kernel->better = object;
            atomic_store_explicit(&hot->kernel->code, code, memory_order_release);
            object = NULL;
        }
    }
    pthread_mutex_unlock(&lock);
    if (object != NULL)
        dlclose(object);
}

static void *work(void *unused)
{
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        struct soft_hot *hot = first;
        if (hot == NULL) {
            worker = 0;
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        first = hot->next;
        bool wanted = hot->kernel != NULL;
        pthread_mutex_unlock(&lock);
        if (wanted)
            make(hot);
        drop(hot);
    }
}

/* Signals are the client's; its handlers must not run here. */
static bool start_worker(void)
{
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, NULL, work, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started)
        pthread_detach(thread);
    return started;
}

static struct soft_hot *wish_of(const struct soft_kernel *kernel)
{
    struct soft_hot *hot = calloc(1, sizeof *hot);
    char *name = strdup(kernel->entry->name);
    if (hot == NULL || name == NULL) {
        free(hot);
        free(name);
        return NULL;
    }
    hot->cc = kernel->image->cc;
    hot->name = name;
    hot->text = soft_text_ref(kernel->image->text);
    return hot;
}

void soft_kernel_is_hot(struct soft_kernel *kernel)
{
    const struct ptx_kernel *code = atomic_load_explicit(&kernel->code, memory_order_acquire);
    if (code == NULL || (code->flags & PTX_KERNEL_QUICK) == 0 || atomic_load(&kernel->hot) ||
        atomic_exchange(&kernel->hot, true))
        return;
    struct soft_hot *hot = wish_of(kernel);
    if (hot == NULL)
        return;
    pthread_mutex_lock(&lock);
    if (worker != getpid()) {
        if (worker != 0)
            first = NULL; /* of the parent: forgotten, not freed, as its thread may be on it */
        worker = start_worker() ? getpid() : 0;
    }
    if (worker != 0) {
        struct soft_hot **link = &first;
        while (*link != NULL)
            link = &(*link)->next;
        *link = hot;
        hot->kernel = kernel;
        kernel->asked = hot;
        hot = NULL;
    }
    pthread_mutex_unlock(&lock);
    if (hot != NULL)
        drop(hot);
}

void soft_hot_forget(struct soft_kernel *kernel)
{
    pthread_mutex_lock(&lock);
    if (kernel->asked != NULL)
        kernel->asked->kernel = NULL;
    kernel->asked = NULL;
    pthread_mutex_unlock(&lock);
}
