/* SPDX-License-Identifier: Apache-2.0
 *
 * Managed memory: one address for all, where granules count as being, who is charged, advice.
 * "Touch" is what a kernel's access does: the map's byte, and the slow path where it is closed.
 */
#include "soft_test.h"

#include "soft/gpu/arena.h"
#include "soft/gpu/managed.h"

#define GRANULE (2ull << 20)
#define MIB     (1ull << 20)

static uint64_t used(void)
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    return t - f;
}

/* ------------------------------------------------------------- a kernel that touches bytes -----
 */
struct toucher {
    struct soft_cmd cmd;
    CUdeviceptr from, to;
    uint64_t step;
    int value; /* < 0: reads */
    uint64_t *moved_ns;
    unsigned *sum;
};

static CUresult toucher_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct toucher *t = (struct toucher *)cmd;
    struct ptx_launch launch = {0};

    soft_launch_bind(run, &launch);
    for (CUdeviceptr p = t->from; p < t->to; p += t->step) {
        uint8_t access = launch.arena_map[(p - launch.arena_base) >> PTX_PAGE_SHIFT];
        bool open = (access & (t->value < 0 ? PTX_MAP_READ : PTX_MAP_WRITE)) != 0;
        unsigned char *at = open ? (unsigned char *)(uintptr_t)(p + (uint64_t)launch.arena_delta)
                                 : launch.host->translate(&launch, p, 1, t->value >= 0);

        if (at == NULL)
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        if (t->value < 0)
            *t->sum += *at;
        else
            *at = (unsigned char)t->value;
    }
    run->modelled_ns = 1000;
    if (t->moved_ns != NULL)
        *t->moved_ns = run->moved_ns;
    return CUDA_SUCCESS;
}

static const struct soft_cmd_ops toucher_ops = {
    .name = "kernel touch", .engine = SOFT_COMPUTE, .run = toucher_run};

/* In the current context; waits. Returns the time that moving took. */
static uint64_t touch(CUdeviceptr from, uint64_t bytes, int value, unsigned *sum)
{
    struct toucher *t = calloc(1, sizeof *t);
    struct soft_stream *s;
    unsigned unused = 0;
    uint64_t ns = 0;

    CHECK(t != NULL);
    *t = (struct toucher){.cmd = {.ops = &toucher_ops},
                          .from = from,
                          .to = from + bytes,
                          .step = 4096,
                          .value = value,
                          .moved_ns = &ns,
                          .sum = sum != NULL ? sum : &unused};
    OK(soft_stream_of(NULL, &s));
    OK(soft_submit(s, &t->cmd));
    OK(cuCtxSynchronize());
    return ns;
}

static CUdeviceptr managed(uint64_t bytes)
{
    CUdeviceptr p = 0;

    OK(cuMemAllocManaged(&p, bytes, CU_MEM_ATTACH_GLOBAL));
    return p;
}

static unsigned char *host(CUdeviceptr p)
{
    return (unsigned char *)(uintptr_t)p;
}

