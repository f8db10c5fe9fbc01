/* SPDX-License-Identifier: Apache-2.0
 *
 * Managed memory: one address for all, several contexts and devices, pinned memory beside it.
 */
#include "soft_managed_test.h"

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
    before = used_with_context();
    p = managed(5 * MIB);
    CHECK_IS(before, used_with_context()); /* populated when used */
    memset(host(p), 1, 5 * MIB);
    CHECK_IS(before, used_with_context());
    touch(p, 5 * MIB, -1, &sum);
    CHECK_IS(5 * MIB / 4096, sum);
    CHECK_IS(before + 3 * GRANULE, used_with_context());
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
    CHECK_IS(before, used_with_context());
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
    before = used_with_context();
    p = managed(sizeof in);
    OK(cuMemAlloc_v2(&q, sizeof in));
    before = used_with_context();
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i * 7 + i / 4096);
    OK(cuMemcpyHtoD_v2(p, in, sizeof in)); /* the device's: it moves there */
    CHECK_IS(before + 3 * GRANULE, used_with_context());
    CHECK(memcmp(host(p), in, sizeof in) == 0);
    OK(cuMemcpyDtoD_v2(q, p, sizeof in));
    OK(cuMemcpyHtoD_v2(q, host(p), sizeof in)); /* as host memory: it comes back */
    CHECK_IS(before, used_with_context());
    OK(cuMemcpyDtoH_v2(out, q, sizeof in));
    CHECK(memcmp(out, in, sizeof in) == 0);
    OK(cuMemsetD8_v2(p + GRANULE, 0x5a, GRANULE));
    OK(cuCtxSynchronize());
    CHECK_IS(before + GRANULE, used_with_context());
    CHECK(host(p)[GRANULE - 1] == in[GRANULE - 1] && host(p)[GRANULE] == 0x5a &&
          host(p)[2 * GRANULE] == in[2 * GRANULE]);
    OK(cuMemsetD8_v2(p, 0, sizeof in)); /* in whole pages: given back to the file */
    OK(cuCtxSynchronize());
    for (size_t i = 0; i < sizeof in; i++)
        CHECK(host(p)[i] == 0);
    OK(cuMemcpyDtoH_v2(host(p), q, sizeof in));
    CHECK_IS(before, used_with_context());
    CHECK(memcmp(host(p), in, sizeof in) == 0);
    OK(cuMemsetD8_v2(q, 0, sizeof in));
    OK(cuMemcpy((CUdeviceptr)(uintptr_t)out, q, sizeof out));
    for (size_t i = 0; i < sizeof out; i++)
        CHECK(out[i] == 0);
    OK(cuMemcpy(p, (CUdeviceptr)(uintptr_t)in, sizeof in)); /* either: the device's */
    CHECK_IS(before + 3 * GRANULE, used_with_context());
    OK(cuMemAdvise(p, sizeof in, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU));
    OK(cuMemcpy(q, p, sizeof in)); /* either, and it prefers the host */
    CHECK_IS(before, used_with_context());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(q, host(p) + 1, sizeof in));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(q, host(q), 4));
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
        before[d] = used_with_context();
    }
    OK(cuCtxSetCurrent(on[0]));
    p = managed(3 * GRANULE);
    touch(p, 3 * GRANULE, 1, NULL);
    CHECK_IS(before[0] + 3 * GRANULE, used_with_context());
    OK(cuCtxSetCurrent(on[1]));
    ns = touch(p, 2 * GRANULE, -1, &sum);
    CHECK_IS(2 * GRANULE / 4096, sum);
    CHECK(ns > 0);
    CHECK_IS(before[1] + 2 * GRANULE, used_with_context());
    OK(cuCtxSetCurrent(on[0]));
    CHECK_IS(before[0] + GRANULE, used_with_context());
    /* read-mostly: both at once */
    OK(cuMemAdvise(p, 3 * GRANULE, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    touch(p, 3 * GRANULE, -1, NULL);
    CHECK_IS(before[0] + 3 * GRANULE, used_with_context());
    OK(cuCtxSetCurrent(on[1]));
    CHECK_IS(before[1] + 2 * GRANULE, used_with_context());
    touch(p, GRANULE, 3, NULL); /* a store ends it */
    OK(cuCtxSetCurrent(on[0]));
    CHECK_IS(before[0] + 2 * GRANULE, used_with_context());
    OK(cuCtxSetCurrent(on[1]));
    touch(p + 2 * GRANULE, 4096, 3, NULL); /* so does a single one from where no copy was */
    OK(cuCtxSetCurrent(on[0]));
    CHECK_IS(before[0] + GRANULE, used_with_context());
    touch(p + 2 * GRANULE, GRANULE, -1, NULL);
    CHECK_IS(before[0] + 2 * GRANULE, used_with_context());
    /* another context on a device finds it there */
    OK(cuCtxCreate_v2(&again, 0, 0));
    CHECK_IS(0, touch(p + GRANULE, 2 * GRANULE, -1, NULL));
    OK(cuCtxDestroy_v2(again));
    OK(cuCtxSetCurrent(on[1]));
    OK(cuCtxDestroy_v2(on[0])); /* it was allocated there */
    CHECK_IS(before[1], used_with_context());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(p));
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

int main(void)
{
    test_run("one address", "tiny", "0", one_address);
    test_run("beyond the end", "tiny", "0", beyond_the_end);
    test_run("copies and fills", "tiny", "0", copies_and_fills);
    test_run("several devices", "tiny,tiny", "0", several_devices);
    test_run("freed under another context", "tiny", "0", freed_under_another_context);
    test_run("pinned memory goes", "tiny", "0", pinned_memory_goes);
    return 0;
}
