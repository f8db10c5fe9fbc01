/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear memory: accounting, addresses, fills against a model, pinned memory, pointers.
 */
#include "soft_test.h"

#include <sys/stat.h>

#include "soft/gpu/phys.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void accounting(void *arg)
{
    CUdeviceptr p[6000], q, base;
    size_t f, t, n;

    context();
    CHECK_IS(0, device_used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(&q, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(NULL, 4));
    OK(cuMemAlloc_v2(&q, 3 << 20)); /* rounded to granules */
    CHECK_IS(2 * GRANULE, device_used());
    OK(cuMemGetAddressRange_v2(&base, &n, q + 12345));
    CHECK_IS(q, base);
    CHECK_IS(3 << 20, n);
    CHECK_IS(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange_v2(&base, &n, q + (3 << 20)));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(q + 512));
    OK(cuMemFree_v2(q));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(q));
    OK(cuMemFree_v2(0));
    CHECK_IS(0, device_used());
    /* small ones share granules: 4096 of 512 bytes fill one */
    for (int i = 0; i < 4096; i++) {
        OK(cuMemAlloc_v2(&p[i], 1 + (size_t)i % 512));
        CHECK_IS(0, p[i] % 512);
    }
    CHECK_IS(GRANULE, device_used());
    OK(cuMemAlloc_v2(&p[4096], 1));
    CHECK_IS(2 * GRANULE, device_used());
    OK(cuMemFree_v2(p[7]));
    OK(cuMemAlloc_v2(&q, 512)); /* the hole, or the new slab */
    CHECK_IS(2 * GRANULE, device_used());
    OK(cuMemFree_v2(q));
    for (int i = 0; i <= 4096; i++)
        if (i != 7)
            OK(cuMemFree_v2(p[i]));
    CHECK_IS(0, device_used());
    /* what is free can be had in one piece; one granule more is error 2 */
    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(1024ull << 20, t);
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&q, f + 1));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&q, SIZE_MAX));
    OK(cuMemAlloc_v2(&q, f));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&p[0], 1));
    OK(cuMemFree_v2(q));
    /* no holes: every other of 500 gone, what is free is still had in one piece */
    for (int i = 0; i < 500; i++)
        OK(cuMemAlloc_v2(&p[i], GRANULE));
    for (int i = 0; i < 500; i += 2)
        OK(cuMemFree_v2(p[i]));
    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(250 * GRANULE, f);
    OK(cuMemAlloc_v2(&q, f));
}

/* Random sizes, all living at once: nobody's bytes are another's. */
static void nothing_overlaps(void *arg)
{
    enum { N = 400 };
    CUdeviceptr p[N] = {0};
    size_t bytes[N] = {0};
    unsigned seed = 4711, word;

    context();
    for (int step = 0; step < 3000; step++) {
        int i = rand_r(&seed) % N;

        if (p[i] != 0) {
            OK(cuMemcpyDtoH_v2(&word, p[i], 4));
            CHECK_IS(i, word);
            OK(cuMemcpyDtoH_v2(&word, p[i] + bytes[i] - 4, 4));
            CHECK_IS(i, word);
            OK(cuMemFree_v2(p[i]));
            p[i] = 0;
        } else {
            bytes[i] = 8 + (size_t)(rand_r(&seed) % (step % 10 == 0 ? 3000000 : 9000)) / 4 * 4;
            OK(cuMemAlloc_v2(&p[i], bytes[i]));
            OK(cuMemsetD32_v2(p[i], (unsigned)i, bytes[i] / 4));
        }
    }
    for (int i = 0; i < N; i++)
        if (p[i] != 0)
            OK(cuMemFree_v2(p[i]));
    CHECK_IS(0, device_used());
}

/* Whole pages of zeroes are made by giving the pages back. */
static void zeroes(void *arg)
{
    enum { N = 8 << 20 };
    unsigned char *got = malloc(N);
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, N));
    OK(cuMemsetD8_v2(p, 0x5a, N));
    OK(cuMemsetD8_v2(p + 3, 0, N - 6));
    OK(cuMemcpyDtoH_v2(got, p, N));
    for (int i = 0; i < N; i++)
        CHECK_IS(i < 3 || i >= N - 3 ? 0x5a : 0, got[i]);
    free(got);
}

