/* SPDX-License-Identifier: Apache-2.0
 *
 * Virtual memory management in one process: what is charged, when it goes, what each call refuses.
 */
#include "soft_vmm_test.h"

/* Bytes live as long as a handle or a mapping does; each step shows. */
static void charged_till_the_last(void *arg)
{
    CUmemGenericAllocationHandle h, again;
    CUdeviceptr va;
    unsigned word = 0;

    context();
    CHECK_IS(CONTEXT, used_with_context());
    OK(cuMemAddressReserve(&va, 64 * GRANULE, 0, 0, 0));
    CHECK_IS(CONTEXT, used_with_context());
    h = make(4 * GRANULE, CU_MEM_HANDLE_TYPE_NONE);
    CHECK_IS(CONTEXT + 4 * GRANULE, used_with_context());
    OK(cuMemMap(va, 4 * GRANULE, 0, h, 0));
    OK(cuMemMap(va + 8 * GRANULE, 2 * GRANULE, 0, h, 0)); /* a part, a second time */
    CHECK_IS(CONTEXT + 4 * GRANULE, used_with_context());
    OK(cuMemRelease(h));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemRelease(h));
    CHECK_IS(CONTEXT + 4 * GRANULE, used_with_context());
    give_access(va, 4 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    give_access(va + 8 * GRANULE, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ);
    OK(cuMemsetD32_v2(va, 77, GRANULE));
    OK(cuMemcpyDtoH_v2(&word, va + 8 * GRANULE + 12, 4)); /* the same bytes */
    CHECK_IS(77, word);
    OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(va + GRANULE + 5)));
    CHECK_IS(h, again);
    CHECK_IS(SOFT_ACCESS_READ, reach_of(va + 9 * GRANULE));
    OK(cuMemUnmap(va, 4 * GRANULE));
    OK(cuMemUnmap(va + 8 * GRANULE, 2 * GRANULE));
    for (int i = 0; i < 10; i++)
        CHECK_IS(SOFT_ACCESS_NONE, reach_of(va + (CUdeviceptr)i * GRANULE));
    CHECK_IS(CONTEXT + 4 * GRANULE, used_with_context());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)va));
    OK(cuMemRelease(h));
    CHECK_IS(CONTEXT, used_with_context());
    OK(cuMemAddressFree(va, 64 * GRANULE));
}

