/* SPDX-License-Identifier: Apache-2.0
 *
 * Peer access and copies between devices: what each context may reach, codes, engines, time.
 */
#include "soft_test.h"

#include "soft/gpu/arena.h"

static unsigned reach(CUcontext ctx, CUdeviceptr p)
{
    unsigned bits;

    soft_space_lock();
    bits = ((struct soft_ctx *)(void *)ctx)->arena->map[(p - soft_space.base) / SOFT_GRANULE];
    soft_space_unlock();
    return bits;
}

static void codes(void *arg)
{
    CUcontext a, b, t4, same;
    CUdeviceptr p, q;
    int can;

    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuDeviceCanAccessPeer(&can, 0, 1));
    OK(cuInit(0));
    OK(cuDeviceCanAccessPeer(&can, 0, 1));
    CHECK_IS(1, can);
    OK(cuDeviceCanAccessPeer(&can, 0, 0));
    CHECK_IS(0, can);
    OK(cuDeviceCanAccessPeer(&can, 0, 2)); /* another generation */
    CHECK_IS(0, can);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuDeviceCanAccessPeer(&can, 0, 3));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuDeviceCanAccessPeer(NULL, 0, 1));
    OK(cuDeviceGetP2PAttribute(&can, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 1, 0));
    CHECK_IS(1, can);
    OK(cuDeviceGetP2PAttribute(&can, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, 1, 0));
    CHECK_IS(0, can);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE,
             cuDeviceGetP2PAttribute(&can, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 1, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuDeviceGetP2PAttribute(&can, (CUdevice_P2PAttribute)9, 1, 0));
    OK(cuCtxCreate_v2(&t4, 0, 2));
    OK(cuCtxCreate_v2(&b, 0, 1));
    OK(cuMemAlloc_v2(&q, 100));
    OK(cuCtxCreate_v2(&same, 0, 0));
    OK(cuCtxCreate_v2(&a, 0, 0));
    OK(cuMemAlloc_v2(&p, 100));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuCtxEnablePeerAccess(b, 1));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess(a, 0));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess((CUcontext)(void *)&can, 0));
    CHECK_IS(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(same, 0));
    CHECK_IS(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(t4, 0));
    CHECK_IS(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(b));
    CHECK_IS(SOFT_ACCESS_NONE, reach(a, q));
    OK(cuCtxEnablePeerAccess(b, 0));
    CHECK_IS(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(b, 0));
    CHECK_IS(SOFT_ACCESS_ALL, reach(a, q));
    CHECK_IS(SOFT_ACCESS_NONE, reach(b, p));    /* one way */
    CHECK_IS(SOFT_ACCESS_NONE, reach(same, q)); /* one context */
    OK(cuCtxSetCurrent(b));
    OK(cuMemFree_v2(q));
    OK(cuMemAlloc_v2(&q, 3 << 20)); /* what comes later is reached as well */
    CHECK_IS(SOFT_ACCESS_ALL, reach(a, q));
    OK(cuCtxSetCurrent(a));
    OK(cuCtxDisablePeerAccess(b));
    CHECK_IS(SOFT_ACCESS_NONE, reach(a, q));
    CHECK_IS(SOFT_ACCESS_ALL, reach(b, q));
    OK(cuCtxEnablePeerAccess(b, 0));
    OK(cuCtxDestroy_v2(b)); /* takes it along */
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxDisablePeerAccess(b));
    CHECK_IS(SOFT_ACCESS_NONE, reach(a, q));
    OK(cuCtxSetCurrent(a));
    OK(cuMemsetD8_v2(p, 1, 100));
    OK(cuCtxSynchronize());
}

static void eight_at_most(void *arg)
{
    CUcontext c[10];

    OK(cuInit(0));
    for (int i = 0; i < 10; i++)
        OK(cuCtxCreate_v2(&c[i], 0, i));
    OK(cuCtxSetCurrent(c[0]));
    for (int i = 1; i <= 8; i++)
        OK(cuCtxEnablePeerAccess(c[i], 0));
    CHECK_IS(CUDA_ERROR_TOO_MANY_PEERS, cuCtxEnablePeerAccess(c[9], 0));
    OK(cuCtxDestroy_v2(c[3]));
    OK(cuCtxEnablePeerAccess(c[9], 0));
}

/* VMM memory is reached by what cuMemSetAccess says, and only that. */
static void mapped_memory(void *arg)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 1}};
    CUmemAccessDesc desc[2] = {
        {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE},
        {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READ}};
    CUmemGenericAllocationHandle h;
    CUcontext a, b, later;
    CUdeviceptr va;

    OK(cuInit(0));
    OK(cuCtxCreate_v2(&b, 0, 1));
    OK(cuCtxCreate_v2(&a, 0, 0));
    OK(cuMemCreate(&h, GRANULE, &prop, 0));
    OK(cuMemAddressReserve(&va, GRANULE, 0, 0, 0));
    OK(cuMemMap(va, GRANULE, 0, h, 0));
    OK(cuCtxEnablePeerAccess(b, 0));
    OK(cuMemSetAccess(va, GRANULE, desc, 1));
    CHECK_IS(SOFT_ACCESS_NONE, reach(a, va));
    CHECK_IS(SOFT_ACCESS_ALL, reach(b, va));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8_v2(va, 1, 1));
    OK(cuMemSetAccess(va, GRANULE, desc, 2));
    CHECK_IS(SOFT_ACCESS_READ, reach(a, va));
    OK(cuCtxCreate_v2(&later, 0, 0));
    CHECK_IS(SOFT_ACCESS_READ, reach(later, va));
    desc[1].location.id = 2; /* no peer of it */
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemSetAccess(va, GRANULE, desc, 2));
}

