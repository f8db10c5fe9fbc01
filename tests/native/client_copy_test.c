/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies of a remote session: in blocks where there are many bytes, in the order that a program
 * sees, and to the right side where only addresses say which that is.
 */
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "client_peer.h"
#include "generated/cuda_abi.h"

#define MIB     (1ull << 20)
#define BASE    0x200000000000ull
#define UNKNOWN (BASE + 32 * MIB) /* of the session, but none of its allocations */

#include "generated/shim_symbols.h"
#define DECLARE(name) extern __typeof__(*(harp_fn_##name)0) name
DECLARE(cuInit);
DECLARE(cuArrayCreate_v2);
DECLARE(cuCtxCreate_v2);
DECLARE(cuMemAlloc_v2);
DECLARE(cuMemAllocHost_v2);
DECLARE(cuMemcpy);
DECLARE(cuMemcpy2DAsync_v2);
DECLARE(cuMemcpy2D_v2);
DECLARE(cuMemcpy3D_v2);
DECLARE(cuMemcpyAsync);
DECLARE(cuMemcpyAtoHAsync_v2);
DECLARE(cuMemcpyAtoH_v2);
DECLARE(cuMemcpyDtoHAsync_v2);
DECLARE(cuMemcpyDtoH_v2);
DECLARE(cuMemcpyHtoAAsync_v2);
DECLARE(cuMemcpyHtoA_v2);
DECLARE(cuMemcpyHtoDAsync_v2);
DECLARE(cuMemcpyHtoD_v2);
DECLARE(cuPointerGetAttribute);
DECLARE(cuStreamCreate);

static struct peer peer;
static uint8_t *device, *array; /* what lies at BASE, and in the one array */
static uint8_t up[16 * MIB], down[16 * MIB];

/* Of one that is flat on its host side, the other side in memory with a pitch and a height. */
static void box(const CUDA_MEMCPY3D *c)
{
    bool from = c->srcMemoryType == CU_MEMORYTYPE_HOST;
    for (size_t z = 0; z < c->Depth; z++)
        for (size_t y = 0; y < c->Height; y++) {
            size_t flat = (z * c->Height + y) * c->WidthInBytes;
            if (from)
                memcpy(device + (c->dstDevice - BASE) +
                           ((c->dstZ + z) * c->dstHeight + c->dstY + y) * c->dstPitch +
                           c->dstXInBytes,
                       (const uint8_t *)c->srcHost + flat, c->WidthInBytes);
            else
                memcpy((uint8_t *)c->dstHost + flat,
                       device + (c->srcDevice - BASE) +
                           ((c->srcZ + z) * c->srcHeight + c->srcY + y) * c->srcPitch +
                           c->srcXInBytes,
                       c->WidthInBytes);
        }
}

static void rectangle(const CUDA_MEMCPY2D *c)
{
    const CUDA_MEMCPY3D flat = {.srcMemoryType = c->srcMemoryType,
                                .srcXInBytes = c->srcXInBytes,
                                .srcY = c->srcY,
                                .srcHost = c->srcHost,
                                .srcDevice = c->srcDevice,
                                .srcPitch = c->srcPitch,
                                .dstMemoryType = c->dstMemoryType,
                                .dstXInBytes = c->dstXInBytes,
                                .dstY = c->dstY,
                                .dstHost = c->dstHost,
                                .dstDevice = c->dstDevice,
                                .dstPitch = c->dstPitch,
                                .WidthInBytes = c->WidthInBytes,
                                .Height = c->Height,
                                .Depth = 1};
    box(&flat);
}

