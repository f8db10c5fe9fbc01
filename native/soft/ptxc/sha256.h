/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 (FIPS 180-4).
 */
#ifndef HARP_PTXC_SHA256_H
#define HARP_PTXC_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
};

void sha256_init(struct sha256 *sha);
void sha256_add(struct sha256 *sha, const void *data, size_t bytes);
/* 64 hex digits and a NUL. */
void sha256_hex(struct sha256 *sha, char out[65]);

#endif
