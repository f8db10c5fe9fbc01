/* SPDX-License-Identifier: Apache-2.0
 *
 * A file an image, named by its hash; when it was used last is when it was modified. Several
 * workers may use the folder at a time: files come by rename, and one that goes while it is read is
 * read to its end. The bound is kept by each at its own writes.
 */
#include "src/worker/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/wire/codec.h"

#ifndef STORE_MAX /* tests have less */
#define STORE_MAX (1ull << 30)
#endif
#define FILES_MAX 4096u

static int folder = -1;
/* One who makes room and writes at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct file {
    char name[72];
    uint64_t bytes;
    struct timespec used;
};

int store_open(const char *path, uid_t owner, char *text, size_t size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int err = fd < 0 || fstat(fd, &st) != 0 ? -errno : 0;
    if (err != 0) {
        snprintf(text, size, "images folder %s: %s", path, strerror(-err));
    } else if (st.st_uid != owner || (st.st_mode & 077) != 0) {
        err = -EPERM;
        snprintf(text, size,
                 "images folder %s belongs to uid %u with mode %o; remedy: make it uid %u's, with "
                 "mode 700",
                 path, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777u, (unsigned)owner);
    }
    if (err == 0)
        folder = fd;
    else if (fd >= 0)
        close(fd);
    return err;
}

static void name_of(const struct harp_wire_image *what, char name[65])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < 32; i++) {
        name[2 * i] = digits[what->sha256[i] >> 4];
        name[2 * i + 1] = digits[what->sha256[i] & 15];
    }
    name[64] = '\0';
}

/* -EIO: less than that. */
static int read_all(int fd, uint8_t *to, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        ssize_t n = read(fd, to + at, bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EIO;
        at += (uint64_t)n;
    }
    return 0;
}

int store_find(const struct harp_wire_image *what)
{
    char name[65];
    struct stat st;
    if (folder < 0)
        return -ENOENT;
    name_of(what, name);
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -ENOENT;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == what->bytes)
        return fd;
    close(fd);
    return -ENOENT;
}

int store_read(int fd, void *to, uint64_t bytes)
{
    int err = read_all(fd, to, bytes);
    futimens(fd, NULL);
    close(fd);
    return err;
}

static int older_first(const void *a, const void *b)
{
    const struct timespec *x = &((const struct file *)a)->used,
                          *y = &((const struct file *)b)->used;
    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? -1 : 1;
    return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

/* What is there, up to FILES_MAX; names that cannot be ours count as the oldest. */
static size_t list(struct file *files, uint64_t *bytes)
{
    size_t count = 0;
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL && fd >= 0)
        close(fd);
    for (struct dirent *e; dir != NULL && count < FILES_MAX && (e = readdir(dir)) != NULL;) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            strlen(e->d_name) >= sizeof files->name ||
            fstatat(folder, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        struct file *f = &files[count++];
        memcpy(f->name, e->d_name, strlen(e->d_name) + 1);
        f->bytes = (uint64_t)st.st_size;
        f->used = st.st_mtim;
        *bytes += f->bytes;
    }
    if (dir != NULL)
        closedir(dir);
    return count;
}

static void make_room(uint64_t need)
{
    struct file *files = malloc(FILES_MAX * sizeof *files);
    uint64_t bytes = 0;
    if (files == NULL)
        return;
    size_t count = list(files, &bytes), left = count;
    qsort(files, count, sizeof *files, older_first);
    for (size_t i = 0; i < count && (bytes + need > STORE_MAX || left >= FILES_MAX); i++) {
        if (unlinkat(folder, files[i].name, 0) != 0 && errno != ENOENT)
            continue;
        bytes -= files[i].bytes;
        left--;
    }
    free(files);
}

static int write_all(int fd, const uint8_t *data, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        ssize_t n = write(fd, data + at, bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += (uint64_t)n;
    }
    return 0;
}

static int replace(const char *name, const void *data, uint64_t bytes)
{
    char own[32];
    /* Of a process that had our pid and was killed there may be one. */
    snprintf(own, sizeof own, "new-%ld", (long)getpid());
    unlinkat(folder, own, 0);
    int fd = openat(folder, own, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, data, bytes);
    close(fd);
    if (err == 0 && renameat(folder, own, folder, name) != 0)
        err = -errno;
    if (err != 0)
        unlinkat(folder, own, 0);
    return err;
}

void store_write(const struct harp_wire_image *what, const void *data)
{
    static atomic_bool said;
    char name[65];
    if (folder < 0 || what->bytes > STORE_MAX)
        return;
    name_of(what, name);
    pthread_mutex_lock(&lock);
    make_room(what->bytes);
    int err = replace(name, data, what->bytes);
    pthread_mutex_unlock(&lock);
    if (err != 0 && !atomic_exchange(&said, true))
        fprintf(stderr, "harp-worker: an image is not kept in its folder: %s\n", strerror(-err));
}

void store_drop(const struct harp_wire_image *what)
{
    char name[65];
    if (folder < 0)
        return;
    name_of(what, name);
    unlinkat(folder, name, 0);
}
