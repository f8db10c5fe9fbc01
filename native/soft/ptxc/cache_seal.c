/* SPDX-License-Identifier: Apache-2.0
 *
 * What a cached file ends with: 64 hexadecimal digits over its name (the key) and all bytes before.
 * A file that a full disk or a crash cut short, or that lies under another's name, is not loaded:
 * the loader would map it, and the program die of SIGBUS or run another kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/ptxc/cache.h"
#include "soft/ptxc/sha256.h"

enum { DIGITS = 64 };

/* Of `name` without its folder and its end: "/a/b/KEY.so" and "KEY" are the same. */
static void begin(struct sha256 *sha, const char *name)
{
    const char *slash = strrchr(name, '/');
    name = slash ? slash + 1 : name;
    sha256_init(sha);
    sha256_add(sha, name, strcspn(name, "."));
}

/* Adds `bytes` of what `fd` is at. */
static bool add(struct sha256 *sha, int fd, uint64_t bytes)
{
    unsigned char piece[1 << 12]; /* on any thread's stack */
    while (bytes) {
        size_t most = bytes < sizeof(piece) ? (size_t)bytes : sizeof(piece);
        ssize_t n = read(fd, piece, most);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        sha256_add(sha, piece, (size_t)n);
        bytes -= (uint64_t)n;
    }
    return true;
}

bool cache_is_whole(int fd, const char *name)
{
    struct sha256 sha;
    struct stat st;
    char mine[DIGITS + 1], found[DIGITS];
    if (fstat(fd, &st) != 0 || st.st_size <= DIGITS || lseek(fd, 0, SEEK_SET) != 0)
        return false;
    begin(&sha, name);
    if (!add(&sha, fd, (uint64_t)st.st_size - DIGITS) ||
        pread(fd, found, DIGITS, st.st_size - DIGITS) != DIGITS)
        return false;
    sha256_hex(&sha, mine);
    return memcmp(mine, found, DIGITS) == 0;
}

int cache_seal(const char *path, const char *name)
{
    struct sha256 sha;
    struct stat st;
    char digits[DIGITS + 1];
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    bool done = fd >= 0 && fstat(fd, &st) == 0;
    begin(&sha, name);
    done = done && add(&sha, fd, (uint64_t)st.st_size);
    sha256_hex(&sha, digits);
    done = done && pwrite(fd, digits, DIGITS, st.st_size) == DIGITS;
    int err = errno;
    if (fd >= 0 && close(fd) != 0) /* where a network's file system says that it is full */
        return -errno;
    return done ? 0 : -err;
}
