/* SPDX-License-Identifier: Apache-2.0
 *
 * Module images in a folder, for the next process of the same tenant. What is read from there is
 * not trusted: who reads compares it with its hash. All functions but the first: thread-safe.
 */
#ifndef HARP_WORKER_STORE_H
#define HARP_WORKER_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct harp_wire_image;

/* Once, and before the user changes, to `owner`, whose the folder must be and nobody else's.
 * 0, or -errno and `text` says why. Without it nothing is found, and nothing kept. */
int store_open(const char *path, uid_t owner, char *text, size_t size);
/* A descriptor of what lies under that hash and is as long, for store_read. -ENOENT. */
int store_find(const struct harp_wire_image *what);
/* Its bytes, and it is closed. 0, or -EIO: it has been cut. */
int store_read(int fd, void *to, uint64_t bytes);
/* Keep it, or say once that this cannot be done; what was used longest ago goes first. */
void store_write(const struct harp_wire_image *what, const void *data);
/* It is not what its name says. */
void store_drop(const struct harp_wire_image *what);

#endif
