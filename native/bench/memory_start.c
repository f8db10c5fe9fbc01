/* SPDX-License-Identifier: Apache-2.0
 *
 * Many processes from nothing to their first allocation.
 */
#include "bench/memory.h"

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* What one says on descriptor 3 when it has its allocation; descriptor 4 ends when all have. */
struct said {
    double init_ms;
};

int memory_started(int device)
{
    uint64_t start_ns = bench_now_ns();
    void *lib = bench_open("libcuda.so.1");
    CUcontext ctx;
    CUdeviceptr p;
    char unused;

    BENCH_DO(lib, cuInit, 0);
    BENCH_DO(lib, cuCtxCreate_v2, &ctx, 0, device);
    BENCH_DO(lib, cuMemAlloc_v2, &p, 1u << 20);
    struct said said = {.init_ms = (double)(bench_now_ns() - start_ns) / 1e6};
    if (write(3, &said, sizeof said) != (ssize_t)sizeof said)
        bench_fail("nobody listens", -1);
    return read(4, &unused, 1) == 0 ? 0 : 1;
}

static pid_t spawn(int number, const int *tell, const int *hold)
{
    char text[16];
    char *argv[] = {"harp-bench-memory", "started", text, NULL};
    posix_spawn_file_actions_t files;
    pid_t pid;

    snprintf(text, sizeof text, "%d", number + 1);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, tell[1], 3);
    posix_spawn_file_actions_adddup2(&files, hold[0], 4);
    if (hold[1] >= 0)
        posix_spawn_file_actions_addclose(&files, hold[1]);
    if (posix_spawn(&pid, "/proc/self/exe", &files, NULL, argv, environ) != 0)
        bench_fail("spawn", -1);
    posix_spawn_file_actions_destroy(&files);
    return pid;
}

int memory_start(int processes, int at_once, int devices, bool leave)
{
    double *took = calloc((size_t)processes, sizeof *took);
    uint64_t begin_ns;
    int tell[2], hold[2], started = 0, heard = 0;

    /* clear of 3 and 4, which become the children's */
    if (took == NULL || pipe(tell) != 0 || pipe(hold) != 0)
        bench_fail("pipes", -1);
    for (int i = 0; i < 2; i++) {
        tell[i] = dup2(tell[i], 10 + i);
        hold[i] = dup2(hold[i], 20 + i);
    }
    for (int fd = 3; fd < 10; fd++)
        close(fd);
    if (leave) {
        close(hold[1]); /* it has ended already: none waits for the others */
        hold[1] = -1;
    }
    begin_ns = bench_now_ns();
    while (heard < processes) {
        struct said said;

        for (; started < processes && started - heard < at_once; started++)
            spawn(started % devices, tell, hold);
        if (started == processes)
            close(tell[1]); /* so that the end of all of them is seen */
        if (read(tell[0], &said, sizeof said) != (ssize_t)sizeof said)
            bench_fail("one ended before its allocation; started", started);
        took[heard++] = said.init_ms;
        if (leave)
            wait(NULL);
    }
    double wall_ms = (double)(bench_now_ns() - begin_ns) / 1e6;
    /* in the order of their ends: does it take the later ones longer? */
    int quarter = processes / 4 > 0 ? processes / 4 : 1;
    double first = bench_at(took, (size_t)quarter, 0.5);
    double last = bench_at(took + processes - quarter, (size_t)quarter, 0.5);
    printf("{\"processes\": %d, \"at_once\": %d, \"wall_ms\": %.3f, \"init_ms_first\": %.4f, "
           "\"init_ms_last\": %.4f, \"init_ms_p50\": %.4f, \"init_ms\": [",
           processes, at_once, wall_ms, first, last, bench_at(took, (size_t)processes, 0.5));
    for (int i = 0; i < processes; i++)
        printf("%s%.4f", i ? ", " : "", took[i]);
    puts("]}");
    if (!leave)
        close(hold[1]);
    for (int failed = 0, status = 0;;) {
        if (wait(&status) < 0)
            return failed;
        failed |= status != 0;
    }
}