static void one_address(void *arg)
{
    CUdeviceptr p, base;
    size_t bytes;
    unsigned sum = 0;
    uint64_t before;
    unsigned is = 0, type = 0;
    void *hp = NULL;
    CUdeviceptr dp = 0;

    context();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&p, 0, CU_MEM_ATTACH_GLOBAL));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&p, 64, CU_MEM_ATTACH_SINGLE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&p, 64, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(NULL, 64, CU_MEM_ATTACH_HOST));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocManaged(&p, 1ull << 60, CU_MEM_ATTACH_HOST));
    before = used();
    p = managed(5 * MIB);
    CHECK_IS(before, used()); /* populated when used */
    memset(host(p), 1, 5 * MIB);
    CHECK_IS(before, used());
    touch(p, 5 * MIB, -1, &sum);
    CHECK_IS(5 * MIB / 4096, sum);
    CHECK_IS(before + 3 * GRANULE, used());
    touch(p, 4096, 77, NULL);
    CHECK_IS(77, host(p)[0]);
    CHECK_IS(1, host(p)[1]);
    OK(cuMemGetAddressRange_v2(&base, &bytes, p + 4 * MIB));
    CHECK_IS(p, base);
    CHECK_IS(5 * MIB, bytes);
    OK(cuPointerGetAttribute(&is, CU_POINTER_ATTRIBUTE_IS_MANAGED, p + 1));
    CHECK_IS(1, is & 0xff);
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
    CHECK_IS(CU_MEMORYTYPE_DEVICE, type);
    OK(cuPointerGetAttribute(&hp, CU_POINTER_ATTRIBUTE_HOST_POINTER, p + 8));
    OK(cuPointerGetAttribute(&dp, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, p + 8));
    CHECK(hp == host(p) + 8 && dp == p + 8);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemHostRegister_v2(host(p), 4096, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(host(p)));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(p + 512));
    OK(cuMemFree_v2(p));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(p));
    CHECK_IS(before, used());
    /* what nobody touched is not moved; of the rest, the pages that were */
    p = managed(4 * GRANULE);
    host(p)[GRANULE + 5] = 1;
    CHECK_IS(1500, touch(p, GRANULE, 1, NULL));
    CHECK_IS(1500 + 409, touch(p + GRANULE, GRANULE, 1, NULL)); /* 4 KiB over 10 bytes/ns */
    CHECK_IS(0, touch(p, 2 * GRANULE, 1, NULL));
    before = my_ledger().modelled_ns; /* what moves is in the command's time */
    host(p)[3 * GRANULE] = 1;
    CHECK_IS(1500 + 409, touch(p + 3 * GRANULE, GRANULE, 1, NULL));
    CHECK_IS(before + 1000 + 1500 + 409, my_ledger().modelled_ns);
    OK(cuMemFree_v2(p));
    /* other memory has no such attribute */
    OK(cuMemAlloc_v2(&p, 64));
    OK(cuPointerGetAttribute(&is, CU_POINTER_ATTRIBUTE_IS_MANAGED, p));
    CHECK_IS(0, is & 0xff);
}

static void beyond_the_end(void *arg)
{
    CUdeviceptr p;
    struct toucher *t = calloc(1, sizeof *t);
    struct soft_stream *s;

    context();
    p = managed(MIB);
    *t = (struct toucher){
        .cmd = {.ops = &toucher_ops}, .from = p + MIB, .to = p + MIB + 1, .step = 1, .value = 1};
    OK(soft_stream_of(NULL, &s));
    OK(soft_submit(s, &t->cmd));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
}

static void copies_and_fills(void *arg)
{
    static unsigned char in[3 * 2 << 20], out[3 * 2 << 20];
    CUdeviceptr p, q;
    uint64_t before;

    context();
    before = used();
    p = managed(sizeof in);
    OK(cuMemAlloc_v2(&q, sizeof in));
    before = used();
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i * 7 + i / 4096);
    OK(cuMemcpyHtoD_v2(p, in, sizeof in)); /* the device's: it moves there */
    CHECK_IS(before + 3 * GRANULE, used());
    CHECK(memcmp(host(p), in, sizeof in) == 0);
    OK(cuMemcpyDtoD_v2(q, p, sizeof in));
    OK(cuMemcpyHtoD_v2(q, host(p), sizeof in)); /* as host memory: it comes back */
    CHECK_IS(before, used());
    OK(cuMemcpyDtoH_v2(out, q, sizeof in));
    CHECK(memcmp(out, in, sizeof in) == 0);
    OK(cuMemsetD8_v2(p + GRANULE, 0x5a, GRANULE));
    OK(cuCtxSynchronize());
    CHECK_IS(before + GRANULE, used());
    CHECK(host(p)[GRANULE - 1] == in[GRANULE - 1] && host(p)[GRANULE] == 0x5a &&
          host(p)[2 * GRANULE] == in[2 * GRANULE]);
    OK(cuMemsetD8_v2(p, 0, sizeof in)); /* in whole pages: given back to the file */
    OK(cuCtxSynchronize());
    for (size_t i = 0; i < sizeof in; i++)
        CHECK(host(p)[i] == 0);
    OK(cuMemcpyDtoH_v2(host(p), q, sizeof in));
    CHECK_IS(before, used());
    CHECK(memcmp(host(p), in, sizeof in) == 0);
    OK(cuMemsetD8_v2(q, 0, sizeof in));
    OK(cuMemcpy((CUdeviceptr)(uintptr_t)out, q, sizeof out));
    for (size_t i = 0; i < sizeof out; i++)
        CHECK(out[i] == 0);
    OK(cuMemcpy(p, (CUdeviceptr)(uintptr_t)in, sizeof in)); /* either: the device's */
    CHECK_IS(before + 3 * GRANULE, used());
    OK(cuMemAdvise(p, sizeof in, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU));
    OK(cuMemcpy(q, p, sizeof in)); /* either, and it prefers the host */
    CHECK_IS(before, used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(q, host(p) + 1, sizeof in));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(q, host(q), 4));
}

