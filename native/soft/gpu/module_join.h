/* SPDX-License-Identifier: Apache-2.0
 *
 * Joining PTX modules into one text: what a linker does, before code is made.
 */
#ifndef HARP_SOFT_MODULE_JOIN_H
#define HARP_SOFT_MODULE_JOIN_H

#include "soft/gpu/soft.h"

struct soft_part { /* one module; its text was read as an object without fault */
    char *text;    /* malloc'ed */
    char name[64]; /* for messages */
};

/* Names that a module keeps to itself stay apart, weak definitions give way, strong ones meet only
 * once. `head` is put in front. malloc'ed; NULL: no memory, or `why` says which name is defined
 * twice. */
char *soft_ptx_join(const struct soft_part *parts, size_t count, const char *head, char *why,
                    size_t why_bytes);

#endif