/* By the events, and what the model says the second device's engine took. */
static float copy_ms(CUdeviceptr to, CUdeviceptr from, size_t bytes, uint64_t *modelled_ns)
{
    uint64_t before = my_ledger_of(1).modelled_ns;
    CUevent start, end;
    float ms;

    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    OK(cuEventRecord(start, NULL));
    OK(cuMemcpyAsync(to, from, bytes, NULL));
    OK(cuEventRecord(end, NULL));
    OK(cuEventSynchronize(end));
    OK(cuEventElapsedTime(&ms, start, end));
    *modelled_ns = my_ledger_of(1).modelled_ns - before;
    return ms;
}

/* Unified addressing finds both devices; with peer access the bus is crossed once. */
static void copies(void *arg)
{
    enum { BYTES = 60000000 };
    CUcontext c[3];
    CUdeviceptr p[2];
    CUDA_MEMCPY3D_PEER box = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                              .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                              .srcPitch = 64,
                              .srcHeight = 8,
                              .dstPitch = 32,
                              .dstHeight = 16,
                              .WidthInBytes = 12,
                              .Height = 5,
                              .Depth = 3};
    unsigned word;
    uint64_t out, in, took;

    OK(cuInit(0));
    for (int i = 0; i < 3; i++)
        OK(cuCtxCreate_v2(&c[i], 0, i));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxSetCurrent(c[i]));
        OK(cuMemAlloc_v2(&p[i], BYTES));
        OK(cuMemsetD32_v2(p[i], (unsigned)i + 7, BYTES / 4));
        OK(cuCtxSynchronize());
    }
    OK(cuCtxSetCurrent(c[0]));
    out = my_ledger_of(0).busy_ns[SOFT_COPY_OUT];
    in = my_ledger_of(1).busy_ns[SOFT_COPY_IN];
    CHECK_BETWEEN(12, 600, copy_ms(p[1], p[0], BYTES, &took)); /* through the host: twice */
    CHECK_BETWEEN(12 * MS, 12 * MS + 10000, took);
    CHECK_BETWEEN(12 * MS, 600 * MS, my_ledger_of(0).busy_ns[SOFT_COPY_OUT] - out);
    CHECK_BETWEEN(12 * MS, 600 * MS, my_ledger_of(1).busy_ns[SOFT_COPY_IN] - in);
    OK(cuMemcpyDtoH_v2(&word, p[1] + BYTES - 4, 4));
    CHECK_IS(7, word);
    OK(cuMemsetD32_v2(p[0], 9, BYTES / 4));
    OK(cuCtxEnablePeerAccess(c[1], 0));
    CHECK_BETWEEN(6, 600, copy_ms(p[1], p[0], BYTES, &took));
    CHECK_BETWEEN(6 * MS, 6 * MS + 10000, took);
    OK(cuCtxSetCurrent(c[2])); /* a third one, on neither device */
    OK(cuMemcpyPeer(p[0], c[0], p[1], c[1], 1000));
    OK(cuMemcpyPeerAsync(p[0], c[0], p[1], c[1], 1000, NULL));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyPeer(p[0], NULL, p[1], c[1], 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyPeer(p[0], c[0], p[1] + BYTES, c[1], 4));
    box.srcDevice = p[0] + 4;
    box.dstDevice = p[1] + 8;
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuMemcpy3DPeer(&box));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy3DPeer(NULL));
    box.srcContext = c[0];
    box.dstContext = c[1];
    OK(cuMemsetD32_v2(p[1], 1, 4096));
    OK(cuMemsetD32_v2(p[0] + 4 + 2 * 512 + 4 * 64 + 8, 4711, 1)); /* z 2, y 4, x 2 */
    OK(cuCtxSynchronize());
    OK(cuMemcpy3DPeer(&box));
    OK(cuMemcpyDtoH_v2(&word, p[1] + 8 + 2 * 512 + 4 * 32 + 8, 4));
    CHECK_IS(4711, word);
    OK(cuMemcpyDtoH_v2(&word, p[1] + 8 + 2 * 512 + 4 * 32 + 12, 4));
    CHECK_IS(1, word);
    OK(cuMemcpy3DPeerAsync(&box, NULL));
    OK(cuCtxSynchronize());
}

/* Copies both ways at once, while contexts come and go: nobody waits for ever, nothing crashes. */
static void *shuttle(void *arg)
{
    CUdeviceptr *p = arg;
    CUcontext ctx;

    for (int i = 0; i < 60; i++) {
        OK(cuCtxCreate_v2(&ctx, 0, i % 2));
        for (int k = 0; k < 4; k++)
            OK(cuMemcpyDtoDAsync_v2(p[k % 2], p[1 - k % 2], 3000000, NULL));
        OK(cuCtxDestroy_v2(ctx));
    }
    return NULL;
}

static void crossing(void *arg)
{
    static CUdeviceptr p[2];
    CUcontext c[2];
    pthread_t thread[4];

    OK(cuInit(0));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxCreate_v2(&c[i], 0, i));
        OK(cuMemAlloc_v2(&p[i], 3000000));
    }
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&thread[i], NULL, shuttle, p) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
}

int main(void)
{
    test_run("codes", "tiny,tiny,t4-16g", "0", codes);
    test_run("eight at most", "tiny,tiny,tiny,tiny,tiny,tiny,tiny,tiny,tiny,tiny", "0",
             eight_at_most);
    test_run("mapped memory", "tiny,tiny,t4-16g", "0", mapped_memory);
    test_run("copies", "tiny,tiny,tiny", "0", copies);
    test_run("crossing", "tiny,tiny", "0", crossing);
    return 0;
}
