/* SPDX-License-Identifier: Apache-2.0
 *
 * Zstandard decoder (RFC 8878): frames without dictionaries into memory of known size. Any bytes
 * may come in. Nothing is read past the input, nothing is written past the output; the one
 * allocation is of fixed size.
 */
#ifndef HARP_SOFT_ZSTD_H
#define HARP_SOFT_ZSTD_H

#include <stddef.h>

/* Unpacks one or more frames (skippable ones are skipped) that hold exactly `out_bytes`; up to 7
 * zeroes may follow, as padding. 0, -EINVAL (damaged, or of another size), -ENOTSUP (needs a
 * dictionary) or -ENOMEM. Content sizes and checksums are compared where frames have them. */
int soft_zstd_unpack(const unsigned char *in, size_t in_bytes, unsigned char *out,
                     size_t out_bytes);

#endif
