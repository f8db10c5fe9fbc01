/* SPDX-License-Identifier: Apache-2.0
 *
 * What the worker gives up before it listens to anybody. All functions: before there are threads of
 * the worker's own; 0, or -errno and `text` says why and what helps.
 */
#ifndef HARP_WORKER_CONFINE_H
#define HARP_WORKER_CONFINE_H

#include <stddef.h>
#include <sys/types.h>

struct confine_user {
    uid_t uid;
    gid_t gid;
};

/* "UID" or "UID:GID", in digits; without GID it is the UID. -EINVAL without a text. */
int confine_parse(const char *user, struct confine_user *to);
/* Become that user for good: no group, id or capability is left to come back by. */
int confine_become(const struct confine_user *user, char *text, size_t size);
/* No privileges by exec, no core file, nobody of the same user who looks into this process. What a
 * driver would have made by a program with privileges (nvidia-modprobe) must be there before. */
int confine_self(char *text, size_t size);

/* System calls that no driver needs are refused from here on, in every thread and what they start:
 * see filter.c. */
int filter_install(char *text, size_t size);

#endif
