/* SPDX-License-Identifier: Apache-2.0
 *
 * One copy, any shape: rows of bytes from one place to another, resolved to host addresses when it
 * is submitted (freeing memory waits for the context, so they stay good).
 */
#ifndef HARP_SOFT_COPY_H
#define HARP_SOFT_COPY_H

#include "soft/gpu/arena.h"

struct soft_place {
    char *host;       /* where the first byte is */
    uint64_t address; /* of it, as the client named it */
    bool device;
    int ordinal; /* of the device; good when `device`; -1 of managed memory: whoever copies it */
    bool pinned; /* host memory the device reaches by itself; false for device and pageable */
    enum soft_span_kind kind; /* SOFT_SPAN_HOST: nothing to look at when it runs */
    size_t pitch, slice_pitch;
    uint64_t vmm, vmm_bytes; /* of mapped ranges: what the copying device must have access to */
};

struct soft_copy {
    struct soft_cmd cmd;
    struct soft_place from, to;
    size_t width, height, depth;
    char *staging; /* freed with it: a copy of pageable memory, taken at submission */
};

/* Finds `bytes` bytes at a device address or at pinned memory given as one. */
CUresult soft_place_device(CUdeviceptr ptr, uint64_t bytes, struct soft_place *place);
/* Host memory, managed too; a device address given as one is an error. */
CUresult soft_place_host(const void *p, uint64_t bytes, struct soft_place *place);
/* Whatever it is: unified addressing. */
CUresult soft_place_any(CUdeviceptr ptr, uint64_t bytes, struct soft_place *place);

/* Has `ctx` that access (SOFT_ACCESS_*) to all of it? Asked of mapped ranges only. */
bool soft_place_may(const struct soft_ctx *ctx, const struct soft_place *place, unsigned want);
/* copy_peer.c: a copy between two devices. */
CUresult soft_copy_peer_run(struct soft_cmd *cmd, struct soft_run *run);
/* Before the bytes: false if memory that it needs is gone; moves managed memory to where it is. */
bool soft_copy_arrive(const struct soft_copy *copy, struct soft_run *run);
/* The bytes alone. `poll` is called between chunks; non-zero: give up. */
void soft_copy_bytes(struct soft_copy *copy, int (*poll)(void *), void *arg);
/* copy_shape.c: both sides of what a 2D or 3D call describes. */
CUresult soft_copy_shape(const CUDA_MEMCPY3D *m, struct soft_copy *c);

enum soft_copy_wait { SOFT_COPY_ASYNC, SOFT_COPY_SYNC };
/* What every copy asks first: a current context, the stream, and no capture that forbids it. */
CUresult soft_copy_enter(CUstream handle, enum soft_copy_wait wait, struct soft_stream **stream);
/* Submits with the host's side of the contract: pageable memory is read before the call returns,
 * written before it returns; SYNC waits where the driver does. */
CUresult soft_copy_submit(struct soft_stream *stream, const struct soft_copy *shape,
                          enum soft_copy_wait wait);

#endif
