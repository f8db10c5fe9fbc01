/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays and mipmaps: what they cost, what they refuse, and boxes of them copied against a model.
 */
#include "soft_test.h"

#define GRANULE (2ull << 20)

static uint64_t used(void)
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    return t - f - (24ull << 20);
}

static CUarray make(size_t w, size_t h, size_t d, CUarray_format format, unsigned channels,
                    unsigned flags)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {w, h, d, format, channels, flags};
    CUarray a = NULL;

    OK(cuArray3DCreate_v2(&a, &desc));
    CHECK(a != NULL);
    return a;
}

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
    CHECK_IS(2 * GRANULE, used());
    OK(cuArrayDestroy(a));
    CHECK_IS(0, used());
    /* rows of 1 byte cost 64: 40000 of them 2560000, 2 granules */
    a = make(1, 40000, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    CHECK_IS(2 * GRANULE, used());
    OK(cuArrayDestroy(a));
    /* small ones share a granule */
    for (int i = 0; i < 40; i++)
        many[i] = make(64, 64, 0, CU_AD_FORMAT_HALF, 4, 0);
    CHECK_IS(GRANULE, used());
    for (int i = 0; i < 40; i++)
        OK(cuArrayDestroy(many[i]));
    CHECK_IS(0, used());
    /* all levels: 4 MiB and a third, below 6 MiB */
    OK(cuMipmappedArrayCreate(&mip, &full, 99));
    CHECK_IS(3 * GRANULE, used());
    OK(cuMipmappedArrayDestroy(mip));
    CHECK_IS(0, used());
    /* a full device */
    rest = (1000ull << 20);
    a = make(16384, 8192, 0, CU_AD_FORMAT_FLOAT, 1, 0); /* 512 MiB */
    CHECK_IS(256 * GRANULE, used());
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, made(16384, 8192, 0, CU_AD_FORMAT_FLOAT, 1, 0));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, made(16384, 16384, 16, CU_AD_FORMAT_FLOAT, 4, 0));
    CHECK(used() < rest);
    OK(cuArrayDestroy(a));
    CHECK_IS(0, used());
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

#define W 37
#define H 19
#define D 7

struct place { /* one of the things that boxes are copied between, and what it should hold */
    enum { HOST, PINNED, DEVICE, ARRAY, KINDS } kind;
    unsigned char *host;
    CUdeviceptr device;
    CUarray array;
    unsigned char model[D][H][W * 2];
};

static void src_side(CUDA_MEMCPY3D *m, const struct place *p, const int at[3])
{
    m->srcXInBytes = (size_t)at[0] * 2;
    m->srcY = (size_t)at[1];
    m->srcZ = (size_t)at[2];
    m->srcMemoryType = p->kind == ARRAY    ? CU_MEMORYTYPE_ARRAY
                       : p->kind == DEVICE ? CU_MEMORYTYPE_DEVICE
                                           : CU_MEMORYTYPE_HOST;
    m->srcHost = p->host;
    m->srcDevice = p->device;
    m->srcArray = p->array;
    m->srcPitch = p->kind == ARRAY ? 0 : W * 2;
    m->srcHeight = p->kind == ARRAY ? 0 : H;
}

static void dst_side(CUDA_MEMCPY3D *m, const struct place *p, const int at[3])
{
    m->dstXInBytes = (size_t)at[0] * 2;
    m->dstY = (size_t)at[1];
    m->dstZ = (size_t)at[2];
    m->dstMemoryType = p->kind == ARRAY    ? CU_MEMORYTYPE_ARRAY
                       : p->kind == DEVICE ? CU_MEMORYTYPE_DEVICE
                                           : CU_MEMORYTYPE_HOST;
    m->dstHost = p->host;
    m->dstDevice = p->device;
    m->dstArray = p->array;
    m->dstPitch = p->kind == ARRAY ? 0 : W * 2;
    m->dstHeight = p->kind == ARRAY ? 0 : H;
}

