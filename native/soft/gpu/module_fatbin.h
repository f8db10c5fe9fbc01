/* SPDX-License-Identifier: Apache-2.0
 *
 * Fat binaries: a container of machine code and PTX for several devices. Any bytes may come in.
 */
#ifndef HARP_SOFT_MODULE_FATBIN_H
#define HARP_SOFT_MODULE_FATBIN_H

#include "soft/gpu/soft.h"

#define SOFT_FATBIN_UNKNOWN UINT64_MAX

/* The PTX that a device of capability `cc` gets, as text (malloc'ed, NUL-terminated). `room`: bytes
 * that are there, or SOFT_FATBIN_UNKNOWN: then the header is believed, as the driver believes it.
 * `used`: bytes of the container. */
CUresult soft_fatbin_ptx(const unsigned char *fatbin, uint64_t room, int cc, char **ptx,
                         uint64_t *used, char *why, size_t why_bytes);
/* Does another container begin behind `used` of `bytes`, perhaps behind zeroes? Moves `used` there.
 */
bool soft_fatbin_follows(const unsigned char *data, uint64_t bytes, uint64_t *used);

#endif
