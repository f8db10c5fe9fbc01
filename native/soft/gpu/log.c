/* SPDX-License-Identifier: Apache-2.0
 *
 * One line to the file that $HARP_SOFT_VERBOSE names; nothing at all without it: the library lives
 * in other people's processes.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/soft.h"

static pthread_once_t log_once = PTHREAD_ONCE_INIT;
static int log_fd = -1; /* written once, by log_once */

static void log_open(void)
{
    const char *to = getenv("HARP_SOFT_VERBOSE");

    if (to == NULL || to[0] == '\0' || strcmp(to, "0") == 0)
        return;
    if (strcmp(to, "1") == 0)
        log_fd = STDERR_FILENO;
    else
        log_fd = open(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

bool soft_log_on(void)
{
    pthread_once(&log_once, log_open);
    return log_fd >= 0;
}

void soft_log(const char *format, ...)
{
    char line[1024];
    va_list args;
    int saved = errno;
    int head, body;
    size_t bytes;

    if (!soft_log_on())
        return;
    head = snprintf(line, sizeof line, "harp-soft[%d]: ", (int)getpid());
    va_start(args, format);
    body = vsnprintf(line + head, sizeof line - (size_t)head - 1, format, args);
    va_end(args);
    if (body < 0)
        body = 0;
    bytes = (size_t)head + (size_t)body;
    if (bytes > sizeof line - 2)
        bytes = sizeof line - 2;
    line[bytes++] = '\n';
    if (write(log_fd, line, bytes) < 0) {
        /* nowhere to say it */
    }
    errno = saved;
}
