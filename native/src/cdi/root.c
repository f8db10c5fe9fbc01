/* SPDX-License-Identifier: Apache-2.0 */
#include "src/cdi/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/cdi/json.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define RESOLVE_IN_THE_ROOT 0x10u

enum { STATE_MAX = 1 << 20, CONFIG_MAX = 16 << 20 };

/* linux/openat2.h, which this build's headers may lack */
struct how {
    uint64_t flags, mode, resolve;
};

void hook_say(const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "harp-cdi-hook: %s\n", line);
}

static char *read_all(int fd, size_t most, size_t *bytes)
{
    size_t room = 1 << 14, used = 0;
    char *text = malloc(room);
    while (text != NULL) {
        ssize_t n = read(fd, text + used, room - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            break;
        used += n > 0 ? (size_t)n : 0;
        char *wider = n < 0 || used > most ? NULL : text;
        if (wider != NULL && used == room)
            wider = realloc(text, room *= 2);
        if (wider == NULL)
            free(text);
        text = wider;
    }
    *bytes = used;
    return text;
}

int root_file(int root, const char *path, int flags)
{
    struct how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_THE_ROOT};
    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

char *root_read(int root, const char *path, size_t most, size_t *bytes)
{
    struct stat st;
    char *text = NULL;
    int fd = root_file(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        text = read_all(fd, most, bytes);
    close(fd);
    return text;
}

int root_open(int in)
{
    static const char *const bundle_key[] = {"bundle"}, *const root_key[] = {"root", "path"};
    char bundle[PATH_MAX], path[PATH_MAX], whole[2 * PATH_MAX + 16];
    size_t bytes = 0;
    char *text = read_all(in, STATE_MAX, &bytes);
    bool found = text != NULL && json_text(text, bytes, bundle_key, 1, bundle, sizeof bundle);
    free(text);
    if (!found || bundle[0] != '/') {
        hook_say("no container's state on standard input; a container runtime calls this program");
        return -1;
    }
    snprintf(whole, sizeof whole, "%s/config.json", bundle);
    int fd = open(whole, O_RDONLY | O_CLOEXEC);
    text = fd < 0 ? NULL : read_all(fd, CONFIG_MAX, &bytes);
    if (fd >= 0)
        close(fd);
    found = text != NULL && json_text(text, bytes, root_key, 2, path, sizeof path);
    free(text);
    if (!found) {
        hook_say("%s names no root folder", whole);
        return -1;
    }
    snprintf(whole, sizeof whole, "%s%s%s", path[0] == '/' ? "" : bundle, path[0] == '/' ? "" : "/",
             path);
    int root = open(whole, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        hook_say("%s: %s", whole, strerror(errno));
    return root;
}

bool root_same(int a, int b)
{
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int root_cover(int source, int target)
{
    char from[32], to[32];
    snprintf(from, sizeof from, "/proc/self/fd/%d", source);
    snprintf(to, sizeof to, "/proc/self/fd/%d", target);
    return mount(from, to, NULL, MS_BIND, NULL);
}
