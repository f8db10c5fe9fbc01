/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "soft/ptxc/cache.h"

enum { OLD_S = 3600, FILE_COSTS = 4096 }; /* a file's entry and inode cost something, too */

struct found {
    struct timespec used;
    uint64_t bytes;
    char name[80];
};

static void remove_inside(int folder, const char *name)
{
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (fd >= 0 && !dir)
        close(fd);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' || entry->d_name[1])
            unlinkat(fd, entry->d_name, 0);
    if (dir)
        closedir(dir);
    unlinkat(folder, name, AT_REMOVEDIR);
}

void cache_forget(const char *folder, pid_t pid)
{
    char prefix[32];
    snprintf(prefix, sizeof(prefix), "work-%d-", (int)pid);
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            remove_inside(dirfd(dir), entry->d_name);
    if (dir)
        closedir(dir);
}

/* Whoever holds it has it open; who waits for it finds that the name is gone. */
static void remove_lock(int folder, const char *name)
{
    int fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlinkat(folder, name, 0);
    if (fd >= 0)
        close(fd);
}

static bool ends_with(const char *name, const char *end)
{
    size_t bytes = strlen(name), n = strlen(end);
    return bytes > n && strcmp(name + bytes - n, end) == 0;
}

static int by_use(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

static void note(struct found **all, size_t *count, size_t *room, const char *name,
                 const struct stat *st)
{
    if (*count == *room) {
        size_t more = *room ? *room * 2 : 256;
        struct found *wider = realloc(*all, more * sizeof(**all));
        if (!wider)
            return; /* stays till the next time */
        *all = wider;
        *room = more;
    }
    struct found *one = &(*all)[(*count)++];
    one->used = st->st_mtim;
    one->bytes = (uint64_t)st->st_blocks * 512 + FILE_COSTS;
    snprintf(one->name, sizeof(one->name), "%s", name);
}

void cache_trim(const char *folder, uint64_t bytes)
{
    struct found *all = NULL;
    size_t count = 0, room = 0;
    uint64_t sum = 0;
    time_t now = time(NULL);
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        struct stat st;
        if (strlen(entry->d_name) >= sizeof(all->name) ||
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && strncmp(entry->d_name, "work-", 5) == 0 &&
            now - st.st_mtime > OLD_S)
            remove_inside(dirfd(dir), entry->d_name);
        else if (S_ISREG(st.st_mode) && ends_with(entry->d_name, ".lock"))
            remove_lock(dirfd(dir), entry->d_name);
        else if (S_ISREG(st.st_mode) && ends_with(entry->d_name, ".so"))
            note(&all, &count, &room, entry->d_name, &st);
    }
    for (size_t i = 0; i < count; i++)
        sum += all[i].bytes;
    if (sum > bytes)
        qsort(all, count, sizeof(*all), by_use);
    for (size_t i = 0; i < count && sum > bytes; i++)
        if (unlinkat(dirfd(dir), all[i].name, 0) == 0)
            sum -= all[i].bytes;
    free(all);
    if (dir)
        closedir(dir);
}
