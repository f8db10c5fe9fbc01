/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels' parameters as the image says them, so that nobody has to be asked. Pure.
 */
#ifndef HARP_SHIM_REMOTE_LAYOUT_H
#define HARP_SHIM_REMOTE_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of a kernel: where each parameter lies in the buffer. */
struct harp_layout {
    uint32_t count, bytes;
    struct {
        uint32_t offset, bytes;
    } param[];
};

/* Looks for the kernel in a text of PTX, which ends with NUL: fills up to `room` parameters. false:
 * it is not there, or something of it is not understood, or there are more. */
bool harp_layout_of(const char *ptx, const char *kernel, struct harp_layout *layout, uint32_t room);

/* What any image says of its kernels, in one block of memory, to be freed: machine code (cubin.c),
 * a text, or a container of both. Any bytes may come in. NULL: it says nothing. */
struct harp_layouts;
struct harp_layouts *harp_layouts_of(const void *image, size_t bytes);
/* As harp_layout_of. */
bool harp_layouts_find(const struct harp_layouts *all, const char *kernel,
                       struct harp_layout *layout, uint32_t room);

#endif