static void check_place(const struct place *p)
{
    static unsigned char got[D][H][W * 2];
    struct place to = {.kind = HOST, .host = &got[0][0][0]};
    CUDA_MEMCPY3D m = {.WidthInBytes = W * 2, .Height = H, .Depth = D};
    const int zero[3] = {0};

    src_side(&m, p, zero);
    dst_side(&m, &to, zero);
    OK(cuMemcpy3D_v2(&m));
    CHECK(memcmp(got, p->model, sizeof got) == 0);
}

static CUresult as_batch(const struct place *from, const struct place *to, const int a[3],
                         const int b[3], const int n[3], CUstream s)
{
    /* pointer to pointer counts in bytes, all else in the array's elements of 2 */
    size_t unit = from->kind == ARRAY || to->kind == ARRAY ? 1 : 2;
    CUDA_MEMCPY3D_BATCH_OP op = {
        .extent = {(size_t)n[0] * unit, (size_t)n[1], (size_t)n[2]},
        .srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
    };

    for (int side = 0; side < 2; side++) {
        const struct place *p = side == 0 ? from : to;
        const int *at = side == 0 ? a : b;
        CUmemcpy3DOperand *o = side == 0 ? &op.src : &op.dst;
        size_t offset = ((size_t)at[2] * H + (size_t)at[1]) * W * 2 + (size_t)at[0] * 2;

        if (p->kind == ARRAY) {
            o->type = CU_MEMCPY_OPERAND_TYPE_ARRAY;
            o->op.array.array = p->array;
            o->op.array.offset.x = (size_t)at[0];
            o->op.array.offset.y = (size_t)at[1];
            o->op.array.offset.z = (size_t)at[2];
        } else {
            o->type = CU_MEMCPY_OPERAND_TYPE_POINTER;
            o->op.ptr.ptr =
                p->kind == DEVICE ? p->device + offset : (CUdeviceptr)(uintptr_t)p->host + offset;
            o->op.ptr.rowLength = W * unit;
            o->op.ptr.layerHeight = H;
        }
    }
    return cuMemcpy3DBatchAsync_v2(1, &op, 0, s);
}

