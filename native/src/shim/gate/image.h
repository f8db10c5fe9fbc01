/* SPDX-License-Identifier: Apache-2.0
 *
 * How much device memory a module takes, by its image: variables exactly, code of each kernel by
 * the size of its section or, of PTX, by half its text. Pure.
 */
#ifndef HARP_SHIM_IMAGE_H
#define HARP_SHIM_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct harp_kernel {
    uint64_t name; /* hash */
    uint64_t bytes;
};

struct harp_image {
    uint64_t variables; /* .global and .const ones; managed ones too */
    uint64_t code;      /* all kernels together */
    bool known;         /* false: something could not be looked into (it is compressed) */
    struct harp_kernel *kernels;
    size_t n_kernels, room;
};

/* Of an image as cuModuleLoadData takes it: PTX text, an ELF object, or a fat binary of either (the
 * largest of its entries: one is chosen). Free it afterwards. */
void harp_image_read(const void *image, struct harp_image *out);
/* Of a file's content, which is `size` bytes and a NUL: nothing beyond is looked at, and a wrapper,
 * which holds an address, is unknown. */
void harp_image_read_file(const void *content, uint64_t size, struct harp_image *out);
void harp_image_free(struct harp_image *image);
/* The kernel of that name; NULL: not seen. */
struct harp_kernel *harp_image_kernel(const struct harp_image *image, const char *name);

#endif