/* 1.5 GiB of managed memory on a device of 1 GiB. */
static void more_than_the_device(void *arg)
{
    const uint64_t bytes = 1536 * MIB;
    CUdeviceptr p, q, extra;
    uint64_t ns, before;
    unsigned sum = 0;
    CUcontext other;
    size_t f, t;

    context();
    before = used();
    p = managed(bytes);
    OK(cuMemGetInfo_v2(&f, &t));
    touch(p, bytes, 1, NULL);
    CHECK_IS(t, used());              /* full, and no more */
    OK(cuCtxCreate_v2(&other, 0, 0)); /* a context finds its room all the same */
    CHECK_IS(t, used());
    OK(cuCtxDestroy_v2(other));
    touch(p, bytes, 1, NULL);
    CHECK_IS(t, used());
    for (uint64_t at = 0; at < bytes; at += GRANULE) /* pages there are: what moves costs time */
        CHECK_IS(1, host(p)[at]);
    ns = touch(p, bytes, -1, &sum);
    CHECK_IS(bytes / 4096, sum);
    /* all of it came in, and as much went out: 3 GiB over 10 bytes/ns */
    CHECK_BETWEEN(300e6, 340e6, ns);
    /* what asked last stays: the first granules are on the host, the last on the device */
    CHECK(touch(p + bytes - 100 * GRANULE, 100 * GRANULE, -1, NULL) == 0);
    CHECK(touch(p, GRANULE, -1, NULL) > 0);
    /* memory that cannot be evicted goes before memory that can */
    OK(cuMemAlloc_v2(&q, 900 * MIB));
    CHECK_IS(t, used());
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&extra, 101 * MIB));
    CHECK_IS(before + 900 * MIB, used()); /* it tried */
    sum = 0;
    touch(p, bytes, -1, &sum);
    CHECK_IS(bytes / 4096, sum);
    OK(cuMemAlloc_v2(&extra, 100 * MIB));
    CHECK_IS(t, used());
    /* nothing left for managed memory: it is reached on the host */
    sum = 0;
    touch(p, 50 * GRANULE, -1, &sum);
    CHECK_IS(50 * GRANULE / 4096, sum);
    CHECK_IS(t, used());
    OK(cuMemFree_v2(q));
    OK(cuMemFree_v2(extra));
    OK(cuMemFree_v2(p));
    CHECK_IS(before, used());
}

static int last_prefetch(CUdeviceptr p, uint64_t bytes)
{
    int to = 99;

    OK(cuMemRangeGetAttribute(&to, 4, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, p, bytes));
    return to;
}

