/* SPDX-License-Identifier: Apache-2.0
 *
 * The block size that fills a device best: the program's function says how much shared memory each
 * size takes, the driver how many blocks of it fit.
 */
#include "src/shim/remote/calls.h"
#include "src/shim/remote/snapshot.h"

CUresult harp_remote_cuOccupancyMaxPotentialBlockSizeWithFlags(
    int *minGridSize, int *blockSize, CUfunction func,
    CUoccupancyB2DSize blockSizeToDynamicSMemSize, size_t dynamicSMemSize, int blockSizeLimit,
    unsigned int flags)
{
    CUdevice dev;
    int most = 0, best = 0, best_blocks = 0;
    if (minGridSize == NULL || blockSize == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult r = harp_remote_cuCtxGetDevice(&dev);
    if (r == CUDA_SUCCESS)
        r = harp_sent_cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, func);
    const struct harp_wire_device *is = r == CUDA_SUCCESS ? harp_remote_device(dev, &r) : NULL;
    if (is == NULL)
        return r;
    int warp = is->attributes[CU_DEVICE_ATTRIBUTE_WARP_SIZE];
    warp = warp > 0 ? warp : 32;
    if (blockSizeLimit > 0 && blockSizeLimit < most)
        most = blockSizeLimit;
    for (int size = (most + warp - 1) / warp * warp; size > 0; size -= warp) {
        int threads = size < most ? size : most, blocks = 0;
        size_t shared = blockSizeToDynamicSMemSize != NULL ? blockSizeToDynamicSMemSize(threads)
                                                           : dynamicSMemSize;
        r = harp_sent_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&blocks, func, threads,
                                                                           shared, flags);
        if (r != CUDA_SUCCESS)
            return r;
        if (threads * blocks > best * best_blocks) {
            best = threads;
            best_blocks = blocks;
        }
    }
    *blockSize = best;
    *minGridSize = best_blocks * is->attributes[CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT];
    return CUDA_SUCCESS;
}

CUresult harp_remote_cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize,
                                                      CUfunction func,
                                                      CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                      size_t dynamicSMemSize, int blockSizeLimit)
{
    return harp_remote_cuOccupancyMaxPotentialBlockSizeWithFlags(
        minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit,
        0);
}
