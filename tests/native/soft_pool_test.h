/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of memory pools share.
 */
#ifndef SOFT_POOL_TEST_H
#define SOFT_POOL_TEST_H

#include "soft_test.h"

#include "soft/gpu/pool.h"

#define UNIT (32 * MIB)

static inline CUmemoryPool default_pool(void)
{
    CUmemoryPool pool;

    OK(cuDeviceGetDefaultMemPool(&pool, 0));
    return pool;
}

static inline uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute which)
{
    cuuint64_t value = 0;

    OK(cuMemPoolGetAttribute(pool, which, &value));
    return value;
}

static inline uint64_t reserved(CUmemoryPool pool)
{
    return attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
}

static inline uint64_t used(CUmemoryPool pool)
{
    return attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
}

static inline void set_policy(CUmemoryPool pool, int follow, int opportunistic, int internal)
{
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &follow));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC, &opportunistic));
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &internal));
}

static inline void set_threshold(CUmemoryPool pool, cuuint64_t bytes)
{
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &bytes));
}

static inline CUstream stream(void)
{
    CUstream s;

    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    return s;
}

/* Holds its stream until it is let go. */
static atomic_int gate;

static inline void wait_for_gate(void *arg)
{
    while (atomic_load(&gate) == 0)
        sleep_ns(200000);
}

static inline void hold(CUstream s)
{
    atomic_store(&gate, 0);
    OK(cuLaunchHostFunc(s, wait_for_gate, NULL));
}

static inline void let_go(void)
{
    atomic_store(&gate, 1);
}

#endif
