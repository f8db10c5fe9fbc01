/* SPDX-License-Identifier: Apache-2.0
 *
 * Life of the driver in a process: uninitialised, ready, ending, and the forked child, for which a
 * driver is as if never initialised and never can be.
 */
#include "soft/gpu/context.h"
#include "soft/gpu/driver.h"
#include "soft/gpu/fault.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

struct soft_state *soft_the_state; /* set once by cuInit, under soft_lock */

static pthread_mutex_t global_lock;
static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static _Atomic int ready; /* 1 after a cuInit that succeeded */

/* A page that a fork empties: asking it is one load, asking getpid() a system call. */
static volatile int *fork_page;
static pid_t init_pid;

static void make_lock(void)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&global_lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

void soft_lock(void)
{
    pthread_once(&global_once, make_lock);
    pthread_mutex_lock(&global_lock);
}

void soft_unlock(void)
{
    pthread_mutex_unlock(&global_lock);
}

bool soft_forked(void)
{
    if (fork_page != NULL)
        return *fork_page == 0;
    return init_pid != 0 && getpid() != init_pid;
}

static void watch_forks(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    init_pid = getpid();
    if (page == MAP_FAILED)
        return;
    if (madvise(page, 4096, MADV_WIPEONFORK) != 0) {
        munmap(page, 4096);
        return;
    }
    *(int *)page = 1;
    fork_page = page;
}

CUresult soft_ready(void)
{
    struct soft_thread *t;

    if (atomic_load_explicit(&soft_ending, memory_order_relaxed))
        return CUDA_ERROR_DEINITIALIZED;
    if (!atomic_load_explicit(&ready, memory_order_acquire) || soft_forked())
        return CUDA_ERROR_NOT_INITIALIZED;
    t = soft_thread();
    if (t != NULL && t->in_callback)
        return CUDA_ERROR_NOT_PERMITTED;
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int Flags)
{
    char why[512] = "";
    CUresult r = CUDA_SUCCESS;

    if (atomic_load(&soft_ending))
        return CUDA_ERROR_DEINITIALIZED;
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&ready))
        return soft_forked() ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS;
    soft_lock();
    if (!atomic_load(&ready)) {
        if (soft_the_state == NULL)
            soft_the_state = soft_state_open(why, sizeof why);
        if (soft_the_state != NULL)
            soft_fault_attach(soft_the_state);
        if (soft_the_state == NULL) {
            soft_log("cuInit: %s", why);
            r = CUDA_ERROR_UNKNOWN;
        } else if (soft_visible_count() == 0) {
            soft_log("cuInit: no device: HARP_SOFT_DEVICES or CUDA_VISIBLE_DEVICES leave none, or "
                     "all are lost");
            r = CUDA_ERROR_NO_DEVICE;
        } else {
            watch_forks();
            atomic_store(&ready, 1);
        }
    }
    soft_unlock();
    return r;
}

CUresult cuDriverGetVersion(int *driverVersion)
{
    if (driverVersion == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = soft_driver_version();
    return CUDA_SUCCESS;
}

/* The process exits. Its memory is gone for the others now; its threads end with it. */
__attribute__((destructor)) static void leave(void)
{
    atomic_store(&soft_ending, true);
    if (atomic_load(&ready) && !soft_forked())
        soft_slot_leave(soft_the_state);
}
