/* SPDX-License-Identifier: Apache-2.0
 *
 * Compiled kernels on disk, found by what they were made from.
 *
 * (1) A folder or file is trusted only if it belongs to this user (files: or to root) and nobody
 *     else may write to it, nor move the folder. (2) A file appears under its name complete, by
 *     rename, and ends with a sum over name and content (cache_seal.c): one that is damaged is as
 *     good as none. (3) Of many processes that want one kernel at once, one compiles; a lock that
 * its holder's death frees.
 */
#ifndef HARP_PTXC_CACHE_H
#define HARP_PTXC_CACHE_H

#include <stdbool.h>
#include <sys/types.h>

#include "soft/ptxc/job.h"

/* Where it is by default: the first of these that can be had. [0] may be NULL. */
enum { CACHE_PLACES = 2 };
void cache_places(struct job *job, const char *places[CACHE_PLACES]);
/* NULL, or what is wrong with the folder `path`. */
const char *cache_distrusts(const char *path);
char *cache_join(struct job *job, const char *folder, const char *name);
/* The folder, made and checked. `wish` NULL: the default places in turn. */
const char *cache_folder(struct job *job, const char *wish);
/* A descriptor of `path` if it is there, whole and to be trusted, or -1; fails the job if others
 * may have made it. Only what is loaded by it is what was looked at. */
int cache_open(struct job *job, const char *path);
bool cache_trusts(struct job *job, const char *path);
/* Ends the file `path` with the sum that says it is `name`'s and whole; 0 or -errno. */
int cache_seal(const char *path, const char *name);
bool cache_is_whole(int fd, const char *name);

struct cache_work {
    const char *folder, *final; /* absolute */
    const char *temp;           /* a folder of this process: the current folder while it works */
    int lock;
};
/* Takes the lock of `key`. True: the file has appeared meanwhile, nothing to do. */
bool cache_begin(struct job *job, struct cache_work *work, const char *folder, const char *key);
/* kernel.so of the temp folder becomes the file. */
void cache_publish(struct job *job, struct cache_work *work);
/* Removes temp and lock, whatever happened. */
void cache_end(struct cache_work *work);

/* For whoever runs such processes: takes away what process `pid`, which is dead, was working on. */
void cache_forget(const char *folder, pid_t pid);
/* Takes away what was used least lately, until the files have no more than `bytes`, and what the
 * dead left. */
void cache_trim(const char *folder, uint64_t bytes);

#endif
