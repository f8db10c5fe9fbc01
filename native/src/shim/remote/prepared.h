/* SPDX-License-Identifier: Apache-2.0
 *
 * What the client has to prepare before a call can cross: images by their hash, kernels' parameters
 * as the kernel reads them, logs of the JIT.
 */
#ifndef HARP_SHIM_REMOTE_PREPARED_H
#define HARP_SHIM_REMOTE_PREPARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/shim/remote/layout.h"
#include "src/shim/remote/state.h"

#define HARP_PARAMS_MOST 32764u /* bytes of a kernel's parameters, on any device */

/* A launch, as the program says it: now, or as a graph's node. */
struct harp_launch {
    CUfunction f;
    uint32_t grid[3], block[3], shared;
    uint64_t ctx; /* id of the context that it will run in */
    void **params, **extra;
    uint8_t room[HARP_PARAMS_MOST];
    struct harp_wire_packed packed; /* what `prepare` makes of params, or of extra */
    bool went;                      /* one of its shape has gone before */
};
/* The driver's first checks, and `packed`. The call that follows is asked if it may be refused. */
CUresult harp_remote_prepare(struct harp_launch *launch);
/* It has been accepted. */
void harp_remote_accepted(const struct harp_launch *launch);
/* The other way: pointers to each parameter in a buffer, for the program to read. NULL: no memory.
 */
void **harp_remote_unpack(CUfunction f, const struct harp_wire_packed *packed);

/* A kernel node of an executable graph has been given this function on so large a grid before, and
 * may be again. */
bool harp_remote_updated(CUgraphExec exec, CUgraphNode node, CUfunction f, const uint32_t grid[3]);
void harp_remote_note_update(CUgraphExec exec, CUgraphNode node, CUfunction f,
                             const uint32_t grid[3]);

/* The kernel is one of this image: its layout need not be asked for, if that says it. */
void harp_remote_note_layout(CUfunction f, const struct harp_layouts *image, const char *name);

/* How long an image is, as cuModuleLoadData takes it; 0: that is none. *from: where it begins,
 * which for a wrapper is elsewhere. */
size_t harp_remote_image_bytes(const void *image, const void **from);

/* Make a call with an image, whose slot is at `at`: the server has it then. */
CUresult harp_remote_with_image(unsigned op, uint64_t *args, unsigned count, unsigned at,
                                const void *data, size_t bytes);
/* A file of this machine with all that its headers speak of; the caller frees. */
CUresult harp_remote_read_file(const char *name, char **data, size_t *bytes);

/* Where a call wants logs of the JIT. */
struct harp_jit {
    char *text[2]; /* information, errors */
    size_t room[2];
};
/* Before the call, whose answers may change the sizes; then, put what has come meanwhile. */
void harp_remote_jit_begin(struct harp_jit *jit, unsigned count, const CUjit_option *options,
                           void *const *values);
void harp_remote_jit_end(const struct harp_jit *jit);
/* With `answers` held: a log, before the reply of the lane's call. */
int harp_remote_jit_came(uint32_t lane, unsigned which, const char *text);

#endif
