/* SPDX-License-Identifier: Apache-2.0
 *
 * A kernel that has been compiled before, found in the cache. Linked into the software GPU too: its
 * client needs no other process then.
 */
#ifndef HARP_PTXC_COMPILE_FIND_H
#define HARP_PTXC_COMPILE_FIND_H

#include "soft/ptxc/cache.h"
#include "soft/ptxc/compiler.h"

struct compile_wish {
    const char *kernel;
    const char *cache; /* folder; NULL: the default places */
    uint32_t sm;       /* of the device: 90 */
    bool quick;        /* soon rather than fast, unless the cache has the fast one */
};

/* What a kernel's files are called, by `quick`. `program`: the harp-ptxc that makes them. */
void compile_keys(struct job *job, const struct compile_wish *wish, const struct compiler *compiler,
                  const char *program, const char *text, size_t bytes, char keys[2][65]);
/* The path of one of them in `folder`, or NULL: who wants it soon is given the fast one where it
 * is. `object`, if not NULL: a descriptor of it. Fails the job if others may have made it. */
const char *compile_cached(struct job *job, const struct compile_wish *wish, const char *folder,
                           char keys[2][65], int *object);
/* Likewise, in the default places, without making or changing any: a descriptor, and its path to
 * name it by. -1: whatever the reason, harp-ptxc is to be asked, which also says it. `env`: what it
 * would be given. */
int compile_find(const struct compile_wish *wish, const char *program, char *const *env,
                 const char *text, size_t bytes, char *path, size_t path_bytes);

#endif