static void prefetches(void *arg)
{
    CUmemLocation nowhere = {0}, node9 = {CU_MEM_LOCATION_TYPE_HOST_NUMA, 9};
    CUmemLocation where[2] = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, {CU_MEM_LOCATION_TYPE_HOST, 0}};
    CUdeviceptr p, q, ptrs[2];
    size_t sizes[2] = {4 * GRANULE, 2 * GRANULE}, first[2] = {0, 1};
    CUevent a, b;
    CUstream s;
    uint64_t before;
    float ms;

    context();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    before = used();
    p = managed(8 * GRANULE);
    q = managed(4 * GRANULE);
    CHECK_IS(CU_DEVICE_INVALID, last_prefetch(p, 8 * GRANULE));
    memset(host(p), 3, 8 * GRANULE);
    OK(cuEventRecord(a, s));
    OK(cuMemPrefetchAsync(p, 8 * GRANULE, 0, s));
    OK(cuEventRecord(b, s));
    OK(cuStreamSynchronize(s));
    OK(cuEventElapsedTime(&ms, a, b));
    CHECK_BETWEEN(1.67, 30.0, ms); /* 16 MiB over 10 bytes/ns */
    CHECK_IS(before + 8 * GRANULE, used());
    CHECK_IS(0, last_prefetch(p, 8 * GRANULE));
    CHECK_IS(0, touch(p, 8 * GRANULE, 4, NULL));
    OK(cuMemPrefetchAsync(p, GRANULE, CU_DEVICE_CPU, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 7 * GRANULE, used());
    CHECK_IS(CU_DEVICE_CPU, last_prefetch(p, GRANULE));
    CHECK_IS(CU_DEVICE_INVALID, last_prefetch(p, 2 * GRANULE));
    CHECK_IS(4, host(p)[4096]);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuMemPrefetchAsync(p, GRANULE, 1, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(p, 0, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(p, 8 * GRANULE + 1, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(p, GRANULE, where[0], 1, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(p, GRANULE, nowhere, 0, s));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(p, GRANULE, node9, 0, s));
    /* batches: p's first half stays or comes, q's is nowhere and goes to the host */
    ptrs[0] = p;
    ptrs[1] = q;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 0, NULL));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 1, s));
    first[1] = 2;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 0, s));
    first[1] = 1;
    OK(cuMemPrefetchBatchAsync(ptrs, sizes, 2, where, first, 2, 0, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 8 * GRANULE, used());
    CHECK_IS(CU_DEVICE_CPU, last_prefetch(q, 2 * GRANULE));
    OK(cuMemDiscardBatchAsync(ptrs, sizes, 2, 0, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 4 * GRANULE, used());
    OK(cuMemDiscardAndPrefetchBatchAsync(ptrs, sizes, 2, where, first, 1, 0, s));
    OK(cuStreamSynchronize(s));
    CHECK_IS(before + 10 * GRANULE, used());
    CHECK_IS(4, host(p)[4 * GRANULE]); /* what was not discarded */
    /* freed before it runs: nothing to do */
    OK(cuMemPrefetchAsync(q, 4 * GRANULE, 0, s));
    OK(cuMemFree_v2(q));
    OK(cuMemFree_v2(p));
    CHECK_IS(before, used());
}

static int told(CUdeviceptr p, uint64_t bytes, CUmem_range_attribute what)
{
    int value = 99;

    OK(cuMemRangeGetAttribute(&value, 4, what, p, bytes));
    return value;
}

static void advice(void *arg)
{
    const uint64_t bytes = 4 * GRANULE;
    CUdeviceptr p;
    uint64_t before;
    int list[3] = {7, 7, 7}, one = 0, two = 0;
    void *data[2] = {&one, &two};
    size_t sizes[2] = {4, 4};
    CUmem_range_attribute what[2] = {CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY,
                                     CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE};

    context();
    before = used();
    p = managed(bytes);
    CHECK_IS(0, told(p, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 55)); /* device ignored */
    CHECK_IS(1, told(p, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    /* by pages of 4 KiB */
    OK(cuMemAdvise(p + 8192 + 5, 10, CU_MEM_ADVISE_UNSET_READ_MOSTLY, 0));
    CHECK_IS(0, told(p, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    CHECK_IS(1, told(p, 8192, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    CHECK_IS(0, told(p + 8192, 1, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    CHECK_IS(1, told(p + 12288, bytes - 12288, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_IS(1, told(p, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
    /* duplicates: the host keeps its copy until somebody writes */
    memset(host(p), 9, bytes);
    touch(p, bytes, -1, NULL);
    CHECK_IS(before + bytes, used());
    OK(cuMemPrefetchAsync(p, bytes, CU_DEVICE_CPU, NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(before + bytes, used());   /* both have it */
    CHECK(touch(p, 4096, 5, NULL) > 0); /* a store faults */
    CHECK_IS(0, touch(p, 4096, 6, NULL));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_UNSET_READ_MOSTLY, 0));
    CHECK_IS(before + GRANULE,
             used()); /* collapsed to where it prefers, but for what was written */
    CHECK_IS(CU_DEVICE_CPU, told(p, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION));
    CHECK_IS(0, touch(p + GRANULE, GRANULE, 7, NULL) > 100000); /* mapped, not moved */
    CHECK_IS(before + GRANULE, used());
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, 0));
    touch(p, bytes, 8, NULL);
    CHECK_IS(before + bytes, used());
    /* accessed by: mapped where it is */
    OK(cuMemPrefetchAsync(p, bytes, CU_DEVICE_CPU, NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(before, used());
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, CU_DEVICE_CPU));
    CHECK_IS(0, touch(p, bytes, 10, NULL)); /* no fault */
    CHECK_IS(before, used());
    OK(cuMemRangeGetAttribute(list, sizeof list, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, p, bytes));
    CHECK(list[0] == 0 && list[1] == CU_DEVICE_CPU && list[2] == CU_DEVICE_INVALID);
    OK(cuMemAdvise(p, GRANULE, CU_MEM_ADVISE_UNSET_ACCESSED_BY, 0));
    OK(cuMemRangeGetAttribute(list, 4, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, p, bytes));
    CHECK_IS(CU_DEVICE_CPU, list[0]);
    touch(p, bytes, 11, NULL);
    CHECK_IS(before + GRANULE, used());
    OK(cuMemRangeGetAttributes(data, sizes, what, 2, p, bytes));
    CHECK_IS(0, one);
    CHECK_IS(CU_MEM_LOCATION_TYPE_INVALID, two);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE,
             cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 5));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(p, bytes, (CUmem_advise)7, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(p, 0, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(p, bytes + 1, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemRangeGetAttribute(list, 8, what[0], p, bytes));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemRangeGetAttribute(list, 4, what[0], p, 0));
}

/* Random advice on random page ranges against one record per page. */
static void advice_against_a_model(void *arg)
{
    enum { PAGES = 1024 };
    struct {
        int mostly, preferred, by;
    } model[PAGES] = {{0}};
    unsigned seed = 77;
    CUdeviceptr p;

    context();
    for (int i = 0; i < PAGES; i++)
        model[i].preferred = CU_DEVICE_INVALID;
    p = managed(PAGES * 4096ull);
    for (int round = 0; round < 3000; round++) {
        int from = rand_r(&seed) % PAGES, n = 1 + rand_r(&seed) % (PAGES - from);
        int what = 1 + rand_r(&seed) % 6, mostly = 1, by = 1, preferred, list[2];

        OK(cuMemAdvise(p + (CUdeviceptr)from * 4096 + 1, (size_t)n * 4096 - 1, (CUmem_advise)what,
                       what == 3 && (round & 1) != 0 ? CU_DEVICE_CPU : 0));
        for (int i = from; i < from + n; i++) {
            if (what <= 2)
                model[i].mostly = what == 1;
            else if (what <= 4)
                model[i].preferred = what == 4          ? CU_DEVICE_INVALID
                                     : (round & 1) != 0 ? CU_DEVICE_CPU
                                                        : 0;
            else
                model[i].by = what == 5;
        }
        from = rand_r(&seed) % PAGES;
        n = 1 + rand_r(&seed) % (round % 4 == 0 ? PAGES - from : 1);
        preferred = model[from].preferred;
        for (int i = from; i < from + n; i++) {
            mostly &= model[i].mostly;
            by &= model[i].by;
            if (model[i].preferred != preferred)
                preferred = CU_DEVICE_INVALID;
        }
        CHECK_IS(mostly, told(p + (CUdeviceptr)from * 4096, (uint64_t)n * 4096,
                              CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY));
        CHECK_IS(preferred, told(p + (CUdeviceptr)from * 4096, (uint64_t)n * 4096,
                                 CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION));
        OK(cuMemRangeGetAttribute(list, 8, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY,
                                  p + (CUdeviceptr)from * 4096, (size_t)n * 4096));
        CHECK_IS(by ? 0 : CU_DEVICE_INVALID, list[0]);
    }
}

static void attachments(void *arg)
{
    CUdeviceptr p, q;
    CUstream s;

    context();
    OK(cuStreamCreate(&s, 0));
    p = managed(100);
    OK(cuMemAlloc_v2(&q, 100));
    OK(cuStreamAttachMemAsync(s, p, 0, CU_MEM_ATTACH_SINGLE));
    OK(cuStreamAttachMemAsync(s, p, 100, CU_MEM_ATTACH_HOST));
    OK(cuStreamAttachMemAsync(NULL, p, 0, CU_MEM_ATTACH_GLOBAL));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(NULL, p, 0, CU_MEM_ATTACH_SINGLE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(s, p, 50, CU_MEM_ATTACH_SINGLE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(s, p + 1, 0, CU_MEM_ATTACH_SINGLE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(s, q, 0, CU_MEM_ATTACH_SINGLE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(s, p, 0, 3));
}

/* Two devices, a context on each, and one more on the first. */
static void several_devices(void *arg)
{
    CUcontext on[2], again;
    CUdeviceptr p;
    uint64_t before[2], ns;
    unsigned sum = 0;

    OK(cuInit(0));
    for (int d = 0; d < 2; d++) {
        OK(cuCtxCreate_v2(&on[d], 0, d));
        before[d] = used();
    }
    OK(cuCtxSetCurrent(on[0]));
    p = managed(3 * GRANULE);
    touch(p, 3 * GRANULE, 1, NULL);
    CHECK_IS(before[0] + 3 * GRANULE, used());
    OK(cuCtxSetCurrent(on[1]));
    ns = touch(p, 2 * GRANULE, -1, &sum);
    CHECK_IS(2 * GRANULE / 4096, sum);
    CHECK(ns > 0);
    CHECK_IS(before[1] + 2 * GRANULE, used());
    OK(cuCtxSetCurrent(on[0]));
    CHECK_IS(before[0] + GRANULE, used());
    /* read-mostly: both at once */
    OK(cuMemAdvise(p, 3 * GRANULE, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    touch(p, 3 * GRANULE, -1, NULL);
    CHECK_IS(before[0] + 3 * GRANULE, used());
    OK(cuCtxSetCurrent(on[1]));
    CHECK_IS(before[1] + 2 * GRANULE, used());
    touch(p, GRANULE, 3, NULL); /* a store ends it */
    OK(cuCtxSetCurrent(on[0]));
    CHECK_IS(before[0] + 2 * GRANULE, used());
    /* another context on a device finds it there */
    OK(cuCtxCreate_v2(&again, 0, 0));
    CHECK_IS(0, touch(p + GRANULE, 2 * GRANULE, -1, NULL));
    OK(cuCtxDestroy_v2(again));
    OK(cuCtxSetCurrent(on[1]));
    OK(cuCtxDestroy_v2(on[0])); /* it was allocated there */
    CHECK_IS(before[1], used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(p));
}

/* Copies of read-mostly memory are dropped like others when room is wanted, and come back. */
static void duplicates_are_evicted(void *arg)
{
    const uint64_t bytes = 600 * MIB;
    CUdeviceptr p, q;
    unsigned sum = 0;
    uint64_t before;

    context();
    before = used();
    p = managed(bytes);
    q = managed(bytes);
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    memset(host(p), 1, bytes);
    touch(p, bytes, -1, NULL);
    CHECK_IS(before + bytes, used());
    touch(q, bytes, 1, NULL); /* 200 MiB too much */
    CHECK_IS(1024 * MIB, used());
    CHECK(touch(p, 200 * MIB, -1, &sum) >= 200 * MIB / 10);
    CHECK_IS(200 * MIB / 4096, sum);
    CHECK_IS(1024 * MIB, used());
    OK(cuMemFree_v2(q));
    CHECK(used() < before + bytes + 1);
    touch(p, bytes, -1, NULL);
    CHECK_IS(before + bytes, used());
}

/* Memory is freed in one context while a kernel of another is to use it still. */
static void freed_under_another_context(void *arg)
{
    CUcontext other;
    CUdeviceptr p;
    struct soft_stream *s;
    struct test_kernel *busy = kernel_new(MS, 0);
    struct toucher *t = calloc(1, sizeof *t);
    unsigned sum = 0;

    context();
    p = managed(GRANULE);
    memset(host(p), 1, GRANULE);
    OK(cuCtxCreate_v2(&other, 0, 0));
    busy->burn_ns = 50 * MS;
    *t = (struct toucher){.cmd = {.ops = &toucher_ops},
                          .from = p,
                          .to = p + GRANULE,
                          .step = 4096,
                          .value = -1,
                          .sum = &sum};
    OK(soft_stream_of(NULL, &s));
    OK(soft_submit(s, &busy->cmd));
    OK(soft_submit(s, &t->cmd));
    OK(cuCtxPopCurrent_v2(&other));
    OK(cuMemFree_v2(p));
    OK(cuCtxPushCurrent_v2(other));
    OK(cuCtxSynchronize());
    CHECK_IS(GRANULE / 4096, sum);
}

struct pinned_user {
    struct soft_cmd cmd;
    CUdeviceptr at;
    _Atomic int *step; /* 1: reached it; 2: freed */
};

static CUresult pinned_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct pinned_user *u = (struct pinned_user *)cmd;
    struct ptx_launch launch = {0};

    soft_launch_bind(run, &launch);
    for (int i = 0; i < 3; i++)
        if (launch.host->translate(&launch, u->at + 64, 4, 1) == NULL)
            return CUDA_ERROR_LAUNCH_FAILED;
    atomic_store(u->step, 1);
    while (atomic_load(u->step) != 2)
        sleep_ns(MS / 10);
    return launch.host->translate(&launch, u->at + 64, 4, 1) == NULL ? CUDA_ERROR_ILLEGAL_ADDRESS
                                                                     : CUDA_SUCCESS;
}

static const struct soft_cmd_ops pinned_ops = {
    .name = "kernel pinned", .engine = SOFT_COMPUTE, .run = pinned_run};

/* What a kernel has reached once is looked up again when pinned memory has gone: with the context
 * that it was made in, which waits for its own work only. (Freeing it waits for everybody's.) */
static void pinned_memory_goes(void *arg)
{
    struct pinned_user *u = calloc(1, sizeof *u);
    _Atomic int step = 0;
    struct soft_stream *s;
    CUcontext other, owner = context();
    void *p;

    OK(cuMemHostAlloc(&p, 1 << 16, 0));
    OK(cuCtxCreate_v2(&other, 0, 0));
    *u = (struct pinned_user){{.ops = &pinned_ops}, (CUdeviceptr)(uintptr_t)p, &step};
    OK(soft_stream_of(NULL, &s));
    OK(soft_submit(s, &u->cmd));
    while (atomic_load(&step) != 1)
        sleep_ns(MS / 10);
    OK(cuCtxPopCurrent_v2(&other));
    OK(cuCtxDestroy_v2(owner));
    atomic_store(&step, 2);
    OK(cuCtxPushCurrent_v2(other));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
}

/* A kernel runs while another thread evicts what it uses, over and over: no byte is lost. */
static void *pull(void *arg)
{
    CUdeviceptr p = *(CUdeviceptr *)arg;
    CUcontext ctx;
    CUstream s;

    OK(cuCtxCreate_v2(&ctx, 0, 0));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 300; i++) {
        OK(cuMemPrefetchAsync(p, 8 * GRANULE, i % 2 == 0 ? CU_DEVICE_CPU : 0, s));
        OK(cuStreamSynchronize(s));
    }
    return NULL;
}

static void pulled_away(void *arg)
{
    CUdeviceptr p;
    pthread_t thread;
    unsigned rounds = 0;

    context();
    p = managed(8 * GRANULE);
    CHECK_IS(0, pthread_create(&thread, NULL, pull, &p));
    for (; rounds < 200; rounds++) {
        unsigned sum = 0;

        touch(p, 8 * GRANULE, (int)(rounds % 100), NULL);
        touch(p, 8 * GRANULE, -1, &sum);
        CHECK_IS(8 * GRANULE / 4096 * (rounds % 100), sum);
    }
    CHECK_IS(0, pthread_join(thread, NULL));
}

static void hold(void *arg)
{
    volatile int *ready = arg;
    CUdeviceptr p;

    context();
    p = managed(64 * GRANULE);
    touch(p, 64 * GRANULE, 1, NULL);
    *ready = 1;
    pause();
}

/* A killed process leaves nothing charged. */
static void killed(void *arg)
{
    volatile int *ready = shared_page();
    pid_t pid = child(hold, (void *)(uintptr_t)ready);
    uint64_t before;
    size_t f, t;

    while (*ready == 0)
        sleep_ns(MS);
    context();
    OK(cuMemGetInfo_v2(&f, &t));
    before = t - f;
    CHECK_IS(64 * GRANULE + 2 * (24ull << 20), before);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
    for (int i = 0; i < 200 && used() != 24ull << 20; i++)
        sleep_ns(10 * MS);
    CHECK_IS(24ull << 20, used());
}

int main(void)
{
    test_run("one address", "tiny", "0", one_address);
    test_run("beyond the end", "tiny", "0", beyond_the_end);
    test_run("copies and fills", "tiny", "0", copies_and_fills);
    test_run("more than the device", "tiny", "0", more_than_the_device);
    test_run_noisy("prefetches", "tiny", "0", prefetches);
    test_run("advice", "tiny", "0", advice);
    test_run("advice against a model", "tiny", "0", advice_against_a_model);
    test_run("attachments", "tiny", "0", attachments);
    test_run("several devices", "tiny,tiny", "0", several_devices);
    test_run("duplicates are evicted", "tiny", "0", duplicates_are_evicted);
    test_run("freed under another context", "tiny", "0", freed_under_another_context);
    test_run("pinned memory goes", "tiny", "0", pinned_memory_goes);
    test_run("pulled away", "tiny", "0", pulled_away);
    test_run("killed", "tiny", "0", killed);
    return 0;
}
