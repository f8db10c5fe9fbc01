/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays and mipmaps: what they cost, what they refuse, their planes, single runs of bytes.
 */
#include "soft_array_test.h"

static CUresult made(size_t w, size_t h, size_t d, CUarray_format format, unsigned channels,
                     unsigned flags)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {w, h, d, format, channels, flags};
    CUarray a = NULL;
    CUresult r = cuArray3DCreate_v2(&a, &desc);

    if (r == CUDA_SUCCESS)
        OK(cuArrayDestroy(a));
    return r;
}

static void accounting(void *arg)
{
    CUarray a, many[40];
    CUmipmappedArray mip;
    CUDA_ARRAY3D_DESCRIPTOR full = {1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, 0};
    uint64_t rest;

    context();
    /* 1000 x 1000 floats: rows of 4000 padded to 4032 bytes, 4032000 in all, 2 granules */
    a = make(1000, 1000, 0, CU_AD_FORMAT_FLOAT, 1, 0);
    CHECK_IS(2 * GRANULE, device_used());
    OK(cuArrayDestroy(a));
    CHECK_IS(0, device_used());
    /* rows of 1 byte cost 64: 40000 of them 2560000, 2 granules */
    a = make(1, 40000, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    CHECK_IS(2 * GRANULE, device_used());
    OK(cuArrayDestroy(a));
    /* small ones share a granule */
    for (int i = 0; i < 40; i++)
        many[i] = make(64, 64, 0, CU_AD_FORMAT_HALF, 4, 0);
    CHECK_IS(GRANULE, device_used());
    for (int i = 0; i < 40; i++)
        OK(cuArrayDestroy(many[i]));
    CHECK_IS(0, device_used());
    /* all levels: 4 MiB and a third, below 6 MiB */
    OK(cuMipmappedArrayCreate(&mip, &full, 99));
    CHECK_IS(3 * GRANULE, device_used());
    OK(cuMipmappedArrayDestroy(mip));
    CHECK_IS(0, device_used());
    /* slices are padded as rows are: 1600 x 104 x 104 bytes; layers are as many as there are */
    a = make(100, 100, 100, CU_AD_FORMAT_FLOAT, 4, 0);
    CHECK_IS(9 * GRANULE, device_used());
    OK(cuArrayDestroy(a));
    a = make(100, 100, 100, CU_AD_FORMAT_FLOAT, 4, CUDA_ARRAY3D_LAYERED);
    CHECK_IS(8 * GRANULE, device_used());
    OK(cuArrayDestroy(a));
    /* a full device */
    rest = (1000ull << 20);
    a = make(16384, 8192, 0, CU_AD_FORMAT_FLOAT, 1, 0); /* 512 MiB */
    CHECK_IS(256 * GRANULE, device_used());
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, made(16384, 8192, 0, CU_AD_FORMAT_FLOAT, 1, 0));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, made(16384, 16384, 16, CU_AD_FORMAT_FLOAT, 4, 0));
    CHECK(device_used() < rest);
    OK(cuArrayDestroy(a));
    CHECK_IS(0, device_used());
}