static void refusals(void *arg)
{
    CUmemAllocationProp prop = pinned(CU_MEM_HANDLE_TYPE_NONE), bad;
    CUmemGenericAllocationHandle h;
    CUdeviceptr va, other;
    CUmemAccessDesc desc = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    size_t gran, f, t;
    int fd;

    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuMemAddressReserve(&va, GRANULE, 0, 0, 0));
    context();
    /* ranges */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(NULL, GRANULE, 0, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, 0, 0, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, GRANULE + 1, 0, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, GRANULE, 3 << 20, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, GRANULE, 0, 0, 1));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAddressReserve(&va, 1ull << 60, 0, 0, 0));
    OK(cuMemAddressReserve(&va, 8 * GRANULE, 64 * GRANULE, 0, 0));
    CHECK_IS(0, va % (64 * GRANULE));
    OK(cuMemAddressReserve(&other, GRANULE, 0, va + 16 * GRANULE, 0)); /* a hint that can be met */
    CHECK_IS(va + 16 * GRANULE, other);
    OK(cuMemAddressFree(other, GRANULE));
    OK(cuMemAddressReserve(&other, GRANULE, 0, va, 0)); /* and one that cannot */
    CHECK(other != va);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va, 7 * GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va + GRANULE, 7 * GRANULE));
    /* allocations */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE / 2, &prop, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, 0, &prop, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &prop, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, NULL, 0));
    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemCreate(&h, f + GRANULE, &prop, 0));
    bad = prop, bad.type = CU_MEM_ALLOCATION_TYPE_MANAGED;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.location.id = 1;
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.requestedHandleTypes = CU_MEM_HANDLE_TYPE_FABRIC;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.requestedHandleTypes = CU_MEM_HANDLE_TYPE_WIN32;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.allocFlags.compressionType = CU_MEM_ALLOCATION_COMP_GENERIC;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.allocFlags.usage = CU_MEM_CREATE_USAGE_TILE_POOL;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = pinned(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    bad.location.type = CU_MEM_LOCATION_TYPE_HOST;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &bad, 0));
    OK(cuMemGetAllocationGranularity(&gran, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK_IS(GRANULE, gran);
    OK(cuMemGetAllocationGranularity(&gran, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    CHECK_IS(GRANULE, gran);
    /* mappings */
    h = make(2 * GRANULE, CU_MEM_HANDLE_TYPE_NONE);
    OK(cuMemGetAllocationPropertiesFromHandle(&bad, h));
    CHECK(memcmp(&bad, &prop, sizeof bad) == 0);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 2 * GRANULE, GRANULE, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 3 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va + 512, GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va + 7 * GRANULE, 2 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 2 * GRANULE, 0, h + 1, 0));
    OK(cuMemMap(va + GRANULE, 2 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 2 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va + 2 * GRANULE, GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va, 8 * GRANULE)); /* in use */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(va + GRANULE));
    /* access: none yet; whole mappings only, without a hole */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8_v2(va + GRANULE, 1, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, GRANULE, &desc, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va, 3 * GRANULE, &desc, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, NULL, 1));
    desc.flags = (CUmemAccess_flags)2;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, &desc, 1));
    desc.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
    desc.location.id = 3;
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, &desc, 1));
    desc.location = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST_NUMA, 0};
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, &desc, 1));
    give_access(va + GRANULE, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8_v2(va + GRANULE, 1, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(va + GRANULE, &fd, 4));
    OK(cuMemcpyDtoH_v2(&fd, va + GRANULE, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(va + GRANULE, GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(va, 3 * GRANULE));
    /* not made for it */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    OK(cuMemUnmap(va + GRANULE, 2 * GRANULE));
    OK(cuMemAddressFree(va, 8 * GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va, 8 * GRANULE));
}

/* Several touching mappings are one to copies, to access and to unmapping. */
static void side_by_side(void *arg)
{
    CUmemGenericAllocationHandle h[4];
    CUmemLocation where = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    static unsigned char out[8 << 20], in[8 << 20];
    unsigned long long flags;
    CUcontext later;
    CUdeviceptr va, base;
    size_t n;

    context();
    OK(cuMemAddressReserve(&va, 4 * GRANULE, 0, 0, 0));
    for (uint64_t i = 0; i < 4; i++) {
        h[i] = make(GRANULE, CU_MEM_HANDLE_TYPE_NONE);
        OK(cuMemMap(va + i * GRANULE, GRANULE, 0, h[i], 0));
        OK(cuMemRelease(h[i]));
    }
    OK(cuMemGetAccess(&flags, &where, va));
    CHECK_IS(0, flags);
    give_access(va, 4 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    OK(cuMemGetAccess(&flags, &where, va + 3 * GRANULE + 1));
    CHECK_IS(3, flags);
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (unsigned char)(i * 7 + i / 4096);
    OK(cuMemcpyHtoD_v2(va, out, sizeof out));
    OK(cuMemcpyDtoH_v2(in, va, sizeof in));
    CHECK(memcmp(in, out, sizeof in) == 0);
    OK(cuMemGetAddressRange_v2(&base, &n, va + GRANULE + 7));
    CHECK_IS(va + GRANULE, base);
    CHECK_IS(GRANULE, n);
    /* zeroed is zeroed, in whole pages as well, for whoever looks */
    OK(cuMemsetD8_v2(va, 0, 4 * GRANULE));
    OK(cuMemcpyDtoH_v2(in, va, sizeof in));
    for (size_t i = 0; i < sizeof in; i++)
        CHECK(in[i] == 0);
    OK(cuCtxCreate_v2(&later, 0, 0)); /* access is the device's: contexts made later have it */
    OK(cuMemsetD8_v2(va, 5, GRANULE));
    OK(cuCtxDestroy_v2(later));
    OK(cuMemUnmap(va + GRANULE, 2 * GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(va, out, 2 * GRANULE)); /* over the hole */
    OK(cuMemUnmap(va, GRANULE));
    OK(cuMemUnmap(va + 3 * GRANULE, GRANULE));
    CHECK_IS(CONTEXT, used_with_context());
}

/* Host memory: charged to nobody; the CPU reaches it once it was let. */
static void of_the_host(void *arg)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_HOST_NUMA, 0}};
    CUmemAccessDesc desc[2] = {
        {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE},
        {{CU_MEM_LOCATION_TYPE_HOST_NUMA, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE}};
    CUmemGenericAllocationHandle h;
    unsigned long long flags;
    volatile unsigned *p;
    CUdeviceptr va;
    unsigned word;
    int type;

    context();
    OK(cuMemCreate(&h, 2 * GRANULE, &prop, 0));
    CHECK_IS(CONTEXT, used_with_context());
    OK(cuMemAddressReserve(&va, 2 * GRANULE, 0, 0, 0));
    OK(cuMemMap(va, 2 * GRANULE, 0, h, 0));
    OK(cuMemSetAccess(va, 2 * GRANULE, desc, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(va, (void *)(uintptr_t)va, 4));
    OK(cuMemSetAccess(va, 2 * GRANULE, desc, 2));
    OK(cuMemcpyHtoD_v2(va, (void *)(uintptr_t)(va + GRANULE), 4));
    OK(cuMemGetAccess(&flags, &desc[1].location, va));
    CHECK_IS(3, flags);
    p = (volatile unsigned *)(uintptr_t)va;
    p[100] = 4711;
    OK(cuMemcpyDtoH_v2(&word, va + 400, 4));
    CHECK_IS(4711, word);
    OK(cuMemsetD32_v2(va, 1234, 1000));
    OK(cuCtxSynchronize());
    CHECK_IS(1234, p[999]);
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, va));
    CHECK_IS(CU_MEMORYTYPE_HOST, type);
    desc[1].flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    OK(cuMemSetAccess(va, 2 * GRANULE, &desc[1], 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2((void *)(uintptr_t)va, va, 4));
    OK(cuMemUnmap(va, 2 * GRANULE));
    OK(cuMemRelease(h));
    OK(cuMemAddressFree(va, 2 * GRANULE));
}

/* What is unmapped while it is used crashes nobody. */
static _Atomic int copied, copying = 1;

static void *copier(void *arg)
{
    CUdeviceptr va = *(CUdeviceptr *)arg;
    static char host[GRANULE];
    CUcontext ctx;

    OK(cuCtxCreate_v2(&ctx, 0, 0));
    while (atomic_load(&copying)) {
        CUresult r = cuMemcpyHtoD_v2(va, host, sizeof host);

        CHECK(r == CUDA_SUCCESS || r == CUDA_ERROR_INVALID_VALUE);
        atomic_fetch_add(&copied, r == CUDA_SUCCESS);
    }
    return NULL;
}

static void unmapped_in_use(void *arg)
{
    CUmemGenericAllocationHandle h;
    CUdeviceptr va;
    pthread_t thread;
    unsigned seed = 3;

    context();
    OK(cuMemAddressReserve(&va, GRANULE, 0, 0, 0));
    h = make(GRANULE, CU_MEM_HANDLE_TYPE_NONE);
    CHECK(pthread_create(&thread, NULL, copier, &va) == 0);
    for (int i = 0; i < 1000 || (atomic_load(&copied) < 300 && i < 20000); i++) {
        OK(cuMemMap(va, GRANULE, 0, h, 0));
        give_access(va, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        sleep_ns(below(&seed, 1000) * 1000);
        OK(cuMemUnmap(va, GRANULE));
    }
    atomic_store(&copying, 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(atomic_load(&copied) >= 300);
}

int main(void)
{
    test_run("charged till the last", "tiny", "0", charged_till_the_last);
    test_run("refusals", "tiny", "0", refusals);
    test_run("side by side", "tiny", "0", side_by_side);
    test_run("of the host", "tiny", "0", of_the_host);
    test_run("unmapped in use", "tiny", "0", unmapped_in_use);
    return 0;
}