/* What is freed can be reached no longer, and the host has its bytes again. */
static void freed_memory_is_gone(void *arg)
{
    enum { GRANULES = 4 };
    struct stat before, after;
    struct soft_phys *probe;
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, GRANULES * GRANULE));
    OK(cuMemsetD8_v2(p, 0x5a, GRANULES * GRANULE));
    OK(cuCtxSynchronize());
    probe = soft_phys_make(0, GRANULE, SOFT_PHYS_PRIVATE); /* in the same file */
    CHECK(probe != NULL && fstat(probe->file.fd, &before) == 0);
    for (int i = 0; i < GRANULES; i++)
        CHECK_IS(SOFT_ACCESS_ALL, reach_of(p + (CUdeviceptr)i * GRANULE));
    OK(cuMemFree_v2(p));
    for (int i = 0; i < GRANULES; i++)
        CHECK_IS(SOFT_ACCESS_NONE, reach_of(p + (CUdeviceptr)i * GRANULE));
    CHECK(fstat(probe->file.fd, &after) == 0);
    CHECK_IS(GRANULES * GRANULE / 512, before.st_blocks - after.st_blocks);
    soft_phys_unref(probe);
    CHECK_IS(0, device_used());
}

/* Pinned memory is there when the call returns (from Linux 5.14 on). */
static void pinned_is_there(void *arg)
{
    enum { PAGES = 1024 };
    static unsigned char there[PAGES];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *p, *probe = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    context();
    OK(cuMemHostAlloc(&p, PAGES * page, 0));
    CHECK(mincore(p, PAGES * page, there) == 0);
    for (int i = 0; i < PAGES && madvise(probe, page, MADV_POPULATE_WRITE) == 0; i++)
        CHECK_IS(1, there[i] & 1);
    OK(cuMemFreeHost(p));
}

static void touch(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 4096));
    *(volatile char *)(uintptr_t)p = 1;
}

static void device_pointers_are_not_the_hosts(void *arg)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        touch(NULL);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void fills_against_a_model(void *arg)
{
    static unsigned char want[8192], got[8192];
    CUdeviceptr dev, big;
    unsigned seed = 5;
    char edge[3];

    context();
    OK(cuMemAlloc_v2(&dev, sizeof want));
    OK(cuMemsetD8_v2(dev, 0xee, sizeof want));
    memset(want, 0xee, sizeof want);
    for (int round = 0; round < 300; round++) {
        unsigned element = 1u << (rand_r(&seed) % 3);
        size_t pitch = 64 * element, height = 1 + (size_t)rand_r(&seed) % 20;
        size_t width = 1 + (size_t)rand_r(&seed) % 64, from = (size_t)rand_r(&seed) % 200 * 4;
        unsigned value = (unsigned)rand_r(&seed);
        CUdeviceptr p = dev + from;

        for (size_t y = 0; y < height; y++)
            for (size_t x = 0; x < width; x++)
                memcpy(want + from + y * pitch + x * element, &value, element);
        if (element == 1)
            OK(cuMemsetD2D8_v2(p, pitch, (unsigned char)value, width, height));
        else if (element == 2)
            OK(cuMemsetD2D16Async(p, pitch, (unsigned short)value, width, height, NULL));
        else
            OK(cuMemsetD2D32_v2(p, pitch, value, width, height));
        OK(cuMemcpyDtoH_v2(got, dev, sizeof got));
        CHECK(memcmp(got, want, sizeof got) == 0);
    }
    /* zeroing gives pages back: the bytes round it stay, and the whole device can be zeroed */
    OK(cuMemAlloc_v2(&big, 900ull << 20));
    OK(cuMemsetD8_v2(big, 7, 16 << 20));
    OK(cuMemsetD8_v2(big + 1, 0, (16 << 20) - 2));
    OK(cuMemcpyDtoH_v2(edge, big, 2));
    CHECK(edge[0] == 7 && edge[1] == 0);
    OK(cuMemcpyDtoH_v2(edge, big + (16 << 20) - 2, 2));
    CHECK(edge[0] == 0 && edge[1] == 7);
    OK(cuMemsetD32_v2(big, 0, (900ull << 20) / 4));
    OK(cuCtxSynchronize());
}

