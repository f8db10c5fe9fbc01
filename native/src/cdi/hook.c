/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-cdi-hook: run by a container runtime (OCI hook createContainer, in the container's mount
 * namespace, before its root folder is its own), for a container that is a tenant. It lays our
 * libraries over every name under which the container's loader could find the driver, whoever put
 * it there: the image, or another hook. What they are laid from is what the container has of us
 * already, mounted read-only under /opt/harp by the CDI device.
 *
 * It fails, and the container does not start, if the tenant has ended or a driver stays uncovered.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/cdi/root.h"

#define OURS   "/opt/harp/shim"
#define DRIVER "/opt/harp/driver"
#define GRANT  "/opt/harp/grant/arbiter.sock"

enum { CACHE_MAX = 16 << 20, FOLDERS_MAX = 512 };

struct library {
    const char *stem, *file; /* libcuda.so, libcuda.so.1 */
    int ours;                /* descriptor */
    int covered;             /* names */
};

static struct library libraries[] = {{"libcuda.so", "libcuda.so.1", -1, 0},
                                     {"libnvidia-ml.so", "libnvidia-ml.so.1", -1, 0}};
enum { LIBRARIES = sizeof libraries / sizeof libraries[0] };

/* where loaders look without being told, and where images of CUDA have it */
static const char *const folders[] = {
#if defined(__x86_64__)
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
#else
    "/usr/lib/aarch64-linux-gnu",
    "/lib/aarch64-linux-gnu",
#endif
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
    "/usr/local/cuda/compat",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib"};
enum { FOLDERS = sizeof folders / sizeof folders[0] };

/* Where loaders look first of all; of them the ones that the image has. */
enum { LOADERS_OWN = 6 };

static struct library *library_of(const char *name)
{
    for (int i = 0; i < LIBRARIES; i++) {
        size_t n = strlen(libraries[i].stem);
        if (strncmp(name, libraries[i].stem, n) == 0 && (name[n] == '\0' || name[n] == '.'))
            return &libraries[i];
    }
    return NULL;
}

/* A link may lead anywhere in the root; only to a driver's file do we follow it. */
static bool is_drivers(int fd, const struct library *library)
{
    char link[32], path[PATH_MAX];
    struct stat st;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return false;
    path[n] = '\0';
    const char *slash = strrchr(path, '/');
    return slash != NULL && library_of(slash + 1) == library;
}

static bool read_only(int fd)
{
    struct statvfs st;
    return fstatvfs(fd, &st) == 0 && (st.f_flag & ST_RDONLY) != 0;
}

static bool cover(int root, const char *path, struct library *library)
{
    int target = root_file(root, path, O_PATH), now = -1;
    bool good = true;
    if (target < 0)
        return true; /* a link to nothing */
    if (!root_same(target, library->ours) && is_drivers(target, library)) {
        good = root_cover(library->ours, target) == 0 &&
               (now = root_file(root, path, O_PATH)) >= 0 && root_same(now, library->ours) &&
               read_only(now);
        if (good)
            library->covered++;
        else
            hook_say("%s cannot be covered: %s", path, strerror(errno));
    } else if (root_same(target, library->ours)) {
        library->covered++;
    }
    if (now >= 0)
        close(now);
    close(target);
    return good;
}

static bool cover_folder(int root, const char *folder)
{
    int fd = root_file(root, folder, O_RDONLY | O_DIRECTORY);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    bool good = true;
    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return true;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct library *library = library_of(entry->d_name);
        char path[PATH_MAX + 256 + 2];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (library != NULL && !cover(root, path, library))
            good = false;
    }
    closedir(dir);
    return good;
}

/* Paths of the driver in the loader's cache: its texts, whatever the rest of the format is. */
static bool cover_cached(int root)
{
    size_t bytes = 0;
    char *cache = root_read(root, "/etc/ld.so.cache", CACHE_MAX, &bytes), last[PATH_MAX] = "";
    bool good = true;
    int count = 0;
    for (size_t at = 0; cache != NULL && at < bytes && count < FOLDERS_MAX;) {
        size_t n = strnlen(cache + at, bytes - at);
        char path[PATH_MAX];
        if (cache[at] == '/' && n < sizeof path && at + n < bytes) {
            memcpy(path, cache + at, n + 1);
            char *slash = strrchr(path, '/');
            if (library_of(slash + 1) != NULL) {
                *slash = '\0';
                if (strcmp(path, last) != 0) {
                    count++;
                    good = cover_folder(root, path[0] != '\0' ? path : "/") && good;
                }
                memcpy(last, path, strlen(path) + 1);
            }
        }
        at += n + 1;
    }
    free(cache);
    return good;
}

/* Files that were mounted into the root, wherever. */
static bool cover_mounted(int root)
{
    char link[32], base[PATH_MAX], line[3 * PATH_MAX];
    bool good = true;
    snprintf(link, sizeof link, "/proc/self/fd/%d", root);
    ssize_t n = readlink(link, base, sizeof base - 1);
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (n < 0 || mounts == NULL) {
        hook_say("the list of mounts cannot be read: %s", strerror(errno));
        return false;
    }
    base[n] = '\0';
    while (fgets(line, sizeof line, mounts) != NULL) {
        char *rest = line, *word = NULL;
        for (int i = 0; i < 5; i++)
            word = strsep(&rest, " ");
        /* Blanks are written as \040 in there; folders of the driver have none. */
        if (word == NULL || strncmp(word, base, (size_t)n) != 0 || word[n] != '/')
            continue;
        struct library *library = library_of(strrchr(word, '/') + 1);
        if (library != NULL && strncmp(word + n, "/opt/harp/", 10) != 0)
            good = cover(root, word + n, library) && good;
    }
    fclose(mounts);
    return good;
}

