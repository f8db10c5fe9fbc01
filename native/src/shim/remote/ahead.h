/* SPDX-License-Identifier: Apache-2.0
 *
 * A read that a program makes each time it has waited goes along with the wait, so both take one
 * round trip: a training that reads its loss waits, and then reads 4 bytes of the same place.
 */
#ifndef HARP_SHIM_REMOTE_AHEAD_H
#define HARP_SHIM_REMOTE_AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generated/cuda_abi.h"

/* Of a cuMemcpyDtoH: whether its bytes are there, and have been put to `to`. */
bool harp_remote_ahead_take(void *to, CUdeviceptr from, size_t bytes);
/* Before one that is asked, and after it: it may be one that comes again. */
uint64_t harp_remote_ahead_now(void);
void harp_remote_ahead_learn(CUdeviceptr from, size_t bytes, uint64_t before);

#endif
