/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of a container's root folder, seen from outside: nothing in it can lead out of it.
 */
#ifndef HARP_CDI_ROOT_H
#define HARP_CDI_ROOT_H

#include <stdbool.h>
#include <stddef.h>

/* The root folder of the container whose state a hook is told on `in`; a descriptor. -1: said. */
int root_open(int in);
/* A file below it, links followed as the container would; -1: errno. */
int root_file(int root, const char *path, int flags);
/* The whole of a small one; NULL: not there. The caller's to free. */
char *root_read(int root, const char *path, size_t most, size_t *bytes);
/* Lays `source` over what `target` is (descriptors). -1: errno. */
int root_cover(int source, int target);
/* Whether both are the same file. */
bool root_same(int a, int b);
/* A line on stderr, which runtimes show. */
void hook_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
