/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/cache.h"

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

static void make_folders(struct job *job, const char *path)
{
    char *copy = job_text(job, path, strlen(path));
    for (char *at = copy + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(copy, 0700);
            *at = '/';
        }
    mkdir(copy, 0700);
}

const char *cache_folder(struct job *job, const char *wish)
{
    const char *choice[CACHE_PLACES], *why = "";
    if (wish) {
        make_folders(job, wish);
        if ((why = cache_distrusts(wish)))
            job_fail(job, PTXC_INTERNAL, "cache folder %s: %s", wish, why);
        char *real = realpath(wish, NULL);
        if (!real)
            job_fail(job, PTXC_INTERNAL, "cache folder %s: %s", wish, strerror(errno));
        wish = job_text(job, real, strlen(real));
        free(real);
        return wish;
    }
    cache_places(job, choice);
    for (int i = 0; i < CACHE_PLACES; i++) {
        if (!choice[i])
            continue;
        make_folders(job, choice[i]);
        if (!(why = cache_distrusts(choice[i])))
            return choice[i];
    }
    job_fail(job, PTXC_INTERNAL, "cache folder %s: %s; remedy: set XDG_CACHE_HOME", choice[1], why);
}

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' || entry->d_name[1])
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

/* Work folders of processes that were killed: older than an hour. */
static void sweep(struct job *job, const char *folder)
{
    DIR *dir = opendir(folder);
    time_t now = time(NULL);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        struct stat st;
        if (strncmp(entry->d_name, "work-", 5) == 0 &&
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(st.st_mode) && now - st.st_mtime > 3600)
            remove_folder(cache_join(job, folder, entry->d_name));
    }
    if (dir)
        closedir(dir);
}

bool cache_begin(struct job *job, struct cache_work *work, const char *folder, const char *key)
{
    char name[128];
    work->folder = folder;
    snprintf(name, sizeof(name), "%s.so", key);
    work->final = cache_join(job, folder, name);
    snprintf(name, sizeof(name), "%s.lock", key);
    const char *lock = cache_join(job, folder, name);
    for (;;) {
        struct stat mine, there;
        work->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (work->lock < 0)
            job_fail(job, PTXC_INTERNAL, "%s: %s", lock, strerror(errno));
        while (flock(work->lock, LOCK_EX) != 0)
            if (errno != EINTR)
                job_fail(job, PTXC_INTERNAL, "%s: %s", lock, strerror(errno));
        /* The one before removed the name: then this lock guards nothing. */
        if (fstat(work->lock, &mine) == 0 && lstat(lock, &there) == 0 &&
            mine.st_ino == there.st_ino)
            break;
        close(work->lock);
        work->lock = -1;
    }
    if (cache_trusts(job, work->final))
        return true;
    sweep(job, folder);
    snprintf(name, sizeof(name), "work-%d-XXXXXX", (int)getpid());
    char *temp = cache_join(job, folder, name);
    if (!mkdtemp(temp))
        job_fail(job, PTXC_INTERNAL, "%s: %s", temp, strerror(errno));
    work->temp = temp;
    if (chdir(temp) != 0)
        job_fail(job, PTXC_INTERNAL, "%s: %s", temp, strerror(errno));
    return false;
}

void cache_publish(struct job *job, struct cache_work *work)
{
    int err = cache_seal("kernel.so", work->final);
    if (err)
        job_fail(job, PTXC_INTERNAL, "%s: %s", work->final, strerror(-err));
    if (chmod("kernel.so", 0500) != 0 || rename("kernel.so", work->final) != 0)
        job_fail(job, PTXC_INTERNAL, "%s: %s", work->final, strerror(errno));
}

void cache_end(struct cache_work *work)
{
    if (work->temp) {
        if (chdir(work->folder) == 0)
            remove_folder(work->temp);
        work->temp = NULL;
    }
    if (work->lock >= 0) {
        /* While it is held: whoever waits finds that the name is gone and starts again. */
        size_t bytes = strlen(work->final);
        char *lock = malloc(bytes + 8);
        if (lock) {
            memcpy(lock, work->final, bytes - 3);
            strcpy(lock + bytes - 3, ".lock");
            unlink(lock);
            free(lock);
        }
        close(work->lock);
        work->lock = -1;
    }
}