/* Random boxes between host, pinned, device and array, by three kinds of call. */
static void boxes_against_a_model(void *arg)
{
    static struct place places[6] = {{.kind = HOST},  {.kind = PINNED}, {.kind = DEVICE},
                                     {.kind = ARRAY}, {.kind = ARRAY},  {.kind = ARRAY}};
    const char *told = getenv("HARP_TEST_SEED");
    unsigned seed = told != NULL ? (unsigned)atoi(told) : 20260, first = seed;
    CUDA_ARRAY3D_DESCRIPTOR wide = {2 * W + 1, 2 * H, 2 * D + 1, CU_AD_FORMAT_HALF, 1, 0};
    CUmipmappedArray mip;
    CUstream s;

    context();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    places[0].host = malloc(sizeof places[0].model);
    OK(cuMemHostAlloc((void **)&places[1].host, sizeof places[0].model, 0));
    OK(cuMemAlloc_v2(&places[2].device, sizeof places[0].model));
    places[3].array = make(W, H, D, CU_AD_FORMAT_HALF, 1, 0);
    places[4].array = make(W, H, D, CU_AD_FORMAT_UNSIGNED_INT16, 1, CUDA_ARRAY3D_LAYERED);
    OK(cuMipmappedArrayCreate(&mip, &wide, 3)); /* level 1 is W x H x D */
    OK(cuMipmappedArrayGetLevel(&places[5].array, mip, 1));
    for (int i = 0; i < 6; i++) {
        struct place from = {.kind = HOST, .host = &places[i].model[0][0][0]};
        CUDA_MEMCPY3D m = {.WidthInBytes = W * 2, .Height = H, .Depth = D};
        const int zero[3] = {0};

        for (size_t k = 0; k < sizeof places[i].model; k++)
            (&places[i].model[0][0][0])[k] = (unsigned char)rand_r(&seed);
        src_side(&m, &from, zero);
        dst_side(&m, &places[i], zero);
        OK(cuMemcpy3D_v2(&m));
    }
    OK(cuCtxSynchronize()); /* small pageable copies go on after the call, and `s` does not wait */
    for (int round = 0; round < 600; round++) {
        struct place *from = &places[rand_r(&seed) % 6], *to = &places[rand_r(&seed) % 6];
        const int size[3] = {W, H, D};
        int n[3], a[3], b[3], how = rand_r(&seed) % 3;
        CUDA_MEMCPY3D m;

        if (from == to)
            continue;
        for (int k = 0; k < 3; k++) {
            n[k] = 1 + rand_r(&seed) % size[k];
            a[k] = rand_r(&seed) % (size[k] - n[k] + 1);
            b[k] = rand_r(&seed) % (size[k] - n[k] + 1);
        }
        m = (CUDA_MEMCPY3D){
            .WidthInBytes = (size_t)n[0] * 2, .Height = (size_t)n[1], .Depth = (size_t)n[2]};
        src_side(&m, from, a);
        dst_side(&m, to, b);
        if (how == 0)
            OK(cuMemcpy3D_v2(&m));
        else if (how == 1)
            OK(cuMemcpy3DAsync_v2(&m, s));
        else
            OK(as_batch(from, to, a, b, n, s));
        OK(cuCtxSynchronize());
        for (int z = 0; z < n[2]; z++)
            for (int y = 0; y < n[1]; y++)
                memcpy(&to->model[b[2] + z][b[1] + y][b[0] * 2],
                       &from->model[a[2] + z][a[1] + y][a[0] * 2], (size_t)n[0] * 2);
        if (round % 20 == 0)
            for (int i = 0; i < 6; i++)
                check_place(&places[i]);
        /* one more than there is, in one direction, from one side */
        {
            int k = rand_r(&seed) % 3;
            size_t *extent = k == 0 ? &m.WidthInBytes : k == 1 ? &m.Height : &m.Depth;

            if (to->kind != ARRAY && from->kind != ARRAY)
                continue;
            *extent = k == 0 ? W * 2 + 2 : (size_t)size[k] + 1;
            CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy3D_v2(&m));
        }
    }
    for (int i = 0; i < 6; i++)
        check_place(&places[i]);
    free(places[0].host);
    fprintf(stderr, "seed %u\n", first);
}

static void batches(void *arg)
{
    CUdeviceptr p, q, dsts[3], srcs[3];
    size_t sizes[3] = {64, 128, 64}, first[2] = {0, 2}, fail = 7;
    CUmemcpyAttributes attrs[2] = {{.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM},
                                   {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL}};
    unsigned char in[256], out[256] = {0};
    CUstream s;

    context();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc_v2(&p, 256));
    OK(cuMemAlloc_v2(&q, 256));
    for (int i = 0; i < 256; i++)
        in[i] = (unsigned char)(255 - i);
    OK(cuMemcpyHtoD_v2(p, in, 256));
    OK(cuCtxSynchronize());
    dsts[0] = q, srcs[0] = p;
    dsts[1] = q + 64, srcs[1] = (CUdeviceptr)(uintptr_t)in + 64;
    dsts[2] = q + 192, srcs[2] = p + 192;
    OK(cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 3, attrs, first, 2, s));
    OK(cuStreamSynchronize(s));
    OK(cuMemcpyDtoH_v2(out, q, 256));
    CHECK(memcmp(in, out, 256) == 0);
    srcs[2] = p + 224; /* beyond the end */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemcpyBatchAsync(dsts, srcs, sizes, 3, attrs, first, 2, &fail, s));
    CHECK_IS(2, fail);
    srcs[2] = p + 192;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemcpyBatchAsync(dsts, srcs, sizes, 3, attrs, first, 2, &fail, NULL));
    CHECK(fail == SIZE_MAX);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 3, attrs, first, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 2, attrs, first, 2, s)); /* index past it */
    first[0] = 1;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 3, attrs, first, 2, s));
    first[0] = 0;
    attrs[1].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_INVALID;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 3, attrs, first, 2, s));
}

