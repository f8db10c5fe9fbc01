/* SPDX-License-Identifier: Apache-2.0
 *
 * The nameless files that device memory lies in.
 */
#include "soft/gpu/phys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "soft/gpu/soft.h"

#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC       1u
#define MFD_ALLOW_SEALING 2u
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS   1033
#define F_GET_SEALS   1034
#define F_SEAL_SEAL   1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW   4
#endif

bool soft_file_is(const struct soft_file *file)
{
    struct stat st;

    return file->fd >= 0 && fstat(file->fd, &st) == 0 && st.st_dev == file->dev &&
           st.st_ino == file->ino;
}

int soft_file_of(int fd, struct soft_file *file)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    *file = (struct soft_file){fd, st.st_dev, st.st_ino};
    return 0;
}

int soft_file_make(struct soft_file *file, uint64_t bytes)
{
    struct rlimit limit;
    int fd, err;

    /* growing a file beyond that limit is a signal that ends the program */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        soft_log("device memory needs files of any size; remedy: 'ulimit -f unlimited'");
        return -EFBIG;
    }
    fd = (int)syscall(SYS_memfd_create, "harp-soft-gpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        err = -errno;
        soft_log("cannot make a file for device memory: %s", strerror(-err));
        return err;
    }
    err = ftruncate(fd, (off_t)bytes) != 0 ? -errno : soft_file_of(fd, file);
    /* whoever gets it must not be able to cut it: that is a signal in who has it mapped */
    if (err == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        err = -errno;
    if (err != 0)
        close(fd);
    return err;
}

bool soft_file_is_sealed(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

int soft_file_reopen(int fd)
{
    char path[32];
    int again;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    again = open(path, O_RDWR | O_CLOEXEC);
    if (again < 0)
        again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return again >= 0 ? again : -errno;
}
