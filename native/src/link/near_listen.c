/* SPDX-License-Identifier: Apache-2.0
 *
 * The socket at which programs connect.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/link/ends.h"

/* A socket at which nobody listens: one that was killed left it. */
static bool left_behind(const struct sockaddr_un *at)
{
    struct stat st;
    int saved = errno;
    bool dead = false;
    if (lstat(at->sun_path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        dead = fd >= 0 && connect(fd, (const struct sockaddr *)at, sizeof *at) != 0 &&
               errno == ECONNREFUSED;
        if (fd >= 0)
            close(fd);
    }
    errno = saved;
    return dead;
}

int near_listen(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof at.sun_path) {
        fprintf(stderr, "harp-link: --socket %s is longer than %zu bytes\n", path,
                sizeof at.sun_path - 1);
        return -1;
    }
    memcpy(at.sun_path, path, strlen(path));
    mode_t before = umask(0177); /* its owner's programs, nobody else's */
    int bound = fd >= 0 ? bind(fd, (struct sockaddr *)&at, sizeof at) : -1;
    if (fd >= 0 && bound != 0 && errno == EADDRINUSE && left_behind(&at) && unlink(path) == 0)
        bound = bind(fd, (struct sockaddr *)&at, sizeof at);
    umask(before);
    if (bound != 0 || listen(fd, 64) != 0) {
        fprintf(stderr, "harp-link: cannot listen at %s: %s\n", path, strerror(errno));
        return -1;
    }
    return fd;
}