/* Boxes from an array of one device to one of another, and the pitch that arrays do not heed. */
static void between_devices(void *arg)
{
    unsigned char in[8][64], out[8][64] = {{0}};
    CUcontext on[2];
    CUarray a[2];
    CUDA_MEMCPY2D up = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = in,
                        .srcPitch = 64,
                        .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                        .dstPitch = SIZE_MAX, /* not heeded */
                        .WidthInBytes = 64,
                        .Height = 8};
    CUDA_MEMCPY3D_PEER across = {.srcMemoryType = CU_MEMORYTYPE_ARRAY,
                                 .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                                 .WidthInBytes = 64,
                                 .Height = 8,
                                 .Depth = 1};
    CUDA_MEMCPY3D down = {.srcMemoryType = CU_MEMORYTYPE_ARRAY,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = out,
                          .dstPitch = 64,
                          .WidthInBytes = 64,
                          .Height = 8,
                          .Depth = 1};

    OK(cuInit(0));
    for (int d = 0; d < 2; d++) {
        OK(cuCtxCreate_v2(&on[d], 0, d));
        a[d] = make(64, 8, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
        CHECK_IS(GRANULE, used());
    }
    for (int i = 0; i < 512; i++)
        in[i / 64][i % 64] = (unsigned char)(i * 3);
    up.dstArray = across.srcArray = a[0];
    OK(cuMemcpy2D_v2(&up));
    across.srcContext = on[0];
    across.dstContext = on[1];
    across.dstArray = down.srcArray = a[1];
    OK(cuMemcpy3DPeer(&across));
    OK(cuCtxSynchronize());
    OK(cuMemcpy3D_v2(&down));
    CHECK(memcmp(in, out, sizeof in) == 0);
    down.dstPitch = 1ull << 31;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy3D_v2(&down));
    up.srcPitch = 1ull << 31;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&up));
}

/* Modelled as copies of linear memory are, by the ledger: 1.5 us, and bytes over the bus or within.
 */
static void times(void *arg)
{
    static unsigned char pageable[1 << 20];
    CUDA_MEMCPY2D m = {.dstMemoryType = CU_MEMORYTYPE_ARRAY,
                       .srcMemoryType = CU_MEMORYTYPE_HOST,
                       .srcHost = pageable,
                       .srcPitch = 1024,
                       .WidthInBytes = 1024,
                       .Height = 1024};
    uint64_t before;
    void *pinned;

    context();
    OK(cuMemHostAlloc(&pinned, 1 << 20, 0));
    m.dstArray = make(1024, 1024, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    before = my_ledger().modelled_ns;
    OK(cuMemcpy2D_v2(&m));
    OK(cuCtxSynchronize());
    CHECK_IS(before + 1500 + (1 << 20) / 5, my_ledger().modelled_ns);
    m.srcHost = pinned;
    before = my_ledger().modelled_ns;
    OK(cuMemcpy2D_v2(&m));
    OK(cuCtxSynchronize());
    CHECK_IS(before + 1500 + (1 << 20) / 10, my_ledger().modelled_ns);
    m.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    m.srcArray = make(1024, 1024, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    before = my_ledger().modelled_ns;
    OK(cuMemcpy2D_v2(&m));
    OK(cuCtxSynchronize());
    CHECK_IS(before + 1500 + 2 * (1 << 20) / 100, my_ledger().modelled_ns);
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
    CHECK_IS(0, used());
    make(1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, 0);
    OK(cuCtxDestroy_v2(second));
}

int main(void)
{
    test_run("accounting", "tiny", "0", accounting);
    test_run("refusals", "tiny", "0", refusals);
    test_run("planes", "tiny", "0", planes);
    test_run("runs of bytes", "tiny", "0", runs_of_bytes);
    test_run("boxes against a model", "tiny", "0", boxes_against_a_model);
    test_run("batches", "tiny", "0", batches);
    test_run("between devices", "tiny,tiny", "0", between_devices);
    test_run("times", "tiny", "0", times);
    test_run("gone with the context", "tiny", "0", gone_with_the_context);
    return 0;
}