/* ------------------------------------------------------------------------- what is missing ---- */

/* The folder of the C library: there a loader looks, whatever its cache says. */
static int loaders_folder(int root)
{
    static const char *const signs[] = {"libc.so.6", "libc.musl-x86_64.so.1",
                                        "libc.musl-aarch64.so.1"};
    for (int i = 0; i < LOADERS_OWN; i++)
        for (size_t k = 0; k < sizeof signs / sizeof signs[0]; k++) {
            char path[PATH_MAX];
            snprintf(path, sizeof path, "%s/%s", folders[i], signs[k]);
            int sign = root_file(root, path, O_PATH);
            if (sign < 0)
                continue;
            close(sign);
            return root_file(root, folders[i], O_RDONLY | O_DIRECTORY);
        }
    return -1;
}

/* A file to mount over, as place() makes it: it stays in the container's own layer, and on its next
 * start nothing is mounted there. */
static bool is_bare(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0;
}

static void place(int folder, const char *name, int source)
{
    int made = openat(folder, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
    bool here = made >= 0 || errno == EEXIST;
    if (made >= 0)
        close(made);
    int target = here ? openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (target >= 0 && !is_bare(target)) {
        close(target);
        target = -1;
        errno = EEXIST;
    }
    if (target < 0 || root_cover(source, target) != 0)
        hook_say("warning: %s is not placed where the loader looks: %s", name, strerror(errno));
    if (target >= 0)
        close(target);
}

static void place_missing(int root)
{
    int folder = loaders_folder(root);
    if (folder < 0)
        return; /* no loader in there: a static program has no use for a library */
    for (int i = 0; i < LIBRARIES; i++)
        if (libraries[i].covered == 0) {
            place(folder, libraries[i].file, libraries[i].ours);
            if (symlinkat(libraries[i].file, folder, libraries[i].stem) != 0 && errno != EEXIST)
                hook_say("warning: %s: %s", libraries[i].stem, strerror(errno));
        }
    close(folder);
}

static bool is_anywhere(int root, const char *name)
{
    for (int i = 0; i < FOLDERS; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", folders[i], name);
        int fd = root_file(root, path, O_PATH);
        bool there = fd >= 0 && !is_bare(fd);
        if (fd >= 0)
            close(fd);
        if (there)
            return true;
    }
    return false;
}

/* What the driver opens by name, where nobody else has brought it. */
static void place_beside(int root)
{
    int fd = root_file(root, DRIVER, O_RDONLY | O_DIRECTORY), folder = loaders_folder(root);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *entry; dir != NULL && folder >= 0 && (entry = readdir(dir)) != NULL;) {
        char path[PATH_MAX];
        if (strncmp(entry->d_name, "libnvidia-", 10) != 0 || library_of(entry->d_name) != NULL ||
            is_anywhere(root, entry->d_name))
            continue;
        snprintf(path, sizeof path, "%s/%s", DRIVER, entry->d_name);
        int source = root_file(root, path, O_PATH);
        if (source >= 0) {
            place(folder, entry->d_name, source);
            close(source);
        }
    }
    if (dir != NULL)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
    if (folder >= 0)
        close(folder);
}

/* ------------------------------------------------------------------------------- ours --------- */

static bool open_ours(int root)
{
    for (int i = 0; i < LIBRARIES; i++) {
        char path[PATH_MAX];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", OURS, libraries[i].file);
        int fd = libraries[i].ours = root_file(root, path, O_PATH);
        if (fd < 0 && errno == ENOSYS) {
            hook_say("this kernel has no openat2; remedy: Linux 5.6 or newer");
            return false;
        }
        /* As it is here it will be everywhere: who may write to it would write to the host's. */
        if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || !read_only(fd) ||
            (st.st_mode & 022) != 0) {
            hook_say("%s is not mounted read-only in the container; remedy: use this hook through "
                     "the file that `harp cdi` writes",
                     path);
            return false;
        }
    }
    return true;
}

static bool tenant_lives(int root)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int file = root_file(root, GRANT, O_PATH), fd = -1;
    bool lives = false;
    if (file >= 0 &&
        (fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) >= 0) {
        snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", file);
        lives = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN;
    }
    if (!lives)
        hook_say("the tenant of this container is no more; remedy: `harp cdi` makes it again");
    if (fd >= 0)
        close(fd);
    if (file >= 0)
        close(file);
    return lives;
}

int main(void)
{
    int root = root_open(STDIN_FILENO);
    if (root < 0 || !open_ours(root) || !tenant_lives(root))
        return 1;
    bool good = cover_mounted(root);
    for (int i = 0; i < FOLDERS; i++)
        good = cover_folder(root, folders[i]) && good;
    good = cover_cached(root) && good;
    if (!good)
        return 1;
    place_missing(root);
    place_beside(root);
    return 0;
}
