/* SPDX-License-Identifier: Apache-2.0
 *
 * Advice on managed memory, by ranges, and attachments to streams.
 */
#include "soft_managed_test.h"

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
    before = used_with_context();
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
    CHECK_IS(before + bytes, used_with_context());
    OK(cuMemPrefetchAsync(p, bytes, CU_DEVICE_CPU, NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(before + bytes, used_with_context()); /* both have it */
    CHECK(touch(p, 4096, 5, NULL) > 0);            /* a store faults */
    CHECK_IS(0, touch(p, 4096, 6, NULL));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_UNSET_READ_MOSTLY, 0));
    CHECK_IS(before + GRANULE,
             used_with_context()); /* collapsed to where it prefers, but for what was written */
    CHECK_IS(CU_DEVICE_CPU, told(p, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION));
    CHECK_IS(0, touch(p + GRANULE, GRANULE, 7, NULL) > 100000); /* mapped, not moved */
    CHECK_IS(before + GRANULE, used_with_context());
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, 0));
    touch(p, bytes, 8, NULL);
    CHECK_IS(before + bytes, used_with_context());
    /* accessed by: mapped where it is */
    OK(cuMemPrefetchAsync(p, bytes, CU_DEVICE_CPU, NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(before, used_with_context());
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    OK(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, CU_DEVICE_CPU));
    CHECK_IS(0, touch(p, bytes, 10, NULL)); /* no fault */
    CHECK_IS(before, used_with_context());
    OK(cuMemRangeGetAttribute(list, sizeof list, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, p, bytes));
    CHECK(list[0] == 0 && list[1] == CU_DEVICE_CPU && list[2] == CU_DEVICE_INVALID);
    OK(cuMemAdvise(p, GRANULE, CU_MEM_ADVISE_UNSET_ACCESSED_BY, 0));
    OK(cuMemRangeGetAttribute(list, 4, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, p, bytes));
    CHECK_IS(CU_DEVICE_CPU, list[0]);
    touch(p, bytes, 11, NULL);
    CHECK_IS(before + GRANULE, used_with_context());
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

int main(void)
{
    test_run("advice", "tiny", "0", advice);
    test_run("advice against a model", "tiny", "0", advice_against_a_model);
    test_run("attachments", "tiny", "0", attachments);
    return 0;
}
