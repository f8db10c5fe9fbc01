/* SPDX-License-Identifier: Apache-2.0
 *
 * Images as a compiler would make them, as far as they speak of kernels' parameters: there is no
 * compiler for machine code here. How they look: src/shim/remote/cubin.c.
 */
#ifndef HARP_TESTS_MADE_CUBIN_H
#define HARP_TESTS_MADE_CUBIN_H

#include <stddef.h>
#include <stdint.h>

struct made_param {
    uint16_t offset, bytes;
};

struct made_kernel {
    const char *name;
    struct made_param param[8]; /* up to the first of no bytes */
    int total;                  /* bytes of all, as the image says it; -1: it does not */
    int wide;                   /* sizes as plain numbers, the newer form */
    unsigned bytes;             /* so many parameters of a byte each instead, the last one twice */
};

/* All answer the bytes used of `out`. */
size_t made_cubin(uint8_t *out, const struct made_kernel *kernels, unsigned count);

enum { MADE_PTX = 1, MADE_CUBIN = 2 };
struct made_entry {
    unsigned kind;
    uint64_t flags; /* 0x2000, 0x8000: packed */
    const void *data;
    size_t bytes;
};
size_t made_fatbin(uint8_t *out, const struct made_entry *entries, unsigned count);

#endif
