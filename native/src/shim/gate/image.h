/* SPDX-License-Identifier: Apache-2.0
 *
 * How much device memory the variables of a module take. Pure.
 */
#ifndef HARP_SHIM_IMAGE_H
#define HARP_SHIM_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the .global variables declared in PTX text. */
uint64_t harp_ptx_bytes(const char *text);
/* Of an image as cuModuleLoadData takes it: PTX text, an ELF object, or a fat binary of either (the
 * largest of its entries: one is chosen). *known: false if some entry could not be looked into (a
 * compressed one). */
uint64_t harp_image_bytes(const void *image, bool *known);
/* Of a file's content, which is `size` bytes and a NUL: nothing beyond is looked at, and a wrapper,
 * which holds an address, is unknown. */
uint64_t harp_image_file_bytes(const void *content, uint64_t size, bool *known);

#endif
