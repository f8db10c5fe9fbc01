/* SPDX-License-Identifier: Apache-2.0
 *
 * Boxes of arrays: copied against a model, in batches, between devices, and the time it takes.
 */
#include "soft_array_test.h"

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
        CHECK_IS(GRANULE, device_used());
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

int main(void)
{
    test_run("boxes against a model", "tiny", "0", boxes_against_a_model);
    test_run("batches", "tiny", "0", batches);
    test_run("between devices", "tiny,tiny", "0", between_devices);
    test_run("times", "tiny", "0", times);
    return 0;
}