static void pinned_memory(void *arg)
{
    void *p, *q = malloc(10000);
    CUdeviceptr d;
    unsigned flags;
    CUstream s;
    CUdeviceptr dev;

    context();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemHostAlloc(&p, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemHostAlloc(&p, 4, 0x40));
    OK(cuMemHostAlloc(&p, 10000, CU_MEMHOSTALLOC_PORTABLE));
    OK(cuMemHostGetFlags(&flags, p));
    CHECK_IS(CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP, flags);
    OK(cuMemHostGetDevicePointer_v2(&d, p, 0));
    CHECK(soft_mem_host(soft_ctx_first(), d, 10000) == p);
    CHECK(soft_mem_host(soft_ctx_first(), d + 1, 10000) == NULL);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemHostGetDevicePointer_v2(&d, q, 0));
    CHECK_IS(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(q));
    OK(cuMemHostRegister_v2(q, 10000, 0));
    CHECK_IS(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
             cuMemHostRegister_v2((char *)q + 9999, 10, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(q));
    CHECK_IS(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(p));
    /* a copy from pinned memory is asynchronous: it reads what is there when its turn comes */
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc_v2(&dev, 10000));
    memset(p, 1, 10000);
    launch(s, 30 * MS, 0);
    OK(cuMemcpyHtoDAsync_v2(dev, p, 10000, s));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
    memset(p, 2, 10000);
    OK(cuMemcpyDtoHAsync_v2(q, dev, 10000, s));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
    OK(cuMemHostUnregister(q)); /* waits for the copy into it */
    CHECK_IS(2, *(char *)q);
    /* from pageable memory: read before the call returns */
    memset(q, 3, 10000);
    launch(s, 30 * MS, 0);
    OK(cuMemcpyHtoDAsync_v2(dev, q, 10000, s));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
    memset(q, 4, 10000);
    OK(cuMemcpyDtoHAsync_v2(q, dev, 10000, s)); /* into pageable: written when it returns */
    CHECK_IS(3, *(char *)q);
    OK(cuMemFreeHost(p));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(p));
    free(q);
    /* however large it is */
    q = malloc(1 << 20);
    OK(cuMemAlloc_v2(&dev, 1 << 20));
    memset(q, 5, 1 << 20);
    launch(s, 30 * MS, 0);
    OK(cuMemcpyHtoDAsync_v2(dev, q, 1 << 20, s));
    memset(q, 6, 1 << 20);
    OK(cuMemcpyDtoHAsync_v2(q, dev, 1 << 20, s));
    CHECK_IS(5, *((char *)q + 100000));
    free(q);
}

static void pointers(void *arg)
{
    CUdeviceptr p, got;
    unsigned type;
    int ordinal, local;
    size_t bytes;
    CUcontext ctx = context(), of;
    CUpointer_attribute ask[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                 CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_CONTEXT,
                                 CU_POINTER_ATTRIBUTE_RANGE_SIZE};
    void *data[] = {&type, &ordinal, &of, &bytes};

    OK(cuMemAlloc_v2(&p, 5000));
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p + 4999));
    CHECK_IS(CU_MEMORYTYPE_DEVICE, type);
    OK(cuPointerGetAttribute(&got, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, p + 4999));
    CHECK_IS(p, got);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuPointerGetAttribute(&got, CU_POINTER_ATTRIBUTE_HOST_POINTER, p));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p + 5000));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                   (CUdeviceptr)(uintptr_t)&local));
    OK(cuPointerGetAttributes(4, ask, data, p + 17));
    CHECK(type == CU_MEMORYTYPE_DEVICE && ordinal == 0 && of == ctx && bytes == 5000);
    OK(cuPointerGetAttributes(4, ask, data, (CUdeviceptr)(uintptr_t)&local));
    CHECK(type == 0 && ordinal == -2 && of == NULL && bytes == 0);
}

