/* SPDX-License-Identifier: Apache-2.0
 *
 * Another user's process, which nobody can look into.
 */
#include "src/worker/confine.h"

#include <errno.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* Digits up to `end`; the highest number is nobody's. */
static int digits(const char *text, char end, uint32_t *to)
{
    char *stop;
    errno = 0;
    unsigned long value = strtoul(text, &stop, 10);
    if (errno != 0 || stop == text || *stop != end || *text < '0' || *text > '9' ||
        value >= UINT32_MAX)
        return -EINVAL;
    *to = (uint32_t)value;
    return 0;
}

int confine_parse(const char *user, struct confine_user *to)
{
    const char *colon = strchr(user, ':');
    int err = digits(user, colon == NULL ? '\0' : ':', &to->uid);
    to->gid = to->uid;
    return err == 0 && colon != NULL ? digits(colon + 1, '\0', &to->gid) : err;
}

int confine_become(const struct confine_user *user, char *text, size_t size)
{
    const char *step = "setgroups";
    int err = setgroups(0, NULL);
    if (err == 0) {
        step = "setresgid";
        err = setresgid(user->gid, user->gid, user->gid);
    }
    if (err == 0) {
        step = "setresuid";
        err = setresuid(user->uid, user->uid, user->uid);
    }
    if (err != 0) {
        err = -errno;
        snprintf(text, size, "cannot become uid %u: %s: %s; remedy: start it as root, or no --user",
                 (unsigned)user->uid, step, strerror(-err));
        return err;
    }
    /* Capabilities go with uid 0, unless who started us has said that they stay. */
    if (user->uid != 0 && setresuid(0, 0, 0) == 0) {
        snprintf(text, size, "uid %u could become root again: capabilities are kept (securebits)",
                 (unsigned)user->uid);
        return -EPERM;
    }
    return 0;
}

int confine_self(char *text, size_t size)
{
    const struct rlimit none = {0, 0};
    /* The last one after the change of ids, which sets it anew. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && setrlimit(RLIMIT_CORE, &none) == 0 &&
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
        return 0;
    int err = -errno;
    snprintf(text, size, "cannot give up privileges and core files: %s", strerror(-err));
    return err;
}
