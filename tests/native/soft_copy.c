/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies: boxes against a model, errors, the engines and the time they take, what they wait for.
 */
#include "soft_test.h"

static void errors_of_copies(void *arg)
{
    CUdeviceptr p;
    char host[64];
    CUDA_MEMCPY3D far = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                         .srcPitch = 1 << 16,
                         .srcHeight = 1,
                         .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                         .dstPitch = 1 << 16,
                         .dstHeight = 1,
                         .WidthInBytes = 8,
                         .Height = (1ull << 48) + 1, /* that times the pitch is 0 */
                         .Depth = 1};
    CUDA_MEMCPY2D m = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                       .srcHost = host,
                       .srcPitch = 8,
                       .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstPitch = 8,
                       .WidthInBytes = 8,
                       .Height = 8};

    context();
    OK(cuMemAlloc_v2(&p, 64));
    m.dstDevice = far.srcDevice = p;
    far.dstDevice = p + 8;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy3D_v2(&far));
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

int main(void)
{
    test_run("errors of copies", "tiny", "0", errors_of_copies);
    test_run("boxes against a model", "tiny", "0", boxes_against_a_model);
    test_run("copies take their time", "tiny", "0", copies_take_their_time);
    test_run_noisy("two devices", "tiny,tiny", "0", two_devices);
    test_run("synchronous for good", "tiny", "0", synchronous_for_good);
    return 0;
}