static uint32_t answer(struct peer *p, struct harp_wire_call *call)
{
    const uint64_t *a = call->args;
    (void)p;
    switch (call->op) {
    case HARP_OP_harpSession:
        *(uint32_t *)(uintptr_t)a[0] = 1;
        return 0;
    case HARP_OP_cuMemAlloc_v2:
        *(uint64_t *)(uintptr_t)a[0] = BASE;
        return 0;
    case HARP_OP_cuMemGetAddressRange_v2:
        if (a[2] < BASE || a[2] >= BASE + 64 * MIB)
            return CUDA_ERROR_INVALID_VALUE;
        *(uint64_t *)(uintptr_t)a[0] = BASE;
        *(uint64_t *)(uintptr_t)a[1] = 64 * MIB;
        return CUDA_SUCCESS;
    case HARP_OP_cuMemcpyHtoD_v2:
    case HARP_OP_cuMemcpyHtoDAsync_v2:
        memcpy(device + (a[0] - BASE), (void *)(uintptr_t)a[1], a[2]);
        return 0;
    case HARP_OP_cuMemcpyDtoH_v2:
    case HARP_OP_cuMemcpyDtoHAsync_v2:
        memcpy((void *)(uintptr_t)a[0], device + (a[1] - BASE), a[2]);
        return 0;
    case HARP_OP_cuMemcpy:
        memmove(device + (a[0] - BASE), device + (a[1] - BASE), a[2]);
        return 0;
    case HARP_OP_cuMemcpyHtoA_v2:
    case HARP_OP_cuMemcpyHtoAAsync_v2:
        memcpy(array + a[1], (void *)(uintptr_t)a[2], a[3]);
        return 0;
    case HARP_OP_cuMemcpyAtoH_v2:
    case HARP_OP_cuMemcpyAtoHAsync_v2:
        memcpy((void *)(uintptr_t)a[0], array + a[2], a[3]);
        return 0;
    case HARP_OP_cuMemcpy2D_v2:
    case HARP_OP_cuMemcpy2DAsync_v2:
        rectangle((const CUDA_MEMCPY2D *)(uintptr_t)a[0]);
        return 0;
    case HARP_OP_cuMemcpy3D_v2:
        box((const CUDA_MEMCPY3D *)(uintptr_t)a[0]);
        return 0;
    default:
        return 0;
    }
}

