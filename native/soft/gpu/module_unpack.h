/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoders for packed entries of fat binaries. Any bytes may come in.
 */
#ifndef HARP_SOFT_MODULE_UNPACK_H
#define HARP_SOFT_MODULE_UNPACK_H

#include <stddef.h>
#include <sys/types.h>

/* One LZ4 block (no frame). Returns the bytes written, exactly `out_bytes`, or -1. */
ssize_t soft_lz4_unpack(const unsigned char *in, size_t in_bytes, unsigned char *out,
                        size_t out_bytes);

#endif
