/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/serve_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

uint64_t serve_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void serve_say(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    fprintf(stderr, "harp-ptxc: %s\n", line);
}