static void pitch(void *arg)
{
    CUdeviceptr p;
    size_t got;

    context();
    OK(cuMemAllocPitch_v2(&p, &got, 1000, 30, 4));
    CHECK_IS(1024, got);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocPitch_v2(&p, &got, 1000, 30, 3));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocPitch_v2(&p, &got, 0, 30, 4));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocPitch_v2(&p, &got, SIZE_MAX, 2, 4));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocPitch_v2(&p, &got, 1 << 20, 1 << 30, 4));
}

static void fail_later(void)
{
    struct test_kernel *k = kernel_new(1000, 0);
    struct soft_stream *stream;

    k->result = CUDA_ERROR_INVALID_SOURCE; /* of those that are told once */
    OK(soft_stream_of(NULL, &stream));
    OK(soft_submit(stream, &k->cmd));
}

/* Freeing waits, but the error of what it waited for is the next call's that tells such. */
static void freeing_takes_no_error(void *arg)
{
    CUDA_ARRAY_DESCRIPTOR desc = {16, 16, CU_AD_FORMAT_FLOAT, 1};
    CUdeviceptr managed;
    CUarray array;
    void *p;

    context();
    OK(cuMemAllocHost_v2(&p, 4096));
    OK(cuArrayCreate_v2(&array, &desc));
    OK(cuMemAllocManaged(&managed, 4096, CU_MEM_ATTACH_GLOBAL));
    fail_later();
    OK(cuMemFreeHost(p));
    CHECK_IS(CUDA_ERROR_INVALID_SOURCE, cuCtxSynchronize());
    OK(cuCtxSynchronize());
    fail_later();
    OK(cuArrayDestroy(array));
    CHECK_IS(CUDA_ERROR_INVALID_SOURCE, cuCtxSynchronize());
    fail_later();
    OK(cuMemFree_v2(managed));
    CHECK_IS(CUDA_ERROR_INVALID_SOURCE, cuCtxSynchronize());
}

static void read_late(void *data)
{
    sleep_ns(50 * MS);
    CHECK_IS(5, *(volatile char *)data);
}

/* Pinned memory is every context's: it goes when none of them works on it any more. */
static void pinned_memory_is_waited_for_in_every_context(void *arg)
{
    static char registered[4096];
    CUcontext first = context(), second;
    CUstream stream;
    void *p;

    OK(cuMemAllocHost_v2(&p, 4096));
    OK(cuMemHostRegister_v2(registered, sizeof registered, 0));
    memset(p, 5, 4096);
    memset(registered, 5, sizeof registered);
    OK(cuCtxCreate_v2(&second, 0, 0));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuLaunchHostFunc(stream, read_late, p));
    OK(cuCtxSetCurrent(first));
    OK(cuMemFreeHost(p));
    OK(cuCtxSetCurrent(second));
    OK(cuStreamQuery(stream));
    OK(cuLaunchHostFunc(stream, read_late, registered));
    OK(cuCtxSetCurrent(first));
    OK(cuMemHostUnregister(registered));
    OK(cuCtxSetCurrent(second));
    OK(cuStreamQuery(stream));
}

int main(void)
{
    test_run("accounting", "tiny", "0", accounting);
    test_run("nothing overlaps", "tiny", "0", nothing_overlaps);
    test_run("zeroes", "tiny", "0", zeroes);
    test_run("freed memory is gone", "tiny", "0", freed_memory_is_gone);
    test_run("device pointers are not the host's", "tiny", "0", device_pointers_are_not_the_hosts);
    test_run("fills against a model", "tiny", "0", fills_against_a_model);
    test_run("pinned memory is there", "tiny", "0", pinned_is_there);
    test_run("pinned memory", "tiny", "0", pinned_memory);
    test_run("pointers", "tiny", "0", pointers);
    test_run("pitch", "tiny", "0", pitch);
    test_run("freeing takes no error", "tiny", "0", freeing_takes_no_error);
    test_run("pinned memory of all", "tiny", "0", pinned_memory_is_waited_for_in_every_context);
    return 0;
}
