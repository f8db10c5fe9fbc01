/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear memory: accounting, addresses, copies and fills against a model, pinned memory, pointers.
 */
#include "soft_test.h"

#define GRANULE (2ull << 20)

static uint64_t used(void)
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    return t - f - (24ull << 20);
}

static void accounting(void *arg)
{
    CUdeviceptr p[6000], q, base;
    size_t f, t, n;

    context();
    CHECK_IS(0, used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(&q, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(NULL, 4));
    OK(cuMemAlloc_v2(&q, 3 << 20)); /* rounded to granules */
    CHECK_IS(2 * GRANULE, used());
    OK(cuMemGetAddressRange_v2(&base, &n, q + 12345));
    CHECK_IS(q, base);
    CHECK_IS(3 << 20, n);
    CHECK_IS(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange_v2(&base, &n, q + (3 << 20)));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(q + 512));
    OK(cuMemFree_v2(q));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(q));
    OK(cuMemFree_v2(0));
    CHECK_IS(0, used());
    /* small ones share granules: 4096 of 512 bytes fill one */
    for (int i = 0; i < 4096; i++) {
        OK(cuMemAlloc_v2(&p[i], 1 + (size_t)i % 512));
        CHECK_IS(0, p[i] % 512);
    }
    CHECK_IS(GRANULE, used());
    OK(cuMemAlloc_v2(&p[4096], 1));
    CHECK_IS(2 * GRANULE, used());
    OK(cuMemFree_v2(p[7]));
    OK(cuMemAlloc_v2(&q, 512)); /* the hole, or the new slab */
    CHECK_IS(2 * GRANULE, used());
    OK(cuMemFree_v2(q));
    for (int i = 0; i <= 4096; i++)
        if (i != 7)
            OK(cuMemFree_v2(p[i]));
    CHECK_IS(0, used());
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
    CHECK_IS(0, used());
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

static void errors_of_copies(void *arg)
{
    CUdeviceptr p;
    char host[64];
    CUDA_MEMCPY2D m = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                       .srcHost = host,
                       .srcPitch = 8,
                       .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstPitch = 8,
                       .WidthInBytes = 8,
                       .Height = 8};

    context();
    OK(cuMemAlloc_v2(&p, 64));
    m.dstDevice = p;
    OK(cuMemcpyHtoD_v2(p, host, 64));
    OK(cuMemcpyHtoD_v2(p, host, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(p, host, 65));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(p + 32, host, 33));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(p - 1, host, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)host, host, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(p, (void *)(uintptr_t)p, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(p, NULL, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2(host, (CUdeviceptr)(uintptr_t)host, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoD_v2(p, 4096, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8_v2(p, 0, 65));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD32_v2(p + 2, 0, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD16_v2(p + 1, 0, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD2D8_v2(p, 8, 0, 9, 2));
    OK(cuMemcpy2D_v2(&m));
    m.Height = 9;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&m));
    m.Height = 8;
    m.dstXInBytes = 1;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&m)); /* pitch too small */
    m.dstXInBytes = 0;
    m.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuMemcpy2D_v2(&m));
    m.srcMemoryType = (CUmemorytype)9;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&m));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(NULL));
}

#define W 61
#define H 23
#define D 5

