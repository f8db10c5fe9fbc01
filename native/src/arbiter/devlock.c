/* SPDX-License-Identifier: Apache-2.0
 *
 * One arbiter per device of the machine: a lock on LOCK_DIR/device-UUID.lock, which says who holds
 * it ("pid uid run_dir") so that another user can join instead. The folder is shared by all users
 * (sticky), so the file may be another's: then it is locked all the same through a descriptor that
 * only reads.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server.h"

const char *devlock_default_dir(void)
{
    static const char *const candidates[] = {"/run/lock", "/var/lock", "/dev/shm", "/tmp"};
    const char *asked = getenv("HARP_LOCK_DIR");
    if (asked != NULL && asked[0] != 0)
        return asked;
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++)
        if (access(candidates[i], W_OK | X_OK) == 0)
            return candidates[i];
    return "/tmp";
}

static int open_lock(const char *path)
{
    int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = open(path, O_RDWR | flags);
    if (fd < 0 && errno == ENOENT) {
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | flags, 0666);
        /* Others must be able to write their name in later: the lock is theirs then. */
        if (fd >= 0)
            (void)!fchmod(fd, geteuid() == 0 ? 0644 : 0666);
        else if (errno == EEXIST)
            fd = open(path, O_RDWR | flags);
    }
    if (fd < 0 && errno == EACCES)
        fd = open(path, O_RDONLY | flags);
    return fd < 0 ? -errno : fd;
}

/* Is `fd` still the file of that name? A holder that ends unlinks it. */
static int same_file(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

static void name_holder(int fd, struct harp_msg *err)
{
    char text[4352];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    char *rest;
    err->pid = (int32_t)strtol(text, &rest, 10);
    err->uid = (uint32_t)strtoul(rest, &rest, 10);
    while (*rest == ' ')
        rest++;
    if (strlen(rest) < sizeof err->text)
        memcpy(err->text, rest, strlen(rest) + 1);
}

int devlock_take(struct server *s, const uint8_t uuid[16], struct harp_msg *err)
{
    char name[64], path[4096];
    snprintf(name, sizeof name,
             "device-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x.lock",
             uuid[0], uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8],
             uuid[9], uuid[10], uuid[11], uuid[12], uuid[13], uuid[14], uuid[15]);
    for (uint32_t i = 0; i < s->n_device_locks; i++)
        if (strcmp(s->device_lock_names[i], name) == 0)
            return 0;
    if (s->n_device_locks == HARP_MAX_DEVICES ||
        snprintf(path, sizeof path, "%s/%s", s->lock_dir, name) >= (int)sizeof path)
        return -ENOSPC;
    int fd = -1;
    for (int attempt = 0; attempt < 10; attempt++) {
        fd = open_lock(path);
        if (fd < 0)
            return fd;
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int number = errno == EWOULDBLOCK ? EBUSY : errno;
            if (number == EBUSY)
                name_holder(fd, err);
            close(fd);
            return -number;
        }
        if (same_file(fd, path))
            break;
        close(fd);
        fd = -1;
    }
    if (fd < 0)
        return -EAGAIN;
    if (ftruncate(fd, 0) == 0)
        (void)!dprintf(fd, "%ld %lu %s\n", (long)getpid(), (unsigned long)geteuid(), s->run_dir);
    memcpy(s->device_lock_names[s->n_device_locks], name, sizeof name);
    s->device_locks[s->n_device_locks++] = fd;
    return 0;
}

void devlock_release_all(struct server *s)
{
    for (uint32_t i = 0; i < s->n_device_locks; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", s->lock_dir, s->device_lock_names[i]);
        unlink(path); /* fails in a sticky folder on another's file: it stays, unlocked */
        close(s->device_locks[i]);
    }
    s->n_device_locks = 0;
}
