/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char *join(struct job *job, const char *a, const char *b)
{
    size_t bytes = strlen(a) + strlen(b) + 2;
    char *out = job_new(job, bytes, 1);
    snprintf(out, bytes, "%s/%s", a, b);
    return out;
}

/* Whoever may rename what lies in a folder above may put another in its place after a look at it.
 * The last part of `path` is looked at by the caller. */
static bool others_may_move(const char *path)
{
    char real[PATH_MAX];
    struct stat st;
    if (!realpath(path, real))
        return true;
    for (char *slash; (slash = strrchr(real, '/'));) {
        slash[slash == real] = 0;
        if (stat(real, &st) != 0 || ((st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX)))
            return true;
        if (slash == real)
            break;
    }
    return false;
}

/* NULL, or what is wrong with it. */
static const char *distrust_folder(const char *path)
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
        return "others may write to a folder above; remedy: chmod o-w, or +t";
    if (access(path, W_OK | X_OK) != 0)
        return strerror(errno);
    return NULL;
}

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
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *choice[2] = {0}, *why = "";
    char own[64];
    snprintf(own, sizeof(own), "/tmp/harp-ptx-%u", (unsigned)geteuid());
    if (wish) {
        make_folders(job, wish);
        if ((why = distrust_folder(wish)))
            job_fail(job, PTXC_INTERNAL, "cache folder %s: %s", wish, why);
        char *real = realpath(wish, NULL);
        if (!real)
            job_fail(job, PTXC_INTERNAL, "cache folder %s: %s", wish, strerror(errno));
        wish = job_text(job, real, strlen(real));
        free(real);
        return wish;
    }
    if (xdg && *xdg == '/')
        choice[0] = join(job, xdg, "harp/ptx");
    else if (home && *home == '/')
        choice[0] = join(job, home, ".cache/harp/ptx");
    choice[1] = job_text(job, own, strlen(own));
    for (int i = 0; i < 2; i++) {
        if (!choice[i])
            continue;
        make_folders(job, choice[i]);
        if (!(why = distrust_folder(choice[i])))
            return choice[i];
    }
    job_fail(job, PTXC_INTERNAL, "cache folder %s: %s; remedy: set XDG_CACHE_HOME", choice[1], why);
}

bool cache_trusts(struct job *job, const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return false;
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        job_fail(
            job, PTXC_INTERNAL,
            "cached kernel %s: not a file of this user, or writable by others; remedy: remove it",
            path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool whole = fd >= 0 && cache_is_whole(fd, path);
    if (fd >= 0)
        close(fd);
    return whole; /* else it is compiled again and takes its place */
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
            remove_folder(join(job, folder, entry->d_name));
    }
    if (dir)
        closedir(dir);
}

bool cache_begin(struct job *job, struct cache_work *work, const char *folder, const char *key)
{
    char name[128];
    work->folder = folder;
    snprintf(name, sizeof(name), "%s.so", key);
    work->final = join(job, folder, name);
    snprintf(name, sizeof(name), "%s.lock", key);
    const char *lock = join(job, folder, name);
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
    char *temp = join(job, folder, name);
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
