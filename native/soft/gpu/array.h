/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA arrays: texels that only copies reach, since the translator has no texture instructions.
 *
 * Layout, and so what an array costs: rows are padded to 64 bytes, their number and that of slices
 * to 8 (as on an H200), each level of a mipmap and each plane begins at a multiple of 512, and the
 * whole is an allocation like cuMemAlloc's: what is larger than 1 MiB gets granules (2 MiB) of its
 * own, what is smaller shares one. Compressed formats are kept and copied as rows of 4 x 4 blocks;
 * planar ones are copied plane by plane.
 */
#ifndef HARP_SOFT_ARRAY_H
#define HARP_SOFT_ARRAY_H

#include "soft/gpu/copy.h"

struct soft_array { /* an array; a level or plane of one; or a mipmap, which has levels only */
    struct soft_array_home *home; /* all of one context */
    struct soft_array *next;
    struct soft_array *whole; /* NULL: this is the whole; else its bytes are that one's */
    struct soft_ctx *ctx;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    CUdeviceptr at;
    uint32_t element; /* bytes of the least that can be copied; 0: has parts, is none itself */
    size_t row;       /* bytes of texels in a row */
    size_t pitch, rows, slices;
    uint64_t bytes; /* with padding */
    struct soft_array *parts;
    unsigned part_count;
    bool mipmap;
};

/* array_format.c: bytes of an element of `channels` components. 0: not a format, or not so many
 * channels. Compressed formats: of a block of `side` x `side` texels. */
uint32_t soft_format_bytes(CUarray_format format, unsigned channels, unsigned *side);
/* A plane of a planar format; false: it has none of that number, or is not planar. */
struct soft_plane {
    CUarray_format format;
    unsigned channels, narrower, lower; /* by these factors than the array */
};
bool soft_format_plane(CUarray_format format, unsigned channels, unsigned index,
                       struct soft_plane *plane);
/* What may be made: CUDA_SUCCESS, or why not. */
CUresult soft_array_check(CUdevice device, const CUDA_ARRAY3D_DESCRIPTOR *desc, bool mipmap);

/* array.c */
CUresult soft_array_make(struct soft_ctx *ctx, const CUDA_ARRAY3D_DESCRIPTOR *desc, bool mipmap,
                         unsigned levels, struct soft_array **out);
/* Waits for its context. False: not a whole one of the kind, or gone. */
bool soft_array_drop(struct soft_array *array, bool mipmap);
struct soft_array *soft_array_of(CUarray handle); /* NULL: none */
struct soft_array *soft_mipmap_of(CUmipmappedArray handle);

/* A box of it, `width` and `x` in bytes, as one side of a copy; its pitches are set. */
struct soft_box {
    size_t x, y, z, width, height, depth;
};
CUresult soft_array_place(CUarray handle, const struct soft_box *box, struct soft_place *place);

#endif
