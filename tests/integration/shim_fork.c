/* SPDX-License-Identifier: Apache-2.0
 *
 * Forks while other threads allocate and free, so that libharp's locks are held at that moment.
 *
 *   shim_fork free N    each child frees what is not its own, as a destructor would, and ends
 *   shim_fork use N     each child makes a context of its own and allocates
 *   shim_fork exec N    each child is made by vfork and becomes `shim_fork leaf`, which does so too
 *
 * Exit status: 0, 1: something failed (it says what), 3: a child did not end in 20 s.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "generated/cuda_abi.h"

#define THREADS 4

static void *lib;
static CUcontext ctx;
static volatile int stop;

#define CALL(name) ((__typeof__(&name))dlsym(lib, #name))

static void need(const char *what, CUresult r)
{
    if (r == CUDA_SUCCESS)
        return;
    fprintf(stderr, "%s answered %d\n", what, (int)r);
    _exit(1);
}

static void begin(void)
{
    need("cuInit", CALL(cuInit)(0));
    need("cuCtxCreate", CALL(cuCtxCreate_v2)(&ctx, 0, 0));
}

static void *work(void *arg)
{
    CUdeviceptr p;
    /* Within the slack of a process, and beyond: the arbiter is asked. */
    size_t bytes = arg != NULL ? 3 << 20 : 3 << 19;
    need("cuCtxSetCurrent", CALL(cuCtxSetCurrent)(ctx));
    while (!stop) {
        need("cuMemAlloc", CALL(cuMemAlloc_v2)(&p, bytes));
        need("cuMemFree", CALL(cuMemFree_v2)(p));
    }
    return NULL;
}

static void use(void)
{
    CUdeviceptr p;
    begin();
    need("a child's cuMemAlloc", CALL(cuMemAlloc_v2)(&p, 1 << 20));
    need("a child's cuMemFree", CALL(cuMemFree_v2)(p));
}

static int ended_well(pid_t child)
{
    int status;
    for (int i = 0; i < 20000; i++) {
        struct timespec ms = {0, 1000000};
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
        nanosleep(&ms, NULL);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return 3;
}

static pid_t make(const char *how, char *self)
{
    pid_t child = strcmp(how, "exec") == 0 ? vfork() : fork();
    if (child != 0)
        return child;
    if (strcmp(how, "exec") == 0) {
        execl(self, self, "leaf", "1", (char *)NULL);
        _exit(1);
    }
    if (strcmp(how, "free") == 0)
        (void)CALL(cuMemFree_v2)(0x1234);
    else
        use();
    _exit(0);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    int bad = 0;
    if (argc != 3 || (lib = dlopen("libcuda.so.1", RTLD_NOW)) == NULL)
        return 2;
    if (strcmp(argv[1], "leaf") == 0) {
        use();
        return 0;
    }
    begin();
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, i % 2 ? &threads : NULL);
    for (int i = 0; i < atoi(argv[2]) && bad == 0; i++) {
        pid_t child = make(argv[1], argv[0]);
        bad = child > 0 ? ended_well(child) : 1;
    }
    stop = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d\n", bad);
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return bad;
}