static uint8_t *pages(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static CUstream begin(void)
{
    CUcontext ctx = NULL;
    CUdeviceptr at = 0;
    CUstream s = NULL;
    device = pages(64 * MIB);
    array = pages(16 * MIB);
    peer_start(&peer, answer);
    CHECK(cuInit(0) == CUDA_SUCCESS && cuCtxCreate_v2(&ctx, 0, 0) == CUDA_SUCCESS);
    CHECK(cuMemAlloc_v2(&at, 32 * MIB) == CUDA_SUCCESS && at == BASE);
    CHECK(cuStreamCreate(&s, 1) == CUDA_SUCCESS);
    for (size_t i = 0; i < sizeof up; i++)
        up[i] = (uint8_t)(i * 2654435761u >> 13);
    return s;
}

static void late(bool is)
{
    pthread_mutex_lock(&peer.lock);
    peer.late = is;
    pthread_mutex_unlock(&peer.lock);
}

/* Variables, mapped memory: the worker has them, this side has not heard of them. */
static void of_unknown_memory(void)
{
    const size_t n = 10 * MIB + 77;
    CUstream s = begin();
    CHECK(cuMemcpyHtoD_v2(UNKNOWN, up, n) == CUDA_SUCCESS && peer.pieces == 3);
    CHECK(memcmp(device + 32 * MIB, up, n) == 0);
    CHECK(cuMemcpyDtoH_v2(down, UNKNOWN, n) == CUDA_SUCCESS && peer.pieces == 6);
    CHECK(memcmp(down, up, n) == 0);
    memset(down, 0, n);
    late(true);
    CHECK(cuMemcpyHtoDAsync_v2(UNKNOWN + 16 * MIB, up, n, s) == CUDA_SUCCESS);
    CHECK(cuMemcpyDtoHAsync_v2(down, UNKNOWN + 16 * MIB, n, s) == CUDA_SUCCESS);
    CHECK(peer.pieces == 12 && memcmp(down, up, n) == 0);
    late(false);
    /* What cannot be is found out by the first piece. */
    peer_fail(&peer, HARP_OP_cuMemcpyDtoH_v2, CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemcpyDtoH_v2(down, UNKNOWN, n) == CUDA_ERROR_INVALID_VALUE && peer.pieces == 13);
}

static void by_address(void)
{
    CUstream s = begin();
    CUdeviceptr from = (uintptr_t)up, to = (uintptr_t)down;
    CHECK(cuMemcpy(UNKNOWN, from, MIB) == CUDA_SUCCESS);
    CHECK(memcmp(device + 32 * MIB, up, MIB) == 0);
    CHECK(cuMemcpy(BASE, UNKNOWN, MIB) == CUDA_SUCCESS && memcmp(device, up, MIB) == 0);
    CHECK(cuMemcpyAsync(to, UNKNOWN, MIB, s) == CUDA_SUCCESS && memcmp(down, up, MIB) == 0);
    memset(down, 0, MIB);
    CHECK(cuMemcpy(to, from, MIB) == CUDA_SUCCESS && memcmp(down, up, MIB) == 0);
}

static void of_arrays(void)
{
    const size_t n = 9 * MIB;
    const CUDA_ARRAY_DESCRIPTOR is = {16 * MIB, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    CUstream s = begin();
    CUarray a = NULL;
    void *pinned = NULL;
    CHECK(cuArrayCreate_v2(&a, &is) == CUDA_SUCCESS);
    CHECK(cuMemcpyHtoA_v2(a, 64, up, n) == CUDA_SUCCESS && memcmp(array + 64, up, n) == 0);
    CHECK(cuMemcpyAtoH_v2(down, a, 64, n) == CUDA_SUCCESS && memcmp(down, up, n) == 0);
    memset(down, 0, n);
    /* To pageable memory it waits for the bytes. */
    late(true);
    CHECK(cuMemcpyAtoHAsync_v2(down, a, 64, n, s) == CUDA_SUCCESS && memcmp(down, up, n) == 0);
    late(false);
    /* What is on its way to pinned memory comes before that is read. */
    CHECK(cuMemAllocHost_v2(&pinned, MIB) == CUDA_SUCCESS);
    memcpy(device, up + MIB, MIB);
    CHECK(cuMemcpyDtoHAsync_v2(pinned, BASE, MIB, s) == CUDA_SUCCESS);
    CHECK(cuMemcpyHtoAAsync_v2(a, 0, pinned, MIB, s) == CUDA_SUCCESS);
    CHECK(memcmp(array, up + MIB, MIB) == 0);
    CHECK(cuMemcpyDtoHAsync_v2(pinned, BASE + MIB, MIB, s) == CUDA_SUCCESS);
    CHECK(cuMemcpyHtoA_v2(a, 0, pinned, MIB) == CUDA_SUCCESS);
    CHECK(memcmp(array, device + MIB, MIB) == 0);
}

/* Of a variable, say: the worker knows where it lies. */
static void what_unknown_memory_is(void)
{
    unsigned type = 0, ordinal = 7;
    size_t bytes = 0;
    CUdeviceptr base = 0;
    CUcontext ctx = NULL;
    char managed = 1;
    begin();
    const CUdeviceptr at = UNKNOWN + 77;
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at) == CUDA_SUCCESS);
    CHECK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, at) == 0);
    CHECK(cuPointerGetAttribute(&base, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, at) == 0);
    CHECK(cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, at) == CUDA_SUCCESS);
    CHECK(cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, at) == CUDA_SUCCESS);
    CHECK(type == CU_MEMORYTYPE_DEVICE && ordinal == 0 && !managed);
    CHECK(base == BASE && bytes == 64 * MIB);
    CHECK(cuPointerGetAttribute(&ctx, CU_POINTER_ATTRIBUTE_CONTEXT, at) ==
          CUDA_ERROR_NOT_SUPPORTED);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (uintptr_t)up) ==
          CUDA_ERROR_INVALID_VALUE);
}

/* Rows of `width` at a pitch of the host's, and of the device's. */
static void there_and_back(size_t width, size_t height, size_t pitch, CUstream s)
{
    CUDA_MEMCPY2D to = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = up,
                        .srcPitch = pitch,
                        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = BASE,
                        .dstPitch = width + 512,
                        .dstXInBytes = 256,
                        .dstY = 1,
                        .WidthInBytes = width,
                        .Height = height};
    CUDA_MEMCPY2D back = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = BASE,
                          .srcPitch = width + 512,
                          .srcXInBytes = 256,
                          .srcY = 1,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = down,
                          .dstPitch = pitch,
                          .WidthInBytes = width,
                          .Height = height};
    for (int i = 0; i < 2; i++) {
        memset(device, 0, 32 * MIB);
        memset(down, 7, sizeof down);
        CHECK((s == NULL ? cuMemcpy2D_v2(&to) : cuMemcpy2DAsync_v2(&to, s)) == CUDA_SUCCESS);
        CHECK((s == NULL ? cuMemcpy2D_v2(&back) : cuMemcpy2DAsync_v2(&back, s)) == CUDA_SUCCESS);
        for (size_t y = 0; y < height; y++) {
            CHECK(memcmp(down + y * pitch, up + y * pitch, width) == 0);
            for (size_t x = width; x < pitch; x++)
                CHECK(down[y * pitch + x] == 7);
        }
    }
}

