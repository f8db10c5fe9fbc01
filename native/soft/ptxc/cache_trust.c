/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the cache is, and whether what lies there may be loaded. Makes and changes nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/ptxc/cache.h"

char *cache_join(struct job *job, const char *a, const char *b)
{
    size_t bytes = strlen(a) + strlen(b) + 2;
    char *out = job_new(job, bytes, 1);
    snprintf(out, bytes, "%s/%s", a, b);
    return out;
}

/* Whoever may rename what lies in a folder above may put another in its place after a look at it:
 * its owner, and who may write to it unless it is sticky. The last part of `path` is looked at by
 * the caller. */
static bool others_may_move(const char *path)
{
    char real[PATH_MAX];
    struct stat st;
    if (!realpath(path, real))
        return true;
    for (char *slash; (slash = strrchr(real, '/'));) {
        slash[slash == real] = 0;
        if (stat(real, &st) != 0 || (st.st_uid != geteuid() && st.st_uid != 0) ||
            ((st.st_mode & 022) && !(st.st_mode & S_ISVTX)))
            return true;
        if (slash == real)
            break;
    }
    return false;
}

const char *cache_distrusts(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return strerror(errno);
    if (!S_ISDIR(st.st_mode))
        return "not a folder";
    if (st.st_uid != geteuid())
        return "belongs to another user";
    if (st.st_mode & 022)
        return "others may write to it; remedy: chmod go-w";
    if (others_may_move(path))
        return "a folder above is another user's, or others may write to it; remedy: chmod go-w, "
               "or "
               "+t";
    if (access(path, W_OK | X_OK) != 0)
        return strerror(errno);
    return NULL;
}

void cache_places(struct job *job, const char *places[CACHE_PLACES])
{
    const char *xdg = job_env(job, "XDG_CACHE_HOME"), *home = job_env(job, "HOME");
    char own[64];
    snprintf(own, sizeof(own), "/tmp/harp-ptx-%u", (unsigned)geteuid());
    places[0] = NULL;
    if (xdg && *xdg == '/')
        places[0] = cache_join(job, xdg, "harp/ptx");
    else if (home && *home == '/')
        places[0] = cache_join(job, home, ".cache/harp/ptx");
    places[1] = job_text(job, own, strlen(own));
}

int cache_open(struct job *job, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool link = fd < 0 && errno == ELOOP;
    if (fd < 0 && !link)
        return -1;
    if (link || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022)) {
        if (fd >= 0)
            close(fd);
        job_fail(
            job, PTXC_INTERNAL,
            "cached kernel %s: not a file of this user, or writable by others; remedy: remove it",
            path);
    }
    if (cache_is_whole(fd, path))
        return fd;
    close(fd); /* it is compiled again and takes its place */
    return -1;
}

bool cache_trusts(struct job *job, const char *path)
{
    int fd = cache_open(job, path);
    return fd >= 0 && close(fd) == 0;
}
