/* SPDX-License-Identifier: Apache-2.0
 *
 * A short tenant: once through every path to memory, then it ends with all it has. With an
 * argument it is a peer instead: it holds a little, asks for a granule and gives it back all the
 * time, and tells for each line on stdin what its longest wait for either was since the last, in
 * milliseconds.
 */
#include <poll.h>
#include <time.h>

#include "memory_paths.h"

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int peer(void)
{
    struct thing held = {0}, more = {0};
    double last = now_ms(), longest = 0;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char line[16];

    paths_begin();
    if (paths[0].make(&held, 8 * GRANULE) != CUDA_SUCCESS)
        return 4;
    puts("ready");
    for (;;) {
        double now;

        fflush(stdout);
        last = now_ms();
        if (paths[0].make(&more, 3 * GRANULE) != CUDA_SUCCESS ||
            paths[0].end(&more) != CUDA_SUCCESS)
            return 5;
        now = now_ms();
        longest = now - last > longest ? now - last : longest;
        if (poll(&in, 1, 2) > 0) {
            if (fgets(line, sizeof line, stdin) == NULL)
                return 0;
            printf("%.1f\n", longest);
            longest = 0;
        }
    }
}

int main(int argc, char **argv)
{
    struct thing things[PATHS];

    (void)argv;
    memset(things, 0, sizeof things);
    if (argc > 1)
        return peer();
    paths_begin();
    for (int i = 0; i < PATHS; i++)
        if (paths[i].make(&things[i], 3 * GRANULE) != CUDA_SUCCESS)
            return 6;
    for (int i = 0; i < PATHS; i += 2)
        if (paths[i].end(&things[i]) != CUDA_SUCCESS)
            return 7;
    return 0;
}