/* One row, of memory that has no pitch: more than a region holds. */
static void a_lone_row(size_t width)
{
    CUDA_MEMCPY2D to = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = up,
                        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = BASE,
                        .dstXInBytes = 64,
                        .WidthInBytes = width,
                        .Height = 1};
    CUDA_MEMCPY2D back = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = BASE,
                          .srcXInBytes = 64,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = down,
                          .WidthInBytes = width,
                          .Height = 1};
    memset(device, 0, 32 * MIB);
    memset(down, 7, sizeof down);
    CHECK(cuMemcpy2D_v2(&to) == CUDA_SUCCESS && memcmp(device + 64, up, width) == 0);
    CHECK(cuMemcpy2D_v2(&back) == CUDA_SUCCESS && memcmp(down, up, width) == 0);
    back.Height = 2; /* where the second one lies nobody here knows */
    memset(down, 7, sizeof down);
    CHECK(cuMemcpy2D_v2(&back) == CUDA_ERROR_NOT_SUPPORTED && down[0] == 7);
}

static void of_rectangles(void)
{
    CUstream s = begin();
    void *pinned = NULL;
    const CUstream streams[] = {NULL, s};
    for (int i = 0; i < 2; i++) {
        late(i == 1);
        there_and_back(1000, 9, 1000, streams[i]);
        there_and_back(MIB + 3, 11, MIB + 3, streams[i]); /* three rows at a time */
        there_and_back(MIB, 11, MIB + 100, streams[i]);   /* not packed */
        there_and_back(5 * MIB, 3, 5 * MIB, streams[i]);  /* a row in two blocks */
    }
    late(false);
    a_lone_row(7 * MIB + 5);
    /* What is on its way to pinned memory comes before that is read. */
    CHECK(cuMemAllocHost_v2(&pinned, MIB) == CUDA_SUCCESS);
    const CUDA_MEMCPY2D on = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                              .srcHost = pinned,
                              .srcPitch = 1024,
                              .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                              .dstDevice = BASE + 16 * MIB,
                              .dstPitch = 1024,
                              .WidthInBytes = 1024,
                              .Height = 1024};
    memcpy(device, up + MIB, MIB);
    CHECK(cuMemcpyDtoHAsync_v2(pinned, BASE, MIB, s) == CUDA_SUCCESS);
    CHECK(cuMemcpy2DAsync_v2(&on, s) == CUDA_SUCCESS);
    CHECK(memcmp(device + 16 * MIB, up + MIB, MIB) == 0);
}

static void there_and_back_of(size_t width, size_t height, size_t depth)
{
    CUDA_MEMCPY3D to = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = up,
                        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = BASE,
                        .dstPitch = width + 64,
                        .dstHeight = height + 1,
                        .dstXInBytes = 32,
                        .dstY = 1,
                        .dstZ = 1,
                        .WidthInBytes = width,
                        .Height = height,
                        .Depth = depth};
    CUDA_MEMCPY3D back = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = BASE,
                          .srcPitch = width + 64,
                          .srcHeight = height + 1,
                          .srcXInBytes = 32,
                          .srcY = 1,
                          .srcZ = 1,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = down,
                          .WidthInBytes = width,
                          .Height = height,
                          .Depth = depth};
    memset(device, 0, 32 * MIB);
    memset(down, 0, sizeof down);
    CHECK(cuMemcpy3D_v2(&to) == CUDA_SUCCESS && cuMemcpy3D_v2(&back) == CUDA_SUCCESS);
    CHECK(memcmp(down, up, width * height * depth) == 0);
}

static void of_boxes(void)
{
    begin();
    there_and_back_of(100, 20, 3);
    there_and_back_of(1000, 1000, 9);       /* four planes at a time */
    there_and_back_of(100003, 50, 3);       /* a plane in two blocks */
    there_and_back_of(4 * MIB + 100, 1, 3); /* and a row */
}

static const struct peer_scenario scenarios[] = {
    {"of_unknown_memory", of_unknown_memory},
    {"what_unknown_memory_is", what_unknown_memory_is},
    {"by_address", by_address},
    {"of_arrays", of_arrays},
    {"of_rectangles", of_rectangles},
    {"of_boxes", of_boxes},
};

int main(int argc, char **argv)
{
    return peer_scenarios(scenarios, sizeof scenarios / sizeof *scenarios, argc, argv);
}