/* 3D copies of random boxes between host, pinned and device, against plain loops. */
static void boxes_against_a_model(void *arg)
{
    static unsigned char model[D][H][W], other[D][H][W], want[D][H][W], got[D][H][W];
    CUdeviceptr dev;
    void *pinned;
    unsigned seed = 99;

    context();
    OK(cuMemAlloc_v2(&dev, sizeof model));
    OK(cuMemHostAlloc(&pinned, sizeof model, 0));
    for (int round = 0; round < 300; round++) {
        size_t w = 1 + (size_t)rand_r(&seed) % W, h = 1 + (size_t)rand_r(&seed) % H;
        size_t d = 1 + (size_t)rand_r(&seed) % D;
        size_t sx = (size_t)rand_r(&seed) % (W - w + 1), sy = (size_t)rand_r(&seed) % (H - h + 1);
        size_t sz = (size_t)rand_r(&seed) % (D - d + 1);
        size_t dx = (size_t)rand_r(&seed) % (W - w + 1), dy = (size_t)rand_r(&seed) % (H - h + 1);
        size_t dz = (size_t)rand_r(&seed) % (D - d + 1);
        CUDA_MEMCPY3D m = {.srcXInBytes = sx,
                           .srcY = sy,
                           .srcZ = sz,
                           .srcPitch = W,
                           .srcHeight = H,
                           .dstXInBytes = dx,
                           .dstY = dy,
                           .dstZ = dz,
                           .dstPitch = W,
                           .dstHeight = H,
                           .WidthInBytes = w,
                           .Height = h,
                           .Depth = d};

        for (size_t i = 0; i < sizeof model; i++) {
            (&model[0][0][0])[i] = (unsigned char)rand_r(&seed);
            (&other[0][0][0])[i] = (unsigned char)rand_r(&seed);
        }
        memcpy(want, other, sizeof want);
        for (size_t z = 0; z < d; z++)
            for (size_t y = 0; y < h; y++)
                for (size_t x = 0; x < w; x++)
                    want[dz + z][dy + y][dx + x] = model[sz + z][sy + y][sx + x];
        if (round % 2 == 0) { /* into the device */
            OK(cuMemcpyHtoD_v2(dev, other, sizeof other));
            memcpy(pinned, model, sizeof model);
            m.srcMemoryType = round % 4 == 0 ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_UNIFIED;
            m.srcHost = model;
            m.srcDevice = (CUdeviceptr)(uintptr_t)pinned;
            m.dstMemoryType = CU_MEMORYTYPE_DEVICE;
            m.dstDevice = dev;
            OK(round % 3 == 0 ? cuMemcpy3D_v2(&m) : cuMemcpy3DAsync_v2(&m, NULL));
            memset(model, 0, sizeof model); /* pageable source: read before the call returned */
            OK(cuMemcpyDtoH_v2(got, dev, sizeof got));
        } else { /* out of it */
            OK(cuMemcpyHtoD_v2(dev, model, sizeof model));
            memcpy(got, other, sizeof got);
            m.srcMemoryType = CU_MEMORYTYPE_DEVICE;
            m.srcDevice = dev;
            m.dstMemoryType = CU_MEMORYTYPE_HOST;
            m.dstHost = got;
            OK(round % 3 == 0 ? cuMemcpy3D_v2(&m) : cuMemcpy3DAsync_v2(&m, NULL));
        }
        CHECK(memcmp(got, want, sizeof got) == 0);
    }
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

/* Copies take the right engine and the modelled time: 100 MB at 10 bytes a ns are 10 ms. */
static void copies_take_their_time(void *arg)
{
    struct soft_slot_dev dev;
    CUdeviceptr p;
    void *host;
    CUevent a, b;
    float ms;

    context();
    OK(cuMemAlloc_v2(&p, 200000000));
    OK(cuMemHostAlloc(&host, 100000000, 0));
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    OK(cuEventRecord(a, NULL));
    OK(cuMemcpyHtoDAsync_v2(p, host, 100000000, NULL));
    OK(cuEventRecord(b, NULL));
    OK(cuMemcpyDtoHAsync_v2(host, p, 50000000, NULL));
    OK(cuMemcpyDtoDAsync_v2(p, p + 100000000, 1000000, NULL));
    OK(cuCtxSynchronize());
    OK(cuEventElapsedTime(&ms, a, b));
    dev = my_ledger();
    CHECK_BETWEEN(10.0, 9000, ms);
    CHECK_BETWEEN(10 * MS, 9000 * MS, dev.busy_ns[SOFT_COPY_IN]);
    CHECK_BETWEEN(5 * MS, 9000 * MS, dev.busy_ns[SOFT_COPY_OUT]);
    CHECK_BETWEEN(20000, 900 * MS, dev.busy_ns[SOFT_COMPUTE]);
}

/* Two devices: memory apart, engines apart, copies between them through the bus. */
static void two_devices(void *arg)
{
    CUcontext c[2];
    CUdeviceptr p[2];
    CUevent a, b;
    size_t f, t;
    unsigned word = 0;
    float ms;

    OK(cuInit(0));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxCreate_v2(&c[i], 0, i));
        OK(cuMemAlloc_v2(&p[i], 100000000));
        OK(cuMemsetD32_v2(p[i], (unsigned)i + 7, 25000000));
        OK(cuCtxSynchronize());
        OK(cuMemGetInfo_v2(&f, &t));
        CHECK_IS((24ull << 20) + 48 * GRANULE, t - f);
    }
    for (int i = 0; i < 2; i++) { /* side by side */
        OK(cuCtxSetCurrent(c[i]));
        OK(cuEventCreate(i == 0 ? &a : &b, 0));
        if (i == 0)
            OK(cuEventRecord(a, NULL));
        launch(NULL, 30 * MS, 0);
    }
    OK(cuCtxSynchronize());
    OK(cuCtxSetCurrent(c[0]));
    OK(cuEventCreate(&b, 0));
    OK(cuEventRecord(b, NULL));
    OK(cuCtxSynchronize());
    OK(cuEventElapsedTime(&ms, a, b));
    CHECK_BETWEEN(30, 55, ms);
    OK(cuMemcpyPeer(p[0], c[0], p[1], c[1], 100000000));
    OK(cuMemcpyDtoH_v2(&word, p[0] + 99999996, 4));
    CHECK_IS(8, word);
    CHECK_BETWEEN(10 * MS, 3000 * MS, my_ledger_of(0).busy_ns[SOFT_COPY_IN]);
    CHECK_BETWEEN(10 * MS, 3000 * MS, my_ledger_of(1).busy_ns[SOFT_COPY_OUT]);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate_v2(&c[0], 0, 2));
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