static void refusals(void *arg)
{
    CUDA_ARRAY3D_DESCRIPTOR d, mip_desc = {8, 8, 0, CU_AD_FORMAT_FLOAT, 1, 0};
    CUDA_ARRAY_SPARSE_PROPERTIES sparse;
    CUDA_ARRAY_MEMORY_REQUIREMENTS needs;
    CUarray a, plane, level;
    CUmipmappedArray mip;
    const CUarray_format u8 = CU_AD_FORMAT_UNSIGNED_INT8;

    context();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(0, 1, 1, u8, 1, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 0, 8, u8, 1, 0)); /* without LAYERED */
    OK(made(8, 0, 8, u8, 1, CUDA_ARRAY3D_LAYERED));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 0, u8, 1, CUDA_ARRAY3D_LAYERED));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 0, u8, 3, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 0, (CUarray_format)7, 1, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 0, CU_AD_FORMAT_UNORM_INT8X2, 1, 0));
    OK(made(8, 8, 0, CU_AD_FORMAT_UNORM_INT8X2, 2, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 0, u8, 1, 0x4000));
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, made(8, 8, 0, u8, 1, CUDA_ARRAY3D_SPARSE));
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, made(8, 8, 0, u8, 1, CUDA_ARRAY3D_DEFERRED_MAPPING));
    /* cubes */
    OK(made(8, 8, 6, u8, 1, CUDA_ARRAY3D_CUBEMAP));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 5, u8, 1, CUDA_ARRAY3D_CUBEMAP));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 9, 6, u8, 1, CUDA_ARRAY3D_CUBEMAP));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 12, u8, 1, CUDA_ARRAY3D_CUBEMAP));
    OK(made(8, 8, 12, u8, 1, CUDA_ARRAY3D_CUBEMAP | CUDA_ARRAY3D_LAYERED));
    /* limits are the device's attributes */
    OK(made(131072, 0, 0, u8, 1, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(131073, 0, 0, u8, 1, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(32769, 0, 0, u8, 1, CUDA_ARRAY3D_SURFACE_LDST));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 65537, 0, u8, 1, 0));
    OK(made(8, 8, 32768, u8, 1, 0)); /* the alternate limits */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8193, 8, 32768, u8, 1, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 0, 2049, u8, 1, CUDA_ARRAY3D_LAYERED));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(32769, 8, 0, u8, 1, CUDA_ARRAY3D_TEXTURE_GATHER));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(8, 8, 8, u8, 1, CUDA_ARRAY3D_TEXTURE_GATHER));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuArray3DCreate_v2(NULL, &mip_desc));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuArray3DCreate_v2(&a, NULL));
    /* handles */
    a = make(8, 8, 0, u8, 1, 0);
    OK(cuMipmappedArrayCreate(&mip, &mip_desc, 2));
    OK(cuMipmappedArrayGetLevel(&level, mip, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMipmappedArrayGetLevel(&level, mip, 2));
    OK(cuArray3DGetDescriptor_v2(&d, level));
    CHECK_IS(4, d.Width);
    CHECK_IS(4, d.Height);
    CHECK_IS(0, d.Depth);
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuArrayDestroy(level));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuArrayDestroy((CUarray)(void *)mip));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuMipmappedArrayDestroy((CUmipmappedArray)(void *)a));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuArrayGetSparseProperties(&sparse, a));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuArrayGetMemoryRequirements(&needs, a, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMipmappedArrayGetSparseProperties(&sparse, mip));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMipmappedArrayGetMemoryRequirements(&needs, mip, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuArrayGetPlane(&plane, a, 0));
    OK(cuMipmappedArrayDestroy(mip));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuArray3DGetDescriptor_v2(&d, level));
    OK(cuArrayDestroy(a));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuArrayDestroy(a));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuArrayDestroy(NULL));
}

static void planes(void *arg)
{
    CUDA_ARRAY_DESCRIPTOR d;
    CUarray a, bright, colour;
    unsigned char in[8][16], out[8][16] = {{0}};
    CUDA_MEMCPY2D m = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                       .srcHost = in,
                       .srcPitch = 16,
                       .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                       .WidthInBytes = 16,
                       .Height = 4};

    context();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(15, 8, 0, CU_AD_FORMAT_NV12, 3, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, made(16, 8, 0, CU_AD_FORMAT_NV12, 1, 0));
    a = make(16, 8, 0, CU_AD_FORMAT_NV12, 3, 0);
    OK(cuArrayGetPlane(&bright, a, 0));
    OK(cuArrayGetPlane(&colour, a, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuArrayGetPlane(&colour, a, 2));
    OK(cuArrayGetDescriptor_v2(&d, colour));
    CHECK_IS(8, d.Width);
    CHECK_IS(4, d.Height);
    CHECK_IS(2, d.NumChannels);
    CHECK_IS(CU_AD_FORMAT_UNSIGNED_INT8, d.Format);
    for (int i = 0; i < 128; i++)
        in[i / 16][i % 16] = (unsigned char)(i + 1);
    m.dstArray = a;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&m));
    m.dstArray = colour;
    OK(cuMemcpy2D_v2(&m));
    m = (CUDA_MEMCPY2D){.srcMemoryType = CU_MEMORYTYPE_ARRAY,
                        .srcArray = bright,
                        .dstMemoryType = CU_MEMORYTYPE_HOST,
                        .dstHost = out,
                        .dstPitch = 16,
                        .WidthInBytes = 16,
                        .Height = 8};
    OK(cuMemcpy2D_v2(&m));
    CHECK(out[7][15] == 0); /* planes lie apart */
    m.srcArray = colour;
    m.Height = 4;
    OK(cuMemcpy2D_v2(&m));
    CHECK(memcmp(out, in, 64) == 0);
    OK(cuArrayDestroy(a));
    /* blocks of 4 x 4 texels: 8 bytes each, 3 x 2 of them */
    a = make(12, 8, 0, CU_AD_FORMAT_BC1_UNORM, 4, 0);
    m = (CUDA_MEMCPY2D){.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = in,
                        .srcPitch = 24,
                        .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                        .dstArray = a,
                        .WidthInBytes = 24,
                        .Height = 2};
    OK(cuMemcpy2D_v2(&m));
    m.Height = 3;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&m));
    m.Height = 1;
    m.WidthInBytes = 12;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&m));
}

