/* SPDX-License-Identifier: Apache-2.0
 *
 * Occupancy: how many blocks one SM holds, from threads, registers, shared memory and slots.
 *
 * Granularities as CUDA documents them per compute capability: registers by 256 a warp, four
 * register files an SM; shared memory by 128 bytes from 8.0 on (256 before), where each block
 * costs 1 KiB more that the system keeps.
 */
#include "soft/gpu/launch.h"

#include <limits.h>

#define WARP        32u
#define REG_UNIT    256u
#define SCHEDULERS  4u
#define THREADS_MAX 1024u

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint64_t reserved_shared(const struct soft_profile *profile)
{
    return profile->cc_major >= 8 ? 1024 : 0;
}

static uint64_t shared_unit(const struct soft_profile *profile)
{
    return profile->cc_major >= 8 ? 128 : 256;
}

/* Blocks by everything but shared memory. */
static uint32_t by_threads(const struct ptx_entry *entry, const struct soft_profile *profile,
                           uint32_t threads)
{
    uint32_t warps = (threads + WARP - 1) / WARP;
    uint32_t per_warp = (uint32_t)round_up((uint64_t)soft_entry_regs(entry) * WARP, REG_UNIT);
    uint32_t file = (uint32_t)profile->regs_per_sm / SCHEDULERS;
    uint32_t reg_warps = file / per_warp * SCHEDULERS;
    uint32_t limit = (uint32_t)profile->threads_per_sm / WARP / warps;
    if (reg_warps / warps < limit)
        limit = reg_warps / warps;
    if ((uint32_t)profile->blocks_per_sm < limit)
        limit = (uint32_t)profile->blocks_per_sm;
    return limit;
}

int soft_occupancy(const struct ptx_entry *entry, const struct soft_profile *profile,
                   uint32_t threads, uint64_t dynamic_bytes)
{
    if (threads == 0)
        return 0;
    uint32_t limit = by_threads(entry, profile, threads);
    uint64_t wanted = entry->static_shared_bytes + dynamic_bytes + reserved_shared(profile);
    uint64_t bytes = round_up(wanted, shared_unit(profile));
    if (entry->static_shared_bytes + dynamic_bytes > (uint64_t)profile->shared_optin)
        return 0;
    if (bytes > 0 && (uint64_t)profile->shared_per_sm / bytes < limit)
        limit = (uint32_t)((uint64_t)profile->shared_per_sm / bytes);
    return (int)limit;
}

static CUresult function_of(CUfunction handle, struct soft_function **function,
                            const struct soft_profile **profile)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    *profile = soft_ctx_profile(ctx);
    return soft_function_of(handle, ctx, function);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func,
                                                              int blockSize, size_t dynamicSMemSize,
                                                              unsigned int flags)
{
    struct soft_function *function;
    const struct soft_profile *profile;
    CUresult result = function_of(func, &function, &profile);
    if (result != CUDA_SUCCESS)
        return result;
    if (numBlocks == NULL || blockSize <= 0 || flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
        return CUDA_ERROR_INVALID_VALUE;
    const struct ptx_entry *entry = function->kernel->entry;
    /* a block that may not be launched has no place on an SM */
    if ((uint32_t)blockSize > soft_entry_max_threads(entry, profile) ||
        dynamicSMemSize > soft_function_dynamic_limit(function))
        *numBlocks = 0;
    else
        *numBlocks = soft_occupancy(entry, profile, (uint32_t)blockSize, dynamicSMemSize);
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func, int blockSize,
                                                     size_t dynamicSMemSize)
{
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        numBlocks, func, blockSize, dynamicSMemSize, CU_OCCUPANCY_DEFAULT);
}

/* The block size that keeps most threads resident, the largest one of equals; the grid that fills
 * the device with it. */
CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize,
                                                   CUfunction func,
                                                   CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                   size_t dynamicSMemSize, int blockSizeLimit,
                                                   unsigned int flags)
{
    struct soft_function *function;
    const struct soft_profile *profile;
    CUresult result = function_of(func, &function, &profile);
    if (result != CUDA_SUCCESS)
        return result;
    if (minGridSize == NULL || blockSize == NULL || blockSizeLimit < 0 ||
        flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
        return CUDA_ERROR_INVALID_VALUE;
    const struct ptx_entry *entry = function->kernel->entry;
    uint32_t limit = soft_entry_max_threads(entry, profile);
    if (blockSizeLimit != 0 && (uint32_t)blockSizeLimit < limit)
        limit = (uint32_t)blockSizeLimit;
    uint32_t best_threads = 0, best_block = 0, best_count = 0;
    for (uint32_t size = (uint32_t)round_up(limit, WARP); size > 0; size -= WARP) {
        uint32_t block = size < limit ? size : limit;
        size_t dynamic = dynamicSMemSize;
        if (blockSizeToDynamicSMemSize != NULL)
            dynamic = blockSizeToDynamicSMemSize((int)block);
        int count = dynamic > soft_function_dynamic_limit(function)
                        ? 0
                        : soft_occupancy(entry, profile, block, dynamic);
        if (count > 0 && (uint32_t)count * block > best_threads) {
            best_threads = (uint32_t)count * block;
            best_block = block;
            best_count = (uint32_t)count;
        }
        if (best_threads == (uint32_t)profile->threads_per_sm)
            break;
    }
    *blockSize = (int)best_block;
    *minGridSize = (int)best_count * profile->sm_count;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
                                          CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                          size_t dynamicSMemSize, int blockSizeLimit)
{
    return cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func,
                                                     blockSizeToDynamicSMemSize, dynamicSMemSize,
                                                     blockSizeLimit, CU_OCCUPANCY_DEFAULT);
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func,
                                                 int numBlocks, int blockSize)
{
    struct soft_function *function;
    const struct soft_profile *profile;
    CUresult result = function_of(func, &function, &profile);
    if (result != CUDA_SUCCESS)
        return result;
    if (dynamicSmemSize == NULL || numBlocks <= 0 || blockSize <= 0 ||
        (uint32_t)blockSize > THREADS_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    const struct ptx_entry *entry = function->kernel->entry;
    if (by_threads(entry, profile, (uint32_t)blockSize) < (uint32_t)numBlocks)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t each = (uint64_t)profile->shared_per_sm / (uint64_t)numBlocks;
    each -= each % shared_unit(profile);
    uint64_t fixed = entry->static_shared_bytes + reserved_shared(profile);
    uint64_t dynamic = each > fixed ? each - fixed : 0;
    uint64_t most = (uint64_t)profile->shared_optin - entry->static_shared_bytes;
    *dynamicSmemSize = (size_t)(dynamic < most ? dynamic : most);
    return CUDA_SUCCESS;
}

/* Clusters of one block are all there is; larger ones are refused as launches of them are. */
static CUresult one_block_clusters(const CUlaunchConfig *config)
{
    if (config->numAttrs > 0 && config->attrs == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const CUlaunchAttribute *attribute = &config->attrs[i];
        if (attribute->id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            continue;
        if (attribute->value.clusterDim.x > 1 || attribute->value.clusterDim.y > 1 ||
            attribute->value.clusterDim.z > 1)
            return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
                                            const CUlaunchConfig *config)
{
    struct soft_function *function;
    const struct soft_profile *profile;
    CUresult result = function_of(func, &function, &profile);
    if (result != CUDA_SUCCESS)
        return result;
    if (clusterSize == NULL || config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (profile->cc_major < 9)
        return CUDA_ERROR_NOT_SUPPORTED;
    *clusterSize = 1;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
                                      const CUlaunchConfig *config)
{
    struct soft_function *function;
    const struct soft_profile *profile;
    CUresult result = function_of(func, &function, &profile);
    if (result != CUDA_SUCCESS)
        return result;
    if (numClusters == NULL || config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    if (threads == 0 || threads > THREADS_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    result = one_block_clusters(config);
    if (result != CUDA_SUCCESS)
        return result;
    *numClusters = soft_occupancy(function->kernel->entry, profile, (uint32_t)threads,
                                  config->sharedMemBytes) *
                   profile->sm_count;
    return CUDA_SUCCESS;
}
