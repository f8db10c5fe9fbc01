/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls functions of the driver by name with arguments that mean nothing, each in a process of its
 * own, and tells what came of it.
 *
 *     null_calls
 *
 * Lines on stdin: STATE PATTERN NAME. STATE: bare (nothing before), init (cuInit), context (and a
 * context). PATTERN: nulls (all arguments are 0), buffer (all point to the same zeros). One line
 * on stdout for each: the code, or `signal N`, `missing`.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "driver_calls.h"

#define BUFFER ((void *)0x20000000) /* the same in every process: as a number it means the same */
#define SIX(a) a, a, a, a, a, a

typedef CUresult (*any)(void *, void *, void *, void *, void *, void *, void *, void *, void *,
                        void *, void *, void *, void *, void *, void *, void *, void *, void *);

static int call(const char *state, const char *pattern, const char *name)
{
    bool buffer = strcmp(pattern, "buffer") == 0;
    void *a = buffer ? BUFFER : NULL;
    CUcontext ctx;

    if (buffer && mmap(BUFFER, 1u << 16, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != BUFFER)
        _exit(4);

    lib = dlopen("libcuda.so.1", RTLD_NOW);
    any f = (any)dlsym(lib, name);
    if (f == NULL)
        return -1;
    if (strcmp(state, "bare") != 0)
        DO(cuInit, 0);
    if (strcmp(state, "context") == 0)
        DO(cuCtxCreate_v2, &ctx, 0, 0);
    alarm(10);
    return (int)f(SIX(a), SIX(a), SIX(a));
}

int main(void)
{
    char state[16], pattern[16], name[128];

    while (scanf("%15s %15s %127s", state, pattern, name) == 3) {
        int said[2], code = 0, status;

        if (pipe(said) != 0)
            return 1;
        pid_t pid = fork();
        if (pid == 0) {
            code = call(state, pattern, name);
            if (write(said[1], &code, sizeof code) != sizeof code)
                _exit(2);
            _exit(0);
        }
        close(said[1]);
        int heard = (int)read(said[0], &code, sizeof code);
        close(said[0]);
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status) && heard != sizeof code)
            printf("signal %d\n", WTERMSIG(status));
        else if (heard != sizeof code)
            printf("ended %d\n", WEXITSTATUS(status));
        else if (code == -1)
            puts("missing");
        else
            printf("%d\n", code);
        fflush(stdout);
    }
    return 0;
}
