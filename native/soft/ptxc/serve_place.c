/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/serve_place.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define HASH_BEGIN 0xcbf29ce484222325ull

static uint64_t hash(uint64_t sum, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        sum = (sum ^ ((const unsigned char *)data)[i]) * 0x100000001b3ull;
    return sum;
}

/* Another's socket, served with another cache: only who listens is connected to. */
static bool is_served(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool served =
        fd >= 0 &&
        (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN);
    if (fd >= 0)
        close(fd);
    return served;
}

void serve_place_take(struct job *job, struct serve_place *place, const char *path,
                      const char *cache)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char lock[4096 + 32];
    char fresh[sizeof(address.sun_path) + 8];
    size_t bytes = strlen(path);
    *place = (struct serve_place){.path = path, .listener = -1, .lock = -1};
    if (bytes + 5 > sizeof(address.sun_path))
        job_fail(job, PTXC_USAGE, "%s: a socket's path has up to %zu bytes", path,
                 sizeof(address.sun_path) - 5);
    /* Not beside the socket: that folder is mounted into containers, and whoever can open the file
     * for reading can hold the lock. */
    snprintf(lock, sizeof(lock), "%s/serving-%016llx", cache,
             (unsigned long long)hash(HASH_BEGIN, path, bytes));
    place->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (place->lock < 0)
        job_fail(job, PTXC_USAGE, "%s: %s", lock, strerror(errno));
    memcpy(address.sun_path, path, bytes + 1);
    if (flock(place->lock, LOCK_EX | LOCK_NB) != 0 || is_served(&address))
        job_fail(job, PTXC_USAGE, "another compiler serves %s already", path);
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    memcpy(address.sun_path, fresh, bytes + 5);
    unlink(fresh);
    place->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The name leads to a socket that listens, or to the one before: never to nothing. */
    if (place->listener < 0 ||
        bind(place->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        chmod(fresh, 0666) != 0 || listen(place->listener, 128) != 0 || rename(fresh, path) != 0)
        job_fail(job, PTXC_USAGE, "%s: %s", path, strerror(errno));
}

void serve_place_leave(struct serve_place *place)
{
    unlink(place->path);
    close(place->listener);
    close(place->lock); /* its file stays: another may wait for it by now */
}

void serve_raise_files(uint64_t count)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= count)
        return;
    files.rlim_cur = files.rlim_max < count ? files.rlim_max : count;
    setrlimit(RLIMIT_NOFILE, &files);
}

/* ------------------------------------------------------------------------------- peers -------- */

static size_t control_group(const char *process, char *text, size_t room)
{
    char path[64];
    size_t used = 0;
    snprintf(path, sizeof(path), "/proc/%s/cgroup", process);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && (n = read(fd, text + used, room - used)) > 0;)
        used += (size_t)n;
    if (fd >= 0)
        close(fd);
    return used;
}

/* In a container anybody may be any user, so the user says nothing there: whoever has ended since
 * it connected, and left its connection to others, would be as many as it likes. */
bool serve_peer_key(int socket, uint64_t *key)
{
    struct ucred who = {0};
    socklen_t bytes = sizeof(who);
    char theirs[4096], ours[4096], name[24];
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0)
        return false;
    snprintf(name, sizeof(name), "%d", (int)who.pid);
    size_t n = who.pid > 0 ? control_group(name, theirs, sizeof(theirs)) : 0;
    size_t m = control_group("self", ours, sizeof(ours));
    /* A process that lives and is not shown to us (hidepid) may ask; no container hides so. */
    if (who.pid > 0 && !n && (kill(who.pid, 0) == 0 || errno != EPERM))
        return false;
    *key = n && (n != m || memcmp(theirs, ours, n) != 0)
               ? hash(HASH_BEGIN, theirs, n)
               : hash(HASH_BEGIN, &who.uid, sizeof(who.uid));
    return true;
}
