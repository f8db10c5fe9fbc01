/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of virtual memory management have in common.
 */
#ifndef SOFT_VMM_TEST_H
#define SOFT_VMM_TEST_H

#include "soft_test.h"

static inline CUmemAllocationProp pinned(CUmemAllocationHandleType types)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .requestedHandleTypes = types,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
}

static inline unsigned below(unsigned *seed, unsigned most)
{
    return (unsigned)rand_r(seed) % most;
}

static inline CUmemGenericAllocationHandle make(uint64_t bytes, CUmemAllocationHandleType types)
{
    CUmemAllocationProp prop = pinned(types);
    CUmemGenericAllocationHandle handle;

    OK(cuMemCreate(&handle, bytes, &prop, 0));
    return handle;
}

static inline void give_access(CUdeviceptr ptr, uint64_t bytes, CUmemAccess_flags flags)
{
    CUmemAccessDesc desc = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, flags};

    OK(cuMemSetAccess(ptr, bytes, &desc, 1));
}

#endif
