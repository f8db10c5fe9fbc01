/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a folder was put there by who started this container, for the libraries that decide by it
 * in others' programs: libharp, and the software GPU, which knows nothing of libharp.
 *
 * On a plain host /opt/harp may be somebody's own. A folder that others own or may write to is not
 * believed, so that nobody can trap another.
 */
#ifndef HARP_MOUNTED_H
#define HARP_MOUNTED_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HARP_OVERFLOW_UID 65534u /* who has no number in our user namespace */

/* Whether uids here are not the host's: its root has no number then. */
static inline bool harp_in_user_namespace(void)
{
    unsigned inside = 0, outside = 0, count = 0;
    char line[64] = "";
    int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    return n > 0 && sscanf(line, "%u %u %u", &inside, &outside, &count) == 3 &&
           (inside != 0 || outside != 0 || count != UINT32_MAX);
}

static inline bool harp_is_mounted(const char *folder)
{
    struct stat st;
    memset(&st, 0, sizeof st);
    /* By number: the names are inline functions over different symbols in glibc < 2.33. */
    if (syscall(SYS_newfstatat, AT_FDCWD, folder, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    if (!S_ISDIR(st.st_mode) || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return false;
    return st.st_uid == 0 || st.st_uid == geteuid() ||
           (st.st_uid == HARP_OVERFLOW_UID && harp_in_user_namespace());
}

#endif
