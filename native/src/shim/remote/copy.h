/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules that all copies have in common whose one side is memory of this machine.
 */
#ifndef HARP_SHIM_REMOTE_COPY_H
#define HARP_SHIM_REMOTE_COPY_H

#include <stddef.h>

#include "generated/cuda_abi.h"

/* Before bytes of the program are read: what is on its way to them has come. `stream`: and so has
 * what its host functions write to pinned memory; NULL: the copy is none of a stream's. */
CUresult harp_remote_before_read(const void *data, size_t bytes, const CUstream *stream);

/* After bytes have been fetched in several pieces: all are there, or none will come any more. */
CUresult harp_remote_arrived(const void *data, size_t bytes, CUresult r);
/* The same in a stream, where a driver comes back before if the memory is pinned. */
CUresult harp_remote_arrived_in_stream(const void *data, size_t bytes, CUresult r);

#endif
