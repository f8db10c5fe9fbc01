/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver in which another thread has begun to capture the stream just before a copy of host
 * memory: what a worker may see between its look at the stream and the copy. Linked with the
 * software GPU, whose functions are found behind its own.
 */
#include <dlfcn.h>

#include "generated/cuda_abi.h"

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    NEXT(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    return NEXT(cuMemcpyHtoDAsync_v2)(to, from, bytes, stream);
}