static void runs_of_bytes(void *arg)
{
    CUarray a = NULL, b = NULL, flat;
    CUDA_ARRAY_DESCRIPTOR_v1 old = {100, 0, CU_AD_FORMAT_UNSIGNED_INT16, 1}, told;
    CUDA_ARRAY3D_DESCRIPTOR_v1 old3d = {64, 8, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0}, told3d;
    CUdeviceptr p;
    CUstream s;
    uint16_t in[100], out[100] = {0};

    context();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 100; i++)
        in[i] = (uint16_t)(1000 + i);
    OK(cuArrayCreate(&a, &old));
    OK(cuArrayCreate(&b, &old));
    OK(cuArrayGetDescriptor(&told, a));
    CHECK(memcmp(&told, &old, sizeof old) == 0);
    OK(cuArray3DCreate(&flat, &old3d));
    OK(cuArray3DGetDescriptor(&told3d, flat));
    CHECK(memcmp(&told3d, &old3d, sizeof old3d) == 0);
    OK(cuMemAlloc_v2(&p, 200));
    OK(cuMemcpyHtoA_v2(a, 0, in, 200));
    OK(cuMemcpyAtoA_v2(b, 20, a, 40, 160)); /* b[10..90) = a[20..100) */
    OK(cuMemcpyAtoH_v2(out, b, 20, 160));
    CHECK(memcmp(out, in + 20, 160) == 0);
    OK(cuMemcpyAtoD_v2(p, a, 100, 100));
    OK(cuMemcpyDtoA_v2(b, 0, p, 100));
    OK(cuCtxSynchronize()); /* within the device: asynchronous, and `s` does not wait for it */
    OK(cuMemcpyAtoHAsync_v2(out, b, 0, 100, s));
    OK(cuStreamSynchronize(s));
    CHECK(memcmp(out, in + 50, 100) == 0);
    OK(cuMemcpyHtoAAsync(b, 2, in, 198, s));
    OK(cuStreamSynchronize(s));
    OK(cuMemcpyAtoH(out, b, 0, 200));
    CHECK(memcmp(out + 1, in, 198) == 0);
    OK(cuMemcpyAtoA(b, 0, a, 0, 200));
    OK(cuCtxSynchronize());
    OK(cuMemcpyAtoHAsync(out, b, 0, 200, s));
    OK(cuStreamSynchronize(s));
    CHECK(memcmp(out, in, 200) == 0);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(a, 2, in, 200));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(a, SIZE_MAX - 1, in, 2));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(a, 1, in, 2));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(a, 0, in, 3));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(a, 0, NULL, 2));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(flat, 0, in, 2)); /* two-dimensional */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyAtoD(0x1000, a, 0, 2));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuMemcpyHtoA_v2(NULL, 0, in, 2));
    OK(cuArrayDestroy(a));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuMemcpyAtoH_v2(out, a, 0, 2));
}

/* Arrays go with their context, handles too. */
static void gone_with_the_context(void *arg)
{
    CUcontext first = context(), second;
    CUarray a = make(1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, 0);
    CUDA_ARRAY_DESCRIPTOR d;

    OK(cuCtxCreate_v2(&second, 0, 0));
    OK(cuArrayGetDescriptor_v2(&d, a));
    OK(cuCtxDestroy_v2(first));
    CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuArrayGetDescriptor_v2(&d, a));
    CHECK_IS(0, device_used());
    make(1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, 0);
    OK(cuCtxDestroy_v2(second));
}

int main(void)
{
    test_run("accounting", "tiny", "0", accounting);
    test_run("refusals", "tiny", "0", refusals);
    test_run("planes", "tiny", "0", planes);
    test_run("runs of bytes", "tiny", "0", runs_of_bytes);
    test_run("gone with the context", "tiny", "0", gone_with_the_context);
    return 0;
}
