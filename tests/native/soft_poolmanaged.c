/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools of managed memory: frees in order, ends, and several threads at once.
 */
#include <pthread.h>
#include <string.h>

#include "soft_pool_test.h"

static CUmemoryPool managed_pool(CUmemLocationType type, int id)
{
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_MANAGED, .location = {type, id}};
    CUmemoryPool pool;

    OK(cuMemPoolCreate(&pool, &props));
    return pool;
}

static void frees_have_a_place(void *arg)
{
    CUmemoryPool pool;
    CUdeviceptr p, q;
    char *back; /* pinned: the copy waits for nobody */
    CUstream s;

    context();
    s = stream();
    pool = managed_pool(CU_MEM_LOCATION_TYPE_DEVICE, 0);
    OK(cuMemAllocHost_v2((void **)&back, 2));
    OK(cuMemAllocFromPoolAsync(&p, GRANULE + 1, pool, s));
    memset((void *)(uintptr_t)p, 1, GRANULE + 1);
    hold(s);
    OK(cuMemsetD8Async(p, 7, GRANULE + 1, s)); /* runs while it is being freed */
    OK(cuMemcpyDtoHAsync_v2(back, p + GRANULE - 1, 2, s));
    OK(cuMemFreeAsync(p, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(p, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(p));
    OK(cuMemAllocFromPoolAsync(&q, 1, pool, s)); /* settles nothing: it has not come */
    CHECK(q != p);
    CHECK_IS(3 * GRANULE, reserved(pool));
    CHECK_IS(GRANULE, used(pool));
    let_go();
    OK(cuStreamSynchronize(s));
    CHECK(back[0] == 7 && back[1] == 7);
    CHECK_IS(GRANULE, reserved(pool));
    CHECK_IS(0, device_used()); /* what the fill had put there has gone */
    CHECK_IS(3 * GRANULE, attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH));
    CHECK_IS(2 * GRANULE, attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH));
    OK(cuMemFree_v2(q)); /* waits for nothing, and gives nothing back by itself */
    CHECK_IS(0, used(pool));
    CHECK_IS(GRANULE, reserved(pool));
    OK(cuMemPoolTrimTo(pool, GRANULE));
    CHECK_IS(GRANULE, reserved(pool));
    OK(cuMemPoolTrimTo(pool, 0));
    CHECK_IS(0, reserved(pool));
}

static void destroyed_with_frees_to_come(void *arg)
{
    CUmemoryPool pool;
    CUdeviceptr p[4];
    CUstream s;

    context();
    s = stream();
    pool = managed_pool(CU_MEM_LOCATION_TYPE_NONE, 0);
    for (int i = 0; i < 4; i++) {
        OK(cuMemAllocFromPoolAsync(&p[i], 1, pool, s));
        OK(cuMemsetD8Async(p[i], 1, 1, s));
    }
    OK(cuStreamSynchronize(s));
    CHECK_IS(4 * GRANULE, device_used());
    hold(s);
    OK(cuMemFreeAsync(p[0], s));
    OK(cuMemPoolDestroy(pool));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocFromPoolAsync(&p[0], 1, pool, s));
    for (int i = 1; i < 3; i++)
        OK(cuMemFreeAsync(p[i], s));
    OK(cuMemFree_v2(p[3]));
    CHECK(device_used() > 0);
    let_go();
    OK(cuStreamSynchronize(s));
    CHECK_IS(0, device_used());
    OK(cuMemAllocFromPoolAsync(&p[0], 1, managed_pool(CU_MEM_LOCATION_TYPE_HOST, 0), s));
    hold(s);
    OK(cuMemFreeAsync(p[0], s));
    let_go();
} /* and the process ends with that */

static CUmemoryPool shared;
static CUcontext home;

static void *work(void *arg)
{
    CUstream s;
    CUdeviceptr p[8];

    OK(cuCtxSetCurrent(home));
    s = stream();
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 8; i++) {
            OK(cuMemAllocFromPoolAsync(&p[i], 64, shared, s));
            OK(cuMemsetD32Async(p[i], (unsigned)round, 16, s));
        }
        if (round % 4 == 0)
            OK(cuStreamSynchronize(s));
        for (int i = 0; i < 8; i++)
            if ((round + i) % 5 == 0 && round % 4 == 0)
                OK(cuMemFree_v2(p[i]));
            else
                OK(cuMemFreeAsync(p[i], s));
        if (round % 8 == 1)
            OK(cuMemPoolTrimTo(shared, 0));
    }
    OK(cuStreamSynchronize(s));
    OK(cuStreamDestroy_v2(s));
    return NULL;
}

static void four_threads(void *arg)
{
    pthread_t t[4];

    context();
    OK(cuCtxGetCurrent(&home));
    shared = managed_pool(CU_MEM_LOCATION_TYPE_DEVICE, 0);
    for (int i = 0; i < 4; i++)
        CHECK_IS(0, pthread_create(&t[i], NULL, work, NULL));
    for (int i = 0; i < 4; i++)
        CHECK_IS(0, pthread_join(t[i], NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(0, used(shared));
    OK(cuMemPoolTrimTo(shared, 0));
    CHECK_IS(0, reserved(shared));
    CHECK_IS(0, device_used());
}

int main(void)
{
    test_run("frees_have_a_place", "tiny", "0", frees_have_a_place);
    test_run("destroyed_with_frees_to_come", "tiny", "0", destroyed_with_frees_to_come);
    test_run("four_threads", "tiny", "0", four_threads);
    return 0;
}