/* Copies between places on the device, small ones to it and fills go on after the call, unless the
 * allocation or the context says that they must not. */
static void synchronous_for_good(void *arg)
{
    enum { BIG = 64 << 20 }; /* some milliseconds of the tiny device */
    unsigned flag = 1;
    bool is = true;
    CUdeviceptr a, b;
    CUcontext ctx = context(), strict;

    OK(cuMemAlloc_v2(&a, BIG));
    OK(cuMemAlloc_v2(&b, BIG));
    OK(cuPointerGetAttribute(&is, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, a));
    CHECK(!is);
    launch(NULL, 20 * MS, 0);
    OK(cuMemcpyDtoD_v2(a, b, BIG));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    OK(cuPointerSetAttribute(&flag, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, b + 5));
    OK(cuPointerGetAttribute(&is, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, b));
    CHECK(is);
    for (int i = 0; i < 3; i++) {
        launch(NULL, 20 * MS, 0);
        if (i == 0)
            OK(cuMemcpyDtoD_v2(a, b, BIG));
        else if (i == 1)
            OK(cuMemsetD8_v2(b, 1, BIG));
        else
            OK(cuMemcpyHtoD_v2(b, &flag, sizeof flag));
        OK(cuStreamQuery(NULL));
    }
    flag = 0;
    OK(cuPointerSetAttribute(&flag, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, b));
    launch(NULL, 20 * MS, 0);
    OK(cuMemsetD8_v2(b, 1, BIG));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    OK(cuCtxCreate_v2(&strict, CU_CTX_SYNC_MEMOPS, 0));
    OK(cuMemAlloc_v2(&a, BIG));
    launch(NULL, 20 * MS, 0);
    OK(cuMemsetD8_v2(a, 1, BIG));
    OK(cuStreamQuery(NULL));
    OK(cuCtxDestroy_v2(strict));
    OK(cuCtxSetCurrent(ctx));
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
    test_run("device pointers are not the host's", "tiny", "0", device_pointers_are_not_the_hosts);
    test_run("errors of copies", "tiny", "0", errors_of_copies);
    test_run("boxes against a model", "tiny", "0", boxes_against_a_model);
    test_run("fills against a model", "tiny", "0", fills_against_a_model);
    test_run("pinned memory", "tiny", "0", pinned_memory);
    test_run("pointers", "tiny", "0", pointers);
    test_run("copies take their time", "tiny", "0", copies_take_their_time);
    test_run_noisy("two devices", "tiny,tiny", "0", two_devices);
    test_run("pitch", "tiny", "0", pitch);
    test_run("synchronous for good", "tiny", "0", synchronous_for_good);
    test_run("freeing takes no error", "tiny", "0", freeing_takes_no_error);
    test_run("pinned memory of all", "tiny", "0", pinned_memory_is_waited_for_in_every_context);
    return 0;
}
